"""Attaching the requested probe, or the best this kernel supports: exactness before cost."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tracer.common.cache_files import default_folder
from tracer.common.errors import Exit, TraceError
from tracer.kernel.machine import check_architecture
from tracer.kernel.paging import DirectMap, find_direct_map
from tracer.probes.base import Probe
from tracer.probes.bpf import Refused
from tracer.probes.cache import drop
from tracer.probes.compilation import Compilation
from tracer.probes.compiled import Answer
from tracer.probes.order import PROBES, in_short, named
from tracer.probes.program import RING_BYTES, Program

_ANONYMOUS = "PAGEFAULT_ANONYMOUS"


@dataclass
class Attached:
    """A probe attached to this kernel, with no target yet."""

    probe: Probe
    program: Program
    direct_map: DirectMap
    reason: str  # why this probe
    brief: str  # the same, shorter
    milliseconds: dict[str, float]  # the durations of compiling and attaching
    walk: str = ""  # why stacks are walked by frame pointers; "" where it is by unwind rules

    def close(self) -> None:
        self.program.close()


def attach(
    wanted: str,
    bpf_dir: Path,
    ring_bytes: int = RING_BYTES,
    compilation: Compilation | None = None,
    *,
    anonymous: bool = False,
    stacks: bool = False,
) -> Attached:
    """Compile, attach and calibrate the probe `wanted`, or for "auto" the best supported one.

    `compilation` is one of `wanted` (and `stacks`: with call stacks) that was started before.
    `anonymous`: hook do_anonymous_page, too, as PAGEFAULT_ANONYMOUS=1 does for a trace. Raises
    TraceError (Exit.NO_PROBE) with each probe's reason when none works.
    """
    check_architecture()
    tried: list[str] = []
    refusals: list[str] = []
    dropped = {""}  # keys of the cache
    by_rules, walk = True, ""
    while True:
        with compilation or Compilation(
            wanted, bpf_dir, tuple(tried), stacks=stacks, by_rules=by_rules
        ) as under_way:
            answer = under_way.answer()
        compilation = None
        reasons = [*refusals, *answer.reasons]
        if not answer.probe:
            raise _none(wanted, reasons)
        try:
            found = _load(answer, bpf_dir, ring_bytes, reasons, forced=wanted != "auto")
        except TraceError as error:
            if error.code != Exit.NO_PROBE:
                raise
            # The kernel may refuse only the cached program: compile it again.
            if answer.cached not in dropped and isinstance(error.__cause__, Refused):
                dropped.add(answer.cached)
                drop(default_folder(), answer.cached)
                continue
            if stacks and by_rules and isinstance(error.__cause__, Refused):
                by_rules, walk = False, error.message  # perhaps that alone is too much
                continue
            tried.append(answer.probe)
            refusals.append(named(answer.probe, error.message))
            continue
        if stacks and found.program.unwind is None:
            found.walk = walk or "the kernel's BTF does not describe what a walk by rules needs"
        if anonymous or os.environ.get(_ANONYMOUS):
            found.probe.attach_anonymous(found.program)
        return found


def _none(wanted: str, reasons: list[str]) -> TraceError:
    if wanted == "auto":
        return TraceError(
            "this kernel refuses every probe: " + "; ".join(reasons),
            "pagefault-trace --check says what it offers",
            Exit.NO_PROBE,
        )
    return TraceError(
        f"this kernel refuses the probe {reasons[0]}",
        "use --probe auto, or see pagefault-trace --check",
        Exit.NO_PROBE,
    )


def _load(
    answer: Answer, bpf_dir: Path, ring_bytes: int, reasons: list[str], *, forced: bool
) -> Attached:
    probe, began = PROBES[answer.probe], time.monotonic()
    program = Program(answer, bpf_dir, ring_bytes)
    try:
        probe.attach(program)
        direct_map = find_direct_map(program)
    except BaseException:
        program.close()
        raise
    program.set_direct_map(direct_map.base)
    program.reset()
    if forced:
        reason = brief = "asked for"
    elif reasons:
        reason, brief = "; ".join(reasons), in_short(reasons)
    else:
        reason = brief = "the cheapest, and exact here"
    took = answer.milliseconds | {"load and attach": (time.monotonic() - began) * 1e3}
    return Attached(probe, program, direct_map, reason, brief, took)
