/* SPDX-License-Identifier: MIT */
/*
 * Memory taken and given back without pause: churn discard|map N does N rounds on one page,
 * churn threads N has 64 threads map, write, move, discard, protect and unmap N times each.
 * Last it prints CLOCK_MONOTONIC in ns: when it was done.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096UL
#define THREADS 64

static long rounds;

static unsigned char *fresh(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		exit(2);
	return at;
}

static void discard(void)
{
	unsigned char *page = fresh(PAGE);

	for (long i = 0; i < rounds; i++) {
		*(volatile unsigned char *)page = 1;
		madvise(page, PAGE, MADV_DONTNEED);
	}
}

static void map(void)
{
	for (long i = 0; i < rounds; i++) {
		unsigned char *page = fresh(PAGE);

		*(volatile unsigned char *)page = 1;
		munmap(page, PAGE);
	}
}

static void *all_of_it(void *unused)
{
	for (long i = 0; i < rounds; i++) {
		unsigned char *at = fresh(2 * PAGE);

		at[0] = at[PAGE] = 1;
		at = mremap(at, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
		if (at == MAP_FAILED)
			exit(2);
		at[2 * PAGE] = 1;
		madvise(at, PAGE, MADV_DONTNEED);
		at[0] = 2;
		mprotect(at, PAGE, PROT_READ);
		munmap(at, 4 * PAGE);
	}
	return unused;
}

static void threads(void)
{
	pthread_t started[THREADS];

	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&started[i], NULL, all_of_it, NULL))
			exit(2);
	for (int i = 0; i < THREADS; i++)
		pthread_join(started[i], NULL);
}

int main(int argc, char **argv)
{
	struct timespec now;

	if (argc != 3)
		return 2;
	rounds = atol(argv[2]);
	if (!strcmp(argv[1], "discard"))
		discard();
	else if (!strcmp(argv[1], "map"))
		map();
	else
		threads();
	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	return 0;
}
