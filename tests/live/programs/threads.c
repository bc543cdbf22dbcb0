/* SPDX-License-Identifier: MIT */
/* Several threads: threads N T, late-threads N T, storm T N R, showers T N R MICROSECONDS. */
#include "workload.h"
#include <pthread.h>

#define THREAD_STACK (16 * PAGE)

static pthread_barrier_t starting, finished, leaving;
static pthread_t threads[MAX_THREADS];
static long rounds = 1;
static int same_pages;

static void *thread_main(void *argument)
{
	size_t i = (size_t)argument;
	unsigned char *mine = START + (same_pages ? 0 : i * N * PAGE);
	pthread_barrier_wait(&starting);
	struct reading *r = begin("thread", same_pages ? -1 : (long)N * rounds);
	for (long round = 0; round < rounds; round++) {
		if (round) {
			if (numbers[3])
				usleep(numbers[3]);
			madvise(mine, N * PAGE, MADV_DONTNEED);
		}
		touch_write(mine, N);
	}
	end(r);
	pthread_barrier_wait(&finished);
	pthread_barrier_wait(&leaving);
	return NULL;
}

static void start_threads(void)
{
	size_t count = numbers[1];
	unsigned char *stacks = hole(count * THREAD_STACK / PAGE);
	map_at(stacks, count * THREAD_STACK / PAGE, PROT_READ | PROT_WRITE,
	       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	touch_write(stacks, count * THREAD_STACK / PAGE);
	for (size_t i = 0; i < count; i++) {
		pthread_attr_t attributes;
		pthread_attr_init(&attributes);
		pthread_attr_setstack(&attributes, stacks + i * THREAD_STACK, THREAD_STACK);
		errno = pthread_create(&threads[i], &attributes, thread_main, (void *)i);
		check(errno == 0, "pthread_create");
	}
}

static void set_regions_for_threads(void)
{
	size_t count = numbers[1];
	errno = EINVAL;
	check(count > 0 && count <= MAX_THREADS, "number of threads");
	anon(same_pages ? N : N * count);
	pthread_barrier_init(&starting, NULL, count + 1);
	pthread_barrier_init(&finished, NULL, count + 1);
	pthread_barrier_init(&leaving, NULL, count + 1);
}

static void set_threads(void)
{
	set_regions_for_threads();
	start_threads();
}

static void set_threads_same(void)
{
	same_pages = 1;
	set_threads();
}

/* storm T N R; showers T N R MICROSECONDS pause that long between their rounds */
static void set_storm(void)
{
	long count = numbers[0];
	numbers[0] = numbers[1];
	numbers[1] = count;
	rounds = numbers[2];
	set_threads();
}

static void do_threads(void)
{
	pthread_barrier_wait(&starting);
	pthread_barrier_wait(&finished);
}

static void do_late_threads(void)
{
	start_threads();
	do_threads();
}

SUBCOMMANDS({"threads", 2, 0, set_threads, do_threads},
	    {"threads-same", 2, 0, set_threads_same, do_threads},
	    {"late-threads", 2, 0, set_regions_for_threads, do_late_threads},
	    {"storm", 3, 0, set_storm, do_threads},
	    {"showers", 4, 0, set_storm, do_threads})
