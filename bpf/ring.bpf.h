/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The ring of records, and the counters of records dropped for want of room.
 */
#ifndef PAGEFAULT_RING_BPF_H
#define PAGEFAULT_RING_BPF_H

static __always_inline void count(u32 which)
{
	u64 *value = counters.lookup(&which);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * reserve() gives room for a record, in the order in which they are read; 0 where there is none.
 * The caller fills the record and submits it, with reserve()'s `sequence` (in its upper half, as
 * in a record's first word). The reader stops there until then: the caller must not wait.
 *
 * The kernel's ring buffer (5.8) takes two calls for that, and a lock. A program that can
 * compare and swap (5.12) does it in an array: tracer/wire/ring.py says how it is read.
 */
#ifdef MAPPED_RING
#define CLAIM_TRIES 64 /* a try fails where another CPU won; after the last the record is dropped */

/* Claim room for `records` records, the first of which is number `*first`; 0 if there is none. */
static __always_inline int claim(u64 records, u64 *first)
{
	struct positions *ring = POSITIONS;
	u64 head, found, mask = ring->mask;

#pragma clang loop unroll(disable)
	for (int tries = 0; tries < CLAIM_TRIES; tries++) {
		head = *(volatile u64 *)&ring->head;
		/* Signed: by now the tail may be ahead of the head that was read. */
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

/* One of the records claimed by claim(); each of them must be submitted. */
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

	return (s64)(*(volatile u64 *)&ring->head - *(volatile u64 *)&ring->tail) >
	       (s64)(ring->mask / 2);
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

/* This ring reserves one record at a time. */
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
	return 0; /* not known: bcc 0.26 lacks bpf_ringbuf_query() */
}

static __always_inline void submit(void *record, u64 sequence)
{
	((struct task_record *)record)->sequence = sequence >> 32;
	records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}
#endif

/* Clear all but the first word, whose sequence submit() writes. */
#define CLEAR_BODY(record) __builtin_memset((u8 *)(record) + 8, 0, RECORD_SIZE - 8)

#endif
