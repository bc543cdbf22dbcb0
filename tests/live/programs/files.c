/* SPDX-License-Identifier: MIT */
/* Files: what comes along with a fault, and what goes with the file. */
#include "workload.h"
#include <setjmp.h>
#include <sys/vfs.h>

#define RW (PROT_READ | PROT_WRITE)

static int shared(void) { return numbers[1] ? MAP_SHARED : MAP_PRIVATE; }

/* The file's content, in one piece, where large folios are possible; clean afterwards. */
static void write_whole(void)
{
	size_t size = N * PAGE;
	unsigned char *content = mmap(NULL, size, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(content != MAP_FAILED, "mmap");
	check(write(file_fd, content, size) == (ssize_t)size, "write");
	check(fsync(file_fd) == 0 && munmap(content, size) == 0, "fsync");
}

static void open_file(void)
{
	struct statfs fs;
	file_fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0700);
	check(file_fd >= 0 && fstatfs(file_fd, &fs) == 0, path);
	say("file %s 0x%lx\n", path, (unsigned long)fs.f_type);
}

static void open_memfd(void)
{
	file_fd = memfd_create("workload", MFD_CLOEXEC);
	check(file_fd >= 0, "memfd_create");
	say("file /proc/%d/fd/%d 0x01021994\n", getpid(), file_fd);
}

static void set_file_whole(void)
{
	unsigned char *p = hole(N);
	open_file();
	write_whole();
	map_at(p, N, RW, shared(), file_fd, 0);
	range("file", p, N);
}

static void set_file_small(void) { file_region(N, PROT_READ, shared()); }

static void set_file_cold(void)
{
	set_file_whole();
	check(posix_fadvise(file_fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
}

/* file-step N SHARED WRITE STEP: every STEPth page, with a stop after each. */
static void do_file_step(void)
{
	for (size_t i = numbers[3] / 2; i < N; i += numbers[3]) {
		struct reading *r = begin("touch", -1);
		(numbers[2] ? touch_write : touch_read)(START + i * PAGE, 1);
		end(r);
		stop_at("touched");
	}
}

/*
 * Mapped from 6 pages into a page table on, and so into a window of fault-around's: a folio of a
 * huge page's size is mapped page by page there. KIND 1: a file; 2: a memfd.
 */
static void set_file_apart(void)
{
	unsigned char *p = hole(N + HUGE / PAGE + 6);
	p = (unsigned char *)(((unsigned long)p + HUGE - 1) & ~(HUGE - 1)) + 6 * PAGE;
	(numbers[1] == 2 ? open_memfd : open_file)();
	write_whole();
	map_at(p, N, RW, MAP_SHARED, file_fd, 0);
	range("file", p, N);
}

/* file-holes N KIND FIRST STEP: every STEPth page from FIRST on is written, then page 0 read. */
static void do_file_holes(void)
{
	struct reading *r = begin("write", -1);
	for (size_t i = numbers[2]; i < N; i += numbers[3])
		touch_write(START + i * PAGE, 1);
	end(r);
	r = begin("read", 1);
	touch_read(START, 1);
	end(r);
}

static void step(const char *label, long expected, void (*touch)(unsigned char *, size_t))
{
	struct reading *r = begin(label, expected);
	touch(START, N);
	end(r);
}

/* Every page in turn, in the order of the file: readahead where it is cold. */
static void do_file_through(void) { step("read", -1, touch_read); }

/* Read first, then written: a private copy, or page_mkwrite. */
static void do_file_read_write(void)
{
	step("read", -1, touch_read);
	step("write", -1, touch_write);
}

static sigjmp_buf after_bus;

static void on_bus(int number)
{
	siglongjmp(after_bus, number);
}

/* file-gone N KIND AGAIN: KIND 0 a private mapping, 1 a shared one, 2 one of a memfd. */
static void set_file_gone(void)
{
	signal(SIGBUS, on_bus);
	if (numbers[1] < 2) {
		set_file_whole();
		return;
	}
	unsigned char *p = hole(N);
	open_memfd();
	check(ftruncate(file_fd, N * PAGE) == 0, "memfd");
	map_at(p, N, RW, MAP_SHARED, file_fd, 0);
	range("file", p, N);
}

/* Pages are touched; the test discards some of the file; what is touched AGAIN may be gone. */
static void do_file_gone(void)
{
	step("read", -1, numbers[1] < 2 ? touch_read : touch_write);
	stop_at("touched");
	struct reading *r = begin("again", -1);
	for (volatile size_t i = 0; numbers[2] && i < N; i++)
		if (!sigsetjmp(after_bus, 1))
			touch_read(START + i * PAGE, 1);
	end(r);
}

SUBCOMMANDS({"file-step", 4, 0, set_file_whole, do_file_step},
	    {"file-step-small", 4, 0, set_file_small, do_file_step},
	    {"file-holes", 4, 0, set_file_apart, do_file_holes},
	    {"file-through", 2, 0, set_file_cold, do_file_through},
	    {"file-read-write", 2, 0, set_file_whole, do_file_read_write},
	    {"file-gone", 3, 0, set_file_gone, do_file_gone})
