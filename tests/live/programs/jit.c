/* SPDX-License-Identifier: MIT */
/* Code made at run time, as .NET makes it: in a memfd mapped twice, listed in a perf map. */
#include "workload.h"

/* void fill(unsigned char *start, size_t pages): writes to each page; keeps a frame pointer. */
static const unsigned char fill[] = {
	0x55, 0x48, 0x89, 0xe5,			  /* push %rbp; mov %rsp, %rbp */
	0xc6, 0x07, 0x01,			  /* 1: movb $1, (%rdi) */
	0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /* add $4096, %rdi */
	0x48, 0xff, 0xce, 0x75, 0xf1,		  /* dec %rsi; jnz 1b */
	0x5d, 0xc3,				  /* pop %rbp; ret */
};

static unsigned char *writable, *executable;

/* Make a function there, and list it under this name. */
static void compile(size_t at, const char *name)
{
	char file[64];
	snprintf(file, sizeof file, "/tmp/perf-%d.map", getpid());
	FILE *map = fopen(file, "a");
	check(map != NULL, file);
	memcpy(writable + at, fill, sizeof fill);
	fprintf(map, "%lx %zx %s\n", (unsigned long)(executable + at), sizeof fill, name);
	fclose(map);
}

static void run(size_t at, int part)
{
	((void (*)(unsigned char *, size_t))(executable + at))(START + part * N * PAGE, N);
}

static void set_jit(void)
{
	int code = memfd_create("doublemapper", 0);
	check(code >= 0 && ftruncate(code, PAGE) == 0, "memfd_create");
	writable = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
	executable = mmap(0, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, code, 0);
	check(writable != MAP_FAILED && executable != MAP_FAILED, "mmap");
	unsigned char *start = anon(4 * N);
	range("first", start, N);
	range("second", start + N * PAGE, N);
	range("again", start + 2 * N * PAGE, N);
	range("replaced", start + 3 * N * PAGE, N);
	compile(0, "jit::first");
}

/* jit N: two functions fault on N pages each, the second compiled when the first has; then a
   third takes the place of the first. */
static void do_jit(void)
{
	struct reading *r = begin("jit", -1);
	run(0, 0);
	stop_at("first");
	compile(256, "jit::second");
	run(256, 1);
	run(0, 2);
	stop_at("again");
	compile(0, "jit::third");
	stop_at("third");
	run(0, 3);
	end(r);
}

SUBCOMMANDS({"jit", 1, 0, set_jit, do_jit})
