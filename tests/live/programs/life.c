/* SPDX-License-Identifier: MIT */
/* The life of processes: chains of forks, children by the hundred, exec, numbers used again. */
#include "workload.h"
#include <linux/sched.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/resource.h>
#include <time.h>

extern char **environ;
static char *const true_argv[] = {"/bin/true", NULL};

/* A pipe whose read end comes back when every copy of the write end is closed. */
static void make_release_pipe(void)
{
	check(pipe2(release_pipe, O_CLOEXEC) == 0, "pipe2");
}

static void await_byte(int fd)
{
	char c;
	check(read(fd, &c, 1) == 1, "the child");
}

/*
 * fork-chain N D: the parent writes N pages; it forks, the child writes a third of them and
 * forks in turn, D deep. Then the parent writes them all: copies, as all are still shared.
 */
static void do_fork_chain(void)
{
	long depth = numbers[1];
	int done[2];
	do_write();
	make_release_pipe();
	check(pipe2(done, O_CLOEXEC) == 0, "pipe2");
	check((child = fork()) >= 0, "fork");
	for (; child == 0; depth--) {
		touch_everything();
		reading_count = 0;
		struct reading *r = begin("descendant", N / 3);
		touch_write(START + (depth % 3) * (N / 3) * PAGE, N / 3);
		end(r);
		say("child %d\n", getpid());
		say_readings();
		if (depth > 1 && fork() == 0)
			continue;
		if (depth == 1)
			check(write(done[1], "", 1) == 1, "pipe");
		close(done[1]);
		until_released();
	}
	say("child %d\n", child);
	touch_everything();
	await_byte(done[0]);
	struct reading *r = begin("parent", N);
	touch_write(START, N);
	end(r);
}

static long faults_of_children(void)
{
	struct rusage usage;
	getrusage(RUSAGE_CHILDREN, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

/* All the children of a step have ended: their counts are in RUSAGE_CHILDREN. */
static void say_children(const char *label, long before)
{
	say("thread 0 %ld %ld -1 %s\n", before, faults_of_children(), label);
}

static void await_child(pid_t pid)
{
	int status;
	check(waitpid(pid, &status, 0) == pid && status == 0, "a child failed");
}

/* children N M: N children that write M pages and end at once */
static void do_children(void)
{
	long before = faults_of_children();
	touch_write(START, numbers[1]);
	for (size_t i = 0; i < N; i++) {
		pid_t pid = fork();
		check(pid >= 0, "fork");
		if (pid == 0) {
			touch_write(START, numbers[1]);
			_exit(0);
		}
		await_child(pid);
	}
	say_children("children", before);
}

static void set_children(void)
{
	region("anon", numbers[1], MAP_PRIVATE);
}

/* spawns N: N programs by posix_spawn, one after the other */
static void do_spawns(void)
{
	long before = faults_of_children();
	for (size_t i = 0; i < N; i++) {
		pid_t pid;
		errno = posix_spawn(&pid, true_argv[0], NULL, NULL, true_argv, environ);
		check(errno == 0, "posix_spawn");
		await_child(pid);
	}
	say_children("spawns", before);
}

/* vfork N: a child writes N pages of the memory it shares, and becomes another program. */
static void do_vfork(void)
{
	long before = faults_of_children();
	pid_t pid = vfork();
	if (pid == 0) {
		touch_write(START, N);
		execv(true_argv[0], true_argv);
		_exit(3);
	}
	check(pid > 0, "vfork");
	await_child(pid);
	say_children("vforked", before);
	say("child %d\n", pid);
}

/* thread-exec N: writes N pages; then a thread that is not the first becomes another image. */
static char **next_image;

static void *become(void *unused)
{
	(void)unused;
	execv("/proc/self/exe", next_image);
	die("execv");
	return NULL;
}

static void do_thread_exec(void)
{
	static char directory[sizeof(path)], pages[24];
	static char *arguments[] = {"workload", "--dir", directory, "anon-write", pages, NULL};
	pthread_t thread;
	do_write();
	say_readings();
	snprintf(directory, sizeof(directory), "%.*s", (int)(strrchr(path, '/') - path), path);
	snprintf(pages, sizeof(pages), "%ld", numbers[0] / 2);
	next_image = arguments;
	stop_at("exec");
	errno = pthread_create(&thread, NULL, become, NULL);
	check(errno == 0, "pthread_create");
	pause();
}

/* image-exec N: the same, by the first thread. */
static void do_image_exec(void)
{
	static char directory[sizeof(path)], pages[24];
	static char *arguments[] = {"workload", "--dir", directory, "anon-write", pages, NULL};
	do_write();
	say_readings();
	snprintf(directory, sizeof(directory), "%.*s", (int)(strrchr(path, '/') - path), path);
	snprintf(pages, sizeof(pages), "%ld", numbers[0] / 2);
	next_image = arguments;
	stop_at("exec");
	become(NULL);
}

/* leaderless N: the first thread ends before "ready"; leader-exits N: in the middle of acting. */
static pthread_barrier_t alone;

static void await_end_of_first_thread(void)
{
	char state = 0;
	while (state != 'Z') {
		char stat[512] = "";
		int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
		check(fd >= 0 && read(fd, stat, sizeof(stat) - 1) > 0, "/proc/self/stat");
		close(fd);
		state = strrchr(stat, ')')[2];
	}
}

static void *go_on_alone(void *ready)
{
	await_end_of_first_thread();
	if (ready) {
		say("ready %d %ld\n", getpid(), syscall(SYS_gettid));
		wait_for_line();
	}
	do_write();
	say_readings();
	say("done\n");
	wait_for_line();
	_exit(0);
}

static void leave_thread(void *ready)
{
	pthread_t thread;
	pthread_attr_t attributes;
	unsigned char *stack = hole(64);
	map_at(stack, 64, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	touch_write(stack, 64);
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stack, 64 * PAGE);
	errno = pthread_create(&thread, &attributes, go_on_alone, ready);
	check(errno == 0, "pthread_create");
	syscall(SYS_exit, 0);
}

static void set_leaderless(void)
{
	anon(N);
	leave_thread(&alone);
}

static void do_leader_exits(void)
{
	leave_thread(NULL);
}

/* ---- numbers used again ------------------------------------------------ */

static pid_t clone_as(pid_t number)
{
	pid_t numbers_of_it[] = {number};
	struct clone_args arguments = {
		.exit_signal = SIGCHLD,
		.set_tid = (unsigned long)numbers_of_it,
		.set_tid_size = 1,
	};
	/* Until its last reference is gone the number is taken: EEXIST. */
	for (;;) {
		pid_t pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
		if (pid >= 0 || errno != EEXIST)
			return pid;
	}
}

/* same-number N: a child writes N pages and ends; another with its pid writes half of them. */
static void do_same_number(void)
{
	long before = faults_of_children();
	pid_t first = fork();
	check(first >= 0, "fork");
	if (first == 0) {
		touch_write(START, N);
		_exit(0);
	}
	await_child(first);
	pid_t second = clone_as(first);
	check(second == first || second == 0, "clone3");
	if (second == 0) {
		touch_write(START, N / 2);
		_exit(0);
	}
	await_child(second);
	say_children("children", before);
	say("child %d\n", first);
}

/* renumbered N PID: a child of that number, no target of ours, writes N pages and waits. */
static void do_renumbered(void)
{
	int written[2];
	make_release_pipe();
	check(pipe2(written, O_CLOEXEC) == 0, "pipe2");
	child = clone_as(numbers[1]);
	check(child >= 0, "clone3");
	if (child == 0) {
		touch_write(START, N);
		check(write(written[1], "", 1) == 1, "pipe");
		until_released();
	}
	await_byte(written[0]);
	say("child %d\n", child);
}

SUBCOMMANDS({"fork-chain", 2, 0, set_anon, do_fork_chain},
	    {"children", 2, 0, set_children, do_children},
	    {"spawns", 1, 0, set_nothing, do_spawns},
	    {"vfork", 1, 0, set_anon, do_vfork},
	    {"thread-exec", 1, 0, set_anon, do_thread_exec},
	    {"image-exec", 1, 0, set_anon, do_image_exec},
	    {"leaderless", 1, 0, set_leaderless, set_nothing},
	    {"leader-exits", 1, 0, set_anon, do_leader_exits},
	    {"same-number", 1, 0, set_anon, do_same_number},
	    {"renumbered", 2, 0, set_anon, do_renumbered})
