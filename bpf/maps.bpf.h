/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The maps used by several parts, or by user space; a map of one part alone is defined there.
 */
#ifndef PAGEFAULT_MAPS_BPF_H
#define PAGEFAULT_MAPS_BPF_H

/* The ring of records; the loader sets its size. */
#ifdef MAPPED_RING
struct record {
	u64 words[RECORD_SIZE / 8];
};

BPF_F_TABLE("array", u32, struct record, records, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct positions, positions, 1, BPF_F_MMAPABLE);
#else
BPF_RINGBUF_OUTPUT(records, 1);
#endif

BPF_HASH(targets, u32, struct target, 65536);
BPF_HASH(pending, u32, struct pending, 32768);
BPF_HASH(owners, u32, u64, SLOTS); /* of slots, by number: the first to insert owns the slot */
BPF_ARRAY(settings, struct settings, 1);
BPF_ARRAY(calibration, struct calibration, 1);
BPF_ARRAY(userfaults, u64, 1); /* whether a target uses userfaultfd: then others' ioctls matter */
BPF_ARRAY(mappings, u64, 1);   /* changes of the targets' mappings: page tables may go with them */
BPF_ARRAY(command, struct command, 1);
BPF_ARRAY(held, u64, 1); /* struct mm_struct * that the tracer holds a reference to (mm_pin.py) */
BPF_ARRAY(totals, struct totals, 1);
BPF_HASH(leaving, u64, struct leaving, 32768); /* by struct task_struct * */
/*
 * While user space lists threads, `watched` has those that begin and end meanwhile, by id: they
 * show what of the listing is in the totals already (tracer/accounting/totals.py).
 */
BPF_ARRAY(watch, u64, 1);
BPF_HASH(watched, u64, u64, 16384);
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
#ifdef STACKS
BPF_PERCPU_ARRAY(stacks, struct stack, 1);
#endif

/*
 * Maps that user space makes, and that are used in place: for each tgid whether it is an active
 * target (as in `targets`, but cheaper to read), and struct pending[SLOTS].
 */
#define ACTIVE ((u8 *)MAP_VALUE(VALUE_ACTIVE))
#define SLOT(tid) ((struct pending *)MAP_VALUE(VALUE_SLOTS) + ((tid) & (SLOTS - 1)))
#define MAPPINGS ((u64 *)MAP_VALUE(VALUE_MAPPINGS))
#define SETTINGS ((struct settings *)MAP_VALUE(VALUE_SETTINGS))
#define POSITIONS ((struct positions *)MAP_VALUE(VALUE_POSITIONS))
#define TOTALS ((struct totals *)MAP_VALUE(VALUE_TOTALS))
#define WATCH (*(volatile u64 *)MAP_VALUE(VALUE_WATCH))

#endif
