"""fentry/fexit on handle_mm_fault, and on do_anonymous_page where it is no inline."""

from typing import Any

from tracer.errors import Exit, TraceError
from tracer.kernel.btf import has_function
from tracer.kernel.machine import preemption
from tracer.probes.program import Program

name = "fentry"
define = "PROBE_FENTRY"
latency = "entry of the first handle_mm_fault call to the return of the last"


def refused() -> str:
    """BTF must name the function; whether trampolines are allowed only an attempt tells."""
    return "" if has_function("handle_mm_fault") else "BTF does not name handle_mm_fault"


def inexact() -> str:
    """A preempted handler blinds its program on that CPU: 2 % missed by 16 threads on 7.2."""
    model = preemption()
    if model in ("none", "voluntary"):
        return ""
    return f"handlers can be preempted here (preemption: {model}), which makes it miss faults"


def flags() -> list[str]:
    return ["-DHOOK_ANONYMOUS"] if has_function("do_anonymous_page") else []


def attach(bcc: Any, program: Program) -> None:
    """BCC attaches kfunc__/kretfunc__ programs as it loads them; say so when it did not."""
    hooks = [fn for fn in program.bpf.kfunc_entry_fds if b"handle_mm_fault" in fn]
    returns = [fn for fn in program.bpf.kfunc_exit_fds if b"handle_mm_fault" in fn]
    if not hooks or not returns:
        raise TraceError("fentry: BCC did not attach handle_mm_fault", code=Exit.NO_PROBE)


def missed(program: Program) -> int:
    """`recursion_misses` of the programs (fdinfo; absent on 5.10)."""
    total = 0
    for name, function in program.bpf.funcs.items():
        if name.startswith((b"kfunc__", b"kretfunc__")):
            total += program.recursion_misses(function.fd)
    return total
