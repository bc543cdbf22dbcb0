/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Completion of a fault, for every probe: fill and submit its record, or count why there is
 * none.
 */
#ifndef PAGEFAULT_FAULT_BPF_H
#define PAGEFAULT_FAULT_BPF_H

/* The members of a record from `first` to the one before `end`. */
#define MEMBERS(first, end) \
	(__builtin_offsetof(struct fault_record, end) - \
	 __builtin_offsetof(struct fault_record, first))
#define COPY_MEMBERS(to, from, first, end) \
	__builtin_memcpy(&(to)->first, &(from)->first, MEMBERS(first, end))
#define CLEAR_MEMBERS(in, first, end) __builtin_memset(&(in)->first, 0, MEMBERS(first, end))

/* Copy a fault from the thread's slot to its record; all but the outcome and the first word. */
static __always_inline void describe(struct fault_record *r, struct pending *p, u64 task, u32 state)
{
	COPY_MEMBERS(r, &p->record, tgid, vm_start);
#ifdef PROBE_PERF
	CLEAR_MEMBERS(r, vm_start, entry_after); /* the mapping is not known */
#else
	COPY_MEMBERS(r, &p->record, vm_start, vm_pgoff);
	if (state & (STATE_FILE | STATE_REMOTE))
		COPY_MEMBERS(r, &p->record, vm_pgoff, entry_after);
	else
		CLEAR_MEMBERS(r, vm_pgoff, entry_after);
#endif
	r->count = p->seen = own_fault_count(task);
	r->cpu = bpf_get_smp_processor_id();
#ifdef STACKS
	r->stack = p->record.stack;
#else
	r->stack = 0;
#endif
}

/* Members of a fault's first word: `marks` and `level_after`. */
#define FIRST_WORD(marks, level) ((u64)(marks) << 8 | (u64)(level) << 24)

/* Write a record's first word, from the thread's slot and `more`, and submit the record. */
static __always_inline void submit_fault(struct fault_record *r, struct pending *p, u64 more,
					 u64 sequence)
{
	u64 word = *(u32 *)&p->record | more | sequence;

	asm volatile("" ::: "memory");
	*(u64 *)r = word;
#ifndef MAPPED_RING
	records.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
#endif
}

static __always_inline int is_filtered(struct settings *set, struct pending *p, u64 now, int failed)
{
	if (set->range_end &&
	    (p->record.address < set->range_start || p->record.address >= set->range_end))
		return 1;
	if (!set->min_latency_ns)
		return 0;
	/* `perf` gets no event when a fault fails, so no probe filters those by latency. */
	return failed || (p->record.start_ns && now - p->record.start_ns < set->min_latency_ns);
}

/*
 * Count a fault that gets no record. The kernel does not count a failed one, and charges one by
 * another process to that process: both have counters of their own, outside the balance.
 */
static __always_inline void not_sent(struct pending *p, u64 task, u32 result, int filtered)
{
	if (result & VM_FAULT_ERROR) {
		/* `seen` stays: `perf` set it at entry, and a failed fault is not counted. */
		count(filtered ? COUNT_FAILED_FILTERED : COUNT_FAILED_LOST);
		return;
	}
	p->seen = own_fault_count(task);
	if (p->record.marks & MARK_FOREIGN)
		count(filtered ? COUNT_FOREIGN_FILTERED : COUNT_FOREIGN_LOST);
	else
		count(filtered ? COUNT_FILTERED : COUNT_LOST);
}

/* Fill and submit `r`, the record of a completed fault; `after` is its entry now. */
static __always_inline void send(struct fault_record *r, u64 sequence, struct pending *p, u64 task,
				 u64 now, struct walk *after, u32 state, u32 result, u64 marks)
{
	u64 more = marks << 8;

	if (after->level)
		more |= FIRST_WORD(MARK_AFTER, after->level);
	r->entry_after = after->entry;
	r->time_ns = now;
	r->result = result;
	r->current_mm = OWN64(task, O_TASK_MM);
	describe(r, p, task, state);
	submit_fault(r, p, more, sequence);
}

#if defined(CAST_CALL) && !defined(STACKS)
#ifdef PROBE_PERF
#define STATE_PLAIN (STATE_OPEN | STATE_ENTRY | STATE_BESIDE)
#else
#define STATE_PLAIN (STATE_OPEN | STATE_ENTRY)
#endif

/*
 * Fast path of finish(), for most faults: of one page in memory that is no file's, and not
 * failed. 0 if this is none of them.
 */
static __always_inline int finish_plain(u64 task, struct pending *p, u32 result)
{
	struct walk after = {.level = 1};
	struct fault_record *r;
	u64 sequence, now;

	if (p->state != STATE_PLAIN || result & (VM_FAULT_ERROR | VM_FAULT_RETRY))
		return 0;
	now = bpf_ktime_get_ns();
	if (LOAD64(p->above_at) != p->above)
		return 0;
	after.entry_at = p->entry_at;
#ifdef PROBE_PERF
	after.entry = LOAD64(after.entry_at);
	if (came_beside(p, &after))
		return 0;
#endif
	r = reserve(&sequence);
	if (!r) {
		not_sent(p, task, result, 0);
		return 1;
	}
#ifndef PROBE_PERF
	after.entry = LOAD64(after.entry_at); /* now: registers are few */
#endif
	send(r, sequence, p, task, now, &after, STATE_PLAIN, result, 0);
	return 1;
}
#endif

/* Complete a fault: emit its record, after the windows in which other pages became present. */
static __always_inline void finish(void *ctx, u64 task, struct pending *p, u32 result)
{
	u64 now = bpf_ktime_get_ns();
	struct walk after = {};
	struct fault_record *r;
	u64 sequence;
#ifdef STACKS
	u32 zero = 0;
	struct stack *s = stacks.lookup(&zero);
	u64 *window;

	if (!s)
		return;
	window = s->window;
#else
	u64 window[WINDOW_ENTRIES];
#endif

	if ((p->state & STATE_FILTER) && is_filtered(SETTINGS, p, now, result & VM_FAULT_ERROR)) {
		not_sent(p, task, result, 1);
		return;
	}
#if defined(STACKS) && !defined(PROBE_KPROBE)
	p->record.stack = capture_stack(ctx, p, task, s, in_kernel(&p->record),
					p->record.marks & MARK_FOREIGN);
#endif
	read_after(p, &after);
	/* The windows go first: the reader has them when it gets the fault's record. */
	if ((p->state & (STATE_AROUND | STATE_BESIDE)) && find_neighbours(p, &after, window))
		emit_neighbours(p, id_of(task), now, &after, window);
	r = reserve(&sequence);
	if (!r) {
		not_sent(p, task, result, 0);
		return;
	}
	send(r, sequence, p, task, now, &after, p->state, result,
	     result & VM_FAULT_ERROR ? MARK_FAILED : 0);
}

#endif
