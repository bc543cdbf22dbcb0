"""fentry/fexit on handle_mm_fault, and fentry on do_anonymous_page where requested."""

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tracer.common.errors import Exit, TraceError
from tracer.kernel.machine import preemptible, preemption
from tracer.probes.bpf import refuses_tracing

if TYPE_CHECKING:
    from tracer.probes.program import Program

name = "fentry"
define = "PROBE_FENTRY"
latency = "entry of the first handle_mm_fault call to the return of the last"

_ANONYMOUS = "fentry__do_anonymous_page"


def refused(btf_ids: Mapping[str, int]) -> str:
    """Why it cannot be hooked: BTF must have the function; trampolines are tried."""
    number = btf_ids.get("handle_mm_fault", 0)
    return refuses_tracing(number) if number else "BTF does not name handle_mm_fault"


def inexact() -> str:
    """Why it misses faults: a preempted handler is skipped on its CPU (2 %, 16 threads, 7.2)."""
    if not preemptible():
        return ""
    model = preemption()
    return f"handlers can be preempted here (preemption: {model}), which makes it miss faults"


def attach(program: "Program") -> None:
    """Attach, the return first: a fault whose return is not hooked would never complete."""
    try:
        program.attach_tracing("fexit__handle_mm_fault")
        program.attach_tracing("fentry__handle_mm_fault")
    except OSError as error:
        raise TraceError(
            f"fentry: handle_mm_fault cannot be hooked: {os.strerror(error.errno or 0)}",
            code=Exit.NO_PROBE,
        ) from error


def attach_anonymous(program: "Program") -> None:
    """Hook do_anonymous_page, unless it is inlined, without a BTF id, or notrace."""
    if _ANONYMOUS in program.functions:
        with contextlib.suppress(OSError):
            program.attach_tracing(_ANONYMOUS)
            program.hooks_anonymous = True


def missed(program: "Program") -> int:
    """Sum of the programs' `recursion_misses` (fdinfo; absent on 5.10)."""
    return sum(
        program.recursion_misses(name)
        for name in program.functions
        if name.startswith(("fentry__", "fexit__"))
    )
