/* SPDX-License-Identifier: MIT */
/* Pages that come without a fault of their own: populated, pinned, written from elsewhere. */
#include "workload.h"
#include <linux/io_uring.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* populate-read N, populate-write N (since 5.14) */
static void populate(int advice, const char *label)
{
	struct reading *r = begin(label, -1);
	int failed = madvise(START, N * PAGE, advice);
	end(r);
	if (failed && errno == EINVAL) {
		say("resident missing 1\n");
		return;
	}
	check(!failed, label);
	r->expected = N;
}

static void do_populate_read(void) { populate(MADV_POPULATE_READ, "populate"); }
static void do_populate_write(void) { populate(MADV_POPULATE_WRITE, "populate"); }

static void filled_and_unmapped(int flags)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* the mapping is too new to be advised */
	struct reading *r = begin("populate", N);
	map_at(START, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	end(r);
	check(munmap(START, N * PAGE) == 0, "munmap");
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

/* populate-gone N: filled as it is mapped, and unmapped before a snapshot. */
static void do_populate_gone(void) { filled_and_unmapped(MAP_POPULATE); }

/* mlock-gone N: the same after mlockall(MCL_FUTURE). */
static void do_mlock_gone(void)
{
	check(mlockall(MCL_FUTURE) == 0, "mlockall");
	filled_and_unmapped(0);
	check(munlockall() == 0, "munlockall");
}

static void set_hole(void) { range("anon", hole(N), N); }

/* mlock-refused N: where the kernel has its own page tables, and where no address leads. */
static void do_mlock_refused(void)
{
	const unsigned long places[] = {0xffffffff81000000, 0xffff888000000000, 0x888000000000,
					0x1000000000000 | (unsigned long)START};

	touch_write(START, N);
	for (int i = 0; i < 4; i++)
		check(mlock((void *)places[i], 1 << 21) && madvise((void *)places[i], 1 << 21, 23),
		      "to be refused");
}

/* mlock-future N: mlockall(MCL_FUTURE), then a mapping, which is filled as it is made. */
static void do_mlock_future(void)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* the mapping is too new to be advised */
	check(mlockall(MCL_FUTURE) == 0, "mlockall");
	struct reading *r = begin("populate", N);
	map_at(START, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	end(r);
	check(munlockall() == 0, "munlockall");
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

/* mlock-all N: everything that is mapped, what no fault has touched yet included. */
static void do_mlock_all(void)
{
	struct reading *r = begin("populate", -1);
	int failed = mlockall(MCL_CURRENT);
	end(r);
	check(!failed, "mlockall");
	check(munlockall() == 0, "munlockall");
}

/* outside N: another process writes here; then no fault is left. */
static void do_outside(void)
{
	stop_at("write");
	struct reading *r = begin("after", 0);
	touch_write(START, N);
	end(r);
}

/* outside-zero N: read first: another process's write takes the zero page's place. */
static void do_outside_zero(void)
{
	do_read();
	do_outside();
}

static void set_direct(void)
{
	make_file(N);
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	check(fd >= 0, "open(O_DIRECT)");
	file_fd = fd;
	anon(N);
}

/* direct-read N: the disk's own transfer into memory that nothing has touched. */
static void do_direct_read(void)
{
	struct reading *r = begin("pread", N);
	ssize_t n = pread(file_fd, START, N * PAGE, 0);
	end(r);
	check(n == (ssize_t)(N * PAGE), "pread");
}

/*
 * uring N DIRECT ASYNC: the same read through io_uring, by the kernel's worker thread if
 * ASYNC. By raw system calls: the submission and completion rings are shared memory.
 */
static struct io_uring_params params;
static int ring_fd = -1;
static unsigned char *ring, *entries;

static void set_uring(void)
{
	if (numbers[1])
		set_direct();
	else {
		make_file(N);
		anon(N);
	}
	ring_fd = syscall(SYS_io_uring_setup, 2, &params);
	if (ring_fd < 0) {
		say("resident missing 1\n");
		return;
	}
	check(params.features & IORING_FEAT_SINGLE_MMAP, "io_uring features");
	size_t size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd,
		    IORING_OFF_SQ_RING);
	entries = mmap(NULL, params.sq_entries * sizeof(struct io_uring_sqe),
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd, IORING_OFF_SQES);
	check(ring != MAP_FAILED && entries != MAP_FAILED, "mmap(io_uring)");
}

static void do_uring(void)
{
	if (ring_fd < 0)
		return;
	struct io_uring_sqe *sqe = (struct io_uring_sqe *)entries;
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_READ;
	sqe->flags = numbers[2] ? IOSQE_ASYNC : 0;
	sqe->fd = file_fd;
	sqe->addr = (unsigned long)START;
	sqe->len = N * PAGE;
	unsigned *tail = (unsigned *)(ring + params.sq_off.tail);
	((unsigned *)(ring + params.sq_off.array))[*tail & (params.sq_entries - 1)] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	struct reading *r = begin("io_uring", numbers[1] || numbers[2] ? -1 : (long)N);
	int done = syscall(SYS_io_uring_enter, ring_fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	end(r);
	check(done == 1, "io_uring_enter");
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(ring + params.cq_off.cqes);
	errno = cqe->res < 0 ? -cqe->res : 0;
	check(cqe->res == (int)(N * PAGE), "io_uring read");
}

SUBCOMMANDS({"populate-read", 1, 0, set_anon, do_populate_read},
	    {"populate-write", 1, 0, set_anon, do_populate_write},
	    {"populate-gone", 1, 0, set_hole, do_populate_gone},
	    {"mlock-refused", 1, 0, set_anon, do_mlock_refused},
	    {"mlock-gone", 1, 0, set_hole, do_mlock_gone},
	    {"mlock-future", 1, 0, set_hole, do_mlock_future},
	    {"mlock-all", 1, 0, set_anon, do_mlock_all},
	    {"outside", 1, 0, set_anon, do_outside},
	    {"outside-zero", 1, 0, set_anon, do_outside_zero},
	    {"direct-read", 1, 0, set_direct, do_direct_read},
	    {"uring", 3, 0, set_uring, do_uring})
