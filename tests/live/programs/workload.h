/* SPDX-License-Identifier: MIT */
/* What the workload's files share: the protocol's words, readings, and memory to fault on. */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define MAX_THREADS 256

struct range {
	const char *name;
	unsigned char *start;
	size_t pages;
};

struct reading {
	const char *label;
	long tid, before, after, expected;
};

/* `set` maps and prepares before "ready"; `act` faults. Numbers not given are 0. */
struct subcommand {
	const char *name;
	int numbers, optional;
	void (*set)(void), (*act)(void);
};

/* A file's subcommands: SUBCOMMANDS({"name", 1, 0, set, act}, ...). Once in a file. */
#define SUBCOMMANDS(...)                                                                   \
	__attribute__((constructor)) static void offer_subcommands(void)                   \
	{                                                                                  \
		static const struct subcommand these[] = {__VA_ARGS__};                    \
		add_subcommands(these, sizeof(these) / sizeof(*these));                    \
	}

extern struct range ranges[16];
extern struct reading readings[MAX_THREADS + 16];
extern int reading_count, file_fd, release_pipe[2];
extern long numbers[4];
extern char path[256], page_of_ret[PAGE];
extern pid_t child; /* forked; it ends when release_pipe is closed, and is waited for */

#define START ranges[0].start
#define N ((size_t)numbers[0])

void add_subcommands(const struct subcommand *these, size_t count);
void die(const char *what);
void check(int ok, const char *what);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void wait_for_line(void);
void stop_at(const char *word); /* lets the test act in the middle of a step */

long faults(void); /* min_flt + maj_flt of this thread */
struct reading *begin(const char *label, long expected);
void end(struct reading *r);
void say_readings(void);

void touch_write(unsigned char *start, size_t pages);
void touch_read(unsigned char *start, size_t pages);
void touch_everything(void);
unsigned char *stack_bottom(void);
unsigned char *hole(size_t pages);
void map_at(unsigned char *at, size_t pages, int prot, int flags, int fd, size_t offset);
unsigned char *range(const char *name, unsigned char *start, size_t pages);
unsigned char *region(const char *name, size_t pages, int flags);
unsigned char *anon(size_t pages);
void make_file(size_t pages);
unsigned char *file_region(size_t pages, int prot, int flags);
unsigned char *file_pages(size_t pages, int prot, int flags);
void set_anon(void);
void set_nothing(void);
void do_write(void);
void do_read(void);
void until_released(void);
pid_t fork_settled(void);

#endif
