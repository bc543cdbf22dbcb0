/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Access to kernel memory, and to the values of our own maps.
 *
 * Where the kernel has bpf_rdonly_cast (since 6.2), an address becomes a pointer that a program
 * may load through: a dozen instructions instead of the helper's eighty. A load that faults
 * gives 0, as does one of a user space address. User space then defines CAST_CALL, the number
 * it replaces by the function's BTF id (bcc has no kernel functions), TYPE_WORDS, the
 * BTF id of a struct that begins with an unsigned long, and TYPE_VMA.
 */
#ifndef PAGEFAULT_KERNEL_H
#define PAGEFAULT_KERNEL_H

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)((base) + (offset)))

#ifdef CAST_CALL
static u64 (*cast_address)(u64 address, u32 type) = (void *)CAST_CALL;
static u64 (*get_current_task_btf)(void) = (void *)158; /* since 5.11 */
static u64 (*user_registers)(u64 task) = (void *)175;   /* bpf_task_pt_regs, since 5.15 */

#define LOAD64(address) (*(u64 *)cast_address(address, TYPE_WORDS))
#define LOAD32(address) (*(u32 *)cast_address(address, TYPE_WORDS))
#define TYPED_WORDS(address) cast_address(address, TYPE_WORDS)
#define TYPED_VMA(vma) cast_address(vma, TYPE_VMA)
/* For pointers whose type the verifier knows: a member of a typed one, or an fentry argument. */
#define MEMBER64(pointer, offset) (*(u64 *)((pointer) + (offset)))
#define MEMBER32(pointer, offset) (*(u32 *)((pointer) + (offset)))
#define MEMBER16(pointer, offset) (*(u16 *)((pointer) + (offset)))
#else
static __always_inline u64 load64(u64 address)
{
	u64 value = 0;

	READ(value, address, 0);
	return value;
}

static __always_inline u32 load32(u64 address)
{
	u32 value = 0;

	READ(value, address, 0);
	return value;
}

#define LOAD64(address) load64(address)
#define LOAD32(address) load32(address)
#define TYPED_WORDS(address) (address)
#define TYPED_VMA(vma) (vma)
#define MEMBER64(pointer, offset) load64((pointer) + (offset))
#define MEMBER32(pointer, offset) load32((pointer) + (offset))
#define MEMBER16(pointer, offset) ((u16)load32((pointer) + (offset)))
#endif

/* The running thread: struct task_struct *. The verifier checks access to its members. */
static __always_inline u64 this_task(void)
{
#ifdef CAST_CALL
	return get_current_task_btf();
#else
	return bpf_get_current_task();
#endif
}

/* Members of this_task()'s result; reading task_struct.pagefault_disabled may raise it itself. */
#ifdef CAST_CALL
#define DISABLED_BY_US 0
#define OWN64(task, offset) (*(u64 *)((task) + (offset)))
#define OWN32(task, offset) (*(u32 *)((task) + (offset)))
#else
#define DISABLED_BY_US 1 /* copy_from_kernel_nofault() */
#define OWN64(task, offset) load64((task) + (offset))
#define OWN32(task, offset) load32((task) + (offset))
#endif

/* Keeps the compiler from turning indices into pointers, and from dropping a needed bound. */
#define COUNTED(i) asm volatile("" : "+r"(i))

/*
 * The value of a map that is an array of one element: user space replaces `number` by the
 * map's descriptor (probes/compiler.py).
 */
u64 value_of_map(u64 kind, u64 number) asm("llvm.bpf.pseudo");
#define MAP_VALUE(number) value_of_map(2 /* BPF_PSEUDO_MAP_VALUE */, number)

#endif
