/* SPDX-License-Identifier: MIT */
/* Several processes, and the life of one. */
#include "workload.h"

void until_released(void)
{
	char c;
	close(release_pipe[1]);
	while (read(release_pipe[0], &c, 1) > 0)
		;
	_exit(0);
}

/*
 * Fork before the trace: until the child has all it needs in memory, so that what it gains is not
 * between the reading of pagemap and the trace.
 */
pid_t fork_settled(void)
{
	int settled[2];
	char c;
	check(pipe2(settled, O_CLOEXEC) == 0, "pipe2");
	pid_t pid = fork();
	check(pid >= 0, "fork");
	if (pid == 0) {
		touch_everything();
		check(write(settled[1], "", 1) == 1, "pipe");
	} else {
		check(read(settled[0], &c, 1) == 1, "the child");
	}
	close(settled[0]);
	close(settled[1]);
	return pid;
}

static void set_remote(void)
{
	anon(N);
	unsigned char *source = hole(N);
	map_at(source, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ranges[1].start = source;
	check(pipe2(release_pipe, O_CLOEXEC) == 0, "pipe2");
	if ((child = fork_settled()) == 0)
		until_released();
	say("child %d\n", child);
	touch_everything();
}

static void do_remote(void)
{
	struct iovec local = {ranges[1].start, N * PAGE}, remote = {START, N * PAGE};
	struct reading *r = begin("process_vm_writev", N);
	ssize_t n = process_vm_writev(child, &local, 1, &remote, 1, 0);
	end(r);
	check(n == (ssize_t)(N * PAGE), "process_vm_writev");
}

/*
 * fork-cow N M K [J]: the parent writes N pages and forks; the child writes the
 * first M of them; then the parent writes the last K (still shared: copied) and
 * the first J of the child's M (its own again: reused or copied, as the kernel likes).
 */
static void do_fork_cow(void)
{
	size_t m = numbers[1], k = numbers[2], j = numbers[3];
	int written[2];
	char c;
	do_write();
	check(pipe2(release_pipe, O_CLOEXEC) == 0 && pipe2(written, O_CLOEXEC) == 0, "pipe2");
	check((child = fork()) >= 0, "fork");
	touch_everything();
	if (child == 0) {
		reading_count = 0;
		struct reading *r = begin("child-cow", m);
		touch_write(START, m);
		end(r);
		say_readings();
		check(write(written[1], "", 1) == 1, "pipe");
		close(written[1]);
		until_released();
	}
	say("child %d\n", child);
	check(read(written[0], &c, 1) == 1, "the child");
	struct reading *r = begin("parent-cow", k);
	touch_write(START + (N - k) * PAGE, k);
	end(r);
	r = begin("parent-reuse", j);
	touch_write(START, j);
	end(r);
}

void set_nothing(void) {}
static void do_exit(void) { _exit(0); }

SUBCOMMANDS({"remote", 1, 0, set_remote, do_remote},
	    {"fork-cow", 3, 1, set_anon, do_fork_cow},
	    {"exec", 1, 0, set_anon, do_write},
	    {"exit", 0, 0, set_nothing, do_exit})
