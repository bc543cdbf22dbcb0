/* SPDX-License-Identifier: MIT */
/*
 * storm PAGES ROUNDS: first writes to fresh private anonymous small pages.
 *
 * Prints `ready PID`, waits for a line on stdin, then prints one line a round:
 *
 *     CPU_NS WALL_NS FAULTS
 *
 * for the touching alone: the thread's CPU time, the wall clock's, and the kernel's count of
 * the thread's faults meanwhile. Each round maps anew and unmaps afterwards, because a mapping
 * emptied with MADV_DONTNEED keeps its page tables and would be cheaper from round two on.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

static long long nanoseconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static int storm(size_t pages)
{
	volatile char *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long long cpu, wall;
	long count;
	size_t i;

	if (memory == MAP_FAILED || madvise((void *)memory, pages * PAGE, MADV_NOHUGEPAGE)) {
		perror("storm");
		return 1;
	}
	count = faults();
	wall = nanoseconds(CLOCK_MONOTONIC);
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
	for (i = 0; i < pages; i++)
		memory[i * PAGE] = 1;
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	wall = nanoseconds(CLOCK_MONOTONIC) - wall;
	count = faults() - count;
	munmap((void *)memory, pages * PAGE);
	printf("%lld %lld %ld\n", cpu, wall, count);
	return 0;
}

int main(int argc, char **argv)
{
	size_t pages = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
	int rounds = argc == 3 ? atoi(argv[2]) : 0;
	char line[16];

	if (!pages || rounds < 1) {
		fprintf(stderr, "usage: storm PAGES ROUNDS\n");
		return 2;
	}
	printf("ready %d\n", getpid());
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	while (rounds--)
		if (storm(pages))
			return 1;
	return 0;
}
