"""Guest instructions that a probe adds to a page fault, counted in an emulated machine.

With one CPU and `-icount shift=0`, QEMU advances the guest's clock by one nanosecond per
instruction, so CPU time read in the guest is a count of instructions: it repeats to within 0.1 %
on any host, however busy, where wall-clock times scatter by 10 %. It counts instructions, not
cache misses; bench's wall-clock ratios include those.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import baseline, storm

if TYPE_CHECKING:
    from tests.kernels.fetch import Image

PAGES = 4096
ROUNDS = 7
PROBES = ("fentry", "kprobe", "perf")
LIMIT_SECONDS = 420.0
_FLOOR = Path(__file__).with_name("floor_hooks.c")
_FLOOR_PAGES = 512  # its ring: all faults of a storm fit
_MINOR = 5  # include/uapi/linux/perf_event.h: PERF_COUNT_SW_PAGE_FAULTS_MIN
ICOUNT = "--qemu-opts=-icount shift=0,sleep=off"


@dataclass(frozen=True)
class Cost:
    """Instructions per fault with one probe: of the target, and of a process that is no target."""

    probe: str
    target: float = 0.0
    bystander: float = 0.0
    recorded: int = 0  # fault records of the target
    counted: int = 0  # its faults meanwhile, by the kernel's count
    floor: float = 0.0  # of the target with bench/floor_hooks.c on the same hooks
    refused: str = ""


@dataclass(frozen=True)
class Counts:
    """The counts on one kernel, and the toolchain (`baseline.Toolchain.key`)."""

    key: str
    release: str
    untraced: float
    costs: list[Cost]

    def complete(self) -> bool:
        """Whether each probe recorded every fault: one that misses some looks cheaper."""
        return all(cost.recorded >= cost.counted > 0 for cost in self.costs)

    def added(self) -> dict[str, float]:
        """Instructions added to a target's fault, by probe."""
        return {
            cost.probe: round(cost.target - self.untraced, 1)
            for cost in self.costs
            if not cost.refused
        }


def count_inside(probes: Sequence[str]) -> tuple[float, list[Cost]]:
    """Run in the guest: instructions of an untraced fault, and the cost of each probe."""
    untraced = storm.cpu_per_fault(storm.run(PAGES, ROUNDS))
    return untraced, [_cost(probe) for probe in probes]


def _cost(name: str) -> Cost:
    import numpy as np

    from tracer.common.errors import TraceError
    from tracer.common.resources import bpf_dir
    from tracer.probes.choose import attach

    try:
        attached = attach(name, bpf_dir())
    except TraceError as error:
        return Cost(name, refused=str(error))
    program = attached.program
    program.expect_large_folios(False)  # as in a trace where none are enabled
    layout = program.layout
    try:
        bystander = storm.cpu_per_fault(storm.run(PAGES, ROUNDS))
        with program.open_ring() as ring:
            rounds = storm.run(PAGES, ROUNDS, lambda pid: program.add_target(pid, children=False))
            records = ring.read(1 << 20)
        faults = records.view(layout.fault).ravel()
        recorded = int(np.count_nonzero(faults["type"] == layout.constants["RECORD_FAULT"]))
    finally:
        attached.close()
    counted = sum(each.faults for each in rounds)
    return Cost(name, storm.cpu_per_fault(rounds), bystander, recorded, counted, _floor(name))


def _floor(name: str) -> float:
    """Instructions of a fault with bench/floor_hooks.c on the probe's hooks."""
    import ctypes

    from bcc import BPF, PerfType

    from tracer.common.resources import bpf_dir
    from tracer.wire.ring import KernelRing

    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_dir() / "compat")
    flags = ["-I/usr/include", "-I/usr/include/x86_64-linux-gnu"]  # behind the stand-ins
    flags += [f"-DPROBE_{name.upper()}", f"-DRING_PAGES={_FLOOR_PAGES}"]
    program = BPF(src_file=str(_FLOOR), cflags=flags)
    try:
        if name == "perf":
            program.attach_perf_event(
                PerfType.SOFTWARE, _MINOR, fn_name="page_fault_minor", sample_period=1
            )

        def aim(pid: int) -> None:
            state = program["state"]
            state[ctypes.c_int(0)] = state.Leaf(pid)

        rounds = storm.run(PAGES, ROUNDS, aim)
        with KernelRing(program["records"].get_fd(), _FLOOR_PAGES * 4096, 24) as ring:
            recorded = len(ring.read(1 << 20))
    finally:
        program.cleanup()
    counted = sum(each.faults for each in rounds)
    if recorded < counted:
        raise RuntimeError(f"the floor of {name} recorded {recorded} of {counted} faults")
    return storm.cpu_per_fault(rounds)


def count(image: "Image", out: Path, root: Path, probes: Sequence[str] = PROBES) -> Counts | str:
    """Boot `image` and count `probes` inside, with the sources in `root`; or why it failed."""
    from tests.kernels.boot import boot

    out.mkdir(parents=True, exist_ok=True)
    found = out / "instructions.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.instructions", "--inside", str(found), *probes]
    ended = boot(image, command, out, limit=LIMIT_SECONDS, root=root, cpus=1, vng=[ICOUNT])
    if ended.status != 0 or not found.exists():
        return f"counting instructions failed: {ended.why_it_failed()}"
    data = json.loads(found.read_text())
    toolchain = baseline.Toolchain(image.release, data["bcc"], baseline.qemu_version())
    costs = [Cost(**cost) for cost in data["costs"]]
    return Counts(toolchain.key, image.release, data["untraced"], costs)


def measure(
    image: "Image", out: Path, root: Path, probes: Sequence[str] = PROBES
) -> tuple[str, bool]:
    """`count` on `image`; returns the text to print and whether it is good, as `judged` does."""
    counts = count(image, out, root, probes)
    return (counts, False) if isinstance(counts, str) else judged(counts)


def judged(counts: Counts) -> tuple[str, bool]:
    """The table, and whether every fault was recorded and no probe is noticeably more expensive.

    Compared with the committed counts: bench/baseline.py.
    """
    lines = [render(counts.release, counts.untraced, counts.costs)]
    committed = baseline.load()
    if counts.key not in committed:
        lines.append(f"not compared: bench/instructions.json has no counts for {counts.key}")
    grown = baseline.regressions(counts.key, counts.added(), committed)
    return "\n".join([*lines, *grown]), counts.complete() and not grown


def render(release: str, untraced: float, costs: Sequence[Cost]) -> str:
    """The table, in instructions per fault."""
    lines = [
        f"Guest instructions a fault on {release} ({PAGES} pages × {ROUNDS} rounds, median)",
        f"{'':10} {'a fault':>9} {'added':>8} {'the floor':>10} {'added to others':>16}",
        f"{'untraced':10} {untraced:9,.0f}",
    ]
    for cost in costs:
        if cost.refused:
            lines.append(f"{cost.probe:10} {cost.refused}")
            continue
        lines.append(
            f"{cost.probe:10} {cost.target:9,.0f} {cost.target - untraced:+8,.0f}"
            f" {cost.floor - untraced:+10,.0f} {cost.bystander - untraced:+16,.0f}"
        )
        if cost.recorded < cost.counted:
            lines.append(f"{'':10} recorded {cost.recorded} of {cost.counted} faults")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """`python -m bench.instructions --inside FILE PROBE…`, run in the guest."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inside", type=Path, required=True, metavar="FILE")
    parser.add_argument("probes", nargs="+", choices=PROBES)
    options = parser.parse_args(arguments)
    from tracer.probes.bcc_check import import_bcc

    untraced, costs = count_inside(options.probes)
    data = {
        "bcc": import_bcc().__version__,
        "untraced": untraced,
        "costs": [asdict(cost) for cost in costs],
    }
    options.inside.write_text(json.dumps(data))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
