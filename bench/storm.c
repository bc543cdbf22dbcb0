/* SPDX-License-Identifier: MIT */
/*
 * storm [-t THREADS] [-r RATE] PAGES ROUNDS: first writes to fresh private anonymous small pages.
 *
 * Prints `ready PID`, then obeys lines on stdin: `poke N` takes N faults and answers `poked`;
 * anything else, or the end of the input, begins the storm. Each round of each thread prints
 *
 *     CPU_NS WALL_NS FAULTS ADDRESS
 *
 * for the touching alone: the thread's CPU time, the wall clock's, the kernel's count of the
 * thread's faults meanwhile, and where its PAGES pages were. Each round maps anew and unmaps
 * afterwards, because a mapping emptied with MADV_DONTNEED keeps its page tables and would be
 * cheaper from round two on. With RATE, each thread takes that many faults a second, no more.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define POKES 4096UL
#define MOST_THREADS 256
#define SECOND 1000000000LL

static size_t pages;
static int rounds;
static long rate; /* faults a second and thread; 0: as many as it can */
static pthread_barrier_t together;

static long long nanoseconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

static void sleep_until(long long when)
{
	struct timespec then = {.tv_sec = when / SECOND, .tv_nsec = when % SECOND};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL))
		;
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static volatile char *fresh(size_t count)
{
	void *memory = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || madvise(memory, count * PAGE, MADV_NOHUGEPAGE)) {
		perror("storm");
		exit(1);
	}
	return memory;
}

/* `due` is when the next fault may come; a thousandth of a second's faults come in a row. */
static void touch_slowly(volatile char *memory, size_t count, long long *due)
{
	size_t i, burst = rate / 1000 ? rate / 1000 : 1;

	for (i = 0; i < count; i++) {
		if (i % burst == 0) {
			sleep_until(*due);
			*due += burst * SECOND / rate;
		}
		memory[i * PAGE] = 1;
	}
}

static void storm(size_t count, long long *due, FILE *out)
{
	volatile char *memory = fresh(count);
	long long cpu, wall;
	long taken;
	size_t i;

	taken = faults();
	wall = nanoseconds(CLOCK_MONOTONIC);
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
	if (rate)
		touch_slowly(memory, count, due);
	else
		for (i = 0; i < count; i++)
			memory[i * PAGE] = 1;
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	wall = nanoseconds(CLOCK_MONOTONIC) - wall;
	taken = faults() - taken;
	if (!out)
		return; /* and keep the pages: their address is no round's, then */
	munmap((void *)memory, count * PAGE);
	fprintf(out, "%lld %lld %ld %lx\n", cpu, wall, taken, (unsigned long)memory);
}

static void *one_thread(void *out)
{
	long long due = nanoseconds(CLOCK_MONOTONIC);
	int i;

	storm(1, &due, NULL); /* what it runs through for the first time faults, too */
	pthread_barrier_wait(&together);
	due = nanoseconds(CLOCK_MONOTONIC);
	for (i = 0; i < rounds; i++)
		storm(pages, &due, out);
	return NULL;
}

/* Its pages stay mapped, so that their addresses are no round's. */
static void obey(void)
{
	volatile char *memory = fresh(POKES);
	unsigned long count, next = 0;
	char line[32];

	while (fgets(line, sizeof(line), stdin) && sscanf(line, "poke %lu", &count) == 1) {
		while (count--) {
			if (next == POKES) {
				madvise((void *)memory, POKES * PAGE, MADV_DONTNEED);
				next = 0;
			}
			memory[next++ * PAGE] = 1;
		}
		printf("poked\n");
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	pthread_t thread[MOST_THREADS];
	long threads = 1, i;
	int option;

	while ((option = getopt(argc, argv, "t:r:")) != -1) {
		if (option == 't')
			threads = atol(optarg);
		else if (option == 'r')
			rate = atol(optarg);
		else
			return 2;
	}
	pages = argc == optind + 2 ? strtoul(argv[optind], NULL, 10) : 0;
	rounds = argc == optind + 2 ? atoi(argv[optind + 1]) : 0;
	if (!pages || rounds < 1 || threads < 1 || threads > MOST_THREADS || rate < 0) {
		fprintf(stderr, "usage: storm [-t THREADS] [-r RATE] PAGES ROUNDS\n");
		return 2;
	}
	printf("ready %d\n", getpid());
	fflush(stdout);
	obey();
	pthread_barrier_init(&together, NULL, threads);
	for (i = 1; i < threads; i++)
		if (pthread_create(&thread[i], NULL, one_thread, stdout))
			return 1;
	one_thread(stdout);
	for (i = 1; i < threads; i++)
		pthread_join(thread[i], NULL);
	return 0;
}
