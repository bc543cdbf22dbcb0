/* SPDX-License-Identifier: MIT */
/*
 * rounds PAGES ROUNDS: first writes to the same small pages again and again.
 *
 * Prints `ready PID`, waits for a line on stdin, writes to every page of one private anonymous
 * mapping and discards them with MADV_DONTNEED, ROUNDS times. Then it prints the kernel's count of
 * the thread's faults meanwhile, and waits for the end of stdin, so that a tracer can take its last
 * snapshot before the process ends.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096UL

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

int main(int argc, char **argv)
{
	size_t pages = argc == 3 ? strtoul(argv[1], NULL, 10) : 0, i;
	int rounds = argc == 3 ? atoi(argv[2]) : 0;
	volatile char *memory;
	char line[16];
	long count;

	if (!pages || rounds < 1) {
		fprintf(stderr, "usage: rounds PAGES ROUNDS\n");
		return 2;
	}
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	if (memory == MAP_FAILED || madvise((void *)memory, pages * PAGE, MADV_NOHUGEPAGE)) {
		perror("rounds");
		return 1;
	}
	printf("ready %d\n", getpid());
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	count = faults();
	while (rounds--) {
		for (i = 0; i < pages; i++)
			memory[i * PAGE] = 1;
		if (madvise((void *)memory, pages * PAGE, MADV_DONTNEED)) {
			perror("rounds");
			return 1;
		}
	}
	printf("%ld\n", faults() - count);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		;
	return 0;
}
