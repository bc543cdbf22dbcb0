/* Stand-in: the context of a perf event's program, include/uapi/linux/bpf_perf_event.h. */
#ifndef PAGEFAULT_COMPAT_BPF_PERF_EVENT_H
#define PAGEFAULT_COMPAT_BPF_PERF_EVENT_H

#include <uapi/linux/ptrace.h>

struct bpf_perf_event_data {
	struct pt_regs regs;
	unsigned long long sample_period;
	unsigned long long addr;
};

#endif
