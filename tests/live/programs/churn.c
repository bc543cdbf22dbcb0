/* SPDX-License-Identifier: MIT */
/*
 * What a long run is made of, in steps: churn N S does S steps ("at step" after each) of N rounds.
 * A round touches and gives back pages, maps at an address never used before, starts a thread,
 * a child, and now and then a program. programs N S: the same with a program every round.
 */
#include "workload.h"
#include <pthread.h>

#define REUSED 16
#define APART (4UL << 20)

static unsigned char *fresh = (unsigned char *)0x100000000000;

static void *one_fault(void *page)
{
	*(unsigned char *)page = 1;
	return NULL;
}

static void set_churn(void) { anon(REUSED + 2); }

static void start_child(int program)
{
	pid_t pid = fork();
	check(pid >= 0, "fork");
	if (!pid) {
		START[0] = 2;
		if (program)
			execl("/bin/true", "true", (char *)NULL);
		_exit(0);
	}
	check(waitpid(pid, NULL, 0) == pid, "waitpid");
}

static void round_of_churn(int program)
{
	pthread_t thread;

	touch_write(START, REUSED);
	madvise(START, REUSED * PAGE, MADV_DONTNEED);
	unsigned char *once = mmap(fresh, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	check(once == fresh, "mmap");
	*once = 1;
	munmap(once, PAGE);
	fresh += APART;
	errno = pthread_create(&thread, NULL, one_fault, START + REUSED * PAGE);
	check(errno == 0, "pthread_create");
	pthread_join(thread, NULL);
	madvise(START + REUSED * PAGE, PAGE, MADV_DONTNEED);
	start_child(program);
}

static void churn(size_t a_program)
{
	for (long step = 0; step < numbers[1]; step++) {
		for (size_t i = 0; i < N; i++)
			round_of_churn(i % a_program == 0);
		START[(REUSED + 1) * PAGE] = 1; /* the last fault of a step */
		madvise(START + (REUSED + 1) * PAGE, PAGE, MADV_DONTNEED);
		stop_at("step");
	}
}

static void do_churn(void) { churn(8); }
static void do_programs(void) { churn(1); }

SUBCOMMANDS({"churn", 2, 0, set_churn, do_churn}, {"programs", 2, 0, set_churn, do_programs})
