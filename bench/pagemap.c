/* SPDX-License-Identifier: MIT */
/*
 * pagemap PID: read the pagemap of all a process has mapped, and do nothing with it.
 * pagemap -g PID: print every page as `ptdump -g` does, with printf.
 *
 * What the kernel needs to hand a pagemap over, and what the obvious program needs for the dump.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096UL
#define CHUNK 65536UL

static uint64_t entries[CHUNK];

static int hex_digits(uint64_t value)
{
	int digits = 1;

	while (value >>= 4)
		digits++;
	return digits;
}

/* One call of printf a line. */
static void print(uint64_t start, size_t count, const char *perms, const char *path)
{
	const char *gap = *path ? "         " : "";
	size_t i;

	for (i = 0; i < count; i++) {
		uint64_t address = start + i * PAGE, entry = entries[i];
		uint64_t frame = entry >> 63 ? (entry & ((1UL << 55) - 1)) * PAGE : 0;
		int blanks = 34 - 2 - hex_digits(address) - 2 - hex_digits(frame);

		printf("0x%" PRIx64 "%*s0x%" PRIx64 "%20lu%12s%13s%16s%s%s\n", address, blanks, "",
		       frame, PAGE, perms, entry >> 63 ? "true" : "false",
		       entry >> 62 & 1 ? "true" : "false", gap, path);
	}
}

static void region(int pagemap, uint64_t start, uint64_t end, const char *perms, const char *path)
{
	while (start < end) {
		size_t count = (end - start) / PAGE < CHUNK ? (end - start) / PAGE : CHUNK;
		ssize_t got = pread(pagemap, entries, count * 8, start / PAGE * 8);

		/* vsyscall lies outside what pagemap knows. */
		if (got < (ssize_t)(count * 8))
			memset((char *)entries + (got > 0 ? got : 0), 0, count * 8 - (got > 0 ? got : 0));
		if (perms)
			print(start, count, perms, path);
		start += count * PAGE;
	}
}

int main(int argc, char **argv)
{
	int lines = argc == 3 && !strcmp(argv[1], "-g"), pagemap;
	char name[64], text[8192];
	FILE *maps;

	if (argc != 2 + lines) {
		fprintf(stderr, "usage: pagemap [-g] PID\n");
		return 2;
	}
	snprintf(name, sizeof(name), "/proc/%s/pagemap", argv[1 + lines]);
	pagemap = open(name, O_RDONLY);
	snprintf(name, sizeof(name), "/proc/%s/maps", argv[1 + lines]);
	maps = fopen(name, "r");
	if (pagemap < 0 || !maps) {
		perror(name);
		return 1;
	}
	if (lines)
		puts("virt addr              physical addr            size"
		     "          perms        present        swapped       path");
	while (fgets(text, sizeof(text), maps)) {
		uint64_t start, end;
		char perms[5];
		int at = 0;

		if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %*u %n", &start, &end, perms,
			   &at) < 3)
			return 1;
		text[strcspn(text, "\n")] = 0;
		region(pagemap, start, end, lines ? perms : NULL, text + at);
	}
	return fflush(stdout) != 0;
}
