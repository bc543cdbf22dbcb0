/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The lifecycle hooks of targets: fork, exec, exit, free of the task_struct, rename.
 */
#ifndef PAGEFAULT_HOOKS_LIFECYCLE_BPF_H
#define PAGEFAULT_HOOKS_LIFECYCLE_BPF_H

static __always_inline struct task_record *new_task_record(u8 type, u32 tgid, u32 tid,
							   u64 *sequence)
{
	struct task_record *r = reserve(sequence);

	if (!r) {
		count(COUNT_LOST_OTHER);
		return 0;
	}
	CLEAR_BODY(r);
	r->type = type;
	r->marks = r->group_dead = r->spare = 0;
	r->time_ns = bpf_ktime_get_ns();
	r->tgid = tgid;
	r->tid = tid;
	return r;
}

/* Events that happen once to a task; an exec, which may repeat, is identified by self_exec_id. */
enum { EVENT_FORK, EVENT_EXIT, EVENT_FREE, EVENT_EXEC };

#ifdef PREEMPTIBLE_HANDLERS
#define EEXIST 17
/*
 * Newer kernels run tracepoint handlers preemptibly, and skip one that is still running on that CPU
 * for a task preempted in it. So these are attached several times (program.py), and the first of an
 * event's handlers that does run reports it. `start_time`: a task_struct is reused. The check is
 * made for every task of the system: together with the calls that the kernel skipped, the
 * counters give the number of events without any handler (tracer/probes/program.py).
 */
struct handled {
	u64 task, start_time, event;
};
BPF_TABLE("lru_hash", struct handled, u8, handled, 16384);

static __always_inline int is_handled(u64 task, u64 event)
{
	struct handled what = {.task = task, .event = event};
	u8 yes = 1;

	READ(what.start_time, task, O_TASK_START_TIME);
	if (event == EVENT_EXEC) {
		READ(what.event, task, O_TASK_EXEC_ID);
		what.event = what.event << 2 | EVENT_EXEC;
	}
	count(COUNT_HANDLER_CALLS);
	if (handled.insert(&what, &yes) == -EEXIST)
		return 1;
	count(COUNT_EVENTS);
	return 0;
}
#else
static __always_inline int is_handled(u64 task, u64 event)
{
	return 0;
}
#endif

/* While user space lists threads: note this one's end. `base`: its count before the trace. */
static __always_inline void watch_end(u64 id, u64 base)
{
	u64 *known = watched.lookup(&id), value = base | WATCHED_ENDED;

	if (known)
		*known |= WATCHED_ENDED;
	else if (watched.update(&id, &value))
		count(COUNT_UNLISTED);
}

static __always_inline void thread_begins(u64 id)
{
	u64 begun = WATCHED_BEGUN;

	__sync_fetch_and_add(&TOTALS->begun, 1);
	if (WATCH == WATCH_ON && watched.update(&id, &begun))
		count(COUNT_UNLISTED);
}

/* The running thread exits: add its count to the totals, with or without a record. */
static __always_inline void thread_ends(u64 task, u64 id)
{
	struct leaving left = {.id = id, .count = own_fault_count(task), .key = slot_key(task)};
	struct pending *p;
	/* A copy: a variable whose address a helper had is no pointer to the verifier any more. */
	u64 address = task;

	__sync_fetch_and_add(&TOTALS->ended, 1);
	__sync_fetch_and_add(&TOTALS->faults, left.count);
	if (leaving.update(&address, &left))
		count(COUNT_UNLISTED);
	if (WATCH != WATCH_ON)
		return;
	/* A thread that existed before it was a target: nothing was seen before its first fault. */
	p = own_slot(task);
	watch_end(id, p ? p->first : left.count);
}

/*
 * The task_struct of an exited thread is freed: add its faults since the exit to the totals, and
 * those `perf` did not see. `now`: its final count.
 */
static __always_inline void thread_is_gone(u64 task, struct leaving *left, u32 key, u64 now)
{
#ifdef PROBE_PERF
	struct pending *p = slot_of(task, left->key);

	__sync_fetch_and_add(&TOTALS->blind, p ? blind_growth(p, now) : now);
#endif
	__sync_fetch_and_add(&TOTALS->faults, now - left->count);
	/* Where exec gave its tid to another thread, that thread goes on. */
	if (WATCH == WATCH_ON && key == left->key)
		watch_end(left->id, left->count);
}

/* A process stops being a target when its leader is freed; `tid` is the freed thread's. */
static __always_inline void target_is_gone(u64 task, u32 tgid, u32 tid, struct target *target)
{
	if (tid == tgid && (!target->leader || target->leader == task)) {
		targets.delete(&tgid);
		set_active(tgid, 0);
		program_ended(tgid);
	}
}

/*
 * The task_struct of an exited thread is reused, though no handler ran as it was freed: seen on
 * 6.18, once in a thousand, and the kernel counts no skipped call. Its final count is the last one
 * seen; after that it writes only to memory it shares (mm_release(), kernel/fork.c).
 */
static __always_inline void was_freed(u64 task)
{
	struct leaving *left = leaving.lookup(&task);
	struct target *target;
	struct pending *p;
	u64 now;
	u32 tgid;

	if (!left || WATCH == WATCH_OVER)
		return;
	p = slot_of(task, left->key);
	now = p && p->seen > left->count ? p->seen : left->count;
	thread_is_gone(task, left, left->key, now);
	free_slot(task, left->key);
	tgid = left->id >> 32;
	target = targets.lookup(&tgid);
	if (target)
		target_is_gone(task, tgid, (u32)left->id, target);
	leaving.delete(&task);
}

/* The user stack pointer of a new thread that has not run yet (copy_thread(), process.c). */
static __always_inline u64 first_stack_pointer(u64 task)
{
	u64 frame = 0, sp = 0;

#if defined(O_TASK_THREAD) && defined(O_THREAD_SP) && defined(O_FORK_REGS)
	READ(frame, task, O_TASK_THREAD + O_THREAD_SP); /* struct fork_frame * */
	READ(sp, frame, O_FORK_REGS + __builtin_offsetof(struct pt_regs, sp));
#endif
	return sp;
}

RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	u64 parent = ctx->args[0], child = ctx->args[1];
	u64 id = current_id();
	u32 tgid = id >> 32, child_tgid = tgid_of(child);
	struct target *target = targets.lookup(&tgid);
	struct target fresh = {};
	struct task_record *r;
	u64 sequence;
	u32 key = 0;

	if (is_handled(child, EVENT_FORK))
		return 0;
	/* Remove what is left of an earlier thread with this struct task_struct, or this pid. */
	was_freed(child);
	READ(key, child, O_TASK_PID);
	free_slot(child, key);
	if (child_tgid != tgid && !(target && (target->state & TARGET_CHILDREN))) {
		/* Not a target's child: a target that had this tgid has ended. */
		targets.delete(&child_tgid);
		set_active(child_tgid, 0);
		program_ended(child_tgid);
		return 0;
	}
	if (!target)
		return 0;
	if (child_tgid != tgid) {
		fresh.leader = child;
		fresh.state = target->state;
		if (targets.update(&child_tgid, &fresh))
			count(COUNT_UNLISTED);
		set_active(child_tgid, fresh.state);
		program_forked(tgid, child_tgid);
		python_forked(tgid, child);
	}
	if (!(target->state & TARGET_ACTIVE))
		return 0;
	thread_begins((u64)child_tgid << 32 | tid_of(child));
	r = new_task_record(RECORD_FORK, tgid, id, &sequence);
	if (!r)
		return 0;
	READ(r->mm, parent, O_TASK_MM);
	r->count = fault_count(parent);
	r->task = child;
	r->child_tgid = child_tgid;
	r->child_tid = tid_of(child);
	READ(r->child_mm, child, O_TASK_MM);
	READ(r->comm, child, O_TASK_COMM);
	r->child_sp = first_stack_pointer(child);
	submit(r, sequence);
	return 0;
}

/* Note the command's new mm. */
static __always_inline void note_command(u64 task, u32 tgid)
{
	u32 zero = 0;
	struct command *own = command.lookup(&zero);

	if (own && own->tgid == tgid)
		READ(own->mm, task, O_TASK_MM);
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	u64 task = ctx->args[0];
	u64 id = current_id();
	u32 tgid = id >> 32;
	struct target *target = targets.lookup(&tgid);
	u32 before = ctx->args[1];
	struct task_record *r;
	u64 sequence;

	if (is_handled(task, EVENT_EXEC))
		return 0;
	if (before != (u32)bpf_get_current_pid_tgid())
		change_slots(task, before, id);
	if (!target)
		return 0;
	if (target->leader)
		target->leader = task; /* exec may make another thread the leader */
	if (target->state & TARGET_WAITS) {
		target->state = (target->state & ~TARGET_WAITS) | TARGET_ACTIVE;
		__sync_fetch_and_add(&TOTALS->begun, 1);
		__sync_fetch_and_add(&TOTALS->base, fault_count(task));
	}
	set_active(tgid, target->state);
	__sync_fetch_and_add(MAPPINGS, 1);
	program_ended(tgid);
	note_command(task, tgid);
	r = new_task_record(RECORD_EXEC, tgid, id, &sequence);
	if (!r)
		return 0;
	READ(r->mm, task, O_TASK_MM);
	r->count = fault_count(task);
#ifndef PID_NAMESPACE
	r->child_tid = before; /* the thread's id before it became the leader */
#endif
	READ(r->comm, task, O_TASK_COMM);
	submit(r, sequence);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u64 task = ctx->args[0], signal = 0;
	u64 id = current_id();
	u32 live = 1, tid = id;
	struct task_record *r;
	u64 sequence;

	if (is_handled(task, EVENT_EXIT) || !is_active(id >> 32))
		return 0;
	thread_ends(this_task(), id);
	r = new_task_record(RECORD_EXIT, id >> 32, tid, &sequence);
	if (!r)
		return 0;
	READ(r->mm, task, O_TASK_MM);
	r->count = fault_count(task);
	r->task = task;
	READ(signal, task, O_TASK_SIGNAL);
	READ(live, signal, O_SIGNAL_LIVE);
	r->group_dead = live == 0;
	READ(r->comm, task, O_TASK_COMM);
	submit(r, sequence);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_free)
{
	u64 task = ctx->args[0];
	u32 key = 0, tgid, tid;
	u64 sequence;
	struct leaving *left;
	struct target *target;
	struct task_record *r;

	if (is_handled(task, EVENT_FREE) || WATCH == WATCH_OVER)
		return 0;
	READ(key, task, O_TASK_PID);
	left = leaving.lookup(&task);
	if (!left) {
		/*
		 * Not a target's thread any more; but while a trace ends, its count as a target is
		 * only in its slot.
		 */
		if (WATCH != WATCH_ON)
			free_slot(task, key);
		return 0;
	}
	thread_is_gone(task, left, key, fault_count(task));
	free_slot(task, left->key);
	tgid = left->id >> 32;
	/* A leader whose tid exec gave to another thread ends with that one's: it has none. */
	tid = key == left->key ? (u32)left->id : 0;
	leaving.delete(&task);
	target = targets.lookup(&tgid);
	if (!target)
		return 0;
	if (target->state & TARGET_ACTIVE) {
		r = new_task_record(RECORD_FREE, tgid, tid, &sequence);
		if (r) {
			r->count = fault_count(task);
			r->task = task;
			submit(r, sequence);
		}
	}
	target_is_gone(task, tgid, tid, target);
	return 0;
}

RAW_TRACEPOINT_PROBE(task_rename)
{
	u64 task = ctx->args[0];
	u32 tgid = tgid_of(task);
	struct task_record *r;
	u64 sequence;

	if (!is_active(tgid))
		return 0;
	r = new_task_record(RECORD_RENAME, tgid, tid_of(task), &sequence);
	if (!r)
		return 0;
	bpf_probe_read_kernel_str(&r->comm, sizeof(r->comm), (void *)ctx->args[1]);
	submit(r, sequence);
	return 0;
}

#endif
