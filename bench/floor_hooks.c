/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The floor under each probe: programs on the same two hooks that emit one record a fault, with
 * its address and both times, by the kernel's ring buffer. No page table is read, no mapping and
 * no count, and there is no thread but one.
 */
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>

struct fault {
	u64 start_ns;
	u64 time_ns;
	u64 address;
};

struct state {
	u64 target; /* the process that is traced */
	struct fault begun;
};

BPF_ARRAY(state, struct state, 1);
BPF_RINGBUF_OUTPUT(records, RING_PAGES);

static __always_inline int begin(u64 address)
{
	u32 zero = 0;
	struct state *s = state.lookup(&zero);

	if (!s || bpf_get_current_pid_tgid() >> 32 != s->target)
		return 0;
	s->begun.start_ns = bpf_ktime_get_ns();
	s->begun.address = address;
	return 0;
}

static __always_inline int end(void)
{
	u32 zero = 0;
	struct state *s = state.lookup(&zero);
	struct fault *record;

	if (!s || bpf_get_current_pid_tgid() >> 32 != s->target)
		return 0;
	record = records.ringbuf_reserve(sizeof(*record));
	if (!record)
		return 0;
	record->start_ns = s->begun.start_ns;
	record->time_ns = bpf_ktime_get_ns();
	record->address = s->begun.address;
	records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

#ifdef PROBE_FENTRY
KFUNC_PROBE(handle_mm_fault, u64 vma, u64 address)
{
	return begin(address);
}

KRETFUNC_PROBE(handle_mm_fault)
{
	return end();
}
#endif

#ifdef PROBE_KPROBE
int kprobe__handle_mm_fault(struct pt_regs *ctx)
{
	return begin(ctx->si);
}

int kretprobe__handle_mm_fault(struct pt_regs *ctx)
{
	return end();
}
#endif

#ifdef PROBE_PERF
RAW_TRACEPOINT_PROBE(page_fault_user)
{
	return begin(ctx->args[0]);
}

int page_fault_minor(struct bpf_perf_event_data *ctx)
{
	return end();
}
#endif
