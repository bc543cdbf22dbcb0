/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Each thread's slot (struct pending): the state of its fault under way, and of the thread
 * between faults.
 */
#ifndef PAGEFAULT_PENDING_BPF_H
#define PAGEFAULT_PENDING_BPF_H

/* The running thread's pid in the initial namespace, the key of its slot. */
static __always_inline u32 slot_key(u64 task)
{
#ifdef CAST_CALL
	return OWN32(task, O_TASK_PID);
#else
	return bpf_get_current_pid_tgid();
#endif
}

/* The running thread's slot, if it has one. */
static __always_inline struct pending *own_slot(u64 task)
{
	u32 key = slot_key(task), again;
	struct pending *p = SLOT(key);

	if (p->task == task) {
		__builtin_assume(p != 0); /* the callers' tests of it are for the other path */
		return p;
	}
	if (!p->crowded)
		return 0;
	again = slot_key(task); /* on the stack on this path alone */
	p = pending.lookup(&again);
	return p && p->task == task ? p : 0;
}

/* Make the running thread's slot; 0 where there is no room for one more thread. */
static __always_inline struct pending *new_slot(u64 task)
{
	u32 key = slot_key(task), number = key & (SLOTS - 1);
	u64 id = id_of(task), first = own_fault_count(task); /* before a helper has had &task */
	struct pending *p = SLOT(key);

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

/* The slot of any thread, by the pid it had when it got it. */
static __always_inline struct pending *slot_of(u64 task, u32 key)
{
	struct pending *p = SLOT(key);

	if (p->task == task)
		return p;
	if (!p->crowded)
		return 0;
	p = pending.lookup(&key);
	return p && p->task == task ? p : 0;
}

/* Free the slot of a thread that is gone, or has another pid. */
static __always_inline void free_slot(u64 task, u32 key)
{
	u32 number = key & (SLOTS - 1);
	struct pending *p = SLOT(key);

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
 * Faults without an exception, by the growth of the count. One of them may be of an exception
 * that never completed: that fault is not blind, but missed.
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

/* A live thread's slot is freed: its next one starts from zero, as its first did. */
static __always_inline void forget_seen(struct pending *p)
{
	__sync_fetch_and_add(&TOTALS->blind, -p->seen);
}
#else
static __always_inline void forget_seen(struct pending *p)
{
}
#endif

/* exec gave a thread that was not the leader the leader's pid: both need other slots. */
static __always_inline void change_slots(u64 task, u32 before, u64 id)
{
	u32 key = bpf_get_current_pid_tgid();
	struct pending *p = slot_of(task, before);

	if (WATCH == WATCH_ON)
		count(COUNT_UNLISTED); /* user space may find it by either pid */
	if (p) {
		forget_seen(p);
		free_slot(task, before);
	}
	p = SLOT(key);
	if (p->task != task && p->task && p->tid == (u32)id) {
		forget_seen(p);
		free_slot(p->task, key);
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
