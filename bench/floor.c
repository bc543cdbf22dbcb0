/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * What no tracer of faults can be cheaper than, on the hooks of the `perf` probe: one program a
 * fault that emits one record, with nothing in it but the address. With EMPTY not even that.
 */
#include <uapi/linux/bpf_perf_event.h>

#ifndef EMPTY
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#endif

int page_fault(struct bpf_perf_event_data *ctx)
{
#ifndef EMPTY
	u64 *record;

	if (bpf_get_current_pid_tgid() >> 32 != TARGET)
		return 0;
	record = events.ringbuf_reserve(sizeof(*record));
	if (!record)
		return 0;
	*record = ctx->addr;
	events.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
#endif
	return 0;
}
