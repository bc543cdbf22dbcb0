/* SPDX-License-Identifier: MIT */
/* Pages larger than a page: transparent ones, hugetlb, the huge zero page, shared memory's. */
#include "workload.h"
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif
#define HUGE_PAGES (HUGE / PAGE)
#define RW (PROT_READ | PROT_WRITE)

/* A hole for `pages` pages, in whose middle an address is huge-aligned; that address. */
static unsigned char *aligned(size_t pages)
{
	unsigned long p = (unsigned long)hole(pages + 2 * HUGE_PAGES);
	return (unsigned char *)((p + 2 * HUGE - 1) & ~(HUGE - 1));
}

/* A region that begins huge-aligned; `advice` 0: none is given. */
static unsigned char *large(const char *name, size_t pages, int flags, int fd, int advice)
{
	unsigned char *p = aligned(pages);
	flags |= MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0);
	check(mmap(p, pages * PAGE, RW, flags, fd, 0) == p, "mmap");
	if (advice)
		check(madvise(p, pages * PAGE, advice) == 0, "madvise");
	return range(name, p, pages);
}

static void written(const char *label, size_t first, size_t pages, long expected)
{
	struct reading *r = begin(label, expected);
	touch_write(START + first * PAGE, pages);
	end(r);
}

static void read_in(const char *label, size_t first, size_t pages, long expected)
{
	struct reading *r = begin(label, expected);
	touch_read(START + first * PAGE, pages);
	end(r);
}

/* What happens to the pages [first, first + pages) of a huge page: 0 munmap, 1 mprotect, … */
static void part(long what, size_t first, size_t pages)
{
	unsigned char *p = START + first * PAGE;
	switch (what) {
	case 0:
		check(munmap(p, pages * PAGE) == 0, "munmap");
		break;
	case 1:
		check(mprotect(p, pages * PAGE, PROT_READ) == 0, "mprotect");
		break;
	case 2:
		check(madvise(p, pages * PAGE, MADV_DONTNEED) == 0, "MADV_DONTNEED");
		break;
	}
}

static void set_thp(void) { large("huge", 2 * HUGE_PAGES, MAP_PRIVATE, -1, MADV_HUGEPAGE); }

/* thp-split WHAT FIRST PAGES: two huge pages by two faults; then part of the first goes. */
static void do_thp_split(void)
{
	written("huge", 0, 1, 1);
	written("huge", HUGE_PAGES + 7, 1, 1);
	part(numbers[0], numbers[1], numbers[2]);
	read_in("after", 0, numbers[1], 0);
	read_in("after", numbers[1] + numbers[2], HUGE_PAGES - numbers[1] - numbers[2], 0);
	if (numbers[0] == 2) /* there is a page table now: small pages */
		written("again", numbers[1], numbers[2], numbers[2]);
}

/* thp-zero WHAT FIRST PAGES: the huge zero page is read, then written (3) or split. */
static void do_thp_zero(void)
{
	read_in("zero", 3, 1, 1);
	read_in("zero", 0, HUGE_PAGES, 0);
	if (numbers[0] == 3)
		written("write", numbers[1], numbers[2], -1);
	else
		part(numbers[0], numbers[1], numbers[2]);
	read_in("after", 0, 1, 0);
}

/*
 * thp-clean FIRST PAGES: a huge page is written, then clean (MADV_FREE), then shared with a child,
 * which write-protects it; its entry has then nothing that the huge zero page's has not.
 */
static void do_thp_clean(void)
{
	written("huge", 0, 1, 1);
	check(madvise(START, HUGE, MADV_FREE) == 0, "MADV_FREE");
	check(pipe2(release_pipe, O_CLOEXEC) == 0, "pipe2");
	check((child = fork()) >= 0, "fork");
	touch_everything();
	if (child == 0)
		until_released();
	say("child %d\n", child);
	written("write", numbers[0], numbers[1], -1);
}

static void set_small(void) { large("huge", HUGE_PAGES, MAP_PRIVATE, -1, MADV_NOHUGEPAGE); }

/*
 * collapse N HOW: the first N pages of a huge page are written one by one; then they are
 * made one: by MADV_COLLAPSE (HOW 0), or by khugepaged while the test waits (1).
 */
static void do_collapse(void)
{
	written("write", 0, N, N);
	check(madvise(START, HUGE, MADV_HUGEPAGE) == 0, "MADV_HUGEPAGE");
	if (numbers[1])
		stop_at("collapse");
	else
		check(madvise(START, HUGE, MADV_COLLAPSE) == 0, "MADV_COLLAPSE");
	written("after", 0, HUGE_PAGES, -1);
}

/* Regions for folios of several sizes: shorter than a huge page, so that none fits. */
static void set_mthp(void)
{
	large("folios", numbers[0] * numbers[1], numbers[2] ? MAP_SHARED : MAP_PRIVATE, -1,
	      MADV_HUGEPAGE);
}

/* mthp FOLIOS PAGES SHARED FIRST: a write to page FIRST of each folio brings the folio. */
static void do_mthp(void)
{
	for (size_t i = 0; i < N; i++)
		written("folio", i * numbers[1] + numbers[3], 1, 1);
	written("rest", 0, N * numbers[1], 0);
}

/* hugetlb PAGES HOW: 0 private, 1 shared, 2 a memfd. */
static void set_hugetlb(void)
{
	int fd = -1, flags = MAP_HUGETLB | (numbers[1] ? MAP_SHARED : MAP_PRIVATE);
	if (numbers[1] == 2) {
		fd = memfd_create("workload", MFD_CLOEXEC | MFD_HUGETLB);
		check(fd >= 0 && ftruncate(fd, N * HUGE) == 0, "memfd_create(MFD_HUGETLB)");
		flags = MAP_SHARED;
	}
	large("hugetlb", N * HUGE_PAGES, flags, fd, 0);
}

static void write_each(const char *label, size_t first, size_t count, long expected)
{
	struct reading *r = begin(label, expected);
	for (size_t i = first; i < first + count; i++)
		touch_write(START + i * HUGE + 5 * PAGE, 1);
	end(r);
}

/* Each huge page is written; after a fork the child writes the first, then we the last. */
static void do_hugetlb_fork(void)
{
	int done[2];
	char c;
	write_each("write", 0, N, N);
	check(pipe2(release_pipe, O_CLOEXEC) == 0 && pipe2(done, O_CLOEXEC) == 0, "pipe2");
	check((child = fork()) >= 0, "fork");
	touch_everything();
	if (child == 0) {
		reading_count = 0;
		write_each("child", 0, 1, -1);
		say_readings();
		check(write(done[1], "", 1) == 1, "pipe");
		close(done[1]);
		until_released();
	}
	say("child %d\n", child);
	check(read(done[0], &c, 1) == 1, "the child");
	write_each("parent", N - 1, 1, -1);
}

/* A file on a tmpfs of our own with huge=always. */
static void huge_file(void)
{
	char place[sizeof(path) + 16];

	snprintf(place, sizeof(place), "%s.tmpfs", path);
	check(unshare(CLONE_NEWNS) == 0, "unshare");
	check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "mount");
	check(mkdir(place, 0700) == 0, place);
	check(mount("workload", place, "tmpfs", 0, "huge=always") == 0, "tmpfs");
	strcat(place, "/file");
	file_fd = open(place, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	check(file_fd >= 0, place);
}

/* shmem-huge HOW: 0 a memfd, 1 a file on tmpfs. */
static void set_shmem_huge(void)
{
	if (numbers[0])
		huge_file();
	else
		file_fd = memfd_create("workload", MFD_CLOEXEC);
	check(file_fd >= 0 && ftruncate(file_fd, 2 * HUGE) == 0, "a file on tmpfs");
	large("huge", 2 * HUGE_PAGES, MAP_SHARED, file_fd, 0);
}

/* shmem-huge HOW WHAT FIRST PAGES: written by one fault each; part of the first goes. */
static void do_shmem_huge(void)
{
	written("huge", 0, 1, 1);
	written("huge", HUGE_PAGES + 9, 1, 1);
	part(numbers[1], numbers[2], numbers[3]);
	stop_at("parted");
	/* A file's huge page is unmapped whole: what is left is faulted in again. */
	read_in("again", 0, numbers[2], -1);
	read_in("again", numbers[2] + numbers[3], HUGE_PAGES - numbers[2] - numbers[3], -1);
}

/* shmem-private FIRST: a private mapping of a huge page of tmpfs, read, then written there. */
static void set_shmem_private(void)
{
	char page[PAGE] = {1};

	huge_file();
	for (size_t i = 0; i < 2 * HUGE_PAGES; i++)
		check(write(file_fd, page, PAGE) == (ssize_t)PAGE, "write");
	large("huge", HUGE_PAGES, MAP_PRIVATE, file_fd, 0);
}

static void do_shmem_private(void)
{
	read_in("read", 0, 1, 1);
	written("write", numbers[0], 1, -1);
	stop_at("written");
	read_in("again", 0, HUGE_PAGES, -1);
}

static void set_shmem_small(void)
{
	file_fd = memfd_create("workload", MFD_CLOEXEC);
	check(file_fd >= 0 && ftruncate(file_fd, HUGE) == 0, "memfd_create");
	large("huge", HUGE_PAGES, MAP_SHARED, file_fd, MADV_NOHUGEPAGE);
}

SUBCOMMANDS({"thp-split", 3, 0, set_thp, do_thp_split},
	    {"thp-zero", 3, 0, set_thp, do_thp_zero},
	    {"thp-clean", 2, 0, set_thp, do_thp_clean},
	    {"collapse", 2, 0, set_small, do_collapse},
	    {"shmem-collapse", 2, 0, set_shmem_small, do_collapse},
	    {"mthp", 4, 0, set_mthp, do_mthp},
	    {"hugetlb-fork", 2, 0, set_hugetlb, do_hugetlb_fork},
	    {"shmem-private", 1, 0, set_shmem_private, do_shmem_private},
	    {"shmem-huge", 4, 0, set_shmem_huge, do_shmem_huge})
