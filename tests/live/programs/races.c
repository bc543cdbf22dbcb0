/* SPDX-License-Identifier: MIT */
/* Threads that discard each other's pages, faults that are tried again, pages of the kernel. */
#include "workload.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define STACK (32 * PAGE)

static pthread_barrier_t starting, finished;

static void start(pthread_t *thread, void *(*run)(void *), size_t number)
{
	pthread_attr_t attributes;
	unsigned char *stack = hole(STACK / PAGE);
	map_at(stack, STACK / PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	touch_write(stack, STACK / PAGE);
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stack, STACK);
	errno = pthread_create(thread, &attributes, run, (void *)number);
	check(errno == 0, "pthread_create");
}

/* race T N R: T threads write, discard, unmap and map anew runs of the same N pages, R times. */
static __thread sigjmp_buf after_segv;

static void on_segv(int number)
{
	siglongjmp(after_segv, number);
}

static void one_step(unsigned int dice)
{
	size_t from = dice / 7 % numbers[1], count = 1 + dice / 1009 % 9;
	if (count > numbers[1] - from)
		count = numbers[1] - from;
	unsigned char *at = START + from * PAGE;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	switch (dice % 7) {
	case 0:
		madvise(at, count * PAGE, MADV_DONTNEED); /* ENOMEM over a hole */
		break;
	case 1:
		mmap(at, count * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
		break;
	case 2:
		munmap(at, count * PAGE);
		mmap(at, count * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
		break;
	default:
		if (!sigsetjmp(after_segv, 1)) /* another thread's hole */
			touch_write(at, count);
	}
}

static void *race(void *argument)
{
	unsigned int dice = 12345 + (size_t)argument;
	pthread_barrier_wait(&starting);
	struct reading *r = begin("thread", -1);
	for (long round = 0; round < numbers[2]; round++) {
		dice = dice * 1664525 + 1013904223;
		one_step(dice >> 8);
	}
	end(r);
	pthread_barrier_wait(&finished);
	pause();
	return NULL;
}

static void set_race(void)
{
	pthread_t thread;
	region("race", numbers[1], MAP_PRIVATE);
	signal(SIGSEGV, on_segv);
	pthread_barrier_init(&starting, NULL, N + 1);
	pthread_barrier_init(&finished, NULL, N + 1);
	for (size_t i = 0; i < N; i++)
		start(&thread, race, i);
}

static void do_race(void)
{
	pthread_barrier_wait(&starting);
	pthread_barrier_wait(&finished);
}

/* uffd N: a thread fills N pages when another touches them; each fault waits and is tried again. */
static int uffd = -1;
static unsigned char *source;

static void *fill(void *unused)
{
	(void)unused;
	for (size_t i = 0; i < N; i++) {
		struct uffd_msg message;
		struct pollfd ready = {.fd = uffd, .events = POLLIN};
		check(poll(&ready, 1, -1) == 1, "poll");
		check(read(uffd, &message, sizeof(message)) == sizeof(message), "userfaultfd");
		struct uffdio_copy copy = {
			.dst = message.arg.pagefault.address & ~(PAGE - 1),
			.src = (unsigned long)source,
			.len = PAGE,
		};
		check(ioctl(uffd, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY");
	}
	pause();
	return NULL;
}

static void set_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	pthread_t thread;
	anon(N);
	source = (unsigned char *)page_of_ret;
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
	touch_read(source, 1);
	start(&thread, fill, 0);
}

/* ---- pages of the kernel's -------------------------------------------- */

/* kernel-pages: the clock by the vdso and by vsyscall; the first is a fault, the second none. */
static sigjmp_buf without_vsyscall;

static void on_no_vsyscall(int number)
{
	siglongjmp(without_vsyscall, number);
}

static void do_kernel_pages(void)
{
	struct timespec now;
	struct reading *r = begin("vdso", -1);
	clock_gettime(CLOCK_MONOTONIC, &now);
	end(r);
	signal(SIGSEGV, on_no_vsyscall);
	r = begin("vsyscall", 0);
	if (!sigsetjmp(without_vsyscall, 1))
		((long (*)(long *))0xffffffffff600400UL)(NULL); /* time(2) */
	end(r);
}

/* ring N: a packet socket's ring of N pages: its driver maps them all as it is mapped. */
static void do_ring(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0));
	struct tpacket_req request = {
		.tp_block_size = PAGE, .tp_block_nr = N, .tp_frame_size = 2048, .tp_frame_nr = 2 * N,
	};
	if (fd < 0) {
		say("missing packet-sockets\n");
		return;
	}
	check(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) == 0, "ring");
	struct reading *r = begin("ring", 0);
	void *p = mmap(START, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	end(r);
	check(p == START, "mmap of a packet ring");
	touch_read(START, N);
}

static void set_hole(void) { range("hole", hole(N), N); }

/* devmem N: N pages of the BIOS's memory: no struct page stands behind them. */
static void do_devmem(void)
{
	int fd = open("/dev/mem", O_RDONLY | O_CLOEXEC);
	void *p = fd < 0 ? MAP_FAILED
			 : mmap(START, N * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0xf0000);
	if (p != START) {
		say("missing /dev/mem\n");
		return;
	}
	touch_read(START, N);
}

SUBCOMMANDS({"race", 3, 0, set_race, do_race},
	    {"uffd-retry", 1, 0, set_uffd, do_write},
	    {"kernel-pages", 0, 0, set_nothing, do_kernel_pages},
	    {"ring", 1, 0, set_hole, do_ring},
	    {"devmem", 1, 0, set_hole, do_devmem})
