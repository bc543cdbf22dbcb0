/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The hooks of the probe `perf`: the exceptions' tracepoints before a fault, its software
 * events after it, and the signals of those that fail.
 */
#ifndef PAGEFAULT_HOOKS_PERF_BPF_H
#define PAGEFAULT_HOOKS_PERF_BPF_H

#ifdef PROBE_PERF

#define SIGBUS 7
#define SIGSEGV 11
#define IS_KERNEL_ADDRESS(address) ((s64)(address) < 0)

static __always_inline u64 ip_of(u64 regs)
{
	return LOAD64(regs + __builtin_offsetof(struct pt_regs, ip));
}

/*
 * Report an exception without a completion: it failed, or was no fault on a page.
 * Noticed by a signal, or by the thread's next exception.
 */
static __always_inline void emit_failed(u64 task, struct pending *p, u32 result)
{
	struct fault_record *r;
	u64 sequence;

	if ((p->state & STATE_FILTER) && is_filtered(SETTINGS, p, 0, 1)) {
		not_sent(p, task, VM_FAULT_ERROR, 1);
		return;
	}
	r = reserve(&sequence);
	if (!r) {
		not_sent(p, task, VM_FAULT_ERROR, 0);
		return;
	}
	describe(r, p, task, p->state);
	if (p->record.flags & ERROR_CODE_USER)
		r->ip = ip_of(p->record.ip);
	r->stack = 0;
	r->time_ns = p->record.start_ns;
	r->entry_after = 0;
	r->result = result;
	r->current_mm = p->record.mm;
	submit_fault(r, p, FIRST_WORD(MARK_FAILED, 0), sequence);
}

/* The tracepoints' arguments. */
#define EXCEPTION_ADDRESS(ctx) ((ctx)->args[0])
#define EXCEPTION_REGS(ctx) ((ctx)->args[1])
#define EXCEPTION_CODE(ctx) ((ctx)->args[2])

/* Attached to both exceptions:page_fault_user and page_fault_kernel. */
int hook__exception(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = this_task();
	u32 state = STATE_OPEN;
	struct pending *p;
	u64 counted;

	if (!is_active(id_of(task) >> 32) || IS_KERNEL_ADDRESS(EXCEPTION_ADDRESS(ctx)))
		return 0;
	/* With page faults disabled a kernel access fails on absent pages: signal frame, futex. */
	if (!(EXCEPTION_CODE(ctx) & ERROR_CODE_USER) &&
	    OWN32(task, O_TASK_NO_FAULTS) > DISABLED_BY_US)
		state |= STATE_ATTEMPT;
	p = own_slot(task);
	if (!p)
		p = new_slot(task);
	if (!p)
		return 0;
#ifdef STACKS
	if (p->state & STATE_STACK)
		return 0;
#endif
	if (p->state && !(p->state & STATE_ATTEMPT)) {
		if (state & STATE_ATTEMPT)
			return 0; /* a profiler's access in the middle of a fault */
		if (p->record.address == EXCEPTION_ADDRESS(ctx)) {
			/* A signal interrupted the fault and the instruction ran again. */
			p->record.calls++;
			p->state &= ~STATE_ENTRY;
			return 0;
		}
	}
	counted = own_fault_count(task);
	if (counted != p->seen)
		note_blind(p, counted);
	if (p->state && !(p->state & STATE_ATTEMPT)) {
		/* A user-mode fault got no SIGBUS or SIGSEGV: its wait was interrupted. */
		if (!(p->record.flags & ERROR_CODE_USER))
			emit_failed(task, p, 0);
		p->record.calls = 1;
	}
	p->record.start_ns = bpf_ktime_get_ns();
	p->record.flags = EXCEPTION_CODE(ctx);
	/* The completion has the ip; a failed user-mode fault is reported while regs are valid. */
	p->record.ip = EXCEPTION_REGS(ctx);
	if (!(EXCEPTION_CODE(ctx) & ERROR_CODE_USER))
		p->record.ip = ip_of(p->record.ip);
	if (!(EXCEPTION_CODE(ctx) & ERROR_CODE_WRITE))
		state |= SETTINGS->always | STATE_AROUND | STATE_READS;
	else
		state |= SETTINGS->anonymous | STATE_BESIDE;
	read_before(p, OWN64(task, O_TASK_MM), EXCEPTION_ADDRESS(ctx), state,
		    MARK_ENTRY | MARK_ERRORCODE);
	return 0;
}

/* A user-mode fault that fails sends a signal to its own thread (force_sig_fault()). */
RAW_TRACEPOINT_PROBE(signal_generate)
{
	u64 task = this_task();
	struct pending *p;

	if (ctx->args[0] != SIGBUS && ctx->args[0] != SIGSEGV)
		return 0;
	if (ctx->args[2] != task)
		return 0;
	p = own_slot(task);
	if (!p || !p->state || p->state & STATE_ATTEMPT)
		return 0;
	emit_failed(task, p, ctx->args[0] == SIGBUS ? VM_FAULT_SIGBUS : VM_FAULT_SIGSEGV);
	p->record.calls = 1;
	p->state = 0;
	return 0;
}

static __always_inline int resolved(struct bpf_perf_event_data *ctx, u32 result)
{
	u64 task = this_task(), counted;
	struct pending *p = own_slot(task);

	if (!p || !p->state) {
		if (!is_active(id_of(task) >> 32))
			return 0;
		counted = own_fault_count(task) - 1;
		if (!p) {
			p = new_slot(task);
			if (!p)
				return 0;
			p->first = counted;
		}
		p->state = 0;
		note_blind(p, counted);
		/* It began before the trace: no entry time, no state before. */
		*(u32 *)&p->record = RECORD_FAULT;
		p->record.start_ns = 0;
		p->record.entry_before = 0;
		p->state = STATE_OPEN | SETTINGS->always;
		p->table = 0;
		p->record.flags = 0;
		p->record.address = ctx->addr;
		p->record.mm = OWN64(task, O_TASK_MM);
	}
	p->record.ip = ctx->regs.ip;
#ifdef STATE_PLAIN
	if (finish_plain(task, p, result)) {
		p->state = 0;
		return 0;
	}
#endif
	finish(ctx, task, p, result);
	p->record.calls = 1;
	p->state = 0;
	return 0;
}

int perf_event__page_fault_minor(struct bpf_perf_event_data *ctx)
{
	return resolved(ctx, 0);
}

int perf_event__page_fault_major(struct bpf_perf_event_data *ctx)
{
	return resolved(ctx, VM_FAULT_MAJOR);
}
#endif

#endif
