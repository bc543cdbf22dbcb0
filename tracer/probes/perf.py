"""Software events after a fault, exception tracepoints before it; no kprobes needed."""

from typing import Any

from tracer.errors import Exit, TraceError
from tracer.probes.program import Program, quiet_stderr

name = "perf"
define = "PROBE_PERF"
latency = "the page-fault exception to the kernel's accounting of the resolved fault"

# include/uapi/linux/perf_event.h
_TYPE_SOFTWARE = 1
_PAGE_FAULTS_MIN = 5
_PAGE_FAULTS_MAJ = 6

BLIND = (
    "the perf probe does not see faults without a register frame: "
    "MAP_POPULATE, mlock, MADV_POPULATE, get_user_pages, another process's access, "
    "and the argument pages of each exec"
)


def refused() -> str:
    return ""


def inexact() -> str:
    return ""


def flags() -> list[str]:
    return []


def attach(bcc: Any, program: Program) -> None:
    """One event for each kind and CPU, filtered by target in the program: nothing slips by."""
    with quiet_stderr() as complaints:
        try:
            program.bpf.load_func(b"exception", bcc.BPF.RAW_TRACEPOINT)
            for tracepoint in (b"page_fault_user", b"page_fault_kernel"):
                program.bpf.attach_raw_tracepoint(tp=tracepoint, fn_name=b"exception")
            for config, function in (
                (_PAGE_FAULTS_MIN, b"page_fault_minor"),
                (_PAGE_FAULTS_MAJ, b"page_fault_major"),
            ):
                program.bpf.attach_perf_event(
                    ev_type=_TYPE_SOFTWARE, ev_config=config, fn_name=function, sample_period=1
                )
        except Exception as error:
            raise TraceError(
                f"perf: the page-fault events cannot be opened: {error} {complaints()}".strip(),
                code=Exit.NO_PROBE,
            ) from error


def missed(program: Program) -> int:
    return 0
