/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The hooks of the probes `fentry` and `kprobe`, on handle_mm_fault() (mm/memory.c).
 */
#ifndef PAGEFAULT_HOOKS_HANDLE_MM_FAULT_BPF_H
#define PAGEFAULT_HOOKS_HANDLE_MM_FAULT_BPF_H

#if defined(PROBE_FENTRY) || defined(PROBE_KPROBE)

/* The arguments of handle_mm_fault(), read where they are needed: registers are few. */
#ifdef PROBE_FENTRY
typedef u64 hook_context;
#define HOOK_VMA(ctx) ((ctx)[0])
#define HOOK_ADDRESS(ctx) ((ctx)[1])
#define HOOK_FLAGS(ctx) ((u32)(ctx)[2])
#define HOOK_IP(ctx) MEMBER64((ctx)[3], __builtin_offsetof(struct pt_regs, ip))
#else
typedef struct pt_regs hook_context;
#define HOOK_VMA(ctx) TYPED_VMA((ctx)->di)
#define HOOK_ADDRESS(ctx) ((ctx)->si)
#define HOOK_FLAGS(ctx) ((u32)(ctx)->dx)
#define HOOK_IP(ctx) MEMBER64(TYPED_WORDS((ctx)->cx), __builtin_offsetof(struct pt_regs, ip))
#endif

/* Read the VMA's fields; whether it maps a file. */
static __always_inline int read_mapping(struct fault_record *r, u64 vma)
{
	u64 file = MEMBER64(vma, O_VMA_FILE), inode, super;

	r->vm_start = MEMBER64(vma, O_VMA_START);
	r->vm_end = MEMBER64(vma, O_VMA_END);
	r->vm_flags = MEMBER64(vma, O_VMA_FLAGS);
	if (!file)
		return 0;
	r->vm_pgoff = MEMBER64(vma, O_VMA_PGOFF);
	inode = MEMBER64(file, O_FILE_INODE);
	r->inode = MEMBER64(inode, O_INODE_INO);
	super = MEMBER64(inode, O_INODE_SUPER);
	r->device = MEMBER32(super, O_SUPER_DEVICE);
	r->magic = MEMBER64(super, O_SUPER_MAGIC);
	r->owner = 0;
	return 1;
}

static __always_inline u32 owner_of_vma(u64 vma)
{
	u64 mm = 0;

	READ(mm, vma, O_VMA_MM);
	return owner_of(mm);
}

static __always_inline int begin(hook_context *ctx, u64 task, u32 marks)
{
	struct pending *p;
	u32 state;
	u64 vma;

	p = own_slot(task);
	if (!p)
		p = new_slot(task);
	if (!p)
		return 0;
	if (p->state) {
		if ((p->state & STATE_RETRIED) && p->record.address == HOOK_ADDRESS(ctx)) {
			/* The same fault, after VM_FAULT_RETRY: the kernel counts it once. */
			p->record.calls++;
			p->state = (p->state & ~(STATE_RETRIED | STATE_TRIED | STATE_ENTRY)) |
				   (HOOK_FLAGS(ctx) & FAULT_FLAG_TRIED);
			return 0;
		}
		/* The pending fault was abandoned: not counted by the kernel, nothing mapped. */
		p->record.calls = 1;
	}
#if defined(STACKS) && defined(PROBE_KPROBE)
	/* Not at the return: older kernels cannot unwind past the return probe. */
	u32 zero = 0;
	struct stack *s = stacks.lookup(&zero);

	p->record.stack = 0;
	if (s)
		p->record.stack =
			capture_stack(ctx, p, task, s, !(HOOK_FLAGS(ctx) & FAULT_FLAG_USER),
				      marks & MARK_FOREIGN);
#endif
	p->record.start_ns = bpf_ktime_get_ns();
	p->record.flags = HOOK_FLAGS(ctx);
	p->record.ip = HOOK_IP(ctx);
	vma = HOOK_VMA(ctx);
	if (read_mapping(&p->record, vma))
		state = SETTINGS->always | STATE_OPEN | STATE_FILE | STATE_AROUND |
			(HOOK_FLAGS(ctx) & FAULT_FLAG_WRITE ? 0 : STATE_READS);
	else
		state = SETTINGS->anonymous | STATE_OPEN;
	if (HOOK_FLAGS(ctx) & (FAULT_FLAG_REMOTE | FAULT_FLAG_TRIED)) {
		state |= HOOK_FLAGS(ctx) & FAULT_FLAG_TRIED;
		if (HOOK_FLAGS(ctx) & FAULT_FLAG_REMOTE) {
			if (!(state & STATE_FILE))
				CLEAR_MEMBERS(&p->record, vm_pgoff, entry_after);
			p->record.owner = owner_of_vma(vma);
			state |= STATE_REMOTE;
		}
	}
	read_before(p, MEMBER64(vma, O_VMA_MM), HOOK_ADDRESS(ctx), state, marks);
	return 0;
}

static __always_inline int enter(hook_context *ctx)
{
	u64 task = this_task();

	if (is_active(id_of(task) >> 32))
		return begin(ctx, task, MARK_ENTRY | MARK_MAPPING);
	/* A thread that is no target may still access a target's memory. */
	if ((HOOK_FLAGS(ctx) & FAULT_FLAG_REMOTE) && is_active(owner_of_vma(HOOK_VMA(ctx))))
		return begin(ctx, task, MARK_ENTRY | MARK_MAPPING | MARK_FOREIGN);
	return 0;
}

static __always_inline int leave(void *ctx, u32 result)
{
	u64 task = this_task();
	struct pending *p = own_slot(task);

	if (!p || !p->state) {
		if (is_active(id_of(task) >> 32) && !(result & (VM_FAULT_ERROR | VM_FAULT_RETRY)))
			count(COUNT_ORPHANS);
		return 0;
	}
#ifdef STATE_PLAIN
	if (finish_plain(task, p, result)) {
		p->state = 0;
		return 0;
	}
#endif
	if (result & VM_FAULT_RETRY) {
		p->state |= STATE_RETRIED;
		return 0;
	}
	/* mm_account_fault() counts as major a call with VM_FAULT_MAJOR, and any retry. */
	finish(ctx, task, p, result | (p->state & STATE_TRIED ? VM_FAULT_MAJOR : 0));
	p->record.calls = 1;
	p->state = 0;
	return 0;
}

/* Only where the compiler did not inline it; nothing depends on it. */
static __always_inline int enter_anonymous(void)
{
	struct pending *p = own_slot(this_task());

	if (p && p->state)
		p->record.marks |= MARK_ANON_FN;
	return 0;
}
#endif

#ifdef PROBE_FENTRY
/* The context is the function's arguments, then what it returns. */
int fentry__handle_mm_fault(u64 *ctx)
{
	return enter(ctx);
}

int fexit__handle_mm_fault(u64 *ctx)
{
	return leave(ctx, ctx[4]);
}

int fentry__do_anonymous_page(u64 *ctx)
{
	return enter_anonymous();
}
#endif

#ifdef PROBE_KPROBE
int kprobe__handle_mm_fault(struct pt_regs *ctx)
{
	return enter(ctx);
}

int kretprobe__handle_mm_fault(struct pt_regs *ctx)
{
	return leave(ctx, ctx->ax);
}

int kprobe__do_anonymous_page(struct pt_regs *ctx)
{
	return enter_anonymous();
}
#endif

#endif
