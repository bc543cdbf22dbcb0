/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Reads the page-table entry of a fault, at its entry and at its completion.
 */
#ifndef PAGEFAULT_ENTRIES_BPF_H
#define PAGEFAULT_ENTRIES_BPF_H

/*
 * Identifies the page table of an address until the targets' mappings change: only that frees
 * upper-level tables. 0 stands for none.
 */
static __always_inline u64 table_key(u64 address)
{
	return (*MAPPINGS << 36 | address >> 21) + 1;
}

/* Walk from the PGD down; 0 where that is not possible. */
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

/* Record the entry before the fault, and which of its neighbours are present. */
static __always_inline void note_before(struct pending *p, struct walk *before, u64 address,
					u32 state, u32 marks)
{
	p->entry_at = before->entry_at;
	p->record.address = address;
	p->record.entry_before = before->entry;
	if (before->level)
		marks |= MARK_BEFORE;
	if (before->level == 1)
		state |= STATE_ENTRY;
	*(u32 *)&p->record = RECORD_FAULT | marks << 8 | before->level << 16;
#ifdef PROBE_PERF
	if ((state & (STATE_AROUND | STATE_BESIDE)) == STATE_BESIDE) {
		if (before->level == 1) {
			p->state = state;
			read_beside(before->entry_at, &p->lower, &p->upper);
			return;
		}
		state |= STATE_AROUND; /* no page of the whole window is present */
	}
#endif
	p->state = state;
	if (!(state & STATE_AROUND))
		return;
	if (state & STATE_BESIDE) {
		p->lower = p->upper = 0;
		if (before->level == 1)
			read_beside(before->entry_at, &p->lower, &p->upper);
		if (has_its_pair(p, before->entry_at)) {
			p->state = state & ~STATE_AROUND;
			return;
		}
	}
	note_around(p, before, state);
}

/* Read the entry before: in the page table of the thread's previous fault, if it is the same. */
static __always_inline void read_before(struct pending *p, u64 mm, u64 address, u32 state,
					u32 marks)
{
	u64 key = table_key(address);
	struct walk before = {};

#ifdef CAST_CALL
	/* The table itself may have been replaced by a huge page. */
	if (p->table == key && p->record.mm == mm && LOAD64(p->above_at) == p->above) {
		before.entry_at = (p->entry_at & ~4095UL) | (address >> 9 & 0xff8);
		before.entry = LOAD64(before.entry_at);
		before.level = 1;
		note_before(p, &before, address, state, marks);
		return;
	}
#endif
	walk_down(mm, address, &before);
	p->table = before.level == 1 ? key : 0;
	p->above = before.above;
	p->above_at = before.above_at;
	p->record.mm = mm;
	note_before(p, &before, address, state, marks);
}

/* Read the entry at completion: at the same address, if the entry above it is unchanged. */
static __always_inline void read_after(struct pending *p, struct walk *after)
{
#ifdef CAST_CALL
	if ((p->state & STATE_ENTRY) && LOAD64(p->above_at) == p->above) {
		after->entry_at = p->entry_at;
		after->entry = LOAD64(p->entry_at);
		after->level = 1;
		return;
	}
#endif
	walk_down(p->record.mm, p->record.address, after);
}

#endif
