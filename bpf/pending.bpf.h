/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Each thread's place (struct pending): what is known of its fault that is under way, and of
 * the thread from one fault to the next.
 */
#ifndef PAGEFAULT_PENDING_BPF_H
#define PAGEFAULT_PENDING_BPF_H

/* The running thread's number, the kernel's own: what places go by. */
static __always_inline u32 place_key(u64 task)
{
#ifdef CAST_CALL
	return OWN32(task, O_TASK_PID);
#else
	return bpf_get_current_pid_tgid();
#endif
}

/* The running thread's place, if it has one. */
static __always_inline struct pending *own_place(u64 task)
{
	u32 key = place_key(task), again;
	struct pending *p = PLACE(key);

	if (p->task == task) {
		__builtin_assume(p != 0); /* the callers' tests of it are for the other path */
		return p;
	}
	if (!p->crowded)
		return 0;
	again = place_key(task); /* on the stack on this path alone */
	p = pending.lookup(&again);
	return p && p->task == task ? p : 0;
}

/* The same, made where there is none; 0 where there is no room for one more thread. */
static __always_inline struct pending *new_place(u64 task)
{
	u32 key = place_key(task), number = key & (PLACES - 1);
	u64 id = id_of(task), first = own_fault_count(task); /* before a helper has had &task */
	struct pending *p = PLACE(key);

	if (p->task || owners.insert(&number, &task)) {
		p->crowded = 1;
		/* A copy, for want of room on the stack for an empty one. */
		if (pending.update(&key, p))
			count(COUNT_CROWDED);
		p = pending.lookup(&key);
		if (!p)
			return 0;
	}
	p->record.tgid = id >> 32;
	p->record.tid = id;
	p->record.calls = 1;
	p->state = 0;
	p->table = 0;
	p->seen = 0;
	p->first = first;
	p->tid = id;
	p->task = task;
	return p;
}

/* The place of any thread, by the number it got it with. */
static __always_inline struct pending *place_of(u64 task, u32 key)
{
	struct pending *p = PLACE(key);

	if (p->task == task)
		return p;
	if (!p->crowded)
		return 0;
	p = pending.lookup(&key);
	return p && p->task == task ? p : 0;
}

/* A thread is gone, or has another number: its place is free. */
static __always_inline void free_place(u64 task, u32 key)
{
	u32 number = key & (PLACES - 1);
	struct pending *p = PLACE(key);

	if (p->task == task) {
		p->seen = 0;
		p->task = 0;
		owners.delete(&number);
	} else if (p->crowded) {
		p = pending.lookup(&key);
		if (p && p->task == task)
			pending.delete(&key);
	}
}

#ifdef PROBE_PERF
/*
 * Faults that no exception announced. Growth since an exception that never completed may be that
 * one's fault: it is no blind one then, but missed.
 */
static __always_inline u64 blind_growth(struct pending *p, u64 now)
{
	u64 grown = now - p->seen;

	if (grown && p->state && !(p->state & STATE_ATTEMPT))
		grown--;
	return grown;
}

static __always_inline void note_blind(struct pending *p, u64 now)
{
	__sync_fetch_and_add(&TOTALS->blind, blind_growth(p, now));
	p->seen = now;
}

/* A thread goes on without its place: it starts from nothing again, as it did the first time. */
static __always_inline void forget_seen(struct pending *p)
{
	__sync_fetch_and_add(&TOTALS->blind, -p->seen);
}
#else
static __always_inline void forget_seen(struct pending *p)
{
}
#endif

/* exec has given a thread that was not the leader the leader's number: both have other places. */
static __always_inline void change_places(u64 task, u32 before, u64 id)
{
	u32 key = bpf_get_current_pid_tgid();
	struct pending *p = place_of(task, before);

	if (WATCH == WATCH_ON)
		count(COUNT_UNLISTED); /* what user space finds may be it by either number */
	if (p) {
		forget_seen(p);
		free_place(task, before);
	}
	p = PLACE(key);
	if (p->task != task && p->task && p->tid == (u32)id) {
		forget_seen(p);
		free_place(p->task, key);
		return;
	}
	if (!p->crowded)
		return;
	p = pending.lookup(&key);
	if (p && p->task != task) {
		forget_seen(p);
		pending.delete(&key);
	}
}

#endif
