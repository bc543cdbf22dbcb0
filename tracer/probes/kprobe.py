"""kprobe and kretprobe on handle_mm_fault, and on do_anonymous_page where it is no inline."""

import os
from typing import Any

from tracer.errors import Exit, TraceError
from tracer.kernel.machine import symbol_address
from tracer.probes.base import tracefs
from tracer.probes.program import Program, quiet_stderr

name = "kprobe"
define = "PROBE_KPROBE"
latency = "entry of the first handle_mm_fault call to the return of the last"

# Return probes have finite instances and faults sleep: 64 threads waiting in
# userfaultfd lost half of their returns with the default.
MAXACTIVE = 1024


def refused() -> str:
    """Kprobes must be compiled in: tracefs then has kprobe_events."""
    folder = tracefs()
    if folder is None:
        return "tracefs is not mounted (mount -t tracefs none /sys/kernel/tracing)"
    if not (folder / "kprobe_events").exists():
        return "the kernel was built without kprobes (CONFIG_KPROBE_EVENTS)"
    return ""


def inexact() -> str:
    return ""


def flags() -> list[str]:
    return ["-DHOOK_ANONYMOUS"] if symbol_address("do_anonymous_page") else []


def attach(bcc: Any, program: Program) -> None:
    """Attach, the return first: an entry without one would be a fault that never ends."""
    bpf = program.bpf
    with quiet_stderr() as complaints:
        try:
            bpf.attach_kretprobe(
                event=b"handle_mm_fault", fn_name=b"handle_mm_fault_return", maxactive=MAXACTIVE
            )
            bpf.attach_kprobe(event=b"handle_mm_fault", fn_name=b"handle_mm_fault_entry")
        except Exception as error:
            raise TraceError(
                f"kprobe: handle_mm_fault cannot be hooked: {error} {complaints()}".strip(),
                code=Exit.NO_PROBE,
            ) from error
        try:
            if flags():
                bpf.attach_kprobe(event=b"do_anonymous_page", fn_name=b"do_anonymous_page_entry")
        except Exception:  # notrace on this kernel: a cross-check less, nothing lost
            return


def missed(program: Program) -> int:
    """Return probes that found no free instance: kprobe_profile's third column for ours."""
    folder = tracefs()
    if folder is None:
        return 0
    total = 0
    for line in (folder / "kprobe_profile").read_text().splitlines():
        event, _, misses = line.split()
        if event.endswith(f"_bcc_{os.getpid()}"):
            total += int(misses)
    return total
