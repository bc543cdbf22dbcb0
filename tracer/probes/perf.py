"""Exception tracepoints before a fault and perf's software events after it; no kprobes needed."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tracer.common.errors import Exit, TraceError
from tracer.kernel import perf_events as events

if TYPE_CHECKING:
    from tracer.probes.program import Program

name = "perf"
define = "PROBE_PERF"
latency = "the page-fault exception to the kernel's accounting of the resolved fault"

# include/uapi/linux/perf_event.h
_PAGE_FAULTS = {"perf_event__page_fault_minor": 5, "perf_event__page_fault_major": 6}

BLIND = (
    "the perf probe does not see faults without a register frame: "
    "MAP_POPULATE, mlock, MADV_POPULATE, get_user_pages, another process's access, "
    "and the argument pages of each exec"
)


def refused(btf_ids: Mapping[str, int]) -> str:
    return ""


def inexact() -> str:
    return ""


def attach(program: "Program") -> None:
    """Open an event of each kind on each CPU; the program filters by target, so none is missed."""
    try:
        for tracepoint in ("page_fault_user", "page_fault_kernel"):
            program.attach_raw_tracepoint("hook__exception", tracepoint)
        program.cpu_events = events.CpuEvents(
            {config: program.functions[name] for name, config in _PAGE_FAULTS.items()}
        )
        program.at_close(program.cpu_events.close)
    except OSError as error:
        raise TraceError(
            f"perf: the page-fault events cannot be opened: {os.strerror(error.errno or 0)}",
            code=Exit.NO_PROBE,
        ) from error


def attach_anonymous(program: "Program") -> None:
    """Do nothing: this probe has no hook there."""


def missed(program: "Program") -> int:
    return 0
