/* SPDX-License-Identifier: MIT */
/* Pages that get another address, or another frame: mremap, migration, NUMA balancing, KSM. */
#include "workload.h"
#include <sched.h>
#include <time.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static void touch_and_expect(const char *label, unsigned char *start, size_t pages, long expected)
{
	struct reading *r = begin(label, expected);
	touch_write(start, pages);
	end(r);
}

static unsigned char *moved(unsigned char *from, size_t before, size_t after, int flags,
			    unsigned char *to)
{
	unsigned char *p = mremap(from, before * PAGE, after * PAGE, flags, to);
	check(p != MAP_FAILED, "mremap");
	return p;
}

static void set_mremap(void)
{
	anon(N);
	range("moved", hole(2 * N), 2 * N);
}

/* mremap-move N: to another address, grown to twice the size there; only the new half faults. */
static void do_mremap_move(void)
{
	do_write();
	moved(START, N, 2 * N, MREMAP_MAYMOVE | MREMAP_FIXED, ranges[1].start);
	touch_and_expect("moved", ranges[1].start, N, 0);
	touch_and_expect("grown", ranges[1].start + N * PAGE, N, N);
}

/* mremap-size N: half is cut off in place, then it grows again in place. */
static void do_mremap_size(void)
{
	do_write();
	moved(START, N, N / 2, 0, NULL);
	moved(START, N / 2, N, MREMAP_MAYMOVE, NULL);
	touch_and_expect("kept", START, N / 2, 0);
	touch_and_expect("grown", START + N / 2 * PAGE, N - N / 2, N - N / 2);
}

/* mremap-keep N: the pages move, the mapping stays, empty (MREMAP_DONTUNMAP, since 5.7). */
static void do_mremap_keep(void)
{
	do_write();
	moved(START, N, N, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, ranges[1].start);
	touch_and_expect("moved", ranges[1].start, N, 0);
	touch_and_expect("emptied", START, N, N);
}

/* stays N: written; the test has the kernel move the frames, or not; read, without a fault. */
static void do_stays(void)
{
	do_write();
	stop_at("move");
	struct reading *r = begin("moved", 0);
	touch_read(START, N);
	end(r);
}

/* scattered N: of N pages every other is given back, so that compaction has something to do. */
static void do_scattered(void)
{
	do_write();
	for (size_t i = 0; i < N; i += 2)
		check(madvise(START + i * PAGE, PAGE, MADV_DONTNEED) == 0, "madvise");
	stop_at("move");
	struct reading *r = begin("moved", 0);
	for (size_t i = 1; i < N; i += 2)
		touch_read(START + i * PAGE, 1);
	end(r);
}

static void run_on(long cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check(sched_setaffinity(0, sizeof(set), &set) == 0, "sched_setaffinity");
}

/* numa N FAR NEAR: written on processor FAR, then read on NEAR until the hints have come. */
static void do_numa(void)
{
	struct timespec now, since;
	run_on(numbers[1]);
	struct reading *r = begin("write", -1); /* some hints may come already */
	touch_write(START, N);
	end(r);
	run_on(numbers[2]);
	r = begin("hints", -1);
	long wanted = faults() + (long)N;
	clock_gettime(CLOCK_MONOTONIC, &since);
	do {
		touch_read(START, N);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (faults() < wanted && now.tv_sec - since.tv_sec < 60);
	end(r);
	check(faults() >= wanted, "no NUMA hints came");
}

static void do_merge(void)
{
	do_write();
	check(madvise(START, N * PAGE, MADV_MERGEABLE) == 0, "madvise(MADV_MERGEABLE)");
	stop_at("merge");
}

/* ksm-write N: merged by ksmd, then written: a copy each. */
static void do_ksm_write(void)
{
	do_merge();
	touch_and_expect("unmerge", START, N, N);
}

/* ksm-stays N: merged, and read without a fault. The test may undo it at `again`. */
static void do_ksm_stays(void)
{
	do_merge();
	stop_at("again");
	struct reading *r = begin("merged", 0);
	touch_read(START, N);
	end(r);
}

/* ksm-advise N: merged, then separated by the process's own MADV_UNMERGEABLE. */
static void do_ksm_advise(void)
{
	do_merge();
	struct reading *r = begin("unmerge", N);
	int failed = madvise(START, N * PAGE, MADV_UNMERGEABLE);
	end(r);
	check(!failed, "madvise(MADV_UNMERGEABLE)");
}

SUBCOMMANDS({"mremap-move", 1, 0, set_mremap, do_mremap_move},
	    {"mremap-size", 1, 0, set_anon, do_mremap_size},
	    {"mremap-keep", 1, 0, set_mremap, do_mremap_keep},
	    {"stays", 1, 0, set_anon, do_stays},
	    {"scattered", 1, 0, set_anon, do_scattered},
	    {"numa", 3, 0, set_anon, do_numa},
	    {"ksm-write", 1, 0, set_anon, do_ksm_write},
	    {"ksm-stays", 1, 0, set_anon, do_ksm_stays},
	    {"ksm-advise", 1, 0, set_anon, do_ksm_advise})
