/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Other pages that a fault maps: those around it by fault-around, and the rest of a large
 * folio. The present pages around it are read before and after; the windows in which pages
 * became present are records of their own.
 */
#ifndef PAGEFAULT_NEIGHBOURS_BPF_H
#define PAGEFAULT_NEIGHBOURS_BPF_H

/*
 * Whether the other page of an aligned pair is present already. A large anonymous folio, aligned
 * as a rule (not after swap-out and mremap), would have mapped both: the window is hardly ever
 * needed then, and its state before is not worth the cost.
 */
static __always_inline int has_its_pair(struct pending *p, u64 entry_at)
{
	return (entry_at & 8 ? p->lower : p->upper) & ENTRY_IS_PRESENT;
}

/* Record which pages are present where the fault may map others. */
static __always_inline void note_around(struct pending *p, struct walk *before, u32 state)
{
	u64 window[WINDOW_ENTRIES];

	p->mask_before = p->mask_next = 0;
	p->beyond = 0;
	if (before->level != 1) /* none: the window after the fault is enough */
		return;
	if (!read_around(before, window))
		return;
	p->mask_before = before->mask;
	p->beyond = is_present(window[0]) | is_present(window[WINDOW_ENTRIES - 1]) << 1;
	if ((state & STATE_READS) && next_window(before, p->record.address, window))
		p->mask_next = window_mask(window);
}

/* Whether an adjacent page was mapped to the adjacent frame. */
static __always_inline int came_beside(struct pending *p, struct walk *after)
{
	u64 beside;

	if (!(p->lower & ENTRY_IS_PRESENT)) {
		beside = LOAD64(after->entry_at - 8);
		if (is_present(beside) && maps_frame(beside, (after->entry & ENTRY_TABLE) - 4096))
			return 1;
	}
	if (p->upper & ENTRY_IS_PRESENT)
		return 0;
	beside = LOAD64(after->entry_at + 8);
	return is_present(beside) && maps_frame(beside, (after->entry & ENTRY_TABLE) + 4096);
}

/* Whether other pages may have been mapped; then `window` and after->mask are filled. */
static __always_inline int find_neighbours(struct pending *p, struct walk *after, u64 *window)
{
	if (after->level != 1)
		return 0;
	if ((p->state & STATE_BESIDE) && !came_beside(p, after))
		return 0;
	if (!read_around(after, window))
		return 0;
	if (!(p->state & STATE_AROUND)) {
		p->mask_before = after->mask & ~contiguous_in_window(after, window + 1);
		p->beyond = 0;
	}
	return 1;
}

static __always_inline void emit_window(struct pending *p, u64 id, u64 now, u64 address, u64 seen,
					u64 *entries)
{
	u64 sequence;
	struct window_record *w = reserve(&sequence);

	if (!w) {
		count(COUNT_LOST_OTHER);
		return;
	}
	w->type = RECORD_WINDOW;
	w->marks = p->state & STATE_AROUND ? 0 : WINDOW_UNKNOWN;
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

/* Report a large folio that extends beyond the windows; arguments: contiguous_frames()'s. */
static __always_inline void emit_contiguous(struct pending *p, u64 id, u64 now, u64 table,
					    u32 number, u64 frame, int step, u64 *window)
{
	u64 sequence;
	struct window_record *w = reserve(&sequence);

	if (!w) {
		count(COUNT_LOST_OTHER);
		return;
	}
	CLEAR_BODY(w);
	w->type = RECORD_WINDOW;
	w->marks = WINDOW_CONTIGUOUS;
	w->level = 1;
	w->spare = 0;
	w->time_ns = now;
	w->tgid = id >> 32;
	w->tid = id;
	w->mm = p->record.mm;
	w->address = p->record.address & HUGE_PAGE;
	w->entries[0] = frame;
	contiguous_frames(table, number, frame, step, window, (u16 *)(w->entries + 1));
	submit(w, sequence);
}

/* Report the windows in which pages other than the fault's own became present. */
static __always_inline void emit_neighbours(struct pending *p, u64 id, u64 now, struct walk *after,
					    u64 *window)
{
	u32 number = (p->record.address >> 12) & 511, start = number & ~(WINDOW_PAGES - 1);
	u32 own = 1u << (number - start), fresh = after->mask & ~p->mask_before, mask;
	u32 above = start + WINDOW_PAGES;
	u64 table = window_at(after) - start * 8;
	u64 bottom = window[1] & ENTRY_TABLE, top = window[WINDOW_PAGES] & ENTRY_TABLE;

	if (fresh & ~own)
		emit_window(p, id, now, p->record.address, p->mask_before | (u64)after->mask << 16,
			    window + 1);
	/* Only a fault on an absent page, outside a huge page, maps the rest of a folio. */
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
		emit_contiguous(p, id, now, table, above / WINDOW_PAGES, top - (above - 1) * 4096,
				1, window);
	if (fresh & 1)
		emit_contiguous(p, id, now, table, start / WINDOW_PAGES - 1, bottom - start * 4096,
				-1, window);
}

#endif
