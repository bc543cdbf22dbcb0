/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The hooks and the emission. Compiled by BCC, once for each probe:
 *
 *   PROBE_FENTRY  fentry/fexit on handle_mm_fault
 *   PROBE_KPROBE  kprobe/kretprobe on the same function
 *   PROBE_PERF    raw tracepoints page_fault_user/kernel before, and the
 *                 software events page-faults-min/maj after a fault
 *
 * User space gives, as -D flags: the direct map's base and the number of
 * page-table levels (walk.h), and the offsets of the kernel structures'
 * members, from BTF (O_STRUCT_MEMBER). Map operations stay in this file:
 * BCC compiles them nowhere else.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>
#include "record.h"
#include "walk.h"

#define FAULT_FLAG_WRITE 0x1
#define FAULT_FLAG_REMOTE 0x80
#define ERROR_CODE_WRITE 0x2
#define SIGBUS 7
#define SIGSEGV 11
#define VM_FAULT_MAJOR 0x4
#define VM_FAULT_ERROR 0x873
#define VM_FAULT_RETRY 0x400
#define USER_END 0x00ffffffffffffffULL /* above it: kernel addresses, with 4 and 5 levels */

/* targets: what to do with a process's faults */
#define TARGET_ACTIVE 1
#define TARGET_WAITS 2    /* for its exec: nothing before the command's first instruction counts */
#define TARGET_CHILDREN 4 /* its children become targets */

struct target {
	u64 leader; /* struct task_struct *, 0 where not known */
	u32 state;
	u32 spare;
};

/*
 * A fault between its entry and its completion, by thread. A thread's place is
 * kept between its faults: taking and giving it back would cost more than the fault's hooks.
 */
struct pending {
	u64 start_ns;
	u64 address;
	u64 mm;
	u64 pgd;
	u64 ip;
	u64 entry_before;
	u64 vm_start;
	u64 vm_end;
	u64 vm_flags;
	u64 vm_pgoff;
	u64 inode;
	u64 magic;
	u32 device;
	u32 flags;
	u32 calls;
	u32 mask_before;
	u32 major;
	u8 marks;
	u8 level_before;
	u8 open;       /* begun and not completed */
	u8 retried;
	u8 reads;      /* a read of what may be a file: fault-around is possible */
	u8 spare[3];
	u32 mask_next; /* present pages of the next window */
	u32 owner;     /* the memory's owner where it is another process's */
	u64 unsent;    /* the thread's count at its last fault that no record tells of */
};

/* What user space sets before it arms the targets. */
struct settings {
	u64 direct_map;     /* the direct map's base; 0: don't walk */
	u64 range_start;
	u64 range_end;      /* 0: no range */
	u64 min_latency_ns; /* 0: all */
};

/* A request to walk the tracer's own memory, to find or to verify the direct map's base. */
struct calibration {
	u64 thread; /* pid_tgid of the asking thread; 0 when none asks */
	u64 address;
	u64 direct_map;
	u64 symbol; /* address of page_offset_base, 0 where it is not known */
	u64 pgd;    /* answers */
	u64 entry;
	u64 level;
	u64 value; /* *page_offset_base */
};

/* counters */
#define COUNT_LOST 0      /* fault records the ring had no room for */
#define COUNT_LOST_TASK 1 /* other records it had no room for */
#define COUNT_FILTERED 2  /* faults that --range or --min-latency left out */
#define COUNT_CROWDED 3   /* faults whose entry found no room in `pending` */
#define COUNT_ORPHANS 4   /* completions whose entry was not seen, and that no record tells of */
#define COUNT_ABANDONED 5 /* entries that never completed, and that no record tells of */
#define COUNTERS 6

BPF_RINGBUF_OUTPUT(events, RING_PAGES);
BPF_HASH(targets, u32, struct target, 65536);
BPF_HASH(pending, u32, struct pending, 32768);
BPF_ARRAY(settings, struct settings, 1);
BPF_ARRAY(calibration, struct calibration, 1);
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)((base) + (offset)))

static __always_inline void count(u32 which)
{
	u64 *value = counters.lookup(&which);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline int is_active(u32 tgid)
{
	struct target *target = targets.lookup(&tgid);

	return target && (target->state & TARGET_ACTIVE);
}

/* The thread's min_flt + maj_flt: mm_account_fault() raises them before handle_mm_fault() returns. */
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

static __always_inline void describe(struct fault_record *r, struct pending *p)
{
	r->marks = p->marks;
	r->level_before = p->level_before;
	r->mm = p->mm;
	r->address = p->address;
	r->start_ns = p->start_ns;
	r->ip = p->ip;
	r->entry_before = p->entry_before;
	r->vm_start = p->vm_start;
	r->vm_end = p->vm_end;
	r->vm_flags = p->vm_flags;
	r->vm_pgoff = p->vm_pgoff;
	r->inode = p->inode;
	r->device = p->device;
	r->magic = p->magic;
	r->flags = p->flags;
	r->calls = p->calls;
}

static __always_inline int is_filtered(struct settings *set, struct pending *p, u64 now)
{
	if (set->range_end && (p->address < set->range_start || p->address >= set->range_end))
		return 1;
	return set->min_latency_ns && p->start_ns && now - p->start_ns < set->min_latency_ns;
}

/* The thread's place; 0 where there is no room for one more thread. */
static __always_inline struct pending *new_place(u32 tid)
{
	struct pending empty = {};

	if (pending.update(&tid, &empty))
		count(COUNT_CROWDED);
	return pending.lookup(&tid);
}

static __always_inline void look_before(struct pending *p)
{
	u32 zero = 0;
	struct settings *set = settings.lookup(&zero);
	u64 window[WINDOW_PAGES];
	struct walk before = {};

	p->mask_next = 0;
	if (set && set->direct_map && p->pgd)
		walk_page(set->direct_map, p->pgd, p->address, &before, window);
	p->entry_before = before.entry;
	p->level_before = before.level;
	p->mask_before = before.mask;
	if (before.level)
		p->marks |= MARK_BEFORE;
	if (p->reads && before.level == 1 && next_window(&before, p->address, window))
		p->mask_next = window_mask(window);
}

static __always_inline void emit_window(struct pending *p, u64 id, u64 now, u32 cpu, u64 address, u64 seen, u64 *window)
{
	struct window_record *w = events.ringbuf_reserve(RECORD_SIZE);

	if (!w) {
		count(COUNT_LOST_TASK);
		return;
	}
	w->type = RECORD_WINDOW;
	w->marks = 0;
	w->level = 1;
	w->spare = 0;
	w->cpu = cpu;
	w->time_ns = now;
	w->tgid = id >> 32;
	w->tid = id;
	w->mm = p->mm;
	w->address = address & ~(u64)(WINDOW_PAGES * 4096 - 1);
	w->seen = seen;
	__builtin_memcpy(w->entries, window, sizeof(w->entries));
	events.ringbuf_submit(w, BPF_RB_NO_WAKEUP);
}

/* The windows in which pages other than the fault's own have come to be present. */
static __always_inline void emit_neighbours(struct pending *p, u64 id, u64 now, u32 cpu,
					    struct walk *after, u64 *window)
{
	u32 own = 1u << ((p->address >> 12) & (WINDOW_PAGES - 1));
	u32 mask;

	if (after->mask & ~p->mask_before & ~own)
		emit_window(p, id, now, cpu, p->address,
			    p->mask_before | (u64)after->mask << 16, window);
	if (!p->reads || !next_window(after, p->address, window))
		return;
	mask = window_mask(window);
	if (mask & ~p->mask_next)
		emit_window(p, id, now, cpu, p->address + WINDOW_PAGES * 4096,
			    p->mask_next | (u64)mask << 16, window);
}

/*
 * A counted fault that no record tells of. The kernel does not count a failed one,
 * so nor does what balances its count.
 */
static __always_inline void not_sent(struct pending *p, u64 task, u32 result, u32 which)
{
	if (result & VM_FAULT_ERROR)
		return;
	count(which);
	p->unsent = fault_count(task);
}

/* One fault is over: emit its record, after the windows in which neighbours came along. */
static __always_inline int finish(u64 id, struct pending *p, u32 result)
{
	u32 zero = 0;
	struct settings *set = settings.lookup(&zero);
	u64 window[WINDOW_PAGES];
	u64 now = bpf_ktime_get_ns();
	u64 task = bpf_get_current_task();
	u32 cpu = bpf_get_smp_processor_id();
	struct walk after = {};
	struct fault_record *r;
	u64 seen;

	if (!set)
		return 0;
	if (is_filtered(set, p, now)) {
		not_sent(p, task, result, COUNT_FILTERED);
		return 0;
	}
	if (set->direct_map && p->pgd)
		walk_page(set->direct_map, p->pgd, p->address, &after, window);
	seen = p->mask_before | (u64)after.mask << 16;
	/* The windows go first: whoever reads the fault's record has them already. */
	if (after.level == 1)
		emit_neighbours(p, id, now, cpu, &after, window);
	r = events.ringbuf_reserve(RECORD_SIZE);
	if (!r) {
		not_sent(p, task, result, COUNT_LOST);
		return 0;
	}
	describe(r, p);
	r->type = RECORD_FAULT;
	r->level_after = after.level;
	r->cpu = cpu;
	r->time_ns = now;
	r->tgid = id >> 32;
	r->tid = id;
	r->count = fault_count(task);
	r->entry_after = after.entry;
	r->seen = seen;
	r->result = result;
	r->current_mm = 0;
	READ(r->current_mm, task, O_TASK_MM);
	r->owner = p->owner;
	r->spare = 0;
	r->reserved = 0;
	if (after.level)
		r->marks |= MARK_AFTER;
	if (result & VM_FAULT_ERROR)
		r->marks |= MARK_FAILED;
	events.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	return 0;
}

#if defined(PROBE_FENTRY) || defined(PROBE_KPROBE)

/* The process whose memory this is (CONFIG_MEMCG keeps mm->owner); 0 where that is not known. */
static __always_inline u32 owner_of(u64 mm)
{
	u32 tgid = 0;
#ifdef O_MM_OWNER
	u64 owner = 0;

	READ(owner, mm, O_MM_OWNER);
	if (owner)
		READ(tgid, owner, O_TASK_TGID);
#endif
	return tgid;
}

static __always_inline void read_mapping(struct pending *p, u64 vma)
{
	u64 file = 0, inode = 0, super = 0;

	READ(p->vm_start, vma, O_VMA_START);
	READ(p->vm_end, vma, O_VMA_END);
	READ(p->vm_flags, vma, O_VMA_FLAGS);
	READ(p->vm_pgoff, vma, O_VMA_PGOFF);
	READ(file, vma, O_VMA_FILE);
	p->marks |= MARK_MAPPING;
	p->inode = p->magic = 0;
	p->device = 0;
	if (!file)
		return;
	READ(inode, file, O_FILE_INODE);
	READ(p->inode, inode, O_INODE_INO);
	READ(super, inode, O_INODE_SUPER);
	READ(p->device, super, O_SUPER_DEVICE);
	READ(p->magic, super, O_SUPER_MAGIC);
}

static __always_inline int enter(u64 vma, u64 address, u32 flags, u64 regs)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tgid = id >> 32, tid = id, owner = 0;
	struct pending *p;
	u64 mm = 0;
	u8 marks = MARK_ENTRY;

	if (flags & FAULT_FLAG_REMOTE) {
		READ(mm, vma, O_VMA_MM);
		owner = owner_of(mm);
	}
	if (!is_active(tgid)) {
		/* A thread that is no target may still touch a target's memory. */
		if (!owner || !is_active(owner))
			return 0;
		marks |= MARK_FOREIGN;
	}
	p = pending.lookup(&tid);
	if (!p)
		p = new_place(tid);
	if (!p)
		return 0;
	if (p->open) {
		if (p->retried && p->address == address) {
			/* The same fault, called again after VM_FAULT_RETRY: the kernel counts it once. */
			p->calls++;
			p->retried = 0;
			return 0;
		}
		count(COUNT_ABANDONED);
	}
	p->start_ns = bpf_ktime_get_ns();
	p->open = 1;
	p->retried = 0;
	p->major = 0;
	p->marks = marks;
	p->owner = owner;
	p->address = address;
	p->flags = flags;
	p->calls = 1;
	p->ip = 0;
	READ(p->mm, vma, O_VMA_MM);
	READ(p->pgd, p->mm, O_MM_PGD);
	if (regs)
		READ(p->ip, regs, __builtin_offsetof(struct pt_regs, ip));
	read_mapping(p, vma);
	p->reads = p->inode && !(flags & FAULT_FLAG_WRITE);
	look_before(p);
	return 0;
}

static __always_inline int leave(u32 result)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;
	struct pending *p = pending.lookup(&tid);

	if (!p || !p->open) {
		if (is_active(id >> 32) && !(result & (VM_FAULT_ERROR | VM_FAULT_RETRY)))
			count(COUNT_ORPHANS);
		return 0;
	}
	if (result & VM_FAULT_MAJOR)
		p->major = VM_FAULT_MAJOR;
	if (result & VM_FAULT_RETRY) {
		p->retried = 1;
		return 0;
	}
	finish(id, p, result | p->major);
	p->open = 0;
	return 0;
}

#ifdef HOOK_ANONYMOUS
static __always_inline int enter_anonymous(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct pending *p = pending.lookup(&tid);

	if (p && p->open)
		p->marks |= MARK_ANON_FN;
	return 0;
}
#endif
#endif

#ifdef PROBE_FENTRY
KFUNC_PROBE(handle_mm_fault, u64 vma, u64 address, u32 flags, u64 regs)
{
	return enter(vma, address, flags, regs);
}

KRETFUNC_PROBE(handle_mm_fault, u64 vma, u64 address, u32 flags, u64 regs, u32 result)
{
	return leave(result);
}
#ifdef HOOK_ANONYMOUS
KFUNC_PROBE(do_anonymous_page, u64 vmf)
{
	return enter_anonymous();
}
#endif
#endif

#ifdef PROBE_KPROBE
int handle_mm_fault_entry(struct pt_regs *ctx)
{
	return enter(ctx->di, ctx->si, ctx->dx, ctx->cx);
}

int handle_mm_fault_return(struct pt_regs *ctx)
{
	return leave(ctx->ax);
}
#ifdef HOOK_ANONYMOUS
int do_anonymous_page_entry(struct pt_regs *ctx)
{
	return enter_anonymous();
}
#endif
#endif

#ifdef PROBE_PERF

/*
 * An exception that no completion followed: it failed, or it was no page's fault at all.
 * Told by a signal, or by the thread's next exception.
 */
static __always_inline void emit_failed(u32 tgid, u32 tid, struct pending *p)
{
	struct fault_record *r = events.ringbuf_reserve(RECORD_SIZE);

	if (!r) {
		count(COUNT_ABANDONED);
		return;
	}
	describe(r, p);
	r->type = RECORD_FAULT;
	r->marks |= MARK_FAILED;
	r->level_after = 0;
	r->cpu = bpf_get_smp_processor_id();
	r->time_ns = p->start_ns;
	r->start_ns = p->start_ns;
	r->tgid = tgid;
	r->tid = tid;
	r->count = fault_count(bpf_get_current_task());
	r->entry_after = 0;
	r->seen = p->mask_before;
	r->result = 0;
	r->current_mm = p->mm;
	r->owner = p->owner;
	r->spare = 0;
	r->reserved = 0;
	events.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
}

/* Attached to both exceptions:page_fault_user and page_fault_kernel. */
int exception(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 address = ctx->args[0];
	u32 tgid = id >> 32, tid = id;
	struct pending *p;

	if (!is_active(tgid) || address > USER_END)
		return 0;
	p = pending.lookup(&tid);
	if (!p)
		p = new_place(tid);
	if (!p)
		return 0;
	if (p->open) {
		if (p->address == address) {
			/* A signal interrupted the fault and the instruction ran again. */
			p->calls++;
			return 0;
		}
		emit_failed(tgid, tid, p);
	}
	p->start_ns = bpf_ktime_get_ns();
	p->open = 1;
	p->address = address;
	p->flags = ctx->args[2];
	p->calls = 1;
	p->marks = MARK_ENTRY | MARK_ERRORCODE;
	READ(p->ip, ctx->args[1], __builtin_offsetof(struct pt_regs, ip));
	READ(p->mm, bpf_get_current_task(), O_TASK_MM);
	READ(p->pgd, p->mm, O_MM_PGD);
	p->reads = !(p->flags & ERROR_CODE_WRITE);
	look_before(p);
	return 0;
}

/* A fault that fails in user mode ends in a signal to its own thread (force_sig_fault()). */
RAW_TRACEPOINT_PROBE(signal_generate)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, to = 0;
	struct pending *p;

	if (ctx->args[0] != SIGBUS && ctx->args[0] != SIGSEGV)
		return 0;
	p = pending.lookup(&tid);
	if (!p || !p->open)
		return 0;
	READ(to, ctx->args[2], O_TASK_PID);
	if (to != tid)
		return 0;
	emit_failed(id >> 32, tid, p);
	p->open = 0;
	return 0;
}

static __always_inline int resolved(struct bpf_perf_event_data *ctx, u32 result)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;
	struct pending *p = pending.lookup(&tid);

	if (!p || !p->open) {
		if (!is_active(id >> 32))
			return 0;
		if (!p)
			p = new_place(tid);
		if (!p)
			return 0;
		/* It was under way when tracing began: no entry time, no state before. */
		p->start_ns = 0;
		p->marks = 0;
		p->entry_before = 0;
		p->level_before = 0;
		p->mask_before = 0;
		p->reads = 0;
		p->flags = 0;
		p->address = ctx->addr;
		p->ip = ctx->regs.ip;
		p->calls = 1;
		READ(p->mm, bpf_get_current_task(), O_TASK_MM);
		READ(p->pgd, p->mm, O_MM_PGD);
	}
	finish(id, p, result);
	p->open = 0;
	return 0;
}

int page_fault_minor(struct bpf_perf_event_data *ctx)
{
	return resolved(ctx, 0);
}

int page_fault_major(struct bpf_perf_event_data *ctx)
{
	return resolved(ctx, VM_FAULT_MAJOR);
}
#endif

/* ---- the life of targets: threads, children, exec, exit, names, mappings ---- */

static __always_inline struct task_record *new_task_record(u8 type, u32 tgid, u32 tid)
{
	struct task_record *r = events.ringbuf_reserve(RECORD_SIZE);

	if (!r) {
		count(COUNT_LOST_TASK);
		return 0;
	}
	__builtin_memset(r, 0, RECORD_SIZE);
	r->type = type;
	r->cpu = bpf_get_smp_processor_id();
	r->time_ns = bpf_ktime_get_ns();
	r->tgid = tgid;
	r->tid = tid;
	return r;
}

RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	u64 parent = ctx->args[0], child = ctx->args[1];
	u64 id = bpf_get_current_pid_tgid();
	u32 tgid = id >> 32, child_tgid = 0;
	struct target *target = targets.lookup(&tgid);
	struct target fresh = {};
	struct task_record *r;

	if (!target)
		return 0;
	READ(child_tgid, child, O_TASK_TGID);
	if (child_tgid != tgid) {
		if (!(target->state & TARGET_CHILDREN))
			return 0;
		fresh.leader = child;
		fresh.state = target->state;
		targets.update(&child_tgid, &fresh);
	}
	if (!(target->state & TARGET_ACTIVE))
		return 0;
	r = new_task_record(RECORD_FORK, tgid, id);
	if (!r)
		return 0;
	READ(r->mm, parent, O_TASK_MM);
	r->count = fault_count(parent);
	r->child_tgid = child_tgid;
	READ(r->child_tid, child, O_TASK_PID);
	READ(r->child_mm, child, O_TASK_MM);
	READ(r->comm, child, O_TASK_COMM);
	events.ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	u64 task = ctx->args[0];
	u64 id = bpf_get_current_pid_tgid();
	u32 tgid = id >> 32;
	struct target *target = targets.lookup(&tgid);
	struct task_record *r;

	if (!target)
		return 0;
	if (target->state & TARGET_WAITS)
		target->state = (target->state & ~TARGET_WAITS) | TARGET_ACTIVE;
	r = new_task_record(RECORD_EXEC, tgid, id);
	if (!r)
		return 0;
	READ(r->mm, task, O_TASK_MM);
	r->count = fault_count(task);
	r->child_tid = ctx->args[1]; /* the thread's id before it became the leader */
	READ(r->comm, task, O_TASK_COMM);
	events.ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u64 task = ctx->args[0], signal = 0;
	u64 id = bpf_get_current_pid_tgid();
	u32 live = 1, tid = id;
	struct task_record *r;

	if (!is_active(id >> 32))
		return 0;
	r = new_task_record(RECORD_EXIT, id >> 32, tid);
	if (!r)
		return 0;
	READ(r->mm, task, O_TASK_MM);
	r->count = fault_count(task);
	READ(signal, task, O_TASK_SIGNAL);
	READ(live, signal, O_SIGNAL_LIVE);
	r->group_dead = live == 0;
	READ(r->comm, task, O_TASK_COMM);
	events.ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_free)
{
	u64 task = ctx->args[0];
	u32 tgid = 0, tid = 0;
	struct target *target;
	struct task_record *r;

	READ(tgid, task, O_TASK_TGID);
	target = targets.lookup(&tgid);
	if (!target)
		return 0;
	READ(tid, task, O_TASK_PID);
	pending.delete(&tid);
	if (target->state & TARGET_ACTIVE) {
		r = new_task_record(RECORD_FREE, tgid, tid);
		if (r) {
			r->count = fault_count(task);
			events.ringbuf_submit(r, 0);
		}
	}
	if (tid == tgid && (!target->leader || target->leader == task))
		targets.delete(&tgid);
	return 0;
}

RAW_TRACEPOINT_PROBE(task_rename)
{
	u64 task = ctx->args[0];
	u32 tgid = 0, tid = 0;
	struct task_record *r;

	READ(tgid, task, O_TASK_TGID);
	if (!is_active(tgid))
		return 0;
	READ(tid, task, O_TASK_PID);
	r = new_task_record(RECORD_RENAME, tgid, tid);
	if (!r)
		return 0;
	bpf_probe_read_kernel_str(&r->comm, sizeof(r->comm), (void *)ctx->args[1]);
	events.ringbuf_submit(r, 0);
	return 0;
}

/* System calls that change mappings, x86-64 numbers (arch/x86/entry/syscalls/syscall_64.tbl). */
static __always_inline int changes_mappings(u64 number)
{
	return number == 9      /* mmap */
		|| number == 10  /* mprotect */
		|| number == 11  /* munmap */
		|| number == 12  /* brk */
		|| number == 25  /* mremap */
		|| number == 28  /* madvise */
		|| number == 30  /* shmat */
		|| number == 67  /* shmdt */
		|| number == 149 /* mlock */
		|| number == 151 /* mlockall */
		|| number == 325 /* mlock2 */
		|| number == 329 /* pkey_mprotect */
		|| number == 440; /* process_madvise */
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 frame = ctx->args[0], number = 0;
	struct pt_regs regs;
	struct syscall_record *r;

	if (!is_active(id >> 32))
		return 0;
	if (bpf_probe_read_kernel(&regs, sizeof(regs), (void *)frame))
		return 0;
	if (regs.cs == 0x23 || !changes_mappings(regs.orig_ax)) /* 0x23: a 32-bit program's own numbers */
		return 0;
	r = events.ringbuf_reserve(RECORD_SIZE);
	if (!r) {
		count(COUNT_LOST_TASK);
		return 0;
	}
	__builtin_memset(r, 0, RECORD_SIZE);
	r->type = RECORD_SYSCALL;
	r->cpu = bpf_get_smp_processor_id();
	r->time_ns = bpf_ktime_get_ns();
	r->tgid = id >> 32;
	r->tid = id;
	READ(r->mm, bpf_get_current_task(), O_TASK_MM);
	r->number = regs.orig_ax;
	r->result = ctx->args[1];
	r->args[0] = regs.di;
	r->args[1] = regs.si;
	r->args[2] = regs.dx;
	r->args[3] = regs.r10;
	r->args[4] = regs.r8;
	r->args[5] = regs.r9;
	events.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Attached to sys_enter only while user space calibrates (tracer/kernel/paging.py). */
int calibrate(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct calibration *ask = calibration.lookup(&zero);
	u64 window[WINDOW_PAGES];
	struct walk found = {};
	u64 mm = 0, pgd = 0, value = 0;

	if (!ask || ask->thread != bpf_get_current_pid_tgid())
		return 0;
	READ(mm, bpf_get_current_task(), O_TASK_MM);
	READ(pgd, mm, O_MM_PGD);
	if (ask->symbol)
		READ(value, ask->symbol, 0);
	if (ask->direct_map)
		walk_page(ask->direct_map, pgd, ask->address, &found, window);
	ask->pgd = pgd;
	ask->value = value;
	ask->entry = found.entry;
	ask->level = found.level;
	ask->thread = 0;
	return 0;
}
