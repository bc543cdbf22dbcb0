/* SPDX-License-Identifier: MIT */
/* Frames that are unlike others: aligned, of no fixed size, large, many. */
#include "golden.h"

/* ---- aligned: the CFA is saved in the frame (gcc's DRAP) ---- */

OWN void aligned_touches(void)
{
	touch_all();
}

OWN void aligned_frame(size_t size)
{
	char own[96] __attribute__((aligned(64)));
	char more[size];
	KEEP(own);
	KEEP(more);
	aligned_touches();
	AFTER_CALL;
}

OWN void aligned_simple(void)
{
	char own[96] __attribute__((aligned(128)));
	KEEP(own);
	aligned_frame(40);
	AFTER_CALL;
}

OWN void aligned_outer(void)
{
	long own;
	KEEP(own);
	aligned_simple();
	AFTER_CALL;
}

/* ---- sized: a frame whose size is known when it is entered, below rbp ---- */

OWN void sized_touches(void)
{
	touch_all();
}

OWN void sized_frame(size_t size)
{
	char own[size];
	KEEP(own);
	sized_touches();
	AFTER_CALL;
}

OWN void sized_outer(void)
{
	sized_frame(777);
	AFTER_CALL;
}

/* ---- large: more than a copy of the stack holds ---- */

OWN void large_touches(void)
{
	touch_all();
}

OWN void large_frame(void)
{
	char own[64 << 10];
	KEEP(own);
	large_touches();
	AFTER_CALL;
}

OWN void large_outer(void)
{
	large_frame();
	AFTER_CALL;
}

/* ---- hundred, two-hundred: more than a stack may have in the end ---- */

OWN void hundred_descends(int further)
{
	if (further)
		hundred_descends(further - 1);
	else
		touch_all();
	AFTER_CALL;
}

OWN void hundred_outer(void)
{
	hundred_descends(99);
	AFTER_CALL;
}

OWN void two_hundred_outer(void)
{
	hundred_descends(199);
	AFTER_CALL;
}

/* ---- zero: rbp is 0, while its caller's CFA is by rbp; in C, and in code.S ---- */

void zero_touches(unsigned char *page);

OWN void zero_frame(size_t size)
{
	char own[size];
	KEEP(own);
	for (; fresh < stop; fresh += PAGE)
		zero_touches(fresh);
	AFTER_CALL;
}

OWN void zero_outer(void)
{
	zero_frame(200);
	AFTER_CALL;
}

OWN void general_touches(void)
{
	for (; fresh < stop; fresh += PAGE)
		__asm__ volatile("xorl %%ebp, %%ebp; movb $1, (%0)" ::"r"(fresh) : "rbp", "memory");
}

OWN void general_outer(void)
{
	general_touches();
	AFTER_CALL;
}

/* ---- cfi, bare, entry: code.S ---- */

void cfi_pushes(unsigned char *page);
void bare_calls(unsigned char *page);
void entry_calls(unsigned char *page, unsigned char *next);

OWN void cfi_outer(void)
{
	for (; fresh < stop; fresh += PAGE)
		cfi_pushes(fresh);
}

OWN void bare_outer(void)
{
	char own[72];
	KEEP(own);
	for (; fresh < stop; fresh += PAGE)
		bare_calls(fresh);
}

OWN void entry_outer(void)
{
	for (; fresh < stop; fresh += 2 * PAGE)
		entry_calls(fresh, fresh + PAGE);
}

SCENARIOS({"aligned", aligned_outer, 1}, {"sized", sized_outer, 1}, {"large", large_outer, 1},
	  {"hundred", hundred_outer, 1}, {"two-hundred", two_hundred_outer, 1},
	  {"zero", zero_outer, 1}, {"general", general_outer, 1}, {"cfi", cfi_outer, 1},
	  {"bare", bare_outer, 1}, {"entry", entry_outer, 2})
