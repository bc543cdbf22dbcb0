"""Which probe: by trying, exactness before cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tracer.errors import Exit, TraceError
from tracer.kernel.machine import check_architecture, page_table_levels
from tracer.kernel.paging import DirectMap, find_direct_map
from tracer.probes import fentry, kprobe, perf
from tracer.probes.base import Probe
from tracer.probes.program import RING_BYTES, Program, kernel_flags, load_bcc

# In the order of cost to the target, cheapest first.
PROBES: dict[str, Probe] = {module.name: cast(Probe, module) for module in (fentry, kprobe, perf)}


@dataclass
class Attached:
    """A probe attached to this kernel, with no target yet."""

    probe: Probe
    program: Program
    direct_map: DirectMap
    reason: str  # why this probe, in words
    brief: str  # the same in a few

    def close(self) -> None:
        self.program.close()


def attach(wanted: str, bpf_dir: Path, ring_bytes: int = RING_BYTES) -> Attached:
    """Compile, attach and calibrate the probe `wanted`, or for "auto" the best this kernel takes.

    Raises TraceError (Exit.NO_PROBE) naming each probe's reason when none works.
    """
    check_architecture()
    bcc = load_bcc(bpf_dir)
    flags = kernel_flags(page_table_levels())
    reasons: list[str] = []
    for name in _order(wanted, reasons):
        probe = PROBES[name]
        try:
            return _try(probe, bcc, bpf_dir, flags, ring_bytes, reasons, forced=wanted != "auto")
        except TraceError as error:
            if error.code != Exit.NO_PROBE:
                raise
            reasons.append(_named(name, error.message))
    raise TraceError(
        "this kernel refuses every probe: " + "; ".join(reasons)
        if wanted == "auto"
        else f"this kernel refuses the probe {reasons[0]}",
        "pagefault-trace --check says what it offers"
        if wanted == "auto"
        else "use --probe auto, or see pagefault-trace --check",
        Exit.NO_PROBE,
    )


def _order(wanted: str, reasons: list[str]) -> list[str]:
    """The probes to try; exact ones first, each in the order of cost."""
    if wanted != "auto":
        return [wanted]
    exact: list[str] = []
    inexact: list[str] = []
    for name, probe in PROBES.items():
        if why := probe.refused():
            reasons.append(_named(name, why))
        elif why := probe.inexact():
            reasons.append(_named(name, why))
            inexact.append(name)
        else:
            exact.append(name)
    return exact + inexact


def _named(name: str, why: str) -> str:
    return why if why.startswith(f"{name}:") else f"{name}: {why}"


def _try(
    probe: Probe,
    bcc: Any,
    bpf_dir: Path,
    flags: list[str],
    ring_bytes: int,
    reasons: list[str],
    *,
    forced: bool,
) -> Attached:
    if why := probe.refused():
        raise TraceError(f"{probe.name}: {why}", code=Exit.NO_PROBE)
    program = Program(bcc, bpf_dir, probe.define, [*flags, *probe.flags()], ring_bytes)
    try:
        probe.attach(bcc, program)
        direct_map = find_direct_map(program)
    except BaseException:
        program.close()
        raise
    program.set_direct_map(direct_map.base)
    program.reset()
    if forced:
        reason = brief = "asked for"
    elif reasons:
        others = " and ".join(sorted({each.partition(":")[0] for each in reasons}))
        reason = "; ".join(reasons)
        brief = f"{others} will not do here: --check says why"
    else:
        reason = brief = "the cheapest, and exact here"
    return Attached(probe, program, direct_map, reason, brief)
