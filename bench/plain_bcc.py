"""A page-fault tracer in the style of BCC's examples: a Python call and a line per fault.

    python bench/plain_bcc.py PID

Prints `ready` on stderr, then lines on stdout until it is interrupted:
nanoseconds (CLOCK_MONOTONIC), thread, name, address. It hooks the kernel's
software event for page faults, which every kernel has. It is compiled with the
running kernel's headers or those in BCC_KERNEL_SOURCE; with STAND_IN in the
environment the latter are not a kernel's, but bpf/compat.
"""

import os
import signal
import sys

from bcc import BPF, PerfSWConfig, PerfType

TEXT = """
struct fault {
    u64 time_ns, address;
    u32 tid;
    char comm[16];
};
BPF_PERF_OUTPUT(faults);

int page_fault(struct bpf_perf_event_data *ctx)
{
    u64 id = bpf_get_current_pid_tgid();
    struct fault fault = {};

    if (id >> 32 != TARGET)
        return 0;
    fault.time_ns = bpf_ktime_get_ns();
    fault.address = ctx->addr;
    fault.tid = id;
    bpf_get_current_comm(fault.comm, sizeof(fault.comm));
    faults.perf_submit(ctx, &fault, sizeof(fault));
    return 0;
}
"""
INCLUDE = "#include <linux/sched.h>\n#include <uapi/linux/bpf_perf_event.h>\n"
STAND_IN = "#include <uapi/linux/bpf_perf_event.h>\n"
STAND_IN_FLAGS = ["-I/usr/include", "-I/usr/include/x86_64-linux-gnu"]


def main() -> None:
    # BCC's own tools include linux/sched.h; the stand-ins for headers do not have it.
    stand_in = "STAND_IN" in os.environ
    flags = [f"-DTARGET={int(sys.argv[1])}", *(STAND_IN_FLAGS if stand_in else [])]
    bpf = BPF(text=(STAND_IN if stand_in else INCLUDE) + TEXT, cflags=flags)
    table = bpf["faults"]

    def show(cpu, data, size):  # type: ignore[no-untyped-def]
        fault = table.event(data)
        print(fault.time_ns, fault.tid, fault.comm.decode(errors="replace"), f"{fault.address:x}")

    def lost(count):  # type: ignore[no-untyped-def]
        print("lost", count, file=sys.stderr)

    table.open_perf_buffer(show, page_cnt=256, lost_cb=lost)
    bpf.attach_perf_event(
        ev_type=PerfType.SOFTWARE,
        ev_config=PerfSWConfig.PAGE_FAULTS,
        fn_name="page_fault",
        sample_period=1,
    )
    ended = False

    def end(*_: object) -> None:  # KeyboardInterrupt would be lost where it comes in a callback
        nonlocal ended
        ended = True

    signal.signal(signal.SIGINT, end)
    print("ready", file=sys.stderr, flush=True)
    while not ended:
        bpf.perf_buffer_poll(timeout=100)
        sys.stdout.flush()
    bpf.perf_buffer_poll(timeout=10)


if __name__ == "__main__":
    main()
