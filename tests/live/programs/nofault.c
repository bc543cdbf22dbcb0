/* SPDX-License-Identifier: MIT */
/* Exceptions that are no faults: the kernel's own attempts on pages that are not there, and waits
 * that a signal breaks off. */
#include "workload.h"
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>

/* signal-frame N: N signals, each on a stack of its own of which only the last page is untouched.
 * The kernel writes the frame without faulting, gives up, and faults that page in. */
#define STACK 16UL /* pages */

static void on_signal(int number) { (void)number; }

static void handle(int number, void (*handler)(int), int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
	check(sigaction(number, &action, NULL) == 0, "sigaction");
}

static void set_signal_frame(void)
{
	anon(N * STACK);
	for (size_t i = 0; i < N; i++)
		touch_write(START + i * STACK * PAGE, STACK - 1);
	handle(SIGUSR1, on_signal, SA_ONSTACK);
}

static void do_signal_frame(void)
{
	struct reading *r = begin("signals", N);
	for (size_t i = 0; i < N; i++) {
		/* The frame's state of the processor lies across the border of the last page. */
		stack_t stack = {
			.ss_sp = START + i * STACK * PAGE,
			.ss_size = (STACK - 1) * PAGE + PAGE / 4,
		};
		check(sigaltstack(&stack, NULL) == 0, "sigaltstack");
		raise(SIGUSR1);
	}
	end(r);
}

/* futex N: N words that the kernel changes without faulting, gives up, and faults in. */
static void do_futex(void)
{
	static int word;
	struct reading *r = begin("futex", N);
	for (size_t i = 0; i < N; i++)
		check(syscall(SYS_futex, &word, FUTEX_WAKE_OP_PRIVATE, 1, 1, START + i * PAGE,
			      FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 0)) == 0, "futex");
	end(r);
}

/* interrupted N: a thread waits for N pages of userfaultfd; each wait is broken off by a signal
 * whose handler faults on a page of its own; then the fault comes again, and is given its page. */
static int uffd = -1;
static pthread_t waiting;
static unsigned char *elsewhere;
static volatile size_t handled;

static void on_wait(int number)
{
	(void)number;
	elsewhere[handled * PAGE] = 1;
	handled++;
}

static unsigned long fault_of(void)
{
	struct uffd_msg message;
	ssize_t size;
	while ((size = read(uffd, &message, sizeof(message))) < 0 && errno == EAGAIN)
		;
	check(size == sizeof(message), "userfaultfd");
	return message.arg.pagefault.address & ~(PAGE - 1);
}

static void *give(void *unused)
{
	for (size_t i = 0; i < N; i++) {
		unsigned long page = fault_of();
		check(pthread_kill(waiting, SIGUSR1) == 0, "pthread_kill");
		while (handled == i)
			;
		check(fault_of() == page, "another page");
		struct uffdio_copy copy = {page, (unsigned long)page_of_ret, PAGE, 0, 0};
		check(ioctl(uffd, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY");
	}
	pause();
	return unused;
}

static void set_interrupted(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	pthread_attr_t attributes;
	pthread_t giver;
	unsigned char *stack = hole(STACK);
	anon(N);
	elsewhere = region("elsewhere", N, MAP_PRIVATE);
	uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd < 0) {
		say("missing userfaultfd\n");
		_exit(77);
	}
	check(ioctl(uffd, UFFDIO_API, &api) == 0, "UFFDIO_API");
	struct uffdio_register these = {
		.range = {.start = (unsigned long)START, .len = N * PAGE},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	check(ioctl(uffd, UFFDIO_REGISTER, &these) == 0, "UFFDIO_REGISTER");
	handle(SIGUSR1, on_wait, 0);
	waiting = pthread_self();
	map_at(stack, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	touch_write(stack, STACK);
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stack, STACK * PAGE);
	errno = pthread_create(&giver, &attributes, give, NULL);
	check(errno == 0, "pthread_create");
}

static void do_interrupted(void)
{
	struct reading *r = begin("interrupted", 2 * N);
	touch_write(START, N);
	end(r);
}

/* refused N: N pages beyond their file's end are written from, by system calls that fail. */
static void set_refused(void)
{
	file_region(N, PROT_READ, MAP_PRIVATE);
	check(ftruncate(file_fd, 0) == 0, "ftruncate");
	region("after", 1, MAP_PRIVATE);
	check(pipe(release_pipe) == 0, "pipe");
}

static void do_refused(void)
{
	struct reading *r = begin("refused", 1);
	for (size_t i = 0; i < N; i++)
		check(write(release_pipe[1], START + i * PAGE, 1) < 0 && errno == EFAULT, "write");
	touch_write(ranges[1].start, 1);
	end(r);
}

SUBCOMMANDS({"signal-frame", 1, 0, set_signal_frame, do_signal_frame},
	    {"futex", 1, 0, set_anon, do_futex},
	    {"refused", 1, 0, set_refused, do_refused},
	    {"interrupted", 1, 0, set_interrupted, do_interrupted})
