/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The page-table walk: the entry of an address as the hardware sees it now.
 *
 * Needs the direct map's base (calibrated by user space against
 * /proc/self/pagemap) and LEVELS (4 or 5). All reads survive a bad address
 * (kernel.h), so a table freed meanwhile yields a failed or a stale read, never
 * a crash; results are checked against pagemap snapshots.
 */
#ifndef PAGEFAULT_WALK_H
#define PAGEFAULT_WALK_H

#define WINDOWS (512 / WINDOW_PAGES) /* of a page table */
#define LAST_OF_WINDOW (1u << (WINDOW_PAGES - 1))
#define WINDOW_ENTRIES (WINDOW_PAGES + 2) /* with the entry on either side */

#define ENTRY_PRESENT 0x001ULL
#define ENTRY_LEAF 0x080ULL     /* PSE: the entry maps a huge page */
#define ENTRY_PROTNONE 0x100ULL /* present to the kernel, not to the CPU */
#define ENTRY_IS_PRESENT (ENTRY_PRESENT | ENTRY_PROTNONE)
#define ENTRY_TABLE 0x000ffffffffff000ULL
#define HUGE_PAGE (~(u64)((1 << 21) - 1)) /* of an address: where its page table begins */

struct walk {
	u64 entry;    /* the last entry read; 0 where there is none */
	u32 level;    /* its level: 1 PTE, 2 PMD, 3 PUD, 4 P4D, 5 PGD; 0 the walk failed */
	u32 mask;     /* present pages of the 16-page window around the address, once it is read */
	u64 entry_at; /* kernel address of the entry */
	u64 above;    /* the PMD entry that points to the table, where level is 1 */
	u64 above_at; /* and its kernel address */
};

static __always_inline int entry_is_table(u64 entry)
{
	return (entry & (ENTRY_PRESENT | ENTRY_LEAF)) == ENTRY_PRESENT;
}

static __always_inline int walk_step(u64 table, u64 address, u32 shift, u32 level, struct walk *w)
{
	w->entry_at = table + ((address >> shift) & 511) * 8;
	w->level = level;
#ifdef CAST_CALL
	w->entry = LOAD64(w->entry_at);
#else
	if (bpf_probe_read_kernel(&w->entry, 8, (void *)w->entry_at)) {
		w->entry = 0;
		w->level = 0;
		return 0;
	}
#endif
	return entry_is_table(w->entry);
}

static __always_inline u64 next_table(u64 base, struct walk *w)
{
	return (w->entry & ENTRY_TABLE) + base;
}

/* 1 with ENTRY_PRESENT or ENTRY_PROTNONE, else 0; no branch, which the verifier would follow. */
static __always_inline u32 is_present(u64 entry)
{
	return (entry | entry >> 8) & 1;
}

/* Bit mask of a window's present pages; `entries` begins with its first page's. */
static __always_inline u32 window_mask(u64 *entries)
{
	u32 mask = 0;

#pragma unroll
	for (int i = 0; i < WINDOW_PAGES; i++)
		mask |= is_present(entries[i]) << i;
	return mask;
}

/* Read the window's entries at `entry_at` and those on either side, 0 where the page table ends. */
static __always_inline int read_window(u64 entry_at, u64 *window)
{
	u32 number = (entry_at >> 3) & 511 & ~(WINDOW_PAGES - 1);

	window[0] = window[WINDOW_ENTRIES - 1] = 0;
	if (number == 0)
		return bpf_probe_read_kernel(window + 1, (WINDOW_PAGES + 1) * 8, (void *)entry_at);
	if (number == 512 - WINDOW_PAGES)
		return bpf_probe_read_kernel(window, (WINDOW_PAGES + 1) * 8,
					     (void *)(entry_at - 8));
	return bpf_probe_read_kernel(window, WINDOW_ENTRIES * 8, (void *)(entry_at - 8));
}

/* Walk from `pgd` (already a kernel virtual address) to the entry for `address`. */
static __always_inline void walk_page(u64 base, u64 pgd, u64 address, struct walk *w)
{
#if LEVELS == 5
	if (!walk_step(pgd, address, 48, 5, w))
		return;
	pgd = next_table(base, w);
#endif
	if (!walk_step(pgd, address, 39, 4, w))
		return;
	if (!walk_step(next_table(base, w), address, 30, 3, w))
		return;
	if (!walk_step(next_table(base, w), address, 21, 2, w))
		return;
	w->above = w->entry;
	w->above_at = w->entry_at;
	walk_step(next_table(base, w), address, 12, 1, w);
}

/* Kernel address of the first entry of the window in which a walk ended. */
static __always_inline u64 window_at(struct walk *w)
{
	return w->entry_at & ~(u64)(WINDOW_PAGES * 8 - 1);
}

/*
 * Having walked to a page-table entry, read those around it into `window` (WINDOW_ENTRIES long)
 * and which are present into w->mask; 0 if that fails.
 */
static __always_inline int read_around(struct walk *w, u64 *window)
{
	if (read_window(window_at(w), window))
		return 0;
	w->mask = window_mask(window + 1);
	return 1;
}

/*
 * Read the window after the one the walk ended in; 0 where the page table ends.
 * Fault-around begins at the mapping's start where that lies inside a window,
 * and then reaches into the next one (do_fault_around(), mm/memory.c).
 */
static __always_inline int next_window(struct walk *w, u64 address, u64 *entries)
{
	if (((address >> 12) & 511) >= 512 - WINDOW_PAGES)
		return 0;
	return !bpf_probe_read_kernel(entries, WINDOW_PAGES * 8,
				      (void *)(window_at(w) + WINDOW_PAGES * 8));
}

static __always_inline int maps_frame(u64 entry, u64 frame)
{
	return (entry & (ENTRY_TABLE | ENTRY_PRESENT)) == (frame | ENTRY_PRESENT);
}

/*
 * The low bits of the entries on either side of `entry_at`, with ENTRY_IS_PRESENT. An entry beyond
 * the table counts as present.
 */
static __always_inline void read_beside(u64 entry_at, u16 *lower, u16 *upper)
{
	u64 words = TYPED_WORDS(entry_at - 8);
	u32 next = (entry_at + 8) & 0xff8;

	*lower = MEMBER16(words, 0);
	*upper = MEMBER16(words, 16);
	if (next <= 8) { /* the first entry of the table, or the last */
		if (next)
			*lower = ENTRY_PRESENT;
		else
			*upper = ENTRY_PRESENT;
	}
}

/* Which of a window's pages map contiguous frames, `first` being that of its first page. */
static __always_inline u32 contiguous_mask(u64 *entries, u64 first)
{
	u32 same = 0;
	u64 other;

	first |= ENTRY_PRESENT;
#pragma unroll
	for (int i = 0; i < WINDOW_PAGES; i++) {
		other = (entries[i] ^ (first + i * 4096)) & (ENTRY_TABLE | ENTRY_PRESENT);
		same |= (u32)((other - 1) >> 63) << i; /* no branch here, either */
	}
	return same;
}

/* Which of the window's pages map frames contiguous with the walked page's, itself included. */
static __always_inline u32 contiguous_in_window(struct walk *w, u64 *entries)
{
	u32 own = (w->entry_at >> 3) & (WINDOW_PAGES - 1), found = 1u << own;
	u32 same = contiguous_mask(entries, (w->entry & ENTRY_TABLE) - own * 4096);

#pragma unroll
	for (int i = 1; i < WINDOW_PAGES; i++)
		found |= (found << 1 | found >> 1) & same;
	return found;
}

/*
 * Which pages of a page table map contiguous frames, `frame` being that of the table's first
 * page: bits in `found`, by window. From window `number` on, upwards (step 1) or downwards (-1),
 * to the first that has none: a large folio's, of which some pages may be missing (after
 * copy-on-write). `window` is overwritten.
 */
static __always_inline void contiguous_frames(u64 table, u32 number, u64 frame, int step,
					      u64 *window, u16 *found)
{
	u32 same;

	for (int i = 1; i < WINDOWS; i++) {
		if (number >= WINDOWS) /* below 0, too */
			break;
		/* An unreadable window reads as zeroes: absent. */
		bpf_probe_read_kernel(window, WINDOW_PAGES * 8,
				      (void *)(table + number * WINDOW_PAGES * 8));
		same = contiguous_mask(window, frame + number * WINDOW_PAGES * 4096);
		if (!same)
			break;
		COUNTED(number);
		found[number & (WINDOWS - 1)] = same;
		number += step;
	}
}

#endif
