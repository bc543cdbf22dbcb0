/* SPDX-License-Identifier: MIT */
/*
 * golden: faults whose call stacks are known, of code without frame pointers. Each scenario
 * faults on a range of its own, named as it is, in two rounds: in the first the tracer learns
 * the rules of the code, in the second the kernel has them. It speaks the workload's protocol.
 * At the end it becomes golden once more (`golden again RANGE`).
 */
#include "golden.h"
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>

#define MOST 64
#ifndef SUCCESSOR
#define SUCCESSOR "" /* what the name of the program that it becomes has at its end */
#endif
#ifndef AGAIN_FRAME
#define AGAIN_FRAME 512
#endif

unsigned char *fresh, *stop;
int round_number;
char folder[256], successor[256];
static struct scenario scenarios[MOST];
static unsigned char *regions[MOST];
static size_t scenario_count;

void check(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "golden: %s: %s\n", what, strerror(errno));
	_exit(2);
}

void say(const char *format, ...)
{
	char line[512];
	va_list args;
	va_start(args, format);
	int length = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	check(write(1, line, length) == length, "stdout");
}

void pause_for(long ms, long ms_in_guest)
{
	long all = getenv("PAGEFAULT_GUEST") ? ms_in_guest : ms;
	struct timespec time = {all / 1000, all % 1000 * 1000 * 1000};
	nanosleep(&time, NULL);
}

void add_scenarios(const struct scenario *these, size_t count)
{
	check(scenario_count + count <= MOST, "too many scenarios");
	memcpy(scenarios + scenario_count, these, count * sizeof(*these));
	scenario_count += count;
}

/* Between pages that cannot be touched: it merges with no other, and no huge page is there. */
unsigned char *region(const char *name, size_t pages)
{
	unsigned char *start =
		mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(start != MAP_FAILED, "mmap");
	start += PAGE;
	check(mprotect(start, pages * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
	madvise(start, pages * PAGE, MADV_NOHUGEPAGE); /* EINVAL where there is no THP */
	say("range %s 0x%lx %zu\n", name, (unsigned long)start, pages);
	return start;
}

static void wait_for_line(void)
{
	for (char c = 0; c != '\n';)
		check(read(0, &c, 1) == 1, "stdin");
}

static void next_round(unsigned char *start, int times)
{
	fresh = start + (round_number ? FIRST * times * PAGE : 0);
	stop = fresh + (round_number ? SECOND : FIRST) * times * PAGE;
}

/* So that the kernel, which writes signal frames there, does not fault on the stack itself. */
OWN void touch_stack(void)
{
	char own[128 << 10];
	memset(own, 0, sizeof(own));
	KEEP(own);
}

OWN void again_touches(void)
{
	char own[AGAIN_FRAME];
	KEEP(own);
	touch_all();
	KEEP(own);
}

OWN void again_outer(void)
{
	char own[2 * AGAIN_FRAME];
	KEEP(own);
	again_touches();
	AFTER_CALL;
}

/* What an exec has made of it. */
static int again(const char *name)
{
	unsigned char *start = region(name, FIRST + SECOND);
	for (round_number = 0; round_number < 2; round_number++) {
		next_round(start, 1);
		again_outer();
		if (!round_number)
			pause_for(150, 1500);
	}
	if (!strcmp(name, "exec")) {
		say("done\n");
		wait_for_line();
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	memcpy(folder, argv[0], strrchr(argv[0], '/') + 1 - argv[0]);
	snprintf(successor, sizeof(successor), "%s%s", argv[0], SUCCESSOR);
	if (argc > 2)
		return again(argv[2]);
	for (size_t i = 0; i < scenario_count; i++)
		regions[i] = region(scenarios[i].name, scenarios[i].times * (FIRST + SECOND));
	touch_stack();
	say("ready %d %ld\n", getpid(), syscall(SYS_gettid));
	wait_for_line();
	for (round_number = 0; round_number < 2; round_number++) {
		for (size_t i = 0; i < scenario_count; i++) {
			next_round(regions[i], scenarios[i].times);
			scenarios[i].act();
			check(fresh == stop, scenarios[i].name);
		}
		if (!round_number)
			pause_for(150, 2000);
	}
	execl(successor, successor, "again", "exec", NULL);
	check(0, successor);
	return 0;
}
