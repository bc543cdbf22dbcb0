/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Captures a call stack and sends its frames, with STACKS (--stacks).
 */
#ifndef PAGEFAULT_STACK_BPF_H
#define PAGEFAULT_STACK_BPF_H

#ifdef STACKS

BPF_TABLE("lru_hash", u64, u8, sent_stacks, 65536);

#ifdef UNWIND
#define STACK_FUNCTION u64 /* a global one (unwind.bpf.h) */
#else
#define STACK_FUNCTION static __always_inline u64
#endif

/* Send the kernel or the user frames of a stack; 0 if there was no room for all of them. */
static __always_inline int emit_frames(u64 *ips, u32 count_of_them, u32 most, u32 before,
				       struct stack_record *head)
{
	struct stack_record *r;
	u64 sequence;

	for (u32 i = 0; i < most; i += STACK_IPS) {
		if (i >= count_of_them)
			break;
		COUNTED(i);
		r = reserve(&sequence);
		if (!r) {
			count(COUNT_LOST_OTHER);
			return 0;
		}
		r->type = RECORD_STACK;
		r->kernel = head->kernel;
		r->user = head->user;
		r->first = before + i;
		__builtin_memcpy(&r->time_ns, &head->time_ns,
				 __builtin_offsetof(struct stack_record, ips) - 8);
		__builtin_memcpy(r->ips, ips + i, sizeof(r->ips));
		submit(r, sequence);
	}
	return 1;
}

/*
 * The return address of a function that has pushed nothing, as memset and other leaf functions
 * never do: unwinding by frame pointers misses it. The word found may only look like one; user
 * space decides by the function's unwind information. 0 where there is none.
 */
static __always_inline u64 innermost_caller(u64 task)
{
	u64 caller = 0, code = 0;
#ifdef CAST_CALL
	u64 regs = user_registers(task);
	u64 sp = *(u64 *)(regs + __builtin_offsetof(struct pt_regs, sp));

	/* Reading an unmapped address costs an exception: small numbers are excluded first. */
	if (bpf_probe_read_user(&caller, sizeof(caller), (void *)sp) || caller < LOWEST_CODE ||
	    caller > USER_END || bpf_probe_read_user(&code, sizeof(code), (void *)(caller - 8)) ||
	    !ends_in_call(code))
		return 0;
#endif
	return caller;
}

/* Send the frames in the scratch, unless they were lately; `head` is filled in but for the rest. */
STACK_FUNCTION send_stack(u64 number)
{
	u32 zero = 0;
	struct stack *s = stacks.lookup(&zero);
	u64 id = current_id();
	u8 yes = 1;

	if (!s || sent_stacks.lookup(&number))
		return 0;
	s->head.time_ns = bpf_ktime_get_ns();
	s->head.tgid = id >> 32;
	s->head.tid = id;
	s->head.stack = number;
#ifdef UNWIND
	if (s->head.program && !call_send_python(number))
		return 0;
#endif
	if (emit_frames(s->kernel, s->head.kernel, STACK_KERNEL, 0, &s->head) &&
	    emit_frames(s->user, s->head.user, STACK_USER, s->head.kernel, &s->head))
		sent_stacks.update(&number, &yes);
#ifdef UNWIND
	if (s->head.caller == END_NO_RULE)
		call_send_copy(number);
#endif
	return 0;
}

#ifdef UNWIND
static u64 (*call_send_stack)(u64 number) = (void *)CALL_SEND_STACK;
#define SEND_STACK(number) call_send_stack(number)
#else
#define SEND_STACK(number) send_stack(number)
#endif

/*
 * The id of the running thread's call stack; its frames are sent first unless they were lately.
 * Kernel frames are useful only for a fault in kernel mode: those of a user-mode fault are the
 * fault handler itself. No user frames for a foreign thread, whose mappings are not tracked.
 */
static __always_inline u64 capture_stack(void *ctx, struct pending *p, u64 task, struct stack *s,
					 int in_kernel, int foreign)
{
	u32 kernel = 0, user = 0;
	u64 number, mm = 0, exec_id = 0, caller = 0, id = id_of(task);
	long size;
	u64 program = 0;
#ifdef UNWIND
	u32 zero = 0;
	struct unwind *u = unwinds.lookup(&zero);

	if (!u)
		return 0;
#endif

	if (in_kernel) {
		size = bpf_get_stack(ctx, s->kernel, STACK_KERNEL * 8, 0);
		if (size > 0)
			kernel = (u32)size / 8;
	}
	/* An mm_struct is reused; after an exec the same addresses are other code. */
	READ(mm, task, O_TASK_MM);
	READ(exec_id, task, O_TASK_EXEC_ID);
	number = stack_mix(stack_mix(kernel, mm), exec_id);
	number = stack_mix_all(number, s->kernel, kernel, STACK_KERNEL);
	p->state |= STATE_STACK;
#ifdef UNWIND
	if (!foreign && user_frame(task, &u->at)) {
		find_program(task, id >> 32, &u->program);
		u->mm = mm;
		u->tgid = id >> 32;
		program = u->program.own;
		number = stack_mix(number, call_walk_python(0));
		u->hash = stack_mix(stack_mix(number, program), u->program.mapped);
		user = call_unwind_user(0);
		if (user > STACK_USER)
			user = STACK_USER;
		caller = u->end;
		number = stack_mix(u->hash, caller);
		if (caller == END_NO_RULE)
			number = call_mix_stack(number);
		foreign = 1; /* done: not by frame pointers, as of a 32-bit program */
	}
#endif
	if (!foreign) {
		size = bpf_get_stack(ctx, s->user, STACK_USER * 8, BPF_F_USER_STACK);
		if (size > 0)
			user = (u32)size / 8;
#ifndef UNWIND
		caller = innermost_caller(task);
#endif
		number = stack_mix(number, caller);
		number = stack_mix_all(number, s->user, user, STACK_USER);
	}
	p->state &= ~STATE_STACK;
	if (!(kernel + user))
		return 0;
	number |= 1;
	s->head.kernel = kernel;
	s->head.user = user;
	s->head.mm = mm;
	s->head.program = program;
	s->head.caller = caller;
	SEND_STACK(number);
	return number;
}

/* Whether a fault was taken in kernel mode, by the flags of either kind. */
static __always_inline int in_kernel(struct fault_record *r)
{
	return !(r->flags & (r->marks & MARK_ERRORCODE ? ERROR_CODE_USER : FAULT_FLAG_USER));
}

#endif

#endif
