/* SPDX-License-Identifier: MIT */
/*
 * As much as a process may have: mappings N BEFORE (they are there before "ready" if BEFORE),
 * crowd T (threads), sparse N GIB (N pages over so many GiB).
 */
#include "workload.h"
#include <pthread.h>

#define MOST_THREADS 20000
#define SMALL_STACK (4 * PAGE)

/* ---- mappings: a page each, readable and writable by turns, so that none merges ------------ */

static void map_each(void)
{
	for (size_t i = 0; i < N; i++)
		check(mmap(START + i * PAGE, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED,
		      "mmap");
}

static void set_mappings(void)
{
	range("anon", hole(N), N);
	if (numbers[1])
		map_each();
}

static void do_mappings(void)
{
	if (!numbers[1])
		map_each();
	struct reading *r = begin("touch", (long)N);
	for (size_t i = 0; i < N; i++)
		(i % 2 ? touch_read : touch_write)(START + i * PAGE, 1);
	end(r);
}

/* ---- crowd: each thread has a page, and all are there at a time ----------------------------- */

static pthread_barrier_t all_there;
static pthread_t crowd[MOST_THREADS];

static void *one_of_many(void *page)
{
	touch_write(page, 1);
	pthread_barrier_wait(&all_there);
	return NULL;
}

static void set_crowd(void)
{
	errno = EINVAL;
	check(N > 0 && N <= MOST_THREADS, "number of threads");
	anon(N);
	pthread_barrier_init(&all_there, NULL, N + 1);
}

static void do_crowd(void)
{
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, SMALL_STACK);
	for (size_t i = 0; i < N; i++) {
		errno = pthread_create(&crowd[i], &attributes, one_of_many, START + i * PAGE);
		check(errno == 0, "pthread_create");
	}
	pthread_barrier_wait(&all_there);
	for (size_t i = 0; i < N; i++)
		pthread_join(crowd[i], NULL);
}

/* ---- sparse: far more address space than memory -------------------------------------------- */

static void set_sparse(void)
{
	size_t pages = (size_t)numbers[1] << 18;
	unsigned char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(p != MAP_FAILED, "mmap");
	madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
	range("anon", p, pages);
}

static void do_sparse(void)
{
	size_t apart = ((size_t)numbers[1] << 30) / N & ~(PAGE - 1);
	struct reading *r = begin("touch", (long)N);
	for (size_t i = 0; i < N; i++)
		touch_write(START + i * apart, 1);
	end(r);
}

SUBCOMMANDS({"mappings", 2, 0, set_mappings, do_mappings},
	    {"crowd", 1, 0, set_crowd, do_crowd},
	    {"sparse", 2, 0, set_sparse, do_sparse})
