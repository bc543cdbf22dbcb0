/* SPDX-License-Identifier: MIT */
/* What the files of the golden programs share: functions that stay, and pages to fault on. */
#ifndef GOLDEN_H
#define GOLDEN_H

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define FIRST 3 /* faults of a scenario's first round, and of its second */
#define SECOND 5

/* A function that is called as it is written: not inlined, cloned, or known to its callers. */
#define OWN __attribute__((noipa))
/* After a call: it is not the last thing that a function does, and so no jump. */
#define AFTER_CALL __asm__ volatile("" ::: "memory")
/* A local variable that is in the frame. */
#define KEEP(variable) __asm__ volatile("" ::"r"(&(variable)) : "memory")

/* `act` faults on the pages from `fresh` to `stop`; its range has `times` the pages of others. */
struct scenario {
	const char *name;
	void (*act)(void);
	int times;
};

#define SCENARIOS(...) \
	__attribute__((constructor)) static void offer_scenarios(void) \
	{ \
		static const struct scenario these[] = {__VA_ARGS__}; \
		add_scenarios(these, sizeof(these) / sizeof(*these)); \
	}

extern unsigned char *fresh, *stop;
extern int round_number;    /* 0, 1 */
extern char folder[256];    /* where the program lies, with the slash */
extern char successor[256]; /* the program that it becomes */

void add_scenarios(const struct scenario *these, size_t count);
void check(int ok, const char *what);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void pause_for(long ms, long ms_in_guest); /* for the tracer, which is slow in a guest */
unsigned char *region(const char *name, size_t pages);

static inline __attribute__((always_inline)) void touch_one(void)
{
	if (fresh < stop) {
		*(volatile unsigned char *)fresh = 1;
		fresh += PAGE;
	}
}

static inline __attribute__((always_inline)) void touch_all(void)
{
	while (fresh < stop)
		touch_one();
}

#endif
