/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Ids of processes and threads, whether they are traced, and their fault counts. Maps and
 * records have the ids of the tracer's PID namespace. Those of the initial one are in
 * task_struct, those of another in struct pid; a task outside it has 0, which no target has.
 */
#ifndef PAGEFAULT_TASKS_BPF_H
#define PAGEFAULT_TASKS_BPF_H

#ifdef PID_NAMESPACE
static __always_inline u32 tid_of(u64 task)
{
	u32 level = 0;
	struct settings *set = SETTINGS;
	struct {
		u32 number, spare;
		u64 namespace;
	} found = {}; /* struct upid */
	u64 pid = 0;

	READ(pid, task, O_TASK_THREAD_PID);
	if (!pid)
		return 0;
	READ(level, pid, O_PID_LEVEL);
	if (level < set->namespace_level)
		return 0;
	READ(found, pid, O_PID_NUMBERS + set->namespace_level * sizeof(found));
	return found.namespace == set->namespace ? found.number : 0;
}

static __always_inline u32 tgid_of(u64 task)
{
	u64 leader = 0;

	READ(leader, task, O_TASK_GROUP_LEADER);
	return tid_of(leader);
}

static __always_inline u64 id_of(u64 task)
{
	return (u64)tgid_of(task) << 32 | tid_of(task);
}
#else
static __always_inline u32 tid_of(u64 task)
{
	u32 tid = 0;

	READ(tid, task, O_TASK_PID);
	return tid;
}

static __always_inline u32 tgid_of(u64 task)
{
	u32 tgid = 0;

	READ(tgid, task, O_TASK_TGID);
	return tgid;
}

/* The running thread's tgid and tid. */
static __always_inline u64 id_of(u64 task)
{
#ifdef CAST_CALL
	return (u64)OWN32(task, O_TASK_TGID) << 32 | OWN32(task, O_TASK_PID);
#else
	return bpf_get_current_pid_tgid();
#endif
}
#endif

static __always_inline u64 current_id(void)
{
	return id_of(this_task());
}

static __always_inline int is_active(u32 tgid)
{
	return ACTIVE[tgid & (ACTIVE_BYTES - 1)];
}

static __always_inline void set_active(u32 tgid, u32 state)
{
	ACTIVE[tgid & (ACTIVE_BYTES - 1)] = (state & TARGET_ACTIVE) != 0;
}

/* The thread's min_flt + maj_flt; mm_account_fault() raises them inside handle_mm_fault(). */
static __always_inline u64 fault_count(u64 task)
{
	u64 counts[2] = {};

#if O_TASK_MAJ_FLT == O_TASK_MIN_FLT + 8
	READ(counts, task, O_TASK_MIN_FLT);
#else
	READ(counts[0], task, O_TASK_MIN_FLT);
	READ(counts[1], task, O_TASK_MAJ_FLT);
#endif
	return counts[0] + counts[1];
}

/* fault_count() of the running thread; `task` is from this_task(). */
static __always_inline u64 own_fault_count(u64 task)
{
#ifdef CAST_CALL
	return OWN64(task, O_TASK_MIN_FLT) + OWN64(task, O_TASK_MAJ_FLT);
#else
	return fault_count(task);
#endif
}

/* The tgid of the mm's owner (CONFIG_MEMCG keeps mm->owner); 0 where that is not known. */
static __always_inline u32 owner_of(u64 mm)
{
	u32 tgid = 0;
#ifdef O_MM_OWNER
	u64 owner = 0;

	READ(owner, mm, O_MM_OWNER);
	if (owner)
		tgid = tgid_of(owner);
#endif
	return tgid;
}

#endif
