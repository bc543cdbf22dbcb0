/* SPDX-License-Identifier: MIT */
/*
 * witness RESULT [GO] -- PROGRAM ARGUMENT...: runs a program and says what the kernel counted.
 *
 * RESULT holds, before PROGRAM begins, "start PID FAULTS", and once it and all its descendants
 * have ended also "end FAULTS MINOR MAJOR STATUS": this process's own faults so far, those of its
 * children (RUSAGE_CHILDREN), and the program's status as a shell shows it. With GO, a FIFO, it
 * waits in between for a byte from there: for whoever wants to attach to it.
 *
 * It takes no fault that is not in what it says: statically linked, and the last line is written
 * again until writing it took none. Orphans become its children, so that daemons are counted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char line[256];
static size_t head; /* of it: the line of the start, which stays */
static int result;

static void check(int well, const char *what)
{
	if (!well) {
		perror(what);
		exit(125);
	}
}

static long own_faults(void)
{
	struct rusage self;

	getrusage(RUSAGE_SELF, &self);
	return self.ru_minflt + self.ru_majflt;
}

/* In one write from the start: whoever reads sees a whole line or none. */
static void say(size_t length)
{
	check(pwrite(result, line, length, 0) == (ssize_t)length, "write");
}

static void say_start(void)
{
	long before;

	do {
		before = own_faults();
		head = sprintf(line, "start %d %ld\n", (int)getpid(), before);
	} while (own_faults() != before);
	say(head);
}

static void say_end(int status)
{
	struct rusage children;
	long before;

	do {
		before = own_faults();
		getrusage(RUSAGE_CHILDREN, &children);
		say(head + sprintf(line + head, "end %10ld %ld %ld %d\n", before,
				   children.ru_minflt, children.ru_majflt, status));
	} while (own_faults() != before);
}

int main(int argc, char **argv)
{
	int go = argc > 4 && strcmp(argv[2], "--");
	char **program = argv + 3 + go;
	int status = 0, one, fifo;
	pid_t child, pid;
	char byte = 0;

	check(argc > 3 + go && !strcmp(argv[2 + go], "--"), "usage: witness RESULT [GO] -- PROGRAM");
	check(!prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl");
	result = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	check(result >= 0, argv[1]);
	/* Read and write: opening it does not wait for the other side. */
	fifo = go ? open(argv[2], O_RDWR | O_CLOEXEC) : -1;
	check(!go || fifo >= 0, "the FIFO");
	say_start();
	check(!go || read(fifo, &byte, 1) == 1, "read");
	child = fork();
	check(child >= 0, "fork");
	if (!child) {
		execvp(*program, program);
		perror(*program);
		_exit(127);
	}
	while ((pid = wait(&one)) > 0 || errno == EINTR)
		if (pid == child)
			status = WIFEXITED(one) ? WEXITSTATUS(one) : 128 + WTERMSIG(one);
	say_end(status);
	syscall(SYS_exit_group, status);
	return 0;
}
