/* SPDX-License-Identifier: MIT */
/* A program to make a flame graph of: several ways to come by memory, in several threads. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, noclone))
#define MIB ((size_t)1 << 20)

struct node {
	struct node *next;
	char data[200];
};

static struct node *list;

KEEP static void grow_list(int count)
{
	while (count--) {
		struct node *node = malloc(sizeof(*node));
		node->next = list;
		node->data[0] = 1;
		list = node;
	}
}

KEEP static char *fill_table(size_t size)
{
	return memset(malloc(size), 1, size);
}

KEEP static void read_input(size_t size)
{
	int input = open("/dev/zero", O_RDONLY);
	char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	madvise(memory, size, MADV_NOHUGEPAGE);
	if (read(input, memory, size) != (ssize_t)size)
		abort();
	close(input);
}

KEEP static unsigned long *count_words(size_t size)
{
	unsigned long *counts = malloc(size);

	for (size_t at = 0; at < size / sizeof(*counts); at += 64)
		counts[at] = at;
	return counts;
}

KEEP static void build_index(void)
{
	grow_list(20000);
	fill_table(6 * MIB);
	count_words(3 * MIB);
}

KEEP static void load(void)
{
	read_input(8 * MIB);
	build_index();
}

KEEP static void *serve(void *rounds)
{
	pthread_setname_np(pthread_self(), "server");
	for (long round = 0; round < (long)rounds; round++)
		free(fill_table(MIB));
	count_words(MIB);
	return 0;
}

int main(void)
{
	pthread_t threads[3];

	for (long at = 0; at < 3; at++)
		pthread_create(&threads[at], 0, serve, (void *)(at + 1));
	load();
	for (int at = 0; at < 3; at++)
		pthread_join(threads[at], 0);
	return 0;
}
