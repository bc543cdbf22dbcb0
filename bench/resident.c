/* SPDX-License-Identifier: MIT */
/*
 * resident PAGES REGIONS [STRIDE]: a process with PAGES small pages of its own, in REGIONS mappings.
 *
 * Every STRIDE-th page of the mappings is there (1 by default: all). Every second mapping may be
 * read only, so that the kernel does not make one of neighbours.
 *
 * Prints `ready PID` once all are there. A number on stdin gives that many of them, spread evenly
 * over the first mapping, another frame, and is answered with `done`. Ends with stdin.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL

/* Give the pages back, and take others in their place: the kernel may not hand the same out. */
static int renew(volatile char *memory, size_t pages, size_t stride, size_t count)
{
	size_t i, step = pages / count;

	for (i = 0; i < count; i++)
		if (madvise((void *)(memory + i * step * stride * PAGE), PAGE, MADV_DONTNEED))
			return 1;
	for (i = count; i-- > 0;)
		memory[i * step * stride * PAGE] = 1;
	return 0;
}

int main(int argc, char **argv)
{
	size_t pages = argc >= 3 ? strtoul(argv[1], NULL, 10) : 0;
	size_t regions = argc >= 3 ? strtoul(argv[2], NULL, 10) : 0;
	size_t stride = argc == 4 ? strtoul(argv[3], NULL, 10) : 1, size, i;
	char *memory, line[32];

	if (argc > 4 || !stride || !regions || pages < regions) {
		fprintf(stderr, "usage: resident PAGES REGIONS [STRIDE]\n");
		return 2;
	}
	memory = mmap(NULL, pages * stride * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED || madvise(memory, pages * stride * PAGE, MADV_NOHUGEPAGE)) {
		perror("resident");
		return 1;
	}
	for (i = 0; i < pages; i++)
		((volatile char *)memory)[i * stride * PAGE] = 1;
	size = pages / regions * stride * PAGE;
	for (i = 1; i < regions; i += 2)
		if (mprotect(memory + i * size, size, PROT_READ)) {
			perror("resident");
			return 1;
		}
	printf("ready %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		size_t count = strtoul(line, NULL, 10);

		if (!count || count > pages / regions ||
		    renew(memory, pages / regions, stride, count))
			return 1;
		puts("done");
		fflush(stdout);
	}
	return 0;
}
