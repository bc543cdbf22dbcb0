/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Walks the running thread's user stack by unwind rules that user space has learned, and
 * sends a copy of the stack where one is missing, with UNWIND (--stacks).
 */
#ifndef PAGEFAULT_UNWIND_BPF_H
#define PAGEFAULT_UNWIND_BPF_H

#ifdef UNWIND

BPF_HASH(rules, u64, struct rule, 262144);
BPF_ARRAY(rules_epoch, u64, 1); /* another one whenever rules were removed: none is in a cache */
BPF_PERCPU_ARRAY(unwinds, struct unwind, 1);
BPF_PERCPU_ARRAY(python_walks, struct python_walk, 1); /* python.bpf.h */

/* The rule for a frame's code: its own, or its page's. */
static __always_inline int find_rule(struct unwind *u, struct rule *rule)
{
	struct program *p = &u->program;
	u64 offset = u->at.ip - p->code_start;
	u64 mine = offset < p->code_end - p->code_start;
	u64 number = mine ? p->shared : p->libraries;
	u64 where = mine ? offset + RULE_CODE : u->at.ip - p->mmap_base;
	u64 key = number + where * 2 + u->at.exact, kept = key ^ u->epoch, page;
	u32 line = (u32)(key ^ key >> 7) & (CACHED_RULES - 1);
	struct rule *found;

	COUNTED(line);
	line &= CACHED_RULES - 1;
	if (u->keys[line] == kept || u->keys[line] == (kept ^ p->own)) {
		*rule = u->rules[line];
		return 1;
	}
	found = rules.lookup(&key);
	if (!found) {
		page = number ^ ~(where >> 12);
		found = rules.lookup(&page);
	}
	if (!found) {
		page = p->own ^ ~(u->at.ip >> 12);
		kept ^= p->own;
		found = rules.lookup(&page);
	}
	if (!found)
		return 0;
	*rule = *found;
	u->keys[line] = kept;
	u->rules[line] = *rule;
	return 1;
}

/* From a frame to its caller; END_… where there is none, else 0. */
static __always_inline u32 step(struct unwind *u, struct rule rule)
{
	u64 cfa = (rule.cfa & 1 ? u->at.sp : u->at.fp) + (s32)rule.offset;
	s16 rbp = rule.rbp;

	if (rule.cfa > RULE_CFA_RBP || !rule.cfa) {
		switch (rule.cfa) {
		case RULE_CFA_OUTERMOST: return END_OUTERMOST;
		case RULE_CFA_PLT:
			cfa = u->at.sp + ((u->at.ip & 15) >= rule.offset ? 16 : 8);
			break;
		case RULE_CFA_AT_RBP:
			if (bpf_probe_read_user(&cfa, 8, (void *)(u->at.fp + (s32)rule.offset)))
				return END_UNREADABLE;
			break;
		case RULE_CFA_RBX: cfa = u->at.bx + (s32)rule.offset; break;
		case RULE_CFA_AT_RSP:
			if (bpf_probe_read_user(&cfa, 8, (void *)(u->at.sp + (s32)rule.offset)))
				return END_UNREADABLE;
			cfa += 8;
			break;
		case RULE_CFA_FRAME:
			if (!u->at.fp)
				return END_NO_FRAME;
			cfa = u->at.fp + 16;
			if (cfa <= u->at.sp)
				return END_NO_CALLER;
			rbp = -16;
			rule.rbx = RULE_UNKNOWN_RBX;
			break;
		case RULE_CFA_SIGNAL:
			/* uc_mcontext of the ucontext at rsp: rbp, rbx … rsp, rip (asm/sigcontext.h) */
			if (bpf_probe_read_user(u->saved, sizeof(u->saved),
						(void *)(u->at.sp + 120)))
				return END_UNREADABLE;
			u->at.fp = u->saved[0];
			u->at.bx = u->saved[1];
			u->at.sp = u->saved[5];
			u->at.ip = u->saved[6];
			u->at.exact = 1;
			return 0;
		default: return END_NO_CALLER;
		}
	}
	if (stack_word(u, cfa - 8, &u->at.ip))
		return END_UNREADABLE;
	if (rbp == (s16)RULE_UNKNOWN)
		u->at.fp = UNKNOWN_REGISTER;
	else if (rbp && stack_word(u, rbp == RULE_AT_RBP ? u->at.fp : cfa + rbp, &u->at.fp))
		return END_UNREADABLE;
	if (rule.rbx == RULE_UNKNOWN_RBX)
		u->at.bx = UNKNOWN_REGISTER;
	else if (rule.rbx && stack_word(u, cfa - 8 * rule.rbx, &u->at.bx))
		return END_UNREADABLE;
	u->at.sp = cfa;
	u->at.exact = 0;
	return 0;
}

/*
 * Global functions, which the verifier checks once, by themselves: what they need is in the
 * scratch. User space links them with the programs that call them.
 */

/* Where a call of Python's evaluation loop is in the last frame, which ends there. */
u64 place_loop(u64 cfa)
{
	u32 zero = 0, at;
	struct unwind *u = unwinds.lookup(&zero);
	struct python_walk *w = python_walks.lookup(&zero);

	if (!u || !w)
		return 0;
	at = w->placed & PYTHON_LOOPS;
	COUNTED(at);
	if (w->loops[at & PYTHON_LOOPS] < cfa) {
		w->loops[at & PYTHON_LOOPS] |= u->count << 56;
		w->placed++;
	}
	return 0;
}

static u64 (*call_place_loop)(u64 cfa) = (void *)CALL_PLACE_LOOP;

/* Walk from the registers in the scratch on; the number of frames, which are in stacks' `user`. */
u64 unwind_user(u64 none)
{
	u32 zero = 0;
	struct unwind *u = unwinds.lookup(&zero);
	struct stack *s = stacks.lookup(&zero);
	struct python_walk *w = python_walks.lookup(&zero);
	u64 count = 0, end = END_LIMIT, *epoch = rules_epoch.lookup(&zero);
	struct rule rule;

	if (!u || !s || !epoch || !w)
		return 0;
	u->epoch = *epoch;
	begin_reading(u, u->at.sp);
	for (u32 i = 0; i < STACK_USER; i++) {
		COUNTED(i);
		s->user[i & 127] = u->at.ip;
		u->hash = stack_mix(u->hash, u->at.ip);
		count = i + 1;
		u->count = count;
		if (!find_rule(u, &rule)) {
			end = END_NO_RULE;
			break;
		}
		end = step(u, rule);
		if (end)
			break;
		end = END_LIMIT;
		if (w->placed < w->called)
			call_place_loop(u->at.sp);
	}
	u->end = end;
	return count;
}

static u64 (*call_unwind_user)(u64 none) = (void *)CALL_UNWIND_USER;

#define USER32_CS 0x23 /* arch/x86/include/asm/segment.h */

/* The registers with which a 64-bit program entered the kernel; 0 where it is none. */
static __always_inline int user_frame(u64 task, struct frame *frame)
{
#ifdef CAST_CALL
	u64 regs = user_registers(task);
#else
	u64 regs = LOAD64(task + O_TASK_STACK) + THREAD_SIZE - sizeof(struct pt_regs);
#endif

	u64 cs = MEMBER64(regs, __builtin_offsetof(struct pt_regs, cs)) & 0xffff;

	if ((cs & 3) != 3 || cs == USER32_CS)
		return 0;
	frame->ip = MEMBER64(regs, __builtin_offsetof(struct pt_regs, ip));
	frame->sp = MEMBER64(regs, __builtin_offsetof(struct pt_regs, sp));
	frame->fp = MEMBER64(regs, __builtin_offsetof(struct pt_regs, bp));
	frame->bx = MEMBER64(regs, __builtin_offsetof(struct pt_regs, bx));
	frame->exact = 1;
	return 1;
}

struct copy_buffer {
	struct stack_copy head;
	u64 words[COPY_BYTES / 8];
};

BPF_PERCPU_ARRAY(copy_buffers, struct copy_buffer, 1);
BPF_RINGBUF_OUTPUT(copies, 1);

/*
 * Mix the words of a part of a copy that may be return addresses into a hash. Addresses on the
 * stack and on the heap are none, and differ from one round of a loop to the next.
 */
u64 mix_words(u64 hash)
{
	u32 zero = 0;
	struct unwind *u = unwinds.lookup(&zero);
	struct copy_buffer *c = copy_buffers.lookup(&zero);
	u64 word, stack, stack_size, heap, heap_size;

	if (!u || !c)
		return 0;
	stack = u->at.sp;
	stack_size = u->stack_end - stack;
	heap = u->heap_start;
	heap_size = u->heap_end - heap;
	for (u32 i = 0; i < COPY_BYTES / 8; i++) {
		if (i >= u->part / 8)
			break;
		COUNTED(i);
		word = c->words[i & (COPY_BYTES / 8 - 1)];
		if (word > LOWEST_CODE && word >> 47 == 0 && word - stack >= stack_size &&
		    word - heap >= heap_size)
			hash = stack_mix(hash, word);
	}
	return hash;
}

static u64 (*call_mix_words)(u64 hash) = (void *)CALL_MIX_WORDS;

/* Where the stack of the last frame ends, or what is copied of it. */
static __always_inline u64 copy_end(u64 task, u64 mm, u64 start)
{
	u64 end = 0;

	/* Where exec put it, or at a thread's control block, which lies on its stack. */
	READ(end, mm, O_MM_START_STACK);
	if (end < start || end - start > LARGEST_STACK)
		READ(end, task, O_TASK_THREAD + O_THREAD_FSBASE);
	end += 16;
	if (end < start || end - start > LARGEST_STACK)
		end = start + UNBOUNDED_COPY; /* on neither */
	return end;
}

/* Read the next part of a copy into the buffer: to the end of a page; its size. */
static __always_inline u64 read_part(struct copy_buffer *c, u64 at, u64 end)
{
	u64 size = COPY_BYTES - (at & (COPY_BYTES - 1));

	if (size > end - at)
		size = end - at;
	COUNTED(size);
	if (size > COPY_BYTES)
		return 0;
	/* A page that is not there, as of a buffer that was not used yet, is zeros. */
	bpf_probe_read_user(c->words, size, (void *)at);
	return size;
}

/*
 * Where a rule is missing, what distinguishes a stack from others with the same frames so far is
 * the registers of the last one, and all words from there on that may be return addresses.
 */
u64 mix_stack(u64 hash)
{
	u32 zero = 0;
	struct unwind *u = unwinds.lookup(&zero);
	struct copy_buffer *c = copy_buffers.lookup(&zero);
	u64 at, end, size;

	if (!u || !c)
		return hash;
	at = u->at.sp - COPIED_BELOW;
	end = copy_end(bpf_get_current_task(), u->mm, at);
	u->stack_end = end;
	READ(u->heap_start, u->mm, O_MM_START_BRK);
	READ(u->heap_end, u->mm, O_MM_BRK);
	hash = stack_mix(hash, u->at.sp);
	/* These lead on where they point to the stack; else they are anything. */
	hash = stack_mix(hash, u->at.fp - at < end - at ? u->at.fp : 0);
	hash = stack_mix(hash, u->at.bx - at < end - at ? u->at.bx : 0);
	for (int i = 0; i < COPY_PARTS; i++) {
		size = read_part(c, at, end);
		if (!size)
			break;
		u->part = size;
		hash = call_mix_words(hash);
		at += size;
	}
	return hash;
}

static u64 (*call_mix_stack)(u64 hash) = (void *)CALL_MIX_STACK;

/*
 * Send a copy of the stack from the last frame on, no further than the thread's stack goes, in as
 * many parts as it has pages.
 */
u64 send_copy(u64 number)
{
	u32 zero = 0;
	struct unwind *u = unwinds.lookup(&zero);
	struct copy_buffer *c = copy_buffers.lookup(&zero);
	u64 start, at, end, size;

	if (!u || !c)
		return 0;
	start = at = u->at.sp - COPIED_BELOW;
	end = copy_end(bpf_get_current_task(), u->mm, start);
	c->head.stack = number;
	c->head.time_ns = bpf_ktime_get_ns();
	c->head.tgid = u->tgid;
	c->head.program = u->program.own;
	c->head.ip = u->at.ip;
	c->head.sp = u->at.sp;
	c->head.fp = u->at.fp;
	c->head.bx = u->at.bx;
	c->head.exact = u->at.exact;
	for (int i = 0; i < COPY_PARTS; i++) {
		size = read_part(c, at, end);
		if (!size)
			break;
		c->head.offset = at - start;
		c->head.size = size;
		at += size;
		size += __builtin_offsetof(struct copy_buffer, words);
		COUNTED(size);
		if (size > sizeof(*c))
			break;
		if (copies.ringbuf_output(c, size, 0))
			count(COUNT_COPIES_LOST);
	}
	return 0;
}

static u64 (*call_send_copy)(u64 number) = (void *)CALL_SEND_COPY;

#endif

#endif
