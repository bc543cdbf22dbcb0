/* SPDX-License-Identifier: MIT */
/* Memory that userfaultfd fills: by a thread, a child, or a process that is nobody's child. */
#include "workload.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>

enum how { COPY, ZEROPAGE, MOVE }; /* MOVE: by a thread, since the memory must be its own */
enum who { THREAD, CHILD, STRANGER };

#define HOW numbers[1]
#define WHO numbers[2]

struct move { /* struct uffdio_move, Linux 6.8; the header may be older */
	__u64 dst, src, len, mode;
	__s64 move;
};
#ifndef _UFFDIO_MOVE
#define _UFFDIO_MOVE 0x05
#endif
#define MOVE_IOCTL _IOWR(UFFDIO, _UFFDIO_MOVE, struct move)

static int uffd = -1;
static unsigned char *source;

/* Give `pages` pages from `at` on. */
static int fill(unsigned char *at, size_t pages)
{
	unsigned char *from = source + (at - START);
	if (HOW == COPY) {
		struct uffdio_copy copy = {(unsigned long)at, (unsigned long)from, pages * PAGE, 0, 0};
		return ioctl(uffd, UFFDIO_COPY, &copy);
	}
	if (HOW == MOVE) {
		struct move move = {(unsigned long)at, (unsigned long)from, pages * PAGE, 0, 0};
		return ioctl(uffd, MOVE_IOCTL, &move);
	}
	struct uffdio_zeropage zero = {{(unsigned long)at, pages * PAGE}, 0, 0};
	return ioctl(uffd, UFFDIO_ZEROPAGE, &zero);
}

/* Faults in the first half get a page each; the first in the second half gets all the rest. */
static void handle(void)
{
	size_t filled = 0;
	while (filled < N) {
		struct uffd_msg message;
		struct pollfd wait[] = {{uffd, POLLIN, 0}, {release_pipe[0], 0, 0}};
		check(poll(wait, 2, -1) > 0, "poll");
		if (wait[1].revents) /* the memory's owner has ended */
			break;
		if (read(uffd, &message, sizeof(message)) < 0)
			continue;
		if (message.event != UFFD_EVENT_PAGEFAULT)
			continue;
		unsigned char *at = (unsigned char *)(message.arg.pagefault.address & ~(PAGE - 1));
		size_t pages = filled < N / 2 ? 1 : N - filled;
		check(fill(at, pages) == 0, "userfaultfd fill");
		filled += pages;
	}
}

static void *handle_and_stay(void *unused) /* a thread that ends gives its stack back, some time */
{
	handle();
	for (;;)
		pause();
	return unused;
}

static void start_handler(void)
{
	pthread_t thread;
	pthread_attr_t small;
	if (WHO == THREAD) {
		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, 64 << 10);
		check(pthread_create(&thread, &small, handle_and_stay, NULL) == 0, "pthread_create");
		return;
	}
	check(pipe2(release_pipe, O_CLOEXEC) == 0, "pipe2");
	pid_t pid = fork_settled();
	if (pid == 0) {
		close(release_pipe[1]);
		if (WHO == STRANGER && fork() > 0)
			_exit(0);
		handle();
		until_released();
	}
	if (WHO == STRANGER)
		waitpid(pid, NULL, 0);
	else
		say("child %d\n", child = pid);
}

/* uffd N HOW WHO */
static void set_uffd(void)
{
	anon(N);
	source = hole(N);
	map_at(source, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	touch_write(source, N);
	range("source", source, N);
	uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {UFFD_API, 0, 0};
	check(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd");
	struct uffdio_register on = {{(unsigned long)START, N * PAGE}, UFFDIO_REGISTER_MODE_MISSING, 0};
	check(ioctl(uffd, UFFDIO_REGISTER, &on) == 0, "UFFDIO_REGISTER");
	if (HOW == MOVE && !(on.ioctls & 1ULL << _UFFDIO_MOVE)) {
		say("resident missing 1\n");
		HOW = COPY;
	}
	start_handler();
	touch_everything();
}

static void do_uffd(void)
{
	struct reading *r = begin("wait", -1);
	touch_read(START, N);
	end(r);
}

SUBCOMMANDS({"uffd", 3, 0, set_uffd, do_uffd})
