/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Which program each process runs, with UNWIND (--stacks): unwind rules are for a program's
 * addresses (struct program).
 */
#ifndef PAGEFAULT_PROGRAMS_BPF_H
#define PAGEFAULT_PROGRAMS_BPF_H

#ifdef UNWIND

BPF_HASH(programs, u32, struct program, 65536);                    /* by tgid */
BPF_TABLE("lru_hash", u64, struct program, known_programs, 16384); /* by their own number */
BPF_HASH(unalike, u64, u8, 4096); /* whose libraries lie differently in each process: by `shared` */

/* What the running thread's process runs, as it is after an exec, or at the attach. */
static __always_inline void new_program(u64 task, u32 tgid, struct program *p)
{
	u64 mm = 0, file = 0, inode = 0, device = 0, number = 0;
	u32 generation = 0, reported = 0;

	READ(mm, task, O_TASK_MM);
	READ(file, mm, O_MM_EXE_FILE);
	READ(inode, file, O_FILE_INODE);
	READ(number, inode, O_INODE_INO);
	READ(generation, inode, O_INODE_GENERATION);
	READ(device, inode, O_INODE_SUPER);
	READ(p->code_start, mm, O_MM_START_CODE);
	READ(p->code_end, mm, O_MM_END_CODE);
	READ(p->mmap_base, mm, O_MM_MMAP_BASE);
	p->code_start &= ~4095ULL;
	if (p->code_end < p->code_start)
		p->code_start = p->code_end = 0; /* a file without code */
	p->shared = stack_mix(stack_mix(stack_mix(0, number), device), generation);
	p->own = bpf_ktime_get_ns() ^ (u64)bpf_get_prandom_u32() << 32 ^ bpf_get_prandom_u32();
	p->libraries = unalike.lookup(&p->shared) ? p->own : p->shared;
	p->mapped = 0;
	READ(reported, device, O_SUPER_DEVICE);
	p->file = stack_mix(stack_mix(0, number), reported);
	if (programs.update(&tgid, p))
		p->own = p->libraries = stack_mix(p->shared, mm); /* too many: the same each time */
	known_programs.update(&p->own, p);
}

/* Copy what the running thread's process runs. */
static __always_inline void find_program(u64 task, u32 tgid, struct program *p)
{
	struct program *known = programs.lookup(&tgid);

	if (known)
		*p = *known;
	else
		new_program(task, tgid, p);
}

#endif

static __always_inline void program_forked(u32 tgid, u32 child)
{
#ifdef UNWIND
	struct program *known = programs.lookup(&tgid);

	if (known)
		programs.update(&child, known);
	else
		programs.delete(&child);
#endif
}

/* After an exec, too: the new program is known from its first stack on. */
static __always_inline void program_ended(u32 tgid)
{
#ifdef UNWIND
	programs.delete(&tgid);
#endif
}

/* A process has mapped code of a file: the same addresses may be other frames from now on. */
static __always_inline void mapped_code(u32 tgid)
{
#ifdef UNWIND
	struct program *known = programs.lookup(&tgid);

	if (known)
		__sync_fetch_and_add(&known->mapped, 1);
#endif
}

#endif
