/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The maps that several parts use, or user space; what one part alone uses stands there.
 */
#ifndef PAGEFAULT_MAPS_BPF_H
#define PAGEFAULT_MAPS_BPF_H

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
 * which of what it found is in the totals already (tracer/totals.py).
 */
BPF_ARRAY(watch, u64, 1);
BPF_HASH(watched, u64, u64, 16384);
#define WATCH_ON 1
#define WATCH_OVER 2 /* the trace is over: the totals stay, and so do threads' last places */
#define WATCHED_BEGUN (1ULL << 62) /* its number in `watched`; the rest is its base */
#define WATCHED_ENDED (1ULL << 63)
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);

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

#endif
