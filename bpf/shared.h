/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The interface between the programs and user space: records, the values of maps, and constants.
 *
 * tracer/wire/shared.py parses this file at every start, derives numpy layouts from the structs,
 * and refuses to run where a constant differs from its own. So this file has only #defines of a
 * number and structs of u8 to u64 (and of structs above), a member a line, naturally aligned,
 * without padding.
 */
#ifndef PAGEFAULT_SHARED_H
#define PAGEFAULT_SHARED_H

/* ---- records ---- */

/*
 * Every record is RECORD_SIZE bytes and starts with the same header, so that user space can view
 * a whole batch as one numpy structured array. `sequence` is the record's number in the ring,
 * written last (MappedRing, tracer/wire/ring.py).
 */
#define RECORD_SIZE 176

/* record types */
#define RECORD_FAULT   1 /* one completed (or failed) fault */
#define RECORD_WINDOW  2 /* entries around a fault that mapped other pages; comes before it */
#define RECORD_FORK    3 /* a target made a thread or a process */
#define RECORD_EXEC    4 /* a target replaced its address space */
#define RECORD_EXIT    5 /* a target's thread is ending */
#define RECORD_FREE    6 /* a target's thread is gone; its final fault count */
#define RECORD_RENAME  7 /* a target's thread changed its name */
#define RECORD_SYSCALL 8 /* a target changed its mappings */
#define RECORD_CALL    9 /* a target enters such a call, which may release other threads' pages */
#define RECORD_STACK  10 /* part of a call stack; comes before the first fault with that stack */
#define RECORD_FILLED 11 /* a window of what a call populated; comes after its SYSCALL */
#define RECORD_PYTHON 12 /* part of a call stack's Python frames; comes before its STACK */

/* fault_record.marks */
#define MARK_BEFORE    0x01 /* entry_before and level_before are known */
#define MARK_AFTER     0x02 /* entry_after and level_after are known */
#define MARK_MAPPING   0x04 /* vm_* are those of the mapping the fault was in */
#define MARK_ENTRY     0x08 /* start_ns is known, and so is the latency */
#define MARK_FAILED    0x10 /* the fault was not resolved (and not counted) */
#define MARK_ANON_FN   0x20 /* do_anonymous_page ran inside this fault */
#define MARK_FOREIGN   0x40 /* the thread is no target; only the memory is */
#define MARK_ERRORCODE 0x80 /* flags holds the x86 error code, not fault_flag bits */

/* fault_record.flags (include/linux/mm_types.h), or with MARK_ERRORCODE (asm/trap_pf.h) */
#define FAULT_FLAG_WRITE  0x01
#define FAULT_FLAG_TRIED  0x20 /* STATE_TRIED */
#define FAULT_FLAG_USER   0x40
#define FAULT_FLAG_REMOTE 0x80
#define ERROR_CODE_WRITE  0x02
#define ERROR_CODE_USER   0x04

/* fault_record.result (include/linux/mm_types.h) */
#define VM_FAULT_SIGBUS  0x002
#define VM_FAULT_MAJOR   0x004
#define VM_FAULT_SIGSEGV 0x040
#define VM_FAULT_RETRY   0x400
#define VM_FAULT_ERROR   0x873

#define WINDOW_PAGES 16 /* fault-around's default: 64 KiB, aligned */

/* window_record.marks */
#define WINDOW_CONTIGUOUS 0x01 /* no window: pages of a page table, in contiguous frames */
#define WINDOW_UNKNOWN    0x02 /* state before not known: contiguous frames in `seen` are new */

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
	u64 start_ns;     /* CLOCK_MONOTONIC at entry of the first call, before anything is read */
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
	u64 stack;        /* the call stack: stack_record.stack; 0 where none was captured */
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
	u64 address;      /* the window's first page; WINDOW_CONTIGUOUS: the page table's */
	/*
	 * Which pages are present: low 16 bits before, next 16 after. FILLED: which are the call's,
	 * the number of the first in the low 16 bits, that of the one after the last in the next.
	 */
	u64 seen;
	/*
	 * Raw page-table entries at completion. WINDOW_CONTIGUOUS: the frame that the first page
	 * would have, then eight words of bits: which pages are mapped, each to its contiguous
	 * frame. FILLED: where `level` is 2 the first is a huge page's, and there are no others.
	 * The last one has `level` 0: the range from the first to the second word is reported up
	 * to `address`.
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

struct stack_record { /* STACK: a stack is in as many as needed, one after another */
	u8  type;
	u8  kernel;       /* number of kernel frames, which come first */
	u8  user;         /* number of user frames, after them */
	u8  first;        /* number of ips[0], 0 being the innermost; the others are of the same side */
	u32 sequence;
	u64 time_ns;
	u32 tgid;         /* the thread whose stack it is */
	u32 tid;
	u64 mm;           /* its mm */
	u64 stack;        /* id of these frames in this mm */
	/*
	 * END_… of a walk by rules. Else what the stack pointer points to, where it is right after
	 * a call (an address, so larger than any of these); 0 where it is not.
	 */
	u64 caller;
	u64 program;      /* program.own; 0 where stacks are not walked by rules */
	u64 ips[15];
};

/*
 * PYTHON has the same members. `user` is the number of frames, with two words each, innermost first;
 * `kernel` that of calls of the evaluation loop, with a word each after them; `first` the number of
 * records before it. `caller` is PYTHON_…, `program` the address of _PyRuntime.
 */
#define PYTHON_FRAMES 127
#define PYTHON_LOOPS 63
/*
 * The first word of a frame is python_code.number. In the second, the low half is the instruction,
 * in code units from the first one on, signed; the next bit: C code called the frame. What the
 * evaluation loop was called for is the frames up to that one. Its word is an address in its own
 * frame; in the upper byte, the number of that frame among the native ones and 1, or 0 where it is
 * not among those that the kernel has walked.
 */
#define PYTHON_ENTRY 0x100000000
#define PYTHON_NONE 0       /* no Python code is running in this thread */
#define PYTHON_WHOLE 1      /* up to the outermost frame */
#define PYTHON_LIMIT 2      /* PYTHON_FRAMES, or too much between them */
#define PYTHON_UNREADABLE 3 /* the next frame cannot be read */
#define PYTHON_SEVERAL 4    /* it is in several interpreters: which one is running is not known */

#define STACK_USER 127 /* user frames at most: kernel.perf_event_max_stack, as a rule */

/* stack_record.caller: where the walk by rules ended (unwind.bpf.h) */
#define END_NOT_WALKED 0 /* by frame pointers, by the kernel */
#define END_OUTERMOST 1  /* the outermost frame */
#define END_NO_RULE 2    /* no rule for the last frame yet: a copy of the stack was sent */
#define END_UNREADABLE 3 /* where the last frame's caller is cannot be read */
#define END_NO_CALLER 4  /* the last frame is no code, or its rule leads to no caller */
#define END_LIMIT 5      /* STACK_USER frames */
#define END_NO_FRAME 6   /* by frame pointer, which is 0 */

/*
 * A copy of a thread's user stack, in the ring `copies`: the first bytes of a record, followed by
 * `size` bytes from `sp` - COPIED_BELOW + `offset` on. The registers are those of the frame that had no rule.
 */
struct stack_copy {
	u64 stack;   /* stack_record.stack, which has the frames before */
	u64 time_ns;
	u64 tgid;
	u64 program; /* program.own */
	u64 ip;
	u64 sp;
	u64 fp;
	u64 bx;
	u32 exact;   /* ip is the faulting instruction, no return address */
	u32 size;
	u64 offset;  /* bytes that came before, in other parts */
};
#define COPY_BYTES 4096 /* of one part at most: a page */
#define COPY_PARTS 32
/* The red zone (psABI, 3.2.2): registers that were restored are there still. */
#define COPIED_BELOW 128

/* ---- CPython ---- */

/*
 * Where the interpreter keeps what is running: values of the map `pythons`, by program.file or
 * .shared where its code is the executable's, else by program.libraries. The members after the first three are
 * offsets in bytes, in the structures that they name.
 */
struct python_runtime {
	u64 address;       /* of _PyRuntime, relative to code_start, or mmap_base */
	u32 in_executable;
	u32 version;       /* PY_VERSION_HEX >> 16 */
	u32 interpreters;  /* _PyRuntimeState.interpreters.head */
	u32 next;          /* PyInterpreterState.next */
	u32 threads;       /* PyInterpreterState.threads.head */
	u16 thread_before; /* PyThreadState.prev */
	u16 thread_next;
	u16 thread_interp;
	u16 thread_id;     /* native_thread_id */
	u16 thread_frame;  /* current_frame; of 3.11 and 3.12, cframe */
	u16 frame_within;  /* _PyCFrame.current_frame; 0xffff: there is no such structure */
	u16 within_before; /* _PyCFrame.previous */
	u16 frame_code;    /* _PyInterpreterFrame.f_code, or f_executable */
	u16 frame_caller;  /* previous */
	u16 frame_at;      /* prev_instr, or instr_ptr */
	u16 frame_owner;
	u16 frame_entry;   /* is_entry; 0xffff: there is no such member */
	u16 code_file;     /* PyCodeObject.co_filename */
	u16 code_name;     /* co_qualname */
	u16 code_lines;    /* co_linetable */
	u16 code_line;     /* co_firstlineno */
	u16 code_version;  /* co_version; 0xffff: there is no such member */
	u16 code_start;    /* co_code_adaptive */
	u16 code_from;     /* what is read of it: the members from code_file to code_version */
	u16 code_bytes;
	u16 spare[2];
};

/*
 * A code object, in the ring `copies`: the first bytes of a record, followed by the start of the
 * str objects co_filename and co_qualname, PYTHON_TEXT bytes each, and the content of co_linetable.
 * Further parts have what follows of that table alone.
 */
struct python_code {
	u64 no_stack;   /* 0: unlike stack_copy.stack */
	u64 number;
	u32 version;    /* python_runtime.version */
	u32 first_line;
	u32 lines;      /* bytes of co_linetable */
	u32 offset;     /* of this part in it */
	u32 size;       /* of this part */
	u32 spare;
	u64 reserved[5];
};
#define PYTHON_TEXT 512

/* ---- unwind rules: values of the map `rules`, by program and program counter ---- */

/*
 * Whose rules they are. All processes that run an executable file have its rules, by addresses
 * relative to where its code, or the first library, was mapped, which is what address space
 * randomization leaves alone. Where libraries lie differently in each process all the same, because
 * one of them is aligned to a huge page, say, each process has rules of its own for them.
 */
struct program {
	u64 own;       /* a random number: of an exec, and of the children forked since */
	u64 shared;    /* of the executable file: of the rules for its code */
	u64 libraries; /* of the rules for all other code: `shared`, or a random number, too */
	u64 code_start; /* of that file's code (struct mm_struct), to its page */
	u64 code_end;
	u64 mmap_base; /* other mappings are below */
	u64 mapped;    /* times that code of a file was mapped since */
	u64 file;      /* the executable file's i_ino and s_dev, mixed (stack_mix()) */
};

/*
 * How a frame leads to its caller. The key is number + 2 * relative + exact; or for a page of code
 * without unwind information number ^ ~(relative >> 12), and where no file is mapped
 * own ^ ~(ip >> 12). In the executable's code, `number` is its `shared`, and the address relative to
 * code_start - RULE_CODE; elsewhere it is `libraries`, and mmap_base.
 */
struct rule {
	u32 offset; /* signed */
	u16 rbp;    /* the caller's rbp: RULE_KEPT, RULE_AT_RBP, or an offset from the CFA, signed */
	u8  cfa;    /* RULE_CFA_… */
	u8  rbx;    /* the caller's rbx: RULE_KEPT, RULE_UNKNOWN_RBX, or so many words below the CFA */
};

#define RULE_CODE (1ULL << 62) /* apart from what is relative to mmap_base */

/* rule.cfa: how the canonical frame address is computed; the return address lies below it */
#define RULE_CFA_NONE 0      /* in no way that is known here */
#define RULE_CFA_RSP 1       /* rsp + offset */
#define RULE_CFA_RBP 2       /* rbp + offset */
#define RULE_CFA_AT_RBP 3    /* what lies at rbp + offset */
#define RULE_CFA_PLT 4       /* rsp + 8, and 8 more from byte `offset` of the 16-byte entry on */
#define RULE_CFA_OUTERMOST 5 /* there is no caller */
#define RULE_CFA_SIGNAL 6    /* a signal frame: the interrupted registers are in its ucontext */
#define RULE_CFA_FRAME 7     /* by frame pointer: rbp + 16, rbp below the return address */
#define RULE_CFA_NO_CALL 8   /* no return address: no call is before it */
#define RULE_CFA_RBX 9       /* rbx + offset */
#define RULE_CFA_AT_RSP 10   /* what lies at rsp + offset, and 8 */
#define RULE_KEPT 0
#define RULE_AT_RBP 1
#define RULE_UNKNOWN 0xffff
#define RULE_UNKNOWN_RBX 0xff

/* ---- system calls: syscall_record.number and .args ---- */

/* arch/x86/entry/syscalls/syscall_64.tbl */
#define CALL_MMAP 9
#define CALL_MPROTECT 10
#define CALL_MUNMAP 11
#define CALL_BRK 12
#define CALL_IOCTL 16 /* on a userfaultfd: bpf/userfault.h */
#define CALL_MREMAP 25
#define CALL_MADVISE 28
#define CALL_SHMAT 30
#define CALL_SHMDT 67
#define CALL_MLOCK 149
#define CALL_MLOCKALL 151
#define CALL_MUNLOCKALL 152
#define CALL_PROCESS_VM_WRITEV 311 /* bpf/remote_write.h */
#define CALL_USERFAULTFD 323
#define CALL_MLOCK2 325
#define CALL_PKEY_MPROTECT 329
#define CALL_PROCESS_MADVISE 440

/* include/uapi/asm-generic/mman.h, mman-common.h */
#define CALL_MAP_FIXED 0x10
#define CALL_MAP_ANONYMOUS 0x20
#define CALL_PROT_EXEC 4
#define CALL_MAP_LOCKED 0x2000
#define CALL_MAP_POPULATE 0x8000
#define CALL_MLOCK_ONFAULT 1
#define CALL_MADV_POPULATE_READ 22
#define CALL_MADV_POPULATE_WRITE 23

/* numbers of ioctls, include/uapi/linux/userfaultfd.h */
#define UFFD_REGISTER 0x00
#define UFFD_UNREGISTER 0x01
#define UFFD_COPY 0x03
#define UFFD_ZEROPAGE 0x04
#define UFFD_MOVE 0x05
#define UFFD_CONTINUE 0x07

/* ---- set by user space ---- */

/* targets: what to do with a process's faults */
#define TARGET_ACTIVE 1
#define TARGET_WAITS 2    /* for its exec: nothing before the command's first instruction counts */
#define TARGET_CHILDREN 4 /* its children become targets */

struct target {
	u64 leader; /* struct task_struct *, 0 where not known: a process older than the trace */
	u32 state;
	u32 spare;
};

/* What user space sets before it arms the targets. */
struct settings {
	u64 direct_map;     /* the direct map's base; 0: don't walk */
	u64 range_start;
	u64 range_end;      /* 0: no range */
	u64 min_latency_ns; /* 0: all */
	u64 namespace;      /* the tracer's own struct pid_namespace *, where it is not the initial one */
	u64 namespace_level;
	u32 always;         /* STATE_… of every fault: STATE_FILTER, or nothing */
	u32 anonymous;      /* of one in memory that is no file's: that, and what to read around it */
};

/* The command that the tracer starts: its memory may be pinned past its exit. */
struct command {
	u64 tgid; /* set by user space */
	u64 mm;   /* struct mm_struct *, since its last exec */
};

/* A request to walk the tracer's own memory, to find or to verify the direct map's base. */
struct calibration {
	u64 nonce; /* first argument of the requesting system call; 0 without a request */
	u64 address;
	u64 direct_map;
	u64 symbol; /* address of page_offset_base, 0 where it is not known */
	u64 pgd;    /* answers */
	u64 entry;
	u64 level;
	u64 value; /* *page_offset_base */
	u64 namespace; /* the requester's PID namespace: struct pid_namespace *, and its depth */
	u64 namespace_level;
};

/* ---- state of the programs ---- */

/* The mapped ring's head and tail. */
struct positions {
	u64 head;      /* records claimed, ever; on a cache line that user space does not write to */
	u64 apart[15];
	u64 tail;      /* records read, ever: set by user space */
	u64 mask;      /* capacity in records, a power of two, less one */
};

/*
 * A thread's slot: its fault between entry and completion. A thread keeps its slot from its
 * first fault on: one of SLOTS, by its pid, or where another thread has that, one in `pending`.
 */
struct pending {
	struct fault_record record; /* filled in so far. calls: 1 while no fault is under way */
	u64 table;      /* the page table that `entry_at` is in, and its validity: table_key() */
	u64 entry_at;   /* kernel address of entry_before, where level_before is 1 */
	u64 above;      /* the PMD entry that points to the table */
	u64 above_at;   /* and its kernel address */
	u32 state;      /* STATE_… */
	u16 mask_before; /* STATE_AROUND: present pages of the window */
	u16 mask_next;  /* and of the next one */
	u16 lower;      /* STATE_BESIDE: low bits of the adjacent entries, with ENTRY_IS_PRESENT */
	u16 upper;
	u32 beyond;     /* what is present on either side of the window: 1 below, 2 above */
	u64 task;       /* the slot's thread; a pid alone may be reused */
	u32 tid;        /* its tid in the tracer's PID namespace */
	u32 crowded;    /* another thread is in `pending` because this slot was in use */
	u64 first;      /* the thread's count when it got this slot */
	/*
	 * Its count when last read: at a fault's completion, and with `perf` at its entry, too.
	 * Growth until the next fault is of faults that `perf` is blind to.
	 */
	u64 seen;
};

/* struct pending.state; 0 while no fault is under way */
#define STATE_OPEN 0x01    /* begun and not completed */
#define STATE_AROUND 0x02  /* other pages may be mapped: the window is read, before and after */
/*
 * Only a large folio's pages may be, one of which is adjacent to the fault's own: these two
 * entries are read, before and after, and the window only after, where one was mapped. Without
 * STATE_AROUND the window's state before is not known.
 */
#define STATE_BESIDE 0x04
#define STATE_READS 0x08   /* a read of what may be a file: fault-around is possible */
#define STATE_ENTRY 0x10   /* in its only call; `entry_at` is set */
#define STATE_TRIED 0x20   /* its last call has FAULT_FLAG_TRIED */
#define STATE_RETRIED 0x40 /* its last call ended with VM_FAULT_RETRY */
#define STATE_ATTEMPT 0x80 /* of the kernel's, with faults disabled: no fault, unless it completes */
#define STATE_STACK 0x100  /* its stack is being read: exceptions meanwhile come from that */
#define STATE_FILE 0x200   /* its mapping is one of a file: vm_pgoff, inode and magic are known */
#define STATE_FILTER 0x400 /* range_end or min_latency_ns may leave it out */
#define STATE_REMOTE 0x800 /* the memory may be another process's: `owner` is known */

/* Sums of the kernel's counts; dropped records do not change them. */
struct totals {
	u64 begun;  /* threads that began under trace, by fork or, of a command, by its exec */
	u64 ended;  /* threads that ended under trace */
	u64 faults; /* of those: their counts at exit, and their faults after it */
	u64 base;   /* of commands: their counts at the exec that began the trace */
	u64 blind;  /* faults without an exception of their own, from each thread's start on */
};

/* A thread between its exit and the free of its task_struct. */
struct leaving {
	u64 id;
	u64 count; /* at exit: in totals.faults already */
	u32 key;   /* its pid then, in the initial namespace: exec may change it */
	u32 spare;
};

/* map `watch`, and the values in `watched` (maps.bpf.h) */
#define WATCH_ON 1
#define WATCH_OVER 2 /* the trace is over: the totals stay, and so do threads' last slots */
#define WATCHED_BEGUN (1ULL << 62) /* bits of the value in `watched`; the rest is its base */
#define WATCHED_ENDED (1ULL << 63)

/* counters */
#define COUNT_LOST 0       /* fault records the ring had no room for */
#define COUNT_LOST_OTHER 1 /* other records it had no room for */
#define COUNT_FILTERED 2   /* faults that --range or --min-latency left out */
#define COUNT_CROWDED 3    /* faults whose entry found no room in `pending` */
#define COUNT_ORPHANS 4    /* completions whose entry was not seen; they have no record */
/* Of faults that no thread of a target is charged for: they are in no thread's count. */
#define COUNT_FAILED_LOST 5      /* COUNT_LOST, of faults that failed */
#define COUNT_FAILED_FILTERED 6  /* COUNT_FILTERED, of these */
#define COUNT_FOREIGN_LOST 7     /* COUNT_LOST, of faults by threads that are no target's */
#define COUNT_FOREIGN_FILTERED 8 /* COUNT_FILTERED, of these */
#define COUNT_UNLISTED 9 /* threads and processes that could not be noted, or not distinguished */
/* Where handlers can be skipped (is_handled): lifecycle events they ran for. */
#define COUNT_HANDLER_CALLS 10 /* calls of any copy of a handler */
#define COUNT_EVENTS 11        /* events that at least one copy ran for */
#define COUNT_COPIES_LOST 12 /* copies of stacks that the ring `copies` had no room for */
#define COUNTERS 13

#endif
