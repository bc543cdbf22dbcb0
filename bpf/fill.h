/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Calls that populate memory: mmap with MAP_POPULATE or MAP_LOCKED, or after
 * mlockall(MCL_FUTURE), mlock and madvise. Their faults raise no exception, and perf's events
 * report only those that do; what is mapped as the call returns is reported instead.
 */
#ifndef PAGEFAULT_FILL_H
#define PAGEFAULT_FILL_H

#define CALL_MAP_FILLS (CALL_MAP_LOCKED | CALL_MAP_POPULATE)
#define CALL_VM_LOCKED 0x2000 /* of mm_struct.def_flags */
#define CALL_VM_LOCKONFAULT 0x80000

#define USER_TOP ((1UL << (LEVELS == 5 ? 56 : 47)) - 4096) /* TASK_SIZE_MAX */
#define WINDOW_BYTES (WINDOW_PAGES * 4096UL)
#define HUGE_BYTES (1UL << 21)

#define FILLED_TABLES 16 /* of a call's range: 32 MiB */

/* Whether new mappings of this mm are populated at once: mlockall(MCL_FUTURE). */
static __always_inline int fills_all(u64 mm)
{
	u32 flags = 0;

#ifdef O_MM_DEF_FLAGS
	READ(flags, mm, O_MM_DEF_FLAGS);
#endif
	return (flags & (CALL_VM_LOCKED | CALL_VM_LOCKONFAULT)) == CALL_VM_LOCKED;
}

/* Whether a call that returned may have populated a range, and which: [*start, *end). */
static __always_inline int asks_to_fill(struct call *c, u64 mm, u64 result, u64 *start, u64 *end)
{
	*start = c->args[0] & ~4095UL;
	*end = (c->args[0] + c->args[1] + 4095) & ~4095UL;
	switch (c->number) {
	case CALL_MMAP:
		*start = result;
		*end = (result + c->args[1] + 4095) & ~4095UL;
		return (long long)result > 0 && ((c->args[3] & CALL_MAP_FILLS) || fills_all(mm));
	case CALL_MLOCK: return 1;
	case CALL_MLOCK2: return !(c->args[2] & CALL_MLOCK_ONFAULT);
	case CALL_MADVISE:
		return c->args[2] == CALL_MADV_POPULATE_READ ||
		       c->args[2] == CALL_MADV_POPULATE_WRITE;
	}
	return 0;
}

/* The same, for ranges in user space only: beyond are the kernel's own page tables. */
static __always_inline int fills(struct call *c, u64 mm, u64 result, u64 *start, u64 *end)
{
	return asks_to_fill(c, mm, result, start, end) && *start < *end && *end <= USER_TOP;
}

/* The lesser of two that differ by less than 2^63; no branch, which the verifier would follow. */
static __always_inline u64 least(u64 one, u64 other)
{
	u64 less = one - other, negative;

	COUNTED(less);
	negative = (u64)((s64)less >> 63);
	return other + (less & negative);
}

/*
 * Which of the `pages` pages from `address` on are in [start, end): number of the first, and of
 * the one after the last.
 */
static __always_inline u64 part_of(u64 address, u64 pages, u64 start, u64 end)
{
	u64 first = (start - least(start, address)) >> 12; /* the greater, less `address` */
	u64 last = (least(end, address + pages * 4096) - address) >> 12;

	return first | last << 16;
}

#endif
