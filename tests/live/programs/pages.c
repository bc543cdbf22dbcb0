/* SPDX-License-Identifier: MIT */
/* One process, one thread. */
#include "workload.h"
#include <setjmp.h>

void set_anon(void) { anon(N); }
static void set_shared_anon(void) { region("shared", N, MAP_SHARED); }
static void set_file_around(void) { file_region(N, PROT_READ, MAP_PRIVATE); }
static void set_file_private(void) { file_region(N, PROT_READ | PROT_WRITE, MAP_PRIVATE); }
static void set_file_shared(void) { file_region(N, PROT_READ | PROT_WRITE, MAP_SHARED); }
static void set_file_pages(void) { file_pages(N, PROT_READ, MAP_PRIVATE); }
static void set_file_code(void) { file_pages(N, PROT_READ | PROT_EXEC, MAP_PRIVATE); }
static void set_mkwrite(void) { file_pages(N, PROT_READ | PROT_WRITE, MAP_SHARED); }

static void set_file_cold(void)
{
	file_region(N, PROT_READ, MAP_PRIVATE);
	madvise(START, N * PAGE, MADV_RANDOM);
	posix_fadvise(file_fd, 0, 0, POSIX_FADV_DONTNEED);
}

void do_write(void)
{
	struct reading *r = begin("write", N);
	touch_write(START, N);
	end(r);
}

void do_read(void)
{
	struct reading *r = begin("read", N);
	touch_read(START, N);
	end(r);
}

static void do_read_unknown(void)
{
	struct reading *r = begin("read", -1);
	touch_read(START, N);
	end(r);
}

static void do_read_then_write(void)
{
	do_read();
	do_write();
}

static void do_mkwrite(void) /* tmpfs maps pages writable at once: no second fault there */
{
	do_read();
	do_write();
	readings[1].expected = -1;
}

static void do_fetch(void)
{
	struct reading *r = begin("fetch", N);
	for (size_t i = 0; i < N; i++)
		((void (*)(void))(START + i * PAGE))();
	end(r);
}

static void do_dontneed(void)
{
	do_write();
	check(madvise(START, N * PAGE, MADV_DONTNEED) == 0, "madvise");
	do_write();
}

static void set_populate(void) { range("anon", hole(N), N); }

static void do_populate(void)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* the mapping is too new to be advised */
	struct reading *r = begin("populate", N);
	map_at(START, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	end(r);
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

static void do_mlock(void)
{
	struct reading *r = begin("mlock", N);
	int failed = mlock(START, N * PAGE);
	end(r);
	check(!failed, "mlock");
}

static void set_huge(void)
{
	unsigned char *p = hole(3 * HUGE / PAGE);
	p = (unsigned char *)(((unsigned long)p + HUGE - 1) & ~(HUGE - 1));
	map_at(p, HUGE / PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(madvise(p, HUGE, MADV_HUGEPAGE) == 0, "madvise(MADV_HUGEPAGE)");
	range("huge", p, HUGE / PAGE);
}

static void do_huge(void)
{
	unsigned char present[HUGE / PAGE];
	memset(present, 0, sizeof(present));
	struct reading *r = begin("write", 1);
	touch_write(START, 1);
	end(r);
	size_t count = 0;
	check(mincore(START, HUGE, present) == 0, "mincore");
	for (size_t i = 0; i < HUGE / PAGE; i++)
		count += present[i] & 1;
	say("resident huge %zu\n", count);
}

static void set_stack(void) { range("stack", stack_bottom() - N * PAGE, N); }

static void do_stack(void) /* downwards, a page at a time, as calls would */
{
	struct reading *r = begin("write", N);
	for (size_t i = N; i-- > 0;)
		touch_write(START + i * PAGE, 1);
	end(r);
}

static void set_read_into(void)
{
	file_fd = memfd_create("workload", MFD_CLOEXEC);
	check(file_fd >= 0, "memfd_create");
	for (size_t i = 0; i < N; i++)
		check(write(file_fd, page_of_ret, PAGE) == (ssize_t)PAGE, "memfd");
	anon(N);
}

static void do_read_into(void)
{
	struct reading *r = begin("read(2)", N);
	ssize_t n = pread(file_fd, START, N * PAGE, 0);
	end(r);
	check(n == (ssize_t)(N * PAGE), "pread");
}

static sigjmp_buf after_bus;

static void on_bus(int number)
{
	siglongjmp(after_bus, number);
}

static void set_sigbus(void)
{
	file_region(N, PROT_READ | PROT_WRITE, MAP_SHARED);
	check(ftruncate(file_fd, 0) == 0, "ftruncate");
	signal(SIGBUS, on_bus);
}

static void do_sigbus(void) /* the kernel does not count a fault that fails */
{
	struct reading *r = begin("sigbus", 0);
	for (volatile size_t i = 0; i < N; i++)
		if (!sigsetjmp(after_bus, 1))
			touch_read(START + i * PAGE, 1);
	end(r);
}

static void set_short_lived(void)
{
	make_file(N);
	range("short", hole(1), 1);
}

static void do_short_lived(void)
{
	struct reading *r = begin("anon+file", 2 * N);
	for (size_t i = 0; i < N; i++) {
		map_at(START, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		touch_write(START, 1);
		munmap(START, PAGE);
		map_at(START, 1, PROT_READ, MAP_PRIVATE, file_fd, i);
		touch_read(START, 1);
		munmap(START, PAGE);
	}
	end(r);
}

SUBCOMMANDS({"anon-write", 1, 0, set_anon, do_write},
	    {"zero-then-cow", 1, 0, set_anon, do_read_then_write},
	    {"file-read", 1, 0, set_file_pages, do_read},
	    {"file-around", 1, 0, set_file_around, do_read_unknown},
	    {"file-cold", 1, 0, set_file_cold, do_read_unknown},
	    {"file-private-write", 1, 0, set_file_private, do_write},
	    {"file-shared-write", 1, 0, set_file_shared, do_write},
	    {"file-mkwrite", 1, 0, set_mkwrite, do_mkwrite},
	    {"fetch", 1, 0, set_file_code, do_fetch},
	    {"shared-anon", 1, 0, set_shared_anon, do_write},
	    {"populate", 1, 0, set_populate, do_populate},
	    {"mlock", 1, 0, set_anon, do_mlock},
	    {"huge", 0, 0, set_huge, do_huge},
	    {"dontneed", 1, 0, set_anon, do_dontneed},
	    {"stack", 1, 0, set_stack, do_stack},
	    {"read-into", 1, 0, set_read_into, do_read_into},
	    {"sigbus", 1, 0, set_sigbus, do_sigbus},
	    {"short-lived", 1, 0, set_short_lived, do_short_lived})
