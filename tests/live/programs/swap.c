/* SPDX-License-Identifier: MIT */
/* Memory that goes away: to swap, lazily freed, unmapped. The test has a swap area on. */
#include "workload.h"
#include <sched.h>
#include <sys/resource.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

/* By /proc/self/pagemap: a present page's entry is negative. */
static size_t pages_present(void)
{
	size_t there = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	check(fd >= 0, "pagemap");
	for (size_t i = 0; i < N; i++) {
		long entry;
		off_t at = ((unsigned long)START / PAGE + i) * sizeof(entry);
		check(pread(fd, &entry, sizeof(entry), at) == sizeof(entry), "pagemap");
		there += entry < 0;
	}
	close(fd);
	return there;
}

/* To the next of the CPUs it may run on. */
static void change_cpu(const cpu_set_t *allowed)
{
	cpu_set_t next;
	int cpu = sched_getcpu();
	do
		cpu = (cpu + 1) % CPU_SETSIZE;
	while (!CPU_ISSET(cpu, allowed));
	CPU_ZERO(&next);
	CPU_SET(cpu, &next);
	check(sched_setaffinity(0, sizeof(next), &next) == 0, "sched_setaffinity");
}

/*
 * The kernel passes over a page that it is busy with, and one on another CPU's list of new pages
 * (it empties only its own, mm/swap.c): again, from each CPU, until all are out.
 */
static void page_out(void)
{
	cpu_set_t allowed;
	check(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity");
	for (int tries = 0; tries < 100 && (tries == 0 || pages_present()); tries++) {
		if (tries)
			change_cpu(&allowed);
		check(madvise(START, N * PAGE, MADV_PAGEOUT) == 0, "madvise(MADV_PAGEOUT)");
	}
	check(sched_setaffinity(0, sizeof(allowed), &allowed) == 0, "sched_setaffinity");
}

static long majors(void)
{
	struct rusage usage;
	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_majflt;
}

/*
 * swap-back N: out to swap, back by reading each page, then written, where some kernels
 * have made the page writable already. The test may act between.
 */
static void do_swap_back(void)
{
	do_write();
	page_out();
	stop_at("out");
	long before = majors();
	struct reading *r = begin("back", N);
	touch_read(START, N);
	end(r);
	say("resident majors %ld\n", majors() - before);
	r = begin("again", -1);
	touch_write(START, N);
	end(r);
}

/* swap-off N: out to swap; the test runs swapoff; no fault brings the pages back. */
static void do_swap_off(void)
{
	do_write();
	page_out();
	stop_at("out");
	struct reading *r = begin("back", 0);
	touch_read(START, N);
	end(r);
}

static void do_page_out(void)
{
	do_write();
	page_out();
}

/* pressed N: the test has pages reclaimed; the first half is read again. */
static void do_pressed(void)
{
	do_write();
	stop_at("press");
	struct reading *r = begin("back", -1);
	touch_read(START, N / 2);
	end(r);
}

static void set_pressed_file(void) { file_region(N, PROT_READ, MAP_PRIVATE); }

/* pressed-file N: pages of a file, which need no swap; read again without those around. */
static void do_pressed_file(void)
{
	struct reading *r = begin("read", -1);
	touch_read(START, N);
	end(r);
	stop_at("press");
	madvise(START, N * PAGE, MADV_RANDOM);
	r = begin("back", -1);
	touch_read(START, N / 2);
	end(r);
}

/* free N: given up lazily; the test has them reclaimed; the first half is written again. */
static void do_free(void)
{
	do_write();
	check(madvise(START, N * PAGE, MADV_FREE) == 0, "madvise(MADV_FREE)");
	stop_at("press");
	struct reading *r = begin("again", -1);
	touch_write(START, N / 2);
	end(r);
}

static void do_munmap(void)
{
	do_write();
	check(munmap(START + N / 2 * PAGE, (N - N / 2) * PAGE) == 0, "munmap");
}

/* thrash N R: writes N pages in turn, R times over: under a limit it drives out its own pages. */
static void do_thrash(void)
{
	struct reading *r = begin("thrash", -1);
	for (long round = 0; round < numbers[1]; round++)
		touch_write(START, N);
	end(r);
}

SUBCOMMANDS({"thrash", 2, 0, set_anon, do_thrash},
	    {"swap-back", 1, 0, set_anon, do_swap_back},
	    {"swap-off", 1, 0, set_anon, do_swap_off},
	    {"page-out", 1, 0, set_anon, do_page_out},
	    {"pressed", 1, 0, set_anon, do_pressed},
	    {"pressed-file", 1, 0, set_pressed_file, do_pressed_file},
	    {"free", 1, 0, set_anon, do_free},
	    {"munmap", 1, 0, set_anon, do_munmap})
