/* SPDX-License-Identifier: MIT */
/* Plain calls, and calls through the C library. */
#include "golden.h"
#include <fcntl.h>
#include <setjmp.h>
#include <sys/syscall.h>
#include <time.h>

/* ---- deep: four calls with frames of four sizes ---- */

OWN void deep_touches(void)
{
	touch_all();
}

OWN void deep_third(void)
{
	long own[3];
	KEEP(own);
	deep_touches();
	AFTER_CALL;
}

OWN void deep_second(void)
{
	char own[300];
	KEEP(own);
	deep_third();
	AFTER_CALL;
}

OWN void deep_first(void)
{
	deep_second();
	AFTER_CALL;
}

/* ---- sort, search: the C library calls back ---- */

OWN int sort_compares(const void *a, const void *b)
{
	touch_one();
	return *(const int *)a - *(const int *)b;
}

OWN void sort_outer(void)
{
	int numbers[12] = {5, 3, 9, 1, 12, 7, 8, 2, 11, 4, 10, 6};
	qsort(numbers, 12, sizeof(*numbers), sort_compares);
	AFTER_CALL;
}

OWN int search_compares(const void *key, const void *member)
{
	touch_all();
	return *(const int *)key - *(const int *)member;
}

OWN void search_outer(void)
{
	static void *(*volatile search)(const void *, const void *, size_t, size_t,
					int (*)(const void *, const void *)) = bsearch;
	int numbers[4] = {1, 2, 3, 4}, key = 4;
	check(search(&key, numbers, 4, sizeof(*numbers), search_compares) != NULL, "bsearch");
}

/* ---- set: a function of the C library that has no frame ---- */

OWN void set_outer(void)
{
	memset(fresh, 1, stop - fresh);
	fresh = stop;
}

/* ---- read: the kernel faults ---- */

OWN void read_reads(int fd)
{
	char own[40];
	KEEP(own);
	check(syscall(SYS_read, fd, fresh, stop - fresh) == stop - fresh, "read");
	fresh = stop;
}

OWN void read_outer(void)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	check(fd >= 0, "open");
	read_reads(fd);
	close(fd);
}

/* ---- clock: the vdso faults, or the kernel where it reads the clock ---- */

OWN void clock_reads(void)
{
	for (; fresh < stop; fresh += PAGE)
		clock_gettime(CLOCK_MONOTONIC, (struct timespec *)fresh);
}

OWN void clock_outer(void)
{
	char own[24];
	KEEP(own);
	clock_reads();
	AFTER_CALL;
}

/* ---- equal: two callers with frames alike, called from one place ---- */

OWN void equal_touches(void)
{
	touch_one();
}

OWN void equal_one(void)
{
	long own[5];
	KEEP(own);
	equal_touches();
	AFTER_CALL;
}

OWN void equal_two(void)
{
	long own[5];
	KEEP(own);
	equal_touches();
	AFTER_CALL;
}

/* On pages in turn: the first, third, … of the range are the one's. */
OWN void equal_outer(void)
{
	void (*const both[])(void) = {equal_one, equal_two};
	for (int i = 0; fresh < stop; i++)
		both[i % 2]();
}

/* ---- far: the same, where the return address lies far from the stack pointer ---- */

OWN void far_touches(void)
{
	char own[6000];
	KEEP(own);
	touch_one();
	KEEP(own);
}

OWN void far_one(void)
{
	long own[5];
	KEEP(own);
	far_touches();
	AFTER_CALL;
}

OWN void far_two(void)
{
	long own[5];
	KEEP(own);
	far_touches();
	AFTER_CALL;
}

OWN void far_outer(void)
{
	void (*const both[])(void) = {far_one, far_two};
	for (int i = 0; fresh < stop; i++)
		both[i % 2]();
}

/* ---- tail: a jump where a call was written ---- */

OWN void tail_touches(void)
{
	touch_all();
}

OWN void tail_replaced(void)
{
	__asm__ volatile("" ::: "rbx");
	tail_touches();
}

OWN void tail_middle(void)
{
	__asm__ volatile("" ::: "rbx", "r12", "r13");
	tail_replaced();
}

OWN void tail_outer(void)
{
	long own[3];
	KEEP(own);
	tail_middle();
	AFTER_CALL;
}

/* ---- noreturn: called by the last instruction of a function (code.S) ---- */

void noreturn_last(void);
static jmp_buf after_noreturn;

OWN __attribute__((noreturn)) void noreturn_touches(void)
{
	touch_all();
	longjmp(after_noreturn, 1);
}

OWN void noreturn_outer(void)
{
	if (!setjmp(after_noreturn))
		noreturn_last();
}

SCENARIOS({"deep", deep_first, 1}, {"sort", sort_outer, 1}, {"search", search_outer, 1},
	  {"set", set_outer, 1}, {"read", read_outer, 1}, {"clock", clock_outer, 1},
	  {"equal", equal_outer, 2}, {"far", far_outer, 2}, {"tail", tail_outer, 1},
	  {"noreturn", noreturn_outer, 1})
