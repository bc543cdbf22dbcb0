/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The state of a walk through a user stack, and its reads of that stack.
 */
#ifndef PAGEFAULT_UNWIND_H
#define PAGEFAULT_UNWIND_H

#define STACK_WINDOW 2048 /* bytes of the user's stack that are read at once; a power of two */
#define BELOW 48          /* … of which so many below the word asked for: registers saved there */
#define CACHED_RULES 256
#define LARGEST_STACK (8 << 20) /* a thread's, as a rule */
#define UNBOUNDED_COPY 16384    /* bytes copied of a stack whose end is not known */
#define UNKNOWN_REGISTER 1      /* one that is not known: nothing is there, and it is not 0 */

/* The registers of a frame. */
struct frame {
	u64 ip;
	u64 sp;
	u64 fp;
	u64 bx;
	u64 exact; /* ip is the faulting instruction, no return address */
};

struct unwind {
	struct program program;
	struct frame at;
	u64 mm;
	u64 tgid;
	u64 epoch; /* rules_epoch, with which keys are kept */
	u64 part;  /* bytes of the copy that were read last */
	u64 stack_end;
	u64 heap_start;
	u64 heap_end;
	u64 hash;    /* of the frames so far */
	u64 count;   /* frames */
	u64 end;     /* END_… */
	u64 read_at; /* where `words` begin, and how many bytes of them there are */
	u64 read_size;
	u64 saved[7]; /* of a signal frame */
	u64 words[STACK_WINDOW / 8 + 8];
	u64 keys[CACHED_RULES];
	struct rule rules[CACHED_RULES];
};

/* A word of the user's stack: of what was read at once, or of what lies there from now on. */
static __always_inline int stack_word(struct unwind *u, u64 address, u64 *word)
{
	u64 offset = address - u->read_at;

	if (offset >= u->read_size) {
		u->read_at = address - BELOW;
		u->read_size = 0;
		offset = BELOW;
		if (!bpf_probe_read_user(u->words, STACK_WINDOW, (void *)(address - BELOW)))
			u->read_size = STACK_WINDOW - 8;
	}
	if (offset < u->read_size) {
		offset >>= 3;
		COUNTED(offset);
		offset &= STACK_WINDOW / 8 - 1;
		*word = u->words[offset];
		return 0;
	}
	return bpf_probe_read_user(word, 8, (void *)address);
}

/* Read the stack from the innermost frame on, as far as it is mapped. */
static __always_inline void begin_reading(struct unwind *u, u64 sp)
{
	u32 size;

	u->read_at = sp;
	u->read_size = STACK_WINDOW - 8;
	if (!bpf_probe_read_user(u->words, STACK_WINDOW, (void *)sp))
		return;
	size = (4096 - (sp & 4095)) & (STACK_WINDOW - 1);
	u->read_size = size;
	if (bpf_probe_read_user(u->words, size, (void *)sp))
		u->read_size = 0;
}

#endif
