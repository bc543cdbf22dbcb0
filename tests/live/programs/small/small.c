/* SPDX-License-Identifier: MIT */
/*
 * small PAGES: a static program of no library, for x86-64 and (with -m32) for i386, that speaks
 * the workload's protocol. By the i386's own system calls it does what changes mappings:
 *
 *   discard  write PAGES pages, MADV_DONTNEED them, write them again
 *   move     mremap them to where `moved` is; unmap their first half there
 *   brk      write PAGES pages of heap, and give half of them back
 */
#ifdef __x86_64__
enum { READ = 0, WRITE = 1, MMAP = 9, MUNMAP = 11, BRK = 12, MREMAP = 25, MADVISE = 28,
       GETPID = 39, EXIT = 60, GETRUSAGE = 98 };
#else
enum { EXIT = 1, READ = 3, WRITE = 4, GETPID = 20, BRK = 45, GETRUSAGE = 77, MUNMAP = 91,
       MREMAP = 163, MMAP = 192 /* mmap2 */, MADVISE = 219 };
#endif
#define PAGE 4096L
#define RUSAGE_THREAD 1
#define MADV_DONTNEED 4
#define MADV_NOHUGEPAGE 15

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
#ifdef __x86_64__
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
#else
	(void)f; /* ebp: a mapping's offset, 0 in all of ours */
	__asm__ volatile("push %%ebp; xor %%ebp, %%ebp; int $0x80; pop %%ebp"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
#endif
	return result;
}

static void check(int ok)
{
	if (!ok)
		call(EXIT, 2, 0, 0, 0, 0, 0);
}

/* ---- words and numbers --------------------------------------------------- */

static char line[256];
static int used;

static void word(const char *text)
{
	while (*text)
		line[used++] = *text++;
	line[used++] = ' ';
}

static void number(unsigned long value, unsigned base)
{
	char digits[24];
	int count = 0;
	do
		digits[count++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (count)
		line[used++] = digits[--count];
	line[used++] = ' ';
}

static void say(void)
{
	line[used - 1] = '\n';
	check(call(WRITE, 1, (long)line, used, 0, 0, 0) == used);
	used = 0;
}

static void wait_for_line(void)
{
	char c = 0;
	while (c != '\n')
		check(call(READ, 0, (long)&c, 1, 0, 0, 0) == 1);
}

static void range(const char *name, unsigned long start, long pages)
{
	word("range");
	word(name);
	line[used++] = '0';
	line[used++] = 'x';
	number(start, 16);
	number(pages, 10);
	say();
}

/* ---- faults ---------------------------------------------------------------- */

static long faults(void)
{
	long usage[18]; /* struct rusage: two timevals, then longs; ru_minflt is the fifth of those */
	for (int i = 0; i < 18; i++)
		usage[i] = 0;
	call(GETRUSAGE, RUSAGE_THREAD, (long)usage, 0, 0, 0, 0);
	return usage[8] + usage[9];
}

struct step {
	const char *label;
	long before, after, expected;
};

static struct step steps[8];
static int step_count;

static void touch(const char *label, unsigned char *start, long pages)
{
	struct step *s = &steps[step_count++];
	s->label = label;
	s->expected = pages;
	s->before = faults();
	for (long i = 0; i < pages; i++)
		((volatile unsigned char *)start)[i * PAGE] = 1;
	s->after = faults();
}

static unsigned char *map(long pages, int protection, long flags)
{
	long p = call(MMAP, 0, (pages + 2) * PAGE, 0, 0x22, -1, 0); /* between PROT_NONE pages */
	check(p < -4095 || p > 0);
	p += PAGE;
	check(call(MMAP, p, pages * PAGE, protection, flags | 0x32, -1, 0) == p);
	call(MADVISE, p, pages * PAGE, MADV_NOHUGEPAGE, 0, 0, 0);
	return (unsigned char *)p;
}

static long parse(const char *text)
{
	long value = 0;
	while (*text)
		value = value * 10 + *text++ - '0';
	return value;
}

__attribute__((used)) void start(long *stack)
{
	long pages = parse((char *)stack[2]);
	unsigned char *anon = map(pages, 3, 0), *moved = map(pages, 0, 0);
	unsigned char *heap = (unsigned char *)call(BRK, 0, 0, 0, 0, 0, 0);
	long pid = call(GETPID, 0, 0, 0, 0, 0, 0);

	heap = (unsigned char *)(((unsigned long)heap + PAGE - 1) & -PAGE);
	range("anon", (unsigned long)anon, pages);
	range("moved", (unsigned long)moved, pages);
	range("heap", (unsigned long)heap, pages);
	((volatile struct step *)steps)[0].label = ""; /* its page is there before it is counted */
	((volatile char *)line)[sizeof(line) - 1] = 0;
	word("ready");
	number(pid, 10);
	number(pid, 10);
	say();
	wait_for_line();
	touch("write", anon, pages);
	check(call(MADVISE, (long)anon, pages * PAGE, MADV_DONTNEED, 0, 0, 0) == 0);
	touch("again", anon, pages);
	check(call(MREMAP, (long)anon, pages * PAGE, pages * PAGE, 3, (long)moved, 0) == (long)moved);
	check(call(MUNMAP, (long)moved, pages / 2 * PAGE, 0, 0, 0, 0) == 0);
	check(call(BRK, (long)heap + pages * PAGE, 0, 0, 0, 0, 0) == (long)heap + pages * PAGE);
	call(MADVISE, (long)heap, pages * PAGE, MADV_NOHUGEPAGE, 0, 0, 0);
	touch("heap", heap, pages);
	check(call(BRK, (long)heap + pages / 2 * PAGE, 0, 0, 0, 0, 0) == (long)heap + pages / 2 * PAGE);
	for (int i = 0; i < step_count; i++) {
		struct step *s = &steps[i];
		word("thread");
		number(pid, 10);
		number(s->before, 10);
		number(s->after, 10);
		number(s->expected, 10);
		word(s->label);
		say();
	}
	word("done");
	say();
	wait_for_line();
	call(EXIT, 0, 0, 0, 0, 0, 0);
}

#ifdef __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#else
__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n"
	" call start\n");
#endif
