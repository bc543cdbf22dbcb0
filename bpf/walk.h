/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The page-table walk: what does the hardware see at this address, right now?
 *
 * Needs the direct map's base (calibrated by user space against
 * /proc/self/pagemap) and LEVELS (4 or 5). All reads go through
 * bpf_probe_read_kernel, so a table freed under us yields a failed or a stale
 * read, never a crash; the pagemap snapshot is the judge.
 */
#ifndef PAGEFAULT_WALK_H
#define PAGEFAULT_WALK_H

#define WINDOW_PAGES 16 /* fault-around's default: 64 KiB, aligned */

#define ENTRY_PRESENT 0x001ULL
#define ENTRY_LEAF 0x080ULL     /* PSE: the entry maps a huge page */
#define ENTRY_PROTNONE 0x100ULL /* present to the kernel, not to the CPU */
#define ENTRY_TABLE 0x000ffffffffff000ULL

struct walk {
	u64 entry;  /* the last entry read; 0 where there is none */
	u32 level;  /* its level: 1 PTE, 2 PMD, 3 PUD, 4 P4D, 5 PGD; 0 the walk failed */
	u32 mask;   /* present pages of the 16-page window around the address */
	u64 slot;   /* kernel address of the window's first entry */
};

static __always_inline int entry_is_table(u64 entry)
{
	return (entry & (ENTRY_PRESENT | ENTRY_LEAF)) == ENTRY_PRESENT;
}

static __always_inline int walk_step(u64 table, u64 address, u32 shift, u32 level, struct walk *w)
{
	u64 slot = table + ((address >> shift) & 511) * 8;

	if (bpf_probe_read_kernel(&w->entry, 8, (void *)slot)) {
		w->entry = 0;
		w->level = 0;
		return 0;
	}
	w->level = level;
	return entry_is_table(w->entry);
}

static __always_inline u64 next_table(u64 base, struct walk *w)
{
	return (w->entry & ENTRY_TABLE) + base;
}

static __always_inline u32 window_mask(u64 *window)
{
	u32 mask = 0;

#pragma unroll
	for (int i = 0; i < WINDOW_PAGES; i++)
		mask |= (window[i] & (ENTRY_PRESENT | ENTRY_PROTNONE)) ? 1u << i : 0;
	return mask;
}

/*
 * Walk from `pgd` (already a kernel virtual address) to the entry for
 * `address`. `window` receives the page-table entries around it; it is
 * filled only when w->level is 1.
 */
static __always_inline void walk_page(u64 base, u64 pgd, u64 address, struct walk *w, u64 *window)
{
	w->mask = 0;
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

	w->slot = next_table(base, w) + ((address >> 12) & 511 & ~(u64)(WINDOW_PAGES - 1)) * 8;
	if (bpf_probe_read_kernel(window, WINDOW_PAGES * 8, (void *)w->slot)) {
		w->entry = 0;
		w->level = 0;
		return;
	}
	w->mask = window_mask(window);
	w->level = 1;
	bpf_probe_read_kernel(&w->entry, 8, &window[(address >> 12) & (WINDOW_PAGES - 1)]);
}

/*
 * The window after the one the walk ended in; 0 where the page table ends.
 * Fault-around begins at the mapping's start where that lies inside a window,
 * and then reaches into the next one (do_fault_around(), mm/memory.c).
 */
static __always_inline int next_window(struct walk *w, u64 address, u64 *window)
{
	if (((address >> 12) & 511) >= 512 - WINDOW_PAGES)
		return 0;
	return !bpf_probe_read_kernel(window, WINDOW_PAGES * 8, (void *)(w->slot + WINDOW_PAGES * 8));
}

#endif
