/* SPDX-License-Identifier: MIT */
/*
 * workload [--no-wait] [--dir D] SUBCOMMAND [NUMBERS…]: page faults with a known answer.
 *
 * It prints one fact a line:
 *   range NAME 0xSTART PAGES               where the faults will be
 *   file PATH MAGIC                        the file mapped there; its file system's magic, hex
 *   child PID                              a process it forked
 *   ready PID TID                          then it waits for a line on stdin, and acts
 *   thread TID BEFORE AFTER EXPECTED LABEL min_flt + maj_flt of a thread around a step;
 *                                          EXPECTED -1 where it is the kernel's choice
 *   resident NAME PAGES                    pages present afterwards, where that is the question
 *   done                                   then it waits for a line, and ends by _exit
 *
 * Between two readings only the faults of the step occur: all other memory has
 * been touched before (`touch_everything`), there is no stdio and no malloc.
 * Regions lie between PROT_NONE pages, so that no mapping merges with another,
 * and are MADV_NOHUGEPAGE, so that no fault brings more than its page.
 * Numbers: N pages first; see `subcommands` below. `exec N SUBCOMMAND …` becomes that one
 * after the last line, with a `ready` of its own; `exit` ends instead of acting.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define MAX_THREADS 256
#define THREAD_STACK (16 * PAGE)

struct range {
	const char *name;
	unsigned char *start;
	size_t pages;
};

struct reading {
	const char *label;
	long tid, before, after, expected;
};

static struct range ranges[16];
static int range_count;
static struct reading readings[MAX_THREADS + 16];
static int reading_count;
static char line[512], maps[256 << 10], path[256], page_of_ret[PAGE];
static long numbers[4];
static int no_wait, file_fd = -1, release_pipe[2] = {-1, -1};
static pid_t child;
static char **rest;

static void die(const char *what)
{
	fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
	if (path[0])
		unlink(path);
	_exit(2);
}

static void check(int ok, const char *what)
{
	if (!ok)
		die(what);
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int length = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	check(write(1, line, length) == length, "stdout");
}

static void wait_for_line(void)
{
	char c = 0;
	while (!no_wait && c != '\n')
		if (read(0, &c, 1) != 1)
			die("stdin");
}

/* ---- counting -------------------------------------------------------- */

static long faults(void)
{
	struct rusage usage;
	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static struct reading *begin(const char *label, long expected)
{
	struct reading *r = &readings[__atomic_fetch_add(&reading_count, 1, __ATOMIC_SEQ_CST)];
	r->label = label;
	r->expected = expected;
	r->tid = syscall(SYS_gettid);
	r->before = faults();
	return r;
}

static void end(struct reading *r)
{
	r->after = faults();
}

static void say_readings(void)
{
	for (int i = 0; i < reading_count; i++) {
		struct reading *r = &readings[i];
		say("thread %ld %ld %ld %ld %s\n", r->tid, r->before, r->after, r->expected,
		    r->label);
	}
	reading_count = 0;
}

/* ---- memory ---------------------------------------------------------- */

static void touch_write(unsigned char *start, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		((volatile unsigned char *)start)[i * PAGE] = 1;
}

static void touch_read(unsigned char *start, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		(void)((volatile unsigned char *)start)[i * PAGE];
}

static int in_a_range(unsigned char *p)
{
	for (int i = 0; i < range_count; i++)
		if (p >= ranges[i].start && p < ranges[i].start + ranges[i].pages * PAGE)
			return 1;
	return 0;
}

static void touch_mapping(unsigned char *p, unsigned char *stop, const char *perms)
{
	for (; p < stop; p += PAGE) {
		volatile unsigned char *byte = p;
		if (in_a_range(p))
			continue;
		if (perms[1] == 'w' && perms[3] == 'p')
			*byte = *byte;
		else
			(void)*byte;
	}
}

static void read_maps(void)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	ssize_t n, used = 0;
	check(fd >= 0, "/proc/self/maps");
	while ((n = read(fd, maps + used, sizeof(maps) - 1 - used)) > 0)
		used += n;
	close(fd);
	maps[used] = 0;
}

/* Fault in all memory but the ranges, so that nothing else faults later. After a fork, too. */
static void touch_everything(void)
{
	read_maps();
	for (char *next, *at = maps; *at; at = next) {
		next = strchr(at, '\n') + 1;
		next[-1] = 0;
		char *perms;
		unsigned char *start = (unsigned char *)strtoul(at, &perms, 16);
		unsigned char *stop = (unsigned char *)strtoul(perms + 1, &perms, 16);
		perms++;
		if (perms[0] == 'r' && !strstr(at, "[v")) /* not [vvar], [vdso], [vsyscall] */
			touch_mapping(start, stop, perms);
	}
}

static unsigned char *stack_bottom(void)
{
	read_maps();
	char *at = strstr(maps, "[stack]");
	check(at != NULL, "no [stack]");
	while (at > maps && at[-1] != '\n')
		at--;
	return (unsigned char *)strtoul(at, NULL, 16);
}

/* Untouchable address space with room for `pages` and a page on either side. */
static unsigned char *hole(size_t pages)
{
	unsigned char *p = mmap(NULL, (pages + 2) * PAGE, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(p != MAP_FAILED, "mmap");
	return p + PAGE;
}

static void map_at(unsigned char *at, size_t pages, int prot, int flags, int fd, size_t offset)
{
	check(mmap(at, pages * PAGE, prot, flags | MAP_FIXED, fd, offset * PAGE) == at, "mmap");
	if (!(flags & MAP_POPULATE))
		madvise(at, pages * PAGE, MADV_NOHUGEPAGE); /* EINVAL where there is no THP */
}

static unsigned char *range(const char *name, unsigned char *start, size_t pages)
{
	ranges[range_count++] = (struct range){name, start, pages};
	say("range %s 0x%lx %zu\n", name, (unsigned long)start, pages);
	return start;
}

static unsigned char *region(const char *name, size_t pages, int flags)
{
	unsigned char *p = hole(pages);
	map_at(p, pages, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	return range(name, p, pages);
}

static unsigned char *anon(size_t pages)
{
	return region("anon", pages, MAP_PRIVATE);
}

/* A file of `pages` pages, each full of `ret` instructions, in the page cache and clean. */
static void make_file(size_t pages)
{
	struct statfs fs;
	memset(page_of_ret, 0xc3, PAGE);
	file_fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0700);
	check(file_fd >= 0, path);
	for (size_t i = 0; i < pages; i++)
		check(write(file_fd, page_of_ret, PAGE) == (ssize_t)PAGE, path);
	check(fsync(file_fd) == 0 && fstatfs(file_fd, &fs) == 0, path);
	say("file %s 0x%lx\n", path, (unsigned long)fs.f_type);
}

static unsigned char *file_region(size_t pages, int prot, int flags)
{
	unsigned char *p = hole(pages);
	make_file(pages);
	map_at(p, pages, prot, flags, file_fd, 0);
	return range("file", p, pages);
}

/* A mapping a page, in descending file order: none merges, so fault-around stays in its page. */
static unsigned char *file_pages(size_t pages, int prot, int flags)
{
	unsigned char *p = hole(pages);
	make_file(pages);
	for (size_t i = 0; i < pages; i++)
		map_at(p + i * PAGE, 1, prot, flags, file_fd, pages - 1 - i);
	return range("file", p, pages);
}

/* ---- one process, one thread ----------------------------------------- */

#define START ranges[0].start
#define N ((size_t)numbers[0])

static void set_anon(void) { anon(N); }
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

static void do_write(void)
{
	struct reading *r = begin("write", N);
	touch_write(START, N);
	end(r);
}

static void do_read(void)
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

/* ---- several processes ----------------------------------------------- */

static void until_released(void)
{
	char c;
	close(release_pipe[1]);
	while (read(release_pipe[0], &c, 1) > 0)
		;
	_exit(0);
}

static void set_remote(void)
{
	anon(N);
	unsigned char *source = hole(N);
	map_at(source, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ranges[1].start = source;
	check(pipe2(release_pipe, O_CLOEXEC) == 0 && (child = fork()) >= 0, "fork");
	if (child == 0)
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

/* ---- several threads: threads N T, late-threads N T, storm T N R ------- */

static pthread_barrier_t starting, finished, leaving;
static pthread_t threads[MAX_THREADS];
static long rounds = 1;
static int same_pages;

static void *thread_main(void *argument)
{
	size_t i = (size_t)argument;
	unsigned char *mine = START + (same_pages ? 0 : i * N * PAGE);
	pthread_barrier_wait(&starting);
	struct reading *r = begin("thread", same_pages ? -1 : (long)N * rounds);
	for (long round = 0; round < rounds; round++) {
		if (round)
			madvise(mine, N * PAGE, MADV_DONTNEED);
		touch_write(mine, N);
	}
	end(r);
	pthread_barrier_wait(&finished);
	pthread_barrier_wait(&leaving);
	return NULL;
}

static void start_threads(void)
{
	size_t count = numbers[1];
	unsigned char *stacks = hole(count * THREAD_STACK / PAGE);
	map_at(stacks, count * THREAD_STACK / PAGE, PROT_READ | PROT_WRITE,
	       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	touch_write(stacks, count * THREAD_STACK / PAGE);
	for (size_t i = 0; i < count; i++) {
		pthread_attr_t attributes;
		pthread_attr_init(&attributes);
		pthread_attr_setstack(&attributes, stacks + i * THREAD_STACK, THREAD_STACK);
		errno = pthread_create(&threads[i], &attributes, thread_main, (void *)i);
		check(errno == 0, "pthread_create");
	}
}

static void set_regions_for_threads(void)
{
	size_t count = numbers[1];
	errno = EINVAL;
	check(count > 0 && count <= MAX_THREADS, "number of threads");
	anon(same_pages ? N : N * count);
	pthread_barrier_init(&starting, NULL, count + 1);
	pthread_barrier_init(&finished, NULL, count + 1);
	pthread_barrier_init(&leaving, NULL, count + 1);
}

static void set_threads(void)
{
	set_regions_for_threads();
	start_threads();
}

static void set_threads_same(void)
{
	same_pages = 1;
	set_threads();
}

static void set_storm(void) /* storm T N R */
{
	long count = numbers[0];
	numbers[0] = numbers[1];
	numbers[1] = count;
	rounds = numbers[2];
	set_threads();
}

static void do_threads(void)
{
	pthread_barrier_wait(&starting);
	pthread_barrier_wait(&finished);
}

static void do_late_threads(void)
{
	start_threads();
	do_threads();
}

/* ---- the protocol ----------------------------------------------------- */

static void set_nothing(void) {}
static void do_exit(void) { _exit(0); }

static const struct subcommand {
	const char *name;
	int numbers, optional;
	void (*set)(void), (*act)(void);
} subcommands[] = {
	{"anon-write", 1, 0, set_anon, do_write},
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
	{"short-lived", 1, 0, set_short_lived, do_short_lived},
	{"remote", 1, 0, set_remote, do_remote},
	{"fork-cow", 3, 1, set_anon, do_fork_cow},
	{"threads", 2, 0, set_threads, do_threads},
	{"threads-same", 2, 0, set_threads_same, do_threads},
	{"late-threads", 2, 0, set_regions_for_threads, do_late_threads},
	{"storm", 3, 0, set_storm, do_threads},
	{"exec", 1, 0, set_anon, do_write},
	{"exit", 0, 0, set_nothing, do_exit},
};

static void usage(void)
{
	fprintf(stderr, "usage: workload [--no-wait] [--dir D] SUBCOMMAND [NUMBERS]\n");
	for (size_t i = 0; i < sizeof(subcommands) / sizeof(*subcommands); i++)
		fprintf(stderr, "  %s\n", subcommands[i].name);
	_exit(2);
}

static const struct subcommand *parse(char **argv)
{
	const char *directory = ".";
	const struct subcommand *chosen = NULL;
	for (argv++; *argv && !strncmp(*argv, "--", 2); argv++) {
		if (!strcmp(*argv, "--no-wait"))
			no_wait = 1;
		else if (!strcmp(*argv, "--dir") && argv[1])
			directory = *++argv;
		else
			usage();
	}
	for (size_t i = 0; *argv && i < sizeof(subcommands) / sizeof(*subcommands); i++)
		if (!strcmp(subcommands[i].name, *argv))
			chosen = &subcommands[i];
	if (!chosen)
		usage();
	for (int i = 0; i < chosen->numbers + chosen->optional; i++) {
		if (argv[1])
			numbers[i] = atol(*++argv);
		else if (i < chosen->numbers)
			usage();
	}
	rest = argv + 1;
	snprintf(path, sizeof(path), "%s/workload.%d", directory, getpid());
	return chosen;
}

static void become_next(char **argv)
{
	char **at = argv;
	while (*++at && !strncmp(*at, "--", 2))
		at += !strcmp(*at, "--dir");
	for (char **from = rest; (*at++ = *from); from++)
		;
	execv("/proc/self/exe", argv);
	die("execv");
}

int main(int argc, char **argv)
{
	(void)argc;
	const struct subcommand *chosen = parse(argv);
	touch_everything();
	chosen->set();
	say("ready %d %ld\n", getpid(), syscall(SYS_gettid));
	wait_for_line();
	chosen->act();
	say_readings();
	say("done\n");
	wait_for_line();
	if (child) {
		close(release_pipe[1]);
		waitpid(child, NULL, 0);
	}
	if (path[0])
		unlink(path);
	if (!strcmp(chosen->name, "exec") && *rest)
		become_next(argv);
	_exit(0);
}
