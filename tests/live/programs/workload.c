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
 *   at WORD                                it waits for a line in the middle of acting
 *   done                                   then it waits for a line, and ends by _exit
 *
 * Between two readings only the faults of the step occur: all other memory has
 * been touched before (`touch_everything`), there is no stdio and no malloc.
 * Regions lie between PROT_NONE pages, so that no mapping merges with another,
 * and are MADV_NOHUGEPAGE, so that no fault brings more than its page.
 * Numbers: N pages first; the other files here offer the subcommands. `exec N SUBCOMMAND …`
 * becomes that one after the last line, with a `ready` of its own; `exit` ends instead of acting.
 */
#include "workload.h"
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#define MAX_SUBCOMMANDS 128

struct range ranges[16];
static int range_count;
struct reading readings[MAX_THREADS + 16];
int reading_count;
static char line[512], maps[256 << 10];
char path[256], page_of_ret[PAGE];
long numbers[4];
static int no_wait;
int file_fd = -1, release_pipe[2] = {-1, -1};
pid_t child;
static char **rest;
static struct subcommand subcommands[MAX_SUBCOMMANDS];
static size_t subcommand_count;

void die(const char *what)
{
	fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
	if (path[0])
		unlink(path);
	_exit(2);
}

void check(int ok, const char *what)
{
	if (!ok)
		die(what);
}

void say(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int length = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	check(write(1, line, length) == length, "stdout");
}

void wait_for_line(void)
{
	char c = 0;
	while (!no_wait && c != '\n')
		if (read(0, &c, 1) != 1)
			die("stdin");
}

void stop_at(const char *word)
{
	say("at %s\n", word);
	wait_for_line();
}

/* ---- counting -------------------------------------------------------- */

long faults(void)
{
	struct rusage usage;
	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

struct reading *begin(const char *label, long expected)
{
	struct reading *r = &readings[__atomic_fetch_add(&reading_count, 1, __ATOMIC_SEQ_CST)];
	r->label = label;
	r->expected = expected;
	r->tid = syscall(SYS_gettid);
	r->before = faults();
	return r;
}

void end(struct reading *r)
{
	r->after = faults();
}

void say_readings(void)
{
	for (int i = 0; i < reading_count; i++) {
		struct reading *r = &readings[i];
		say("thread %ld %ld %ld %ld %s\n", r->tid, r->before, r->after, r->expected,
		    r->label);
	}
	reading_count = 0;
}

/* ---- memory ---------------------------------------------------------- */

void touch_write(unsigned char *start, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		((volatile unsigned char *)start)[i * PAGE] = 1;
}

void touch_read(unsigned char *start, size_t pages)
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
void touch_everything(void)
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

unsigned char *stack_bottom(void)
{
	read_maps();
	char *at = strstr(maps, "[stack]");
	check(at != NULL, "no [stack]");
	while (at > maps && at[-1] != '\n')
		at--;
	return (unsigned char *)strtoul(at, NULL, 16);
}

/* Untouchable address space with room for `pages` and a page on either side. */
unsigned char *hole(size_t pages)
{
	unsigned char *p = mmap(NULL, (pages + 2) * PAGE, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(p != MAP_FAILED, "mmap");
	return p + PAGE;
}

void map_at(unsigned char *at, size_t pages, int prot, int flags, int fd, size_t offset)
{
	check(mmap(at, pages * PAGE, prot, flags | MAP_FIXED, fd, offset * PAGE) == at, "mmap");
	if (!(flags & MAP_POPULATE))
		madvise(at, pages * PAGE, MADV_NOHUGEPAGE); /* EINVAL where there is no THP */
}

unsigned char *range(const char *name, unsigned char *start, size_t pages)
{
	ranges[range_count++] = (struct range){name, start, pages};
	say("range %s 0x%lx %zu\n", name, (unsigned long)start, pages);
	return start;
}

unsigned char *region(const char *name, size_t pages, int flags)
{
	unsigned char *p = hole(pages);
	map_at(p, pages, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	return range(name, p, pages);
}

unsigned char *anon(size_t pages)
{
	return region("anon", pages, MAP_PRIVATE);
}

/* A file of `pages` pages, each full of `ret` instructions, in the page cache and clean. */
void make_file(size_t pages)
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

unsigned char *file_region(size_t pages, int prot, int flags)
{
	unsigned char *p = hole(pages);
	make_file(pages);
	map_at(p, pages, prot, flags, file_fd, 0);
	return range("file", p, pages);
}

/* A mapping a page, in descending file order: none merges, so fault-around stays in its page. */
unsigned char *file_pages(size_t pages, int prot, int flags)
{
	unsigned char *p = hole(pages);
	make_file(pages);
	for (size_t i = 0; i < pages; i++)
		map_at(p + i * PAGE, 1, prot, flags, file_fd, pages - 1 - i);
	return range("file", p, pages);
}

/* ---- the protocol ----------------------------------------------------- */

void add_subcommands(const struct subcommand *these, size_t count)
{
	check(subcommand_count + count <= MAX_SUBCOMMANDS, "too many subcommands");
	memcpy(subcommands + subcommand_count, these, count * sizeof(*these));
	subcommand_count += count;
}

static void usage(void)
{
	fprintf(stderr, "usage: workload [--no-wait] [--dir D] SUBCOMMAND [NUMBERS]\n");
	for (size_t i = 0; i < subcommand_count; i++)
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
	for (size_t i = 0; *argv && i < subcommand_count; i++)
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
