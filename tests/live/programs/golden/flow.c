/* SPDX-License-Identifier: MIT */
/* Stacks that are not a thread's own, or have not begun in main: signals, threads, processes. */
#include "golden.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>

#define THREADS 64

/* ---- signal, signal-stack, signal-first: a handler, on this stack or on its own ---- */

void signal_traps(void);
void signal_first(unsigned char *page);
static unsigned char *guarded; /* a page that cannot be written until the handler allows it */

OWN void signal_touches(void)
{
	touch_all();
}

OWN void signal_handles(int number, siginfo_t *info, void *context)
{
	char own[88];
	(void)info, (void)context;
	KEEP(own);
	if (number == SIGSEGV)
		check(mprotect(guarded, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
	signal_touches();
	AFTER_CALL;
}

static void handle(int number, int flags)
{
	struct sigaction action = {.sa_sigaction = signal_handles, .sa_flags = SA_SIGINFO | flags};
	check(sigaction(number, &action, NULL) == 0, "sigaction");
}

OWN void signal_outer(void)
{
	handle(SIGTRAP, 0);
	signal_traps();
	AFTER_CALL;
}

OWN void signal_stack_outer(void)
{
	static char memory[64 << 10];
	stack_t stack = {.ss_sp = memory, .ss_size = sizeof(memory)};
	memset(memory, 0, sizeof(memory)); /* the kernel does not fault there */
	check(sigaltstack(&stack, NULL) == 0, "sigaltstack");
	handle(SIGTRAP, SA_ONSTACK);
	signal_traps();
	AFTER_CALL;
}

OWN void signal_first_outer(void)
{
	if (!guarded)
		guarded = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(guarded != MAP_FAILED && mprotect(guarded, PAGE, PROT_NONE) == 0, "mprotect");
	handle(SIGSEGV, 0);
	signal_first(guarded);
	AFTER_CALL;
}

/* ---- coroutine: a stack that begins in no thread's start ---- */

static ucontext_t coroutine_context, coroutine_caller;

OWN void coroutine_touches(void)
{
	touch_all();
}

OWN void coroutine_begins(void)
{
	char own[56];
	KEEP(own);
	coroutine_touches();
	AFTER_CALL;
}

/* It has a frame pointer, which the coroutine's registers begin with. */
OWN void coroutine_outer(void)
{
	static char memory[64 << 10];
	char own[fresh == stop ? 40 : 80];
	KEEP(own);
	check(getcontext(&coroutine_context) == 0, "getcontext");
	coroutine_context.uc_stack.ss_sp = memory;
	coroutine_context.uc_stack.ss_size = sizeof(memory);
	coroutine_context.uc_link = &coroutine_caller;
	makecontext(&coroutine_context, coroutine_begins, 0);
	check(swapcontext(&coroutine_caller, &coroutine_context) == 0, "swapcontext");
}

/* ---- threads: all at once, each on pages of its own ---- */

static pthread_barrier_t all_there;

OWN void thread_touches(unsigned char *from, unsigned char *to)
{
	for (; from < to; from += PAGE)
		*(volatile unsigned char *)from = 1;
}

OWN void thread_middle(unsigned char *from, unsigned char *to)
{
	char own[120];
	KEEP(own);
	thread_touches(from, to);
	AFTER_CALL;
}

OWN void *thread_begins(void *number)
{
	size_t size = (stop - fresh) / THREADS;
	unsigned char *from = fresh + (size_t)number * size;
	pthread_barrier_wait(&all_there);
	thread_middle(from, from + size);
	AFTER_CALL;
	return NULL;
}

static void start_threads(void)
{
	pthread_t threads[THREADS];
	pthread_barrier_init(&all_there, NULL, THREADS);
	for (size_t i = 0; i < THREADS; i++) {
		errno = pthread_create(&threads[i], NULL, thread_begins, (void *)i);
		check(errno == 0, "pthread_create");
	}
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	fresh = stop;
}

/* ---- fork, vfork, vfork-exec: in the child, whose stack goes on in its parent's ---- */

OWN void fork_touches(void)
{
	touch_all();
}

OWN void fork_middle(void)
{
	long own[9];
	KEEP(own);
	fork_touches();
	AFTER_CALL;
}

OWN void fork_outer(void)
{
	pid_t pid = fork();
	check(pid >= 0, "fork");
	if (!pid) {
		fork_middle();
		_exit(0);
	}
	check(waitpid(pid, NULL, 0) == pid, "waitpid");
	fresh = stop;
}

OWN void vfork_touches(void)
{
	touch_all();
}

/* Before it becomes another program it faults in the memory of its parent. */
OWN void vfork_becomes(void)
{
	long own[4];
	KEEP(own);
	vfork_touches();
	if (round_number)
		execl(successor, successor, "again", "vfork-exec", NULL);
	_exit(0);
}

OWN void vfork_outer(void)
{
	pid_t pid = vfork();
	check(pid >= 0, "vfork");
	if (!pid)
		vfork_becomes();
	check(waitpid(pid, NULL, 0) == pid, "waitpid");
}

/* The one on its own stack comes first: nothing is known of the functions below it. */
SCENARIOS({"signal-stack", signal_stack_outer, 1}, {"signal", signal_outer, 1},
	  {"signal-first", signal_first_outer, 1}, {"coroutine", coroutine_outer, 1},
	  {"threads", start_threads, THREADS}, {"fork", fork_outer, 1}, {"vfork", vfork_outer, 1})
