/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Main file: includes all parts. Compiled by BCC, once for each probe (the first part of a
 * function's name gives its program type, see tracer/probes/program.py):
 *
 *   PROBE_FENTRY  fentry/fexit on handle_mm_fault
 *   PROBE_KPROBE  kprobe/kretprobe on the same function
 *   PROBE_PERF    raw tracepoints page_fault_user/kernel before, and the
 *                 software events page-faults-min/maj after a fault
 *
 * User space passes as -D flags the number of page-table levels (walk.h), the offsets of kernel
 * structure members, from BTF (O_STRUCT_MEMBER), and the features of the kernel
 * (tracer/probes/compiler.py).
 *
 * BCC rewrites operations on maps (map.lookup() and the like) in its main file only. So each part
 * that uses maps, X.bpf.h, replaces its line below before BCC gets the whole
 * (tracer/probes/source.py); these parts include nothing. The other headers are included as
 * usual. There __always_inline is no more than inline (include/uapi/linux/stddef.h), while BCC
 * makes every function of its main file always_inline: a function that moves from one kind to the
 * other may compile to other instructions (python -m bench.same_code checks that).
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>

/* definitions shared with user space; reading kernel memory, page tables, system call arguments */
#include "shared.h"
#include "kernel.h"
#include "walk.h"
#include "calls.h"
#include "userfault.h"
#include "fill.h"
#include "remote_write.h"
#include "stack.h"
#include "unwind.h"
#include "python.h"

/* used by all that follow: the maps, the ring, task ids and targets, each thread's slot */
#include "maps.bpf.h"
#include "ring.bpf.h"
#include "tasks.bpf.h"
#include "pending.bpf.h"
#include "programs.bpf.h"

/* a fault, from its entry to its record */
#include "neighbours.bpf.h"
#include "entries.bpf.h"
#include "unwind.bpf.h"
#include "python.bpf.h"
#include "stack.bpf.h"
#include "fault.bpf.h"

/* the programs, by their hooks */
#include "hooks_handle_mm_fault.bpf.h"
#include "hooks_perf.bpf.h"
#include "hooks_lifecycle.bpf.h"
#include "hooks_syscalls.bpf.h"
#include "hooks_calibrate.bpf.h"
