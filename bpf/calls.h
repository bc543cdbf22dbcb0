/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * System calls that change mappings or release pages, as x86-64 has them
 * (arch/x86/entry/syscalls/syscall_64.tbl). Those a 32-bit program makes, or
 * a 64-bit one by `int 0x80`, have numbers and registers of their own
 * (syscall_32.tbl); they are reported as the equivalent x86-64 call. Numbers: shared.h.
 */
#ifndef PAGEFAULT_CALLS_H
#define PAGEFAULT_CALLS_H

#define I386_OLD_MMAP 90 /* its arguments are in memory */

/* thread_info.status: in a 32-bit system call (arch/x86/include/asm/thread_info.h) */
#define TS_COMPAT 0x2

struct call {
	u64 number;
	u64 args[6];
};

static __always_inline int changes_mappings(u64 number)
{
	return number == CALL_MMAP || number == CALL_MPROTECT || number == CALL_MUNMAP ||
	       number == CALL_BRK || number == CALL_MREMAP || number == CALL_MADVISE ||
	       number == CALL_SHMAT || number == CALL_SHMDT || number == CALL_MLOCK ||
	       number == CALL_MLOCKALL || number == CALL_MUNLOCKALL || number == CALL_MLOCK2 ||
	       number == CALL_PKEY_MPROTECT || number == CALL_PROCESS_MADVISE;
}

/* The x86-64 number of an i386 call; 0 for one that changes no mappings. */
static __always_inline u64 number_of_i386(u32 number)
{
	switch (number) {
	case 45: return CALL_BRK;
	case I386_OLD_MMAP: return CALL_MMAP;
	case 91: return CALL_MUNMAP;
	case 125: return CALL_MPROTECT;
	case 150: return CALL_MLOCK;
	case 152: return CALL_MLOCKALL;
	case 153: return CALL_MUNLOCKALL;
	case 163: return CALL_MREMAP;
	case 192: return CALL_MMAP;
	case 219: return CALL_MADVISE;
	case 376: return CALL_MLOCK2;
	case 380: return CALL_PKEY_MPROTECT;
	case 397: return CALL_SHMAT;
	case 398: return CALL_SHMDT;
	case 440: return CALL_PROCESS_MADVISE;
	}
	return 0;
}

/* Whether a call can release pages; `number` may be from either table. Registers are not read. */
static __always_inline int may_release_pages(u64 number)
{
	u64 other = number_of_i386(number);

	return number == CALL_MMAP || number == CALL_MUNMAP || number == CALL_BRK ||
	       number == CALL_MREMAP || number == CALL_MADVISE || other == CALL_MMAP ||
	       other == CALL_MUNMAP || other == CALL_BRK || other == CALL_MREMAP ||
	       other == CALL_MADVISE;
}

/* Whether a call maps code of a file. */
static __always_inline int maps_code(struct call *c)
{
	return c->number == CALL_MMAP && (c->args[2] & CALL_PROT_EXEC) &&
	       !(c->args[3] & CALL_MAP_ANONYMOUS);
}

/* Whether the running thread is in a 32-bit system call. */
static __always_inline int is_compat(u64 task)
{
	u32 status = 0;

	bpf_probe_read_kernel(&status, sizeof(status),
			      (void *)(task + O_TASK_THREAD_INFO + O_THREAD_STATUS));
	return status & TS_COMPAT;
}

/* Decode the call in `frame` (struct pt_regs *); 0 if it changes no mappings. */
static __always_inline int read_call(u64 frame, u64 task, struct call *c)
{
	struct pt_regs regs;
	u32 given[6];

	if (bpf_probe_read_kernel(&regs, sizeof(regs), (void *)frame))
		return 0;
	if (!is_compat(task)) {
		c->number = regs.orig_ax;
		c->args[0] = regs.di;
		c->args[1] = regs.si;
		c->args[2] = regs.dx;
		c->args[3] = regs.r10;
		c->args[4] = regs.r8;
		c->args[5] = regs.r9;
		return changes_mappings(c->number);
	}
	c->number = number_of_i386(regs.orig_ax);
	c->args[0] = (u32)regs.bx;
	c->args[1] = (u32)regs.cx;
	c->args[2] = (u32)regs.dx;
	c->args[3] = (u32)regs.si;
	c->args[4] = (u32)regs.di;
	c->args[5] = (u32)regs.bp;
	if ((u32)regs.orig_ax == I386_OLD_MMAP) {
		if (bpf_probe_read_user(given, sizeof(given), (void *)(u64)(u32)regs.bx))
			return 0;
#pragma unroll
		for (int i = 0; i < 6; i++)
			c->args[i] = given[i];
	}
	return c->number != 0;
}

#endif
