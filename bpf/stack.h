/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Call stacks, with STACKS (--stacks). One that was not seen lately is sent whole; a fault's
 * record has only its id.
 */
#ifndef PAGEFAULT_STACK_H
#define PAGEFAULT_STACK_H

#define STACK_KERNEL 32
#define STACK_IPS (sizeof(((struct stack_record *)0)->ips) / 8) /* in one record */

#define USER_END 0x00ffffffffffffffULL /* above it: kernel addresses, with 4 and 5 levels */
#define LOWEST_CODE 0x10000            /* vm.mmap_min_addr, usually */

/* Too large for a program's own stack. */
struct stack {
	struct stack_record head; /* without ips */
	u64 window[WINDOW_ENTRIES];
	/* With room for a whole last record. */
	u64 kernel[STACK_KERNEL + STACK_IPS];
	u64 user[STACK_USER + STACK_IPS];
};

/* A hash that identifies a stack: two that differ collide with a probability of 2^-64. */
static __always_inline u64 stack_mix(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

/* Whether the 8 bytes before an address end in a call: direct, or of any indirect form. */
static __always_inline int ends_in_call(u64 code)
{
	/* clang-format off */
	return (code >> 24 & 0xff) == 0xe8
		|| (code >> 48 & 0x38ff) == 0x10ff
		|| (code >> 40 & 0x38ff) == 0x10ff
		|| (code >> 32 & 0x38ff) == 0x10ff
		|| (code >> 16 & 0x38ff) == 0x10ff
		|| (code >> 8 & 0x38ff) == 0x10ff;
	/* clang-format on */
}

static __always_inline u64 stack_mix_all(u64 hash, u64 *ips, u32 count, u32 most)
{
	for (u32 i = 0; i < most; i++) {
		if (i >= count)
			break;
		COUNTED(i);
		hash = stack_mix(hash, ips[i]);
	}
	return hash;
}

#endif
