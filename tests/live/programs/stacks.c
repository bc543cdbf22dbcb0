/* SPDX-License-Identifier: MIT */
/* Faults below calls whose names and order are known. */
#include "workload.h"

#define KEEPS_FRAME \
	__attribute__((noinline, optimize("no-omit-frame-pointer", "no-optimize-sibling-calls")))

static unsigned char *part(int number) { return START + number * N * PAGE; }

/* Each calls something, or it would be a leaf, which keeps no frame in any case. */
KEEPS_FRAME static void stack_writes(void)
{
	touch_write(part(0), 0);
	for (size_t i = 0; i < N; i++)
		*(volatile unsigned char *)(part(0) + i * PAGE) = 1;
	touch_write(part(0), 0);
}

/* A function of the C library that has no frame is at fault. */
KEEPS_FRAME static void stack_sets(void)
{
	memset(part(1), 1, N * PAGE);
	touch_write(part(1), 0);
}

/* The kernel is. */
KEEPS_FRAME static void stack_reads(void)
{
	ssize_t size = N * PAGE;
	check(syscall(SYS_read, file_fd, part(2), size) == size, "read");
	touch_write(part(2), 0);
}

KEEPS_FRAME static void stack_middle(void)
{
	stack_writes();
	stack_sets();
	stack_reads();
	touch_write(part(0), 0);
}

KEEPS_FRAME static void stack_outer(void)
{
	stack_middle();
	touch_write(part(0), 0);
}

static void set_stacks(void)
{
	unsigned char *start = anon(3 * N);
	range("written", start, N);
	range("set", start + N * PAGE, N);
	range("read", start + 2 * N * PAGE, N);
	file_fd = open("/dev/zero", O_RDONLY);
	check(file_fd >= 0, "open");
}

/* stacks N: each of the three takes N faults. */
static void do_stacks(void)
{
	struct reading *r = begin("stacks", 3 * N);
	stack_outer();
	end(r);
}

/* stacks-of-children N: two children, one after the other, do the same. */
static void do_stacks_of_children(void)
{
	for (int i = 0; i < 2; i++) {
		pid_t pid = fork();
		check(pid >= 0, "fork");
		if (!pid) {
			stack_outer();
			_exit(0);
		}
		check(waitpid(pid, 0, 0) == pid, "waitpid");
	}
}

SUBCOMMANDS({"stacks", 1, 0, set_stacks, do_stacks},
	    {"stacks-of-children", 1, 0, set_stacks, do_stacks_of_children})
