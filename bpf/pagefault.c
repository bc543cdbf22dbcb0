/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The hooks and the emission. Compiled by BCC, once for each probe (the first
 * part of a function's name says what type of program it is, see probes/program.py):
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
#include "kernel.h"
#include "walk.h"
#include "calls.h"
#include "remote.h"
#include "fill.h"
#include "stack.h"

#define FAULT_FLAG_WRITE 0x1
#define FAULT_FLAG_TRIED 0x20 /* STATE_TRIED */
#define FAULT_FLAG_USER 0x40
#define FAULT_FLAG_REMOTE 0x80
#define ERROR_CODE_WRITE 0x2
#define ERROR_CODE_USER 0x4
#define SIGBUS 7
#define SIGSEGV 11
#define VM_FAULT_SIGBUS 0x2
#define VM_FAULT_MAJOR 0x4
#define VM_FAULT_SIGSEGV 0x40
#define VM_FAULT_ERROR 0x873
#define VM_FAULT_RETRY 0x400
#define USER_END 0x00ffffffffffffffULL /* above it: kernel addresses, with 4 and 5 levels */
#define IS_KERNEL_ADDRESS(address) ((s64)(address) < 0)

/* targets: what to do with a process's faults */
#define TARGET_ACTIVE 1
#define TARGET_WAITS 2    /* for its exec: nothing before the command's first instruction counts */
#define TARGET_CHILDREN 4 /* its children become targets */

struct target {
	u64 leader; /* struct task_struct *, 0 where not known: a process that was there before us */
	u32 state;
	u32 spare;
};

/*
 * A fault between its entry and its completion. A thread keeps its place from its first fault
 * on: one of PLACES, by its number, and where another thread has that, one in `pending`.
 */
struct pending {
	struct fault_record record; /* what is known of it; the rest at its completion. calls: 1 at rest */
	u64 table;      /* which page table `slot` is in, for how long: table_key() */
	u64 slot;       /* kernel address of entry_before, where level_before is 1 */
	u64 above;      /* the entry that leads there */
	u64 above_slot; /* and its address */
	u32 state;      /* STATE_… */
	u16 mask_before; /* STATE_AROUND: present pages of the window */
	u16 mask_next;  /* and of the next one */
	u16 lower, upper; /* STATE_BESIDE: of the entries beside, what says whether they are present */
	u32 beyond;     /* what is present on either side of the window: 1 below, 2 above */
	u64 task;       /* whose place this is: a thread's number is used again */
	u32 tid;        /* that number, as the tracer has it */
	u32 crowded;    /* another thread is in `pending` because this place was taken */
	u64 first;      /* the thread's count when it got this place */
	/*
	 * Its count at the last moment that is accounted for: a fault's completion, and with `perf`
	 * its beginning, too. What it has grown by until the next is what `perf` is blind to. The
	 * last member; from `state` on they are user space's to read (PLACE_END in program.py).
	 */
	u64 seen;
};

/* What the kernel counted, added up here: no record that finds no room changes it. */
struct totals {
	u64 begun;  /* threads that began under trace, by fork or, of a command, by its exec */
	u64 ended;  /* threads that ended under trace */
	u64 faults; /* of those: their counts as they ended, and what they still came to */
	u64 base;   /* of commands: their counts as they began by exec */
	u64 blind;  /* faults without an exception of their own, from a thread's very first on */
};

/* A thread between its end and its last moment, when its memory is freed. */
struct leaving {
	u64 id;
	u64 count; /* when it ended: in totals.faults already */
	u32 key;   /* its number then, the kernel's own: exec may give it another's */
	u32 spare;
};

/* struct pending.state; 0 while no fault is under way */
#define STATE_OPEN 0x01    /* begun and not completed */
#define STATE_AROUND 0x02  /* neighbours may come along: the window is looked at, before and after */
/*
 * Only a large folio's pages may, one of which is beside the fault's own: these two entries are
 * looked at, before and after, and the window afterwards where one has come. Without STATE_AROUND
 * it is not known what was there before.
 */
#define STATE_BESIDE 0x04
#define STATE_READS 0x08   /* a read of what may be a file: fault-around is possible */
#define STATE_SLOT 0x10    /* in its only call; the entry it found is in `slot` */
#define STATE_TRIED 0x20   /* its last call says FAULT_FLAG_TRIED */
#define STATE_RETRIED 0x40 /* its last call ended with VM_FAULT_RETRY */
#define STATE_ATTEMPT 0x80 /* of the kernel's, with faults disabled: no fault, unless it completes */
#define STATE_STACK 0x100  /* its stack is being read: exceptions meanwhile are the reading's own */
#define STATE_FILE 0x200   /* its mapping is one of a file: vm_pgoff, inode and magic are known */
#define STATE_FILTER 0x400 /* range_end or min_latency_ns may leave it out */
#define STATE_REMOTE 0x800 /* the memory may be another process's: `owner` is known */

/* What user space sets before it arms the targets. */
struct settings {
	u64 direct_map;     /* the direct map's base; 0: don't walk */
	u64 range_start;
	u64 range_end;      /* 0: no range */
	u64 min_latency_ns; /* 0: all */
	u64 namespace;      /* the tracer's own struct pid_namespace *, where it is not the initial one */
	u64 namespace_level;
	u32 always;         /* STATE_… of every fault: STATE_FILTER, or nothing */
	u32 anonymous;      /* of one in memory that is no file's: that, and what to look at */
};

/* A request to walk the tracer's own memory, to find or to verify the direct map's base. */
struct calibration {
	u64 nonce; /* what the asking system call has for its first argument; 0 when none asks */
	u64 address;
	u64 direct_map;
	u64 symbol; /* address of page_offset_base, 0 where it is not known */
	u64 pgd;    /* answers */
	u64 entry;
	u64 level;
	u64 value; /* *page_offset_base */
	u64 namespace; /* the asking thread's PID namespace: struct pid_namespace *, and its depth */
	u64 namespace_level;
};

/* The command that the tracer starts: its memory may be held past its end. */
struct command {
	u64 tgid; /* user space says */
	u64 mm;   /* struct mm_struct *, since its last exec */
};

/* counters */
#define COUNT_LOST 0      /* fault records the ring had no room for */
#define COUNT_LOST_TASK 1 /* other records it had no room for */
#define COUNT_FILTERED 2  /* faults that --range or --min-latency left out */
#define COUNT_CROWDED 3   /* faults whose entry found no room in `pending` */
#define COUNT_ORPHANS 4   /* completions whose entry was not seen, and that no record tells of */
/* Of faults that no thread of a target is charged for: they are in no thread's count. */
#define COUNT_FAILED_LOST 5      /* COUNT_LOST, of faults that failed */
#define COUNT_FAILED_FILTERED 6  /* COUNT_FILTERED, of these */
#define COUNT_FOREIGN_LOST 7     /* COUNT_LOST, of faults by threads that are no target's */
#define COUNT_FOREIGN_FILTERED 8 /* COUNT_FILTERED, of these */
#define COUNT_UNLISTED 9 /* threads and processes that could not be noted, or not told apart */
/* Where handlers can be skipped (is_told): what of threads' lives they have run for. */
#define COUNT_HANDLED 10 /* calls of any copy of a handler */
#define COUNT_TOLD 11    /* events, whichever copy came first */
#define COUNTERS 12

/* What the records go through; the loader makes it as large as it is told. */
#ifdef MAPPED_RING
struct record {
	u64 words[RECORD_SIZE / 8];
};

struct positions {
	u64 head;      /* records claimed, ever; on a cache line that user space does not write to */
	u64 apart[15];
	u64 tail;      /* records read, ever: user space says */
	u64 mask;      /* how many there is room for, a power of two, less one */
};
BPF_F_TABLE("array", u32, struct record, records, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct positions, positions, 1, BPF_F_MMAPABLE);
#else
BPF_RINGBUF_OUTPUT(records, 1);
#endif
BPF_HASH(targets, u32, struct target, 65536);
BPF_HASH(pending, u32, struct pending, 32768);
BPF_HASH(owners, u32, u64, PLACES); /* of places, by their number: who has it first, has it */
BPF_ARRAY(settings, struct settings, 1);
BPF_ARRAY(calibration, struct calibration, 1);
BPF_ARRAY(userfaults, u64, 1); /* whether a target uses userfaultfd: then others' ioctls matter */
BPF_ARRAY(mappings, u64, 1); /* changes of the targets' mappings: page tables may go with them */
BPF_ARRAY(command, struct command, 1);
BPF_ARRAY(held, u64, 1); /* struct mm_struct * that the tracer itself holds a reference to (mm_pin.py) */
BPF_ARRAY(totals, struct totals, 1);
BPF_HASH(leaving, u64, struct leaving, 32768); /* by struct task_struct * */
/*
 * While user space lists threads it watches: those that begin and end meanwhile, by id, tell it
 * which of what it found is in the totals already (tracer/accounting/totals.py).
 */
BPF_ARRAY(watch, u64, 1);
BPF_HASH(watched, u64, u64, 16384);
#define WATCH_ON 1
#define WATCH_OVER 2 /* the trace is over: the totals stay, and so do threads' last places */
#define WATCHED_BEGUN (1ULL << 62) /* its number in `watched`; the rest is its base */
#define WATCHED_ENDED (1ULL << 63)
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
#ifdef STACKS
BPF_PERCPU_ARRAY(stacks, struct stack, 1);
#endif

/*
 * Maps that user space makes, and that are used in place: for each process's number whether it
 * is a target whose faults count (what `targets` says, for less), and struct pending[PLACES].
 */
#define ACTIVE ((u8 *)MAP_VALUE(VALUE_ACTIVE))
#define PLACE(tid) ((struct pending *)MAP_VALUE(VALUE_PLACES) + ((tid) & (PLACES - 1)))
#define MAPPINGS ((u64 *)MAP_VALUE(VALUE_MAPPINGS))
#define SETTINGS ((struct settings *)MAP_VALUE(VALUE_SETTINGS))
#define POSITIONS ((struct positions *)MAP_VALUE(VALUE_POSITIONS))
#define TOTALS ((struct totals *)MAP_VALUE(VALUE_TOTALS))
#define WATCH (*(volatile u64 *)MAP_VALUE(VALUE_WATCH))

#include "userfault.h"

static __always_inline void count(u32 which)
{
	u64 *value = counters.lookup(&which);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * Room for a record, in the order in which they are read; 0 where there is none. Whoever got it
 * fills it and submits it, with what reserve() gave for `sequence` (in the upper half of it, as in
 * a record's first word). What is read stops there until then: nothing that waits may come between.
 *
 * The kernel's ring buffer (5.8) takes two calls for that, and a lock. A program that may
 * compare and swap (5.12) does it in an array: tracer/wire/ring.py says how it is read.
 */
#ifdef MAPPED_RING
#define CLAIM_TRIES 64 /* each that fails is one that another CPU won; then it counts as lost */

/* Room for `records` of them, the first of which is number `*first`; 0 where there is none. */
static __always_inline int claim(u64 records, u64 *first)
{
	struct positions *ring = POSITIONS;
	u64 head, found, mask = ring->mask;

#pragma clang loop unroll(disable)
	for (int tries = 0; tries < CLAIM_TRIES; tries++) {
		head = *(volatile u64 *)&ring->head;
		/* Signed: others may have claimed records since, and the tail be ahead of that head. */
		if ((s64)(head - *(volatile u64 *)&ring->tail) > (s64)(mask - (records - 1)))
			return 0;
		found = __sync_val_compare_and_swap(&ring->head, head, head + records);
		asm volatile("" : "+r"(found)); /* the compiler would keep a flag instead */
		if (found != head)
			continue;
		*first = head;
		return 1;
	}
	return 0;
}

/* One of the records that claim() gave room for; each of them must be submitted. */
static __always_inline void *claimed(u64 which, u64 *sequence)
{
	u32 number = which & POSITIONS->mask;

	*sequence = which << 32;
	return records.lookup(&number);
}

static __always_inline void *reserve(u64 *sequence)
{
	u64 first;

	return claim(1, &first) ? claimed(first, sequence) : 0;
}

static __always_inline int is_half_full(void)
{
	struct positions *ring = POSITIONS;

	return (s64)(*(volatile u64 *)&ring->head - *(volatile u64 *)&ring->tail) > (s64)(ring->mask / 2);
}

/* The sequence is the last to be written: x86 keeps the order of stores. */
static __always_inline void submit(void *record, u64 sequence)
{
	asm volatile("" ::: "memory");
	((struct task_record *)record)->sequence = sequence >> 32;
}
#else
static __always_inline void *reserve(u64 *sequence)
{
	*sequence = 0;
	return records.ringbuf_reserve(RECORD_SIZE);
}

/* It knows no more than one at a time. */
static __always_inline int claim(u64 records, u64 *first)
{
	*first = 0;
	return 1;
}

static __always_inline void *claimed(u64 which, u64 *sequence)
{
	return reserve(sequence);
}

static __always_inline int is_half_full(void)
{
	return 0; /* not asked: bcc 0.26 does not know bpf_ringbuf_query() */
}

static __always_inline void submit(void *record, u64 sequence)
{
	((struct task_record *)record)->sequence = sequence >> 32;
	records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}
#endif

/* All but the first word, whose sequence is submit()'s to write. */
#define CLEAR_BODY(record) __builtin_memset((u8 *)(record) + 8, 0, RECORD_SIZE - 8)

/*
 * Who: processes and threads have the numbers that the tracer's PID namespace gives them, in
 * maps and records alike. The initial namespace's are at hand; those of another come from
 * struct pid, and one that is not in it has the number 0, which no target has.
 */
#ifdef PID_NAMESPACE
static __always_inline u32 tid_of(u64 task)
{
	u32 level = 0;
	struct settings *set = SETTINGS;
	struct { u32 number, spare; u64 namespace; } found = {}; /* struct upid */
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

/* Of the running thread. */
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

/* fault_count() of the running thread, task being what this_task() gave. */
static __always_inline u64 own_fault_count(u64 task)
{
#ifdef CAST_CALL
	return OWN64(task, O_TASK_MIN_FLT) + OWN64(task, O_TASK_MAJ_FLT);
#else
	return fault_count(task);
#endif
}

/* The members of a record from `first` to the one before `end`. */
#define MEMBERS(first, end) \
	(__builtin_offsetof(struct fault_record, end) - __builtin_offsetof(struct fault_record, first))
#define COPY_MEMBERS(to, from, first, end) \
	__builtin_memcpy(&(to)->first, &(from)->first, MEMBERS(first, end))
#define CLEAR_MEMBERS(in, first, end) __builtin_memset(&(in)->first, 0, MEMBERS(first, end))

/* What a place knows of a fault, in its record; all but how it ended and its first word. */
static __always_inline void describe(struct fault_record *r, struct pending *p, u64 task, u32 state)
{
	COPY_MEMBERS(r, &p->record, tgid, vm_start);
#ifdef PROBE_PERF
	CLEAR_MEMBERS(r, vm_start, entry_after); /* it knows of no mapping */
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

/* A fault's first word: what its place has of it, and `more` of its members. */
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
	/* `perf` is not told when one has failed: on no probe is there a latency to hold against it. */
	return failed ||
	       (p->record.start_ns && now - p->record.start_ns < set->min_latency_ns);
}

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
		__builtin_assume(p != 0); /* the callers' tests of it are for the other road */
		return p;
	}
	if (!p->crowded)
		return 0;
	again = place_key(task); /* on the stack on this road alone */
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

/*
 * Whether the other page of an aligned pair is there already. A large folio of anonymous memory,
 * aligned as a rule (swapped out, and its mapping moved, it need not be), would have brought it: the
 * window is hardly ever needed then, and its state before is not worth the price.
 */
static __always_inline int has_its_pair(struct pending *p, u64 slot)
{
	return (slot & 8 ? p->lower : p->upper) & ENTRY_IS_PRESENT;
}

/* What is present where neighbours may come. */
static __always_inline void look_for_room(struct pending *p, struct walk *before, u32 state)
{
	u64 window[WINDOW_SLOTS];

	p->mask_before = p->mask_next = 0;
	p->beyond = 0;
	if (before->level != 1) /* nothing is: then the window tells all afterwards */
		return;
	if (!look_around(before, window))
		return;
	p->mask_before = before->mask;
	p->beyond = is_present(window[0]) | is_present(window[WINDOW_SLOTS - 1]) << 1;
	if ((state & STATE_READS) && next_window(before, p->record.address, window))
		p->mask_next = window_mask(window);
}

/* Whether a page beside has come that has the frame beside. */
static __always_inline int came_beside(struct pending *p, struct walk *after)
{
	u64 beside;

	if (!(p->lower & ENTRY_IS_PRESENT)) {
		beside = LOAD64(after->slot - 8);
		if (is_present(beside) && maps_frame(beside, (after->entry & ENTRY_TABLE) - 4096))
			return 1;
	}
	if (p->upper & ENTRY_IS_PRESENT)
		return 0;
	beside = LOAD64(after->slot + 8);
	return is_present(beside) && maps_frame(beside, (after->entry & ENTRY_TABLE) + 4096);
}

/* Whether neighbours may have come; then `window` and after->mask are filled. */
static __always_inline int look_for_neighbours(struct pending *p, struct walk *after, u64 *window)
{
	if (after->level != 1)
		return 0;
	if ((p->state & STATE_BESIDE) && !came_beside(p, after))
		return 0;
	if (!look_around(after, window))
		return 0;
	if (!(p->state & STATE_AROUND)) {
		p->mask_before = after->mask & ~row_in_window(after, window + 1);
		p->beyond = 0;
	}
	return 1;
}

/*
 * Which page table an address is in, as long as the targets' mappings stay: only their changes
 * free tables of tables. 0 stands for none.
 */
static __always_inline u64 table_key(u64 address)
{
	return (*MAPPINGS << 36 | address >> 21) + 1;
}

/* From the page directory down; 0 where that cannot be. */
static __always_inline int walk_down(u64 mm, u64 address, struct walk *w)
{
	u64 base = SETTINGS->direct_map, pgd;

	if (!base)
		return 0;
	pgd = LOAD64(mm + O_MM_PGD);
	if (!pgd)
		return 0;
	walk_page(base, pgd, address, w);
	return 1;
}

/* Notes the entry before, and what is around it. */
static __always_inline void note_before(struct pending *p, struct walk *before, u64 address,
					u32 state, u32 marks)
{
	p->slot = before->slot;
	p->record.address = address;
	p->record.entry_before = before->entry;
	if (before->level)
		marks |= MARK_BEFORE;
	if (before->level == 1)
		state |= STATE_SLOT;
	*(u32 *)&p->record = RECORD_FAULT | marks << 8 | before->level << 16;
#ifdef PROBE_PERF
	if ((state & (STATE_AROUND | STATE_BESIDE)) == STATE_BESIDE) {
		if (before->level == 1) {
			p->state = state;
			look_beside(before->slot, &p->lower, &p->upper);
			return;
		}
		state |= STATE_AROUND; /* nothing is there: that much is known of the whole window */
	}
#endif
	p->state = state;
	if (!(state & STATE_AROUND))
		return;
	if (state & STATE_BESIDE) {
		p->lower = p->upper = 0;
		if (before->level == 1)
			look_beside(before->slot, &p->lower, &p->upper);
		if (has_its_pair(p, before->slot)) {
			p->state = state & ~STATE_AROUND;
			return;
		}
	}
	look_for_room(p, before, state);
}

/* The entry before: by way of the page table that the thread's last fault was in, if it is in it. */
static __always_inline void look_before(struct pending *p, u64 mm, u64 address, u32 state, u32 marks)
{
	u64 key = table_key(address);
	struct walk before = {};

#ifdef CAST_CALL
	/* The table itself may have made way for a huge page. */
	if (p->table == key && p->record.mm == mm && LOAD64(p->above_slot) == p->above) {
		before.slot = (p->slot & ~4095UL) | (address >> 9 & 0xff8);
		before.entry = LOAD64(before.slot);
		before.level = 1;
		note_before(p, &before, address, state, marks);
		return;
	}
#endif
	walk_down(mm, address, &before);
	p->table = before.level == 1 ? key : 0;
	p->above = before.above;
	p->above_slot = before.above_slot;
	p->record.mm = mm;
	note_before(p, &before, address, state, marks);
}

/* The entry at completion; it is where it was, if what led there is as it was. */
static __always_inline void look_after(struct pending *p, struct walk *after)
{
#ifdef CAST_CALL
	if ((p->state & STATE_SLOT) && LOAD64(p->above_slot) == p->above) {
		after->slot = p->slot;
		after->entry = LOAD64(p->slot);
		after->level = 1;
		return;
	}
#endif
	walk_down(p->record.mm, p->record.address, after);
}

static __always_inline void emit_window(struct pending *p, u64 id, u64 now, u64 address,
					u64 seen, u64 *entries)
{
	u64 sequence;
	struct window_record *w = reserve(&sequence);

	if (!w) {
		count(COUNT_LOST_TASK);
		return;
	}
	w->type = RECORD_WINDOW;
	w->marks = p->state & STATE_AROUND ? 0 : WINDOW_UNTOLD;
	w->level = 1;
	w->spare = 0;
	w->time_ns = now;
	w->tgid = id >> 32;
	w->tid = id;
	w->mm = p->record.mm;
	w->address = address & ~(u64)(WINDOW_PAGES * 4096 - 1);
	w->seen = seen;
	__builtin_memcpy(w->entries, entries, sizeof(w->entries));
	submit(w, sequence);
}

/* A large folio that reaches beyond the windows; the arguments are row_of_frames()'s. */
static __always_inline void emit_row(struct pending *p, u64 id, u64 now, u64 table, u32 number,
				     u64 frame, int step, u64 *window)
{
	u64 sequence;
	struct window_record *w = reserve(&sequence);

	if (!w) {
		count(COUNT_LOST_TASK);
		return;
	}
	CLEAR_BODY(w);
	w->type = RECORD_WINDOW;
	w->marks = WINDOW_ROW;
	w->level = 1;
	w->spare = 0;
	w->time_ns = now;
	w->tgid = id >> 32;
	w->tid = id;
	w->mm = p->record.mm;
	w->address = p->record.address & HUGE_PAGE;
	w->entries[0] = frame;
	row_of_frames(table, number, frame, step, window, (u16 *)(w->entries + 1));
	submit(w, sequence);
}

/* The windows in which pages other than the fault's own have come to be present. */
static __always_inline void emit_neighbours(struct pending *p, u64 id, u64 now,
					    struct walk *after, u64 *window)
{
	u32 number = (p->record.address >> 12) & 511, start = number & ~(WINDOW_PAGES - 1);
	u32 own = 1u << (number - start), fresh = after->mask & ~p->mask_before, mask;
	u32 above = start + WINDOW_PAGES;
	u64 table = window_slot(after) - start * 8;
	u64 bottom = window[1] & ENTRY_TABLE, top = window[WINDOW_PAGES] & ENTRY_TABLE;

	if (fresh & ~own)
		emit_window(p, id, now, p->record.address,
			    p->mask_before | (u64)after->mask << 16, window + 1);
	/* Only a page that was absent, and in no huge page, brings a folio along. */
	if (!(p->record.marks & MARK_BEFORE) || is_present(p->record.entry_before))
		fresh = 0;
	if ((p->beyond & 1) || !maps_frame(window[0], bottom - 4096))
		fresh &= ~1;
	if ((p->beyond & 2) || !maps_frame(window[WINDOW_PAGES + 1], top + 4096))
		fresh &= ~LAST_OF_WINDOW;
	if ((p->state & STATE_READS) && next_window(after, p->record.address, window)) {
		mask = window_mask(window);
		if (mask & ~p->mask_next)
			emit_window(p, id, now, p->record.address + WINDOW_PAGES * 4096,
				    p->mask_next | (u64)mask << 16, window);
		if (mask & ~p->mask_next & LAST_OF_WINDOW) {
			top = window[WINDOW_PAGES - 1] & ENTRY_TABLE;
			above += WINDOW_PAGES;
			fresh |= LAST_OF_WINDOW;
		}
	}
	if (fresh & LAST_OF_WINDOW)
		emit_row(p, id, now, table, above / WINDOW_PAGES, top - (above - 1) * 4096, 1, window);
	if (fresh & 1)
		emit_row(p, id, now, table, start / WINDOW_PAGES - 1, bottom - start * 4096, -1, window);
}

/*
 * A fault that no record tells of. The kernel does not count a failed one, and one by another
 * process on that one's account: they have counters of their own, beside what is to balance.
 */
static __always_inline void not_sent(struct pending *p, u64 task, u32 result, int filtered)
{
	if (result & VM_FAULT_ERROR) {
		/* `seen` stays: with `perf` it was noted at the beginning, and a failed fault adds nothing. */
		count(filtered ? COUNT_FAILED_FILTERED : COUNT_FAILED_LOST);
		return;
	}
	p->seen = own_fault_count(task);
	if (p->record.marks & MARK_FOREIGN)
		count(filtered ? COUNT_FOREIGN_FILTERED : COUNT_FOREIGN_LOST);
	else
		count(filtered ? COUNT_FILTERED : COUNT_LOST);
}

#ifdef STACKS
BPF_TABLE("lru_hash", u64, u8, sent_stacks, 65536);

/* Send the frames of one side of a stack; 0 if there was no room for all of them. */
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
			count(COUNT_LOST_TASK);
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
 * The return address of a function that has pushed nothing yet, as memset and its like never do:
 * frame pointers do not tell it. What is found may be a value that only looks like one; user
 * space knows by the function's unwind information. 0 where there is none.
 */
static __always_inline u64 innermost_caller(u64 task)
{
	u64 caller = 0, code = 0;
#ifdef CAST_CALL
	u64 regs = user_registers(task);
	u64 sp = *(u64 *)(regs + __builtin_offsetof(struct pt_regs, sp));

	/* To read where nothing is mapped costs an exception: not for a small number, then. */
	if (bpf_probe_read_user(&caller, sizeof(caller), (void *)sp) ||
	    caller < LOWEST_CODE || caller > USER_END ||
	    bpf_probe_read_user(&code, sizeof(code), (void *)(caller - 8)) || !ends_in_call(code))
		return 0;
#endif
	return caller;
}

/*
 * The number of the running thread's call stack, its frames sent before if they were not lately.
 * Only a fault in kernel mode has frames of the kernel's that say anything: those of one in user
 * mode are the fault handler itself. Of a thread that is no target the mappings are not followed.
 */
static __always_inline u64 take_stack(void *ctx, struct pending *p, u64 task, struct stack *s,
				      int in_kernel, int foreign)
{
	u32 kernel = 0, user = 0;
	u64 number, mm = 0, exec_id = 0, caller = 0, id = id_of(task);
	long size;
	u8 yes = 1;

	if (in_kernel) {
		size = bpf_get_stack(ctx, s->kernel, STACK_KERNEL * 8, 0);
		if (size > 0)
			kernel = (u32)size / 8;
	}
	p->state |= STATE_STACK;
	if (!foreign) {
		size = bpf_get_stack(ctx, s->user, STACK_USER * 8, BPF_F_USER_STACK);
		if (size > 0)
			user = (u32)size / 8;
		caller = innermost_caller(task);
	}
	p->state &= ~STATE_STACK;
	if (!(kernel + user))
		return 0;
	/* Memory is used again; after an exec the same addresses are other code. */
	READ(mm, task, O_TASK_MM);
	READ(exec_id, task, O_TASK_EXEC_ID);
	number = stack_mix(stack_mix(stack_mix(kernel, mm), exec_id), caller);
	number = stack_mix_all(number, s->kernel, kernel, STACK_KERNEL);
	number = stack_mix_all(number, s->user, user, STACK_USER) | 1;
	if (sent_stacks.lookup(&number))
		return number;
	s->head.kernel = kernel;
	s->head.user = user;
	s->head.time_ns = bpf_ktime_get_ns();
	s->head.tgid = id >> 32;
	s->head.tid = id;
	s->head.mm = mm;
	s->head.stack = number;
	s->head.caller = caller;
	if (emit_frames(s->kernel, kernel, STACK_KERNEL, 0, &s->head) &&
	    emit_frames(s->user, user, STACK_USER, kernel, &s->head))
		sent_stacks.update(&number, &yes);
	return number;
}
#endif

/* Fills and sends `r`, the record of a fault that is over; `after` is its entry now. */
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

#ifdef STACKS
/* Whether a fault was taken in kernel mode, by the flags of either kind. */
static __always_inline int in_kernel(struct fault_record *r)
{
	return !(r->flags & (r->marks & MARK_ERRORCODE ? ERROR_CODE_USER : FAULT_FLAG_USER));
}
#endif

#if defined(CAST_CALL) && !defined(STACKS)
#ifdef PROBE_PERF
#define STATE_PLAIN (STATE_OPEN | STATE_SLOT | STATE_BESIDE)
#else
#define STATE_PLAIN (STATE_OPEN | STATE_SLOT)
#endif

/*
 * The same as finish() does, for most faults: those of one page in memory that is no file's, which
 * did not fail. 0 if this is none of them.
 */
static __always_inline int finish_plain(u64 task, struct pending *p, u32 result)
{
	struct walk after = {.level = 1};
	struct fault_record *r;
	u64 sequence, now;

	if (p->state != STATE_PLAIN || result & (VM_FAULT_ERROR | VM_FAULT_RETRY))
		return 0;
	now = bpf_ktime_get_ns();
	if (LOAD64(p->above_slot) != p->above)
		return 0;
	after.slot = p->slot;
#ifdef PROBE_PERF
	after.entry = LOAD64(after.slot);
	if (came_beside(p, &after))
		return 0;
#endif
	r = reserve(&sequence);
	if (!r) {
		not_sent(p, task, result, 0);
		return 1;
	}
#ifndef PROBE_PERF
	after.entry = LOAD64(after.slot); /* now: registers are few */
#endif
	send(r, sequence, p, task, now, &after, STATE_PLAIN, result, 0);
	return 1;
}
#endif

/* One fault is over: emit its record, after the windows in which neighbours came along. */
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
	u64 window[WINDOW_SLOTS];
#endif

	if ((p->state & STATE_FILTER) && is_filtered(SETTINGS, p, now, result & VM_FAULT_ERROR)) {
		not_sent(p, task, result, 1);
		return;
	}
#if defined(STACKS) && !defined(PROBE_KPROBE)
	p->record.stack = take_stack(ctx, p, task, s, in_kernel(&p->record),
				     p->record.marks & MARK_FOREIGN);
#endif
	look_after(p, &after);
	/* The windows go first: whoever reads the fault's record has them already. */
	if ((p->state & (STATE_AROUND | STATE_BESIDE)) && look_for_neighbours(p, &after, window))
		emit_neighbours(p, id_of(task), now, &after, window);
	r = reserve(&sequence);
	if (!r) {
		not_sent(p, task, result, 0);
		return;
	}
	send(r, sequence, p, task, now, &after, p->state, result,
	     result & VM_FAULT_ERROR ? MARK_FAILED : 0);
}

/* The process whose memory this is (CONFIG_MEMCG keeps mm->owner); 0 where that is not known. */
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

/* Notes which mapping it is; whether it is one of a file. */
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

	p = own_place(task);
	if (!p)
		p = new_place(task);
	if (!p)
		return 0;
	if (p->state) {
		if ((p->state & STATE_RETRIED) && p->record.address == HOOK_ADDRESS(ctx)) {
			/* The same fault, called again after VM_FAULT_RETRY: the kernel counts it once. */
			p->record.calls++;
			p->state = (p->state & ~(STATE_RETRIED | STATE_TRIED | STATE_SLOT)) |
				   (HOOK_FLAGS(ctx) & FAULT_FLAG_TRIED);
			return 0;
		}
		p->record.calls = 1; /* it was broken off: the kernel counts none, and nothing was done */
	}
#if defined(STACKS) && defined(PROBE_KPROBE)
	/* Not at the return: older kernels cannot walk the stack beyond the return probe. */
	u32 zero = 0;
	struct stack *s = stacks.lookup(&zero);

	p->record.stack = 0;
	if (s)
		p->record.stack = take_stack(ctx, p, task, s, !(HOOK_FLAGS(ctx) & FAULT_FLAG_USER),
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
	look_before(p, MEMBER64(vma, O_VMA_MM), HOOK_ADDRESS(ctx), state, marks);
	return 0;
}

static __always_inline int enter(hook_context *ctx)
{
	u64 task = this_task();

	if (is_active(id_of(task) >> 32))
		return begin(ctx, task, MARK_ENTRY | MARK_MAPPING);
	/* A thread that is no target may still touch a target's memory. */
	if ((HOOK_FLAGS(ctx) & FAULT_FLAG_REMOTE) && is_active(owner_of_vma(HOOK_VMA(ctx))))
		return begin(ctx, task, MARK_ENTRY | MARK_MAPPING | MARK_FOREIGN);
	return 0;
}

static __always_inline int leave(void *ctx, u32 result)
{
	u64 task = this_task();
	struct pending *p = own_place(task);

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
	/* To mm_account_fault(), a call is major that says so, and one that is a second try. */
	finish(ctx, task, p, result | (p->state & STATE_TRIED ? VM_FAULT_MAJOR : 0));
	p->record.calls = 1;
	p->state = 0;
	return 0;
}

/* Where the compiler left it a function; nothing depends on it. */
static __always_inline int enter_anonymous(void)
{
	struct pending *p = own_place(this_task());

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

#ifdef PROBE_PERF

static __always_inline u64 ip_of(u64 regs)
{
	return LOAD64(regs + __builtin_offsetof(struct pt_regs, ip));
}

/*
 * An exception that no completion followed: it failed, or it was no page's fault at all.
 * Told by a signal, or by the thread's next exception.
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
	/* The kernel's own attempt, given up where the page is not there: a signal's frame, a futex. */
	if (!(EXCEPTION_CODE(ctx) & ERROR_CODE_USER) && OWN32(task, O_TASK_NO_FAULTS) > DISABLED_BY_US)
		state |= STATE_ATTEMPT;
	p = own_place(task);
	if (!p)
		p = new_place(task);
	if (!p)
		return 0;
#ifdef STACKS
	if (p->state & STATE_STACK)
		return 0;
#endif
	if (p->state && !(p->state & STATE_ATTEMPT)) {
		if (state & STATE_ATTEMPT)
			return 0; /* a profiler's, in the middle of a fault */
		if (p->record.address == EXCEPTION_ADDRESS(ctx)) {
			/* A signal interrupted the fault and the instruction ran again. */
			p->record.calls++;
			p->state &= ~STATE_SLOT;
			return 0;
		}
	}
	counted = own_fault_count(task);
	if (counted != p->seen)
		note_blind(p, counted);
	if (p->state && !(p->state & STATE_ATTEMPT)) {
		/* In user mode it did not fail: there was no signal for it, but one that broke off its wait. */
		if (!(p->record.flags & ERROR_CODE_USER))
			emit_failed(task, p, 0);
		p->record.calls = 1;
	}
	p->record.start_ns = bpf_ktime_get_ns();
	p->record.flags = EXCEPTION_CODE(ctx);
	/* The completion brings it along. What fails in user mode ends before these registers do. */
	p->record.ip = EXCEPTION_REGS(ctx);
	if (!(EXCEPTION_CODE(ctx) & ERROR_CODE_USER))
		p->record.ip = ip_of(p->record.ip);
	if (!(EXCEPTION_CODE(ctx) & ERROR_CODE_WRITE))
		state |= SETTINGS->always | STATE_AROUND | STATE_READS;
	else
		state |= SETTINGS->anonymous | STATE_BESIDE;
	look_before(p, OWN64(task, O_TASK_MM), EXCEPTION_ADDRESS(ctx), state,
		    MARK_ENTRY | MARK_ERRORCODE);
	return 0;
}

/* A fault that fails in user mode ends in a signal to its own thread (force_sig_fault()). */
RAW_TRACEPOINT_PROBE(signal_generate)
{
	u64 task = this_task();
	struct pending *p;

	if (ctx->args[0] != SIGBUS && ctx->args[0] != SIGSEGV)
		return 0;
	if (ctx->args[2] != task)
		return 0;
	p = own_place(task);
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
	struct pending *p = own_place(task);

	if (!p || !p->state) {
		if (!is_active(id_of(task) >> 32))
			return 0;
		counted = own_fault_count(task) - 1;
		if (!p) {
			p = new_place(task);
			if (!p)
				return 0;
			p->first = counted;
		}
		p->state = 0;
		note_blind(p, counted);
		/* It was under way when tracing began: no entry time, no state before. */
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

/* ---- the life of targets: threads, children, exec, exit, names, mappings ---- */

static __always_inline struct task_record *new_task_record(u8 type, u32 tgid, u32 tid,
							   u64 *sequence)
{
	struct task_record *r = reserve(sequence);

	if (!r) {
		count(COUNT_LOST_TASK);
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

/* What happens once in a task's life; exec, which may come again, is told apart by its number. */
enum { TOLD_FORK, TOLD_EXIT, TOLD_FREE, TOLD_EXEC };

#ifdef PREEMPTIBLE_HANDLERS
#define EEXIST 17
/*
 * Newer kernels run tracepoint handlers preemptibly, and skip one that is still running on that CPU
 * for a task preempted in it. So these are attached several times (program.py), and the first of an
 * event's handlers that does run tells of it. `start_time`: a task's memory is used again. They
 * ask for every task there is: with the calls that the kernel skipped, the counters say how many
 * events none of them ran for (tracer/accounting/totals.py).
 */
struct told {
	u64 task, start_time, event;
};
BPF_TABLE("lru_hash", struct told, u8, told, 16384);

static __always_inline int is_told(u64 task, u64 event)
{
	struct told what = {.task = task, .event = event};
	u8 yes = 1;

	READ(what.start_time, task, O_TASK_START_TIME);
	if (event == TOLD_EXEC) {
		READ(what.event, task, O_TASK_EXEC_ID);
		what.event = what.event << 2 | TOLD_EXEC;
	}
	count(COUNT_HANDLED);
	if (told.insert(&what, &yes) == -EEXIST)
		return 1;
	count(COUNT_TOLD);
	return 0;
}
#else
static __always_inline int is_told(u64 task, u64 event)
{
	return 0;
}
#endif

/* While user space lists threads: this one's end is told. `base`: its count before the trace. */
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

/* The running thread ends: its count so far is in the totals, whatever becomes of the record. */
static __always_inline void thread_ends(u64 task, u64 id)
{
	struct leaving left = {.id = id, .count = own_fault_count(task), .key = place_key(task)};
	struct pending *p;
	u64 address = task; /* to the verifier, what a helper has had a pointer to is none any more */

	__sync_fetch_and_add(&TOTALS->ended, 1);
	__sync_fetch_and_add(&TOTALS->faults, left.count);
	if (leaving.update(&address, &left))
		count(COUNT_UNLISTED);
	if (WATCH != WATCH_ON)
		return;
	/* One that was there before it was a target: nothing of it was seen before its first fault. */
	p = own_place(task);
	watch_end(id, p ? p->first : left.count);
}

/*
 * A thread that has ended is gone: what it came to since, and what of it all `perf` did not see.
 * `now`: its count.
 */
static __always_inline void thread_is_gone(u64 task, struct leaving *left, u32 key, u64 now)
{
#ifdef PROBE_PERF
	struct pending *p = place_of(task, left->key);

	__sync_fetch_and_add(&TOTALS->blind, p ? blind_growth(p, now) : now);
#endif
	__sync_fetch_and_add(&TOTALS->faults, now - left->count);
	/* Where exec gave its number to another thread, that one goes on. */
	if (WATCH == WATCH_ON && key == left->key)
		watch_end(left->id, left->count);
}

/* A process is no target any more as its leader is gone; `tid` is that of the thread that is. */
static __always_inline void target_is_gone(u64 task, u32 tgid, u32 tid, struct target *target)
{
	if (tid == tgid && (!target->leader || target->leader == task)) {
		targets.delete(&tgid);
		set_active(tgid, 0);
	}
}

/*
 * The memory of a thread that has ended is another's, though no handler ran as it was freed: seen on
 * 6.18, once in a thousand, and the kernel counts no skipped call. Its last count is the one seen
 * last; it writes to no memory afterwards but what it shares (mm_release(), kernel/fork.c).
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
	p = place_of(task, left->key);
	now = p && p->seen > left->count ? p->seen : left->count;
	thread_is_gone(task, left, left->key, now);
	free_place(task, left->key);
	tgid = left->id >> 32;
	target = targets.lookup(&tgid);
	if (target)
		target_is_gone(task, tgid, (u32)left->id, target);
	leaving.delete(&task);
}

/* The user stack pointer of a thread that was made and has not run (copy_thread(), process.c). */
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

	if (is_told(child, TOLD_FORK))
		return 0;
	/* What may be left of another thread that had this struct task_struct, and of its number. */
	was_freed(child);
	READ(key, child, O_TASK_PID);
	free_place(child, key);
	if (child_tgid != tgid && !(target && (target->state & TARGET_CHILDREN))) {
		/* No target's child: if its number was a target's, that one has ended. */
		targets.delete(&child_tgid);
		set_active(child_tgid, 0);
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

/* What the command's memory is from here on. */
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

	if (is_told(task, TOLD_EXEC))
		return 0;
	if (before != (u32)bpf_get_current_pid_tgid())
		change_places(task, before, id);
	if (!target)
		return 0;
	if (target->leader)
		target->leader = task; /* a thread that was not the leader has become it */
	if (target->state & TARGET_WAITS) {
		target->state = (target->state & ~TARGET_WAITS) | TARGET_ACTIVE;
		__sync_fetch_and_add(&TOTALS->begun, 1);
		__sync_fetch_and_add(&TOTALS->base, fault_count(task));
	}
	set_active(tgid, target->state);
	__sync_fetch_and_add(MAPPINGS, 1);
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

	if (is_told(task, TOLD_EXIT) || !is_active(id >> 32))
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

	if (is_told(task, TOLD_FREE) || WATCH == WATCH_OVER)
		return 0;
	READ(key, task, O_TASK_PID);
	left = leaving.lookup(&task);
	if (!left) {
		/*
		 * No target's any more; but if the trace is just ending, what it came to while it was
		 * one is in its place alone.
		 */
		if (WATCH != WATCH_ON)
			free_place(task, key);
		return 0;
	}
	thread_is_gone(task, left, key, fault_count(task));
	free_place(task, left->key);
	tgid = left->id >> 32;
	/* A leader whose number exec gave to another thread ends with that one's, and as nobody. */
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

static __always_inline void emit_call(u8 type, u64 id, u64 mm, struct call *c, u64 result)
{
	u64 sequence;
	struct syscall_record *r = reserve(&sequence);

	if (!r) {
		count(COUNT_LOST_TASK);
		return;
	}
	CLEAR_BODY(r);
	r->type = type;
	r->marks = r->spare[0] = r->spare[1] = 0;
	r->time_ns = bpf_ktime_get_ns();
	r->tgid = id >> 32;
	r->tid = id;
	r->mm = mm;
	r->number = c->number;
	r->result = result;
	__builtin_memcpy(r->args, c->args, sizeof(r->args));
	submit(r, sequence);
}

/* A call that is on no list: does it concern userfaultfd? `active`: a target makes it. */
static __always_inline void userfault_call(u64 frame, u64 result, u64 id, int active)
{
#ifdef O_UFFD_MM
	u32 zero = 0, owner;
	u64 *used = userfaults.lookup(&zero);
	u64 task = bpf_get_current_task();
	struct userfault u = {};
	struct pt_regs regs;
	struct call c;

	if (!used || !(active || *used))
		return;
	if (bpf_probe_read_kernel(&regs, sizeof(regs), (void *)frame))
		return;
	if (active && (long long)result >= 0 && makes_userfault(regs.orig_ax, regs.si))
		*used = 1;
	if (regs.orig_ax != CALL_IOCTL || !parse_userfault(regs.si, regs.dx, result, &u))
		return;
	u.mm = userfault_memory(task, regs.di);
	owner = owner_of(u.mm);
	if (!owner && active)
		owner = id >> 32;
	if (!is_active(owner))
		return;
	c.number = CALL_IOCTL;
	c.args[0] = u.command;
	c.args[1] = u.start;
	c.args[2] = u.length;
	c.args[3] = u.other;
	c.args[4] = c.args[5] = 0;
	emit_call(RECORD_SYSCALL, (u64)owner << 32 | (u32)id, u.mm, &c, 0);
#endif
}

#ifdef PROBE_PERF
/* A FILLED record in its place in the ring, all but what it tells; 0 if there was no room for it. */
static __always_inline struct window_record *new_filled(u64 which, u64 *sequence, u64 id, u64 mm,
							u64 address, u32 level)
{
	struct window_record *w = claimed(which, sequence);

	if (!w)
		return 0;
	w->type = RECORD_FILLED;
	w->marks = w->spare = 0;
	w->level = level;
	w->time_ns = bpf_ktime_get_ns();
	w->tgid = id >> 32;
	w->tid = id;
	w->mm = mm;
	w->address = address;
	return w;
}

/* One window, or huge page, that `at` leads to, of [start, end); 0 if there was no room for it. */
static __always_inline int emit_filled(u64 which, u64 id, u64 mm, u64 address, u64 start, u64 end,
				       u32 level, struct walk *at)
{
	u64 sequence;
	struct window_record *w = new_filled(which, &sequence, id, mm, address, level);

	if (!w)
		return 0;
	w->seen = part_of(address, level == 1 ? WINDOW_PAGES : 512, start, end);
	if (level == 1) {
		bpf_probe_read_kernel(w->entries, sizeof(w->entries), (void *)at->slot);
	} else {
		__builtin_memset(w->entries, 0, sizeof(w->entries));
		w->entries[0] = at->entry;
	}
	submit(w, sequence);
	return 1;
}

/* How far of [start, end) was told. */
static __always_inline void emit_told(u64 id, u64 mm, u64 start, u64 end, u64 until)
{
	u64 sequence, first;
	struct window_record *w;

	if (!claim(1, &first) || !(w = new_filled(first, &sequence, id, mm, until, 0))) {
		count(COUNT_LOST_TASK);
		return;
	}
	w->seen = 0;
	__builtin_memset(w->entries, 0, sizeof(w->entries));
	w->entries[0] = start;
	w->entries[1] = end;
	submit(w, sequence);
}

/*
 * What is mapped now in [start, end), which a call has filled: as much as FILLED_TABLES hold, and
 * while the ring has room for what cannot be told later.
 * Room is claimed for a page table at once: with a search for room in the inner loop the verifier
 * sees too many ways through it.
 */
static __always_inline void emit_all_filled(u64 id, u64 mm, u64 start, u64 end)
{
	u64 address = start & ~(WINDOW_BYTES - 1), next, windows, first;
	struct walk at;

	for (u32 table = 0; table < FILLED_TABLES; table++) {
		if (address >= end || is_half_full())
			break;
		COUNTED(table);
		at.level = 0;
		if (!walk_down(mm, address, &at) || !at.level || at.level > 2)
			break;
		next = (address & HUGE_PAGE) + HUGE_BYTES;
		if (at.level == 2) {
			if (is_present(at.entry) &&
			    (!claim(1, &first) ||
			     !emit_filled(first, id, mm, address & HUGE_PAGE, start, end, 2, &at))) {
				count(COUNT_LOST_TASK);
				break;
			}
			address = next;
			continue;
		}
		windows = (least(next, end) - address + WINDOW_BYTES - 1) / WINDOW_BYTES;
		if (!claim(windows, &first)) {
			count(COUNT_LOST_TASK);
			break;
		}
		at.slot = window_slot(&at);
		for (u32 i = 0; i < WINDOWS; i++) {
			if (i >= windows)
				break;
			COUNTED(i);
			if (!emit_filled(first + i, id, mm, address, start, end, 1, &at)) {
				count(COUNT_LOST_TASK);
				return;
			}
			at.slot += WINDOW_PAGES * 8;
			address += WINDOW_BYTES;
		}
	}
	emit_told(id, mm, start, end, address);
}

/* Whether the numbers that a task gives for processes mean what they mean to us. */
static __always_inline int counts_as_we_do(u64 task)
{
	u32 level = 0, ours = 0;
	u64 pid = 0;

#ifdef PID_NAMESPACE
	ours = SETTINGS->namespace_level;
	if (!tid_of(task))
		return 0;
#endif
	READ(pid, task, O_TASK_THREAD_PID);
	if (!pid)
		return 0;
	READ(level, pid, O_PID_LEVEL);
	return level == ours;
}

/* A call that is on no list: has it written in a target's memory? */
static __always_inline void remote_write(u64 frame, u64 result)
{
	u64 left = result, bytes, task = bpf_get_current_task();
	struct pt_regs regs;
	struct call c;
	u32 tgid;

	if ((long long)result <= 0 ||
	    LOAD64(frame + __builtin_offsetof(struct pt_regs, orig_ax)) != CALL_PROCESS_VM_WRITEV)
		return;
	if (bpf_probe_read_kernel(&regs, sizeof(regs), (void *)frame))
		return;
	tgid = regs.di;
	if (!is_active(tgid) || is_compat(task) || !counts_as_we_do(task))
		return;
	c.number = CALL_PROCESS_VM_WRITEV;
	for (u32 i = 0; i < WRITTEN_PARTS; i += WRITTEN_AT_ONCE) {
		if (i >= regs.r8 || !left)
			break;
		COUNTED(i);
		bytes = read_parts(regs.r10, i, regs.r8, c.args);
		emit_call(RECORD_SYSCALL, (u64)tgid << 32, 0, &c, left);
		left = bytes < left ? left - bytes : 0;
	}
}
#endif

RAW_TRACEPOINT_PROBE(sys_exit)
{
	u64 id = current_id();
	int active = is_active(id >> 32);
	u64 task, mm = 0, start, end;
	struct call c;

	if (active) {
		task = bpf_get_current_task();
		if (read_call(ctx->args[0], task, &c)) {
			__sync_fetch_and_add(MAPPINGS, 1);
			READ(mm, task, O_TASK_MM);
			emit_call(RECORD_SYSCALL, id, mm, &c, ctx->args[1]);
#ifdef PROBE_PERF
			if (fills(&c, mm, ctx->args[1], &start, &end))
				emit_all_filled(id, mm, start, end);
#endif
			return 0;
		}
	}
	userfault_call(ctx->args[0], ctx->args[1], id, active);
#ifdef PROBE_PERF
	remote_write(ctx->args[0], ctx->args[1]);
#endif
	return 0;
}

/*
 * Whether one of those who use this memory is the tracer's own pin, under which nobody faults.
 * After an exec the command has other memory, and the address may be another process's.
 */
static __always_inline int is_held(u64 mm)
{
	u32 zero = 0;
	u64 *pinned = held.lookup(&zero);
	struct command *own = command.lookup(&zero);

	return pinned && own && mm && *pinned == mm && own->mm == mm;
}

/*
 * While a call takes pages away, the
 * process's other threads may fault on them: when it began tells before and after apart.
 * Where nobody shares the memory, its end is enough.
 */
RAW_TRACEPOINT_PROBE(sys_enter)
{
	u64 id, task, mm = 0;
	u32 users = 0;
	struct call c;

	if (!may_take_pages(ctx->args[1]))
		return 0;
	id = current_id();
	if (!is_active(id >> 32))
		return 0;
	task = bpf_get_current_task();
	READ(mm, task, O_TASK_MM);
	READ(users, mm, O_MM_USERS);
	if (users < 2 || (users == 2 && is_held(mm)) || !read_call(ctx->args[0], task, &c))
		return 0;
	if (c.number == CALL_MMAP && !(c.args[3] & CALL_MAP_FIXED))
		return 0;
	emit_call(RECORD_CALL, id, mm, &c, 0);
	return 0;
}

/* Attached to sys_enter only while user space calibrates (tracer/kernel/paging.py). */
int hook__calibrate(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct calibration *ask = calibration.lookup(&zero);
	struct walk found = {};
	u64 task = bpf_get_current_task();
	u64 mm = 0, pgd = 0, value = 0, nonce = 0, pid = 0;
	u32 level = 0;

	READ(nonce, ctx->args[0], __builtin_offsetof(struct pt_regs, di));
	if (!ask || !ask->nonce || ask->nonce != nonce)
		return 0;
	READ(mm, task, O_TASK_MM);
	READ(pgd, mm, O_MM_PGD);
	if (ask->symbol)
		READ(value, ask->symbol, 0);
	if (ask->direct_map)
		walk_page(ask->direct_map, pgd, ask->address, &found);
	ask->pgd = pgd;
	ask->value = value;
	ask->entry = found.entry;
	ask->level = found.level;
	/* What the thread's own number is one of, is its namespace: the last of struct pid's. */
	READ(pid, task, O_TASK_THREAD_PID);
	READ(level, pid, O_PID_LEVEL);
	READ(ask->namespace, pid, O_PID_NUMBERS + level * 16 + O_UPID_NS);
	ask->namespace_level = level;
	ask->nonce = 0;
	return 0;
}
