"""kprobe and kretprobe on handle_mm_fault, kprobe on do_anonymous_page where requested.

The entries are kprobes of perf's kprobe PMU, removed with their descriptor.
Those have no maxactive, which the return probe needs; so the return is
defined in tracefs, where the definition outlives a killed tracer: inactive,
and removed by the next tracer that attaches.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.common.errors import Exit, TraceError
from tracer.kernel import perf_events as events
from tracer.probes.base import tracefs
from tracer.procfs.stat import exists

if TYPE_CHECKING:
    from tracer.probes.program import Program

name = "kprobe"
define = "PROBE_KPROBE"
latency = "entry of the first handle_mm_fault call to the return of the last"

# Return probes have finite instances and faults sleep: of 64 threads waiting in
# userfaultfd, half of the returns were missed with the default.
MAXACTIVE = 1024

_GROUP = "pagefault_trace"
_PMU = Path("/sys/bus/event_source/devices/kprobe/type")


def refused(btf_ids: Mapping[str, int]) -> str:
    """Why there are no kprobes: they must be compiled in, and tracefs mounted."""
    folder = tracefs()
    if folder is None:
        return "tracefs is not mounted (mount -t tracefs none /sys/kernel/tracing)"
    if not (folder / "kprobe_events").exists() or not _PMU.exists():
        return "the kernel was built without kprobes (CONFIG_KPROBE_EVENTS)"
    return ""


def inexact() -> str:
    return ""


def attach(program: "Program") -> None:
    """Attach, the return first: a fault whose return is not hooked would never complete."""
    folder = tracefs()
    assert folder is not None  # else refused
    try:
        _sweep(folder)
        event = _define_return(folder, "handle_mm_fault")
        program.return_probe = event
        program.at_close(lambda: _delete(folder, event))
        program.keep(_open(program, "kretprobe__handle_mm_fault", _number(folder, event)))
        program.keep(_open(program, "kprobe__handle_mm_fault"))
    except OSError as error:
        raise TraceError(
            f"kprobe: handle_mm_fault cannot be hooked: {os.strerror(error.errno or 0)}",
            code=Exit.NO_PROBE,
        ) from error


def attach_anonymous(program: "Program") -> None:
    """Hook do_anonymous_page, unless it is inlined."""
    with contextlib.suppress(OSError):
        program.keep(_open(program, "kprobe__do_anonymous_page"))
        program.hooks_anonymous = True


def _open(program: "Program", function: str, tracepoint: int = 0) -> int:
    """Run a program at a tracepoint, or at the entry of the function in its name."""
    fd, cpu = program.functions[function], events.first_cpu()
    if tracepoint:
        return events.open_event(fd, events.TRACEPOINT, tracepoint, cpu)
    hooked = function.partition("__")[2]
    return events.open_event(fd, int(_PMU.read_text()), 0, cpu, function=hooked)


def _define_return(folder: Path, function: str) -> str:
    """Define the return probe; returns its name (Documentation/trace/kprobetrace.rst)."""
    event = f"{_GROUP}/{function}_{time.monotonic_ns()}_{os.getpid()}"
    _write(folder, f"r{MAXACTIVE}:{event} {function}\n")
    return event


def _sweep(folder: Path) -> None:
    """Delete the definitions left by killed tracers."""
    for line in (folder / "kprobe_events").read_text().splitlines():
        event = line.partition(":")[2].split(" ")[0]  # r1024:GROUP/FUNCTION_PID FUNCTION
        owner = event.rpartition("_")[2]
        gone = not (owner.isdecimal() and exists(int(owner)))
        if event.startswith(f"{_GROUP}/") and gone:
            with contextlib.suppress(OSError):  # busy: its pid is in another namespace
                _delete(folder, event)


def _number(folder: Path, event: str) -> int:
    return int((folder / "events" / event / "id").read_text())


def _delete(folder: Path, event: str) -> None:
    _write(folder, f"-:{event}\n")


def _write(folder: Path, line: str) -> None:
    # Not Python's "a", which seeks to the end: this file has none; nor "w", which clears it.
    fd = os.open(folder / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def missed(program: "Program") -> int:
    """Returns missed for want of a free instance: kprobe_profile's third column."""
    folder = tracefs()
    if folder is None:
        return 0
    total = 0
    for line in (folder / "kprobe_profile").read_text().splitlines():
        event, _, misses = line.split()
        if event == program.return_probe.partition("/")[2]:
            total += int(misses)
    return total
