/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The ring's records: the one definition of their layout.
 *
 * Every record is RECORD_SIZE bytes and starts with the same header, so that
 * user space can view a whole batch as one numpy structured array. `sequence`
 * is the ring's: which record this is, written last (MappedRing, tracer/wire/ring.py).
 * tracer/wire/records.py holds the Python face; it parses this file's field
 * lists at start-up and refuses to run when the two disagree.
 *
 * Fields are naturally aligned and there is no padding.
 */
#ifndef PAGEFAULT_RECORD_H
#define PAGEFAULT_RECORD_H

#define RECORD_SIZE 176

/* record types */
#define RECORD_FAULT   1 /* one completed (or failed) fault */
#define RECORD_WINDOW  2 /* entries around a fault that brought neighbours; comes before it */
#define RECORD_FORK    3 /* a target made a thread or a process */
#define RECORD_EXEC    4 /* a target replaced its address space */
#define RECORD_EXIT    5 /* a target's thread is ending */
#define RECORD_FREE    6 /* a target's thread is gone; its final fault count */
#define RECORD_RENAME  7 /* a target's thread changed its name */
#define RECORD_SYSCALL 8 /* a target changed its mappings */
#define RECORD_CALL    9 /* a target begins such a call, which may take pages from other threads */
#define RECORD_STACK  10 /* part of a call stack; comes before the first fault with that stack */
#define RECORD_FILLED 11 /* a window of what a call filled in advance; comes after its SYSCALL */

/* fault_record.marks */
#define MARK_BEFORE    0x01 /* entry_before and level_before are known */
#define MARK_AFTER     0x02 /* entry_after and level_after are known */
#define MARK_MAPPING   0x04 /* vm_* are those of the mapping the fault was in */
#define MARK_ENTRY     0x08 /* start_ns is known: latency can be told */
#define MARK_FAILED    0x10 /* the fault ended without resolving (no count step) */
#define MARK_ANON_FN   0x20 /* do_anonymous_page ran inside this fault */
#define MARK_FOREIGN   0x40 /* the thread is no target; only the memory is */
#define MARK_ERRORCODE 0x80 /* flags holds the x86 error code, not fault_flag bits */

/* window_record.marks */
#define WINDOW_UNTOLD  0x02 /* what was there before is not known: seen has a row of frames as new */
#define WINDOW_ROW     0x01 /* no window: pages of a page table, in a row of frames */

struct fault_record {
	u8  type;
	u8  marks;
	u8  level_before; /* page-table level of entry_before: 1 PTE, 2 PMD, 3 PUD; 0 no table */
	u8  level_after;
	u32 sequence;
	u64 time_ns;      /* CLOCK_MONOTONIC at completion */
	u32 tgid;         /* the faulting thread's process */
	u32 tid;
	u64 mm;           /* struct mm_struct * of the memory */
	u64 address;      /* faulting virtual address */
	u64 start_ns;     /* CLOCK_MONOTONIC at entry of the first call, before anything is looked at */
	u64 ip;           /* faulting instruction; 0 where there is none */
	u64 entry_before; /* raw page-table entry at entry */
	u32 flags;        /* fault_flag bits, or the x86 error code (MARK_ERRORCODE) */
	u32 calls;        /* handle_mm_fault calls this fault took (1 + retries) */
	u64 vm_start;
	u64 vm_end;
	u64 vm_flags;
	u64 vm_pgoff;     /* in pages */
	u64 inode;        /* i_ino of vm_file; 0 for anonymous memory */
	u64 magic;        /* s_magic of vm_file's file system */
	u32 device;       /* s_dev of vm_file's inode, kernel encoding (major << 20 | minor) */
	u32 owner;        /* tgid of the memory's owner where it is not the thread's own; else 0 */
	u64 entry_after;  /* raw page-table entry at completion */
	u64 count;        /* the thread's min_flt + maj_flt, this fault included */
	u64 current_mm;   /* current->mm */
	u64 unused;       /* not written */
	u32 result;       /* vm_fault_t; on perf VM_FAULT_MAJOR, _SIGBUS and _SIGSEGV (the signal), or 0 */
	u32 cpu;
	u64 stack;        /* the call stack: stack_record.stack; 0 where none was taken */
};

struct window_record { /* WINDOW, FILLED */
	u8  type;
	u8  marks;
	u8  level;
	u8  spare;
	u32 sequence;
	u64 time_ns;      /* the same as its fault's */
	u32 tgid;
	u32 tid;
	u64 mm;
	u64 address;      /* the window's first page; of a row the page table's */
	/*
	 * Which pages are present: low 16 bits before, next 16 after. FILLED: which are the call's,
	 * the number of the first in the low 16 bits, that of the one after the last in the next.
	 */
	u64 seen;
	/*
	 * Raw page-table entries at completion. Of a row: the frame that the first page would have,
	 * then eight words of bits: which pages are mapped, each to its frame in the row. FILLED:
	 * where `level` is 2 the first is a huge page's, and there are no others. Last comes one with
	 * `level` 0: of the range that begins and ends at the first two, all up to `address` was told.
	 */
	u64 entries[16];
};

struct task_record {  /* FORK, EXEC, EXIT, FREE, RENAME */
	u8  type;
	u8  marks;
	u8  group_dead;   /* EXIT: the process's last thread */
	u8  spare;
	u32 sequence;
	u64 time_ns;
	u32 tgid;         /* the thread it is about: FORK the parent, FREE the freed one */
	u32 tid;
	u64 mm;           /* EXEC: the new address space; EXIT: the one left, or 0 */
	u64 count;        /* its min_flt + maj_flt at this moment */
	u32 child_tgid;   /* FORK */
	u32 child_tid;
	u64 child_mm;     /* FORK: equals mm for a thread or a vfork */
	u64 comm[2];      /* TASK_COMM_LEN bytes, NUL-padded */
	u64 task;         /* struct task_struct *: FORK the child, EXIT and FREE the thread; else 0 */
	u64 child_sp;     /* FORK: the user stack pointer with which it begins; 0: not known */
	u64 reserved[11];
};

struct syscall_record { /* SYSCALL, CALL */
	u8  type;
	u8  marks;
	u8  spare[2];
	u32 sequence;
	u64 time_ns;      /* at the system call's return; CALL: at its entry */
	u32 tgid;
	u32 tid;
	u64 mm;
	u64 number;       /* x86-64's, whatever table the program used (calls.h) */
	u64 result;       /* the return value, as signed 64 bits; CALL: 0 */
	u64 args[6];
	u64 reserved[10];
};

struct stack_record { /* STACK: a stack comes in as many as it takes, one after another */
	u8  type;
	u8  kernel;       /* frames of the kernel's, which come first */
	u8  user;         /* frames of the program's, after them */
	u8  first;        /* number of ips[0], 0 being the innermost; the others are of the same side */
	u32 sequence;
	u64 time_ns;
	u32 tgid;         /* the thread whose stack it is */
	u32 tid;
	u64 mm;           /* its memory */
	u64 stack;        /* stands for these frames in this memory */
	u64 caller;       /* what the stack pointer points to, where it is right after a call; else 0 */
	u64 ips[16];
};

#endif
