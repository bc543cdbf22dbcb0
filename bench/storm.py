"""Running bench/storm.c: build it, and time its rounds with or without a tracer."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SOURCE = Path(__file__).with_suffix(".c")
BINARY = SOURCE.parents[1] / "build" / "storm"


class StormError(Exception):
    """The storm could not be run, or did not do as its protocol says."""


@dataclass(frozen=True)
class Round:
    """One burst of faults: CPU and wall-clock nanoseconds, and the kernel's count of faults."""

    cpu_ns: int
    wall_ns: int
    faults: int


def build() -> Path:
    """The compiled storm, made anew when its source is newer."""
    if BINARY.exists() and BINARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return BINARY
    BINARY.parent.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", BINARY, SOURCE], check=True)
    return BINARY


def run(pages: int, rounds: int, attach: Callable[[int], None] = lambda pid: None) -> list[Round]:
    """The rounds of one storm; `attach(pid)` runs after it is ready and before it begins.

    Raises StormError where a round took fewer faults than it has pages.
    """
    command = [str(BINARY), str(pages), str(rounds)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        word, pid = process.stdout.readline().split() or ("", "")
        if word != "ready":
            raise StormError("the storm did not get ready")
        attach(int(pid))
        process.stdin.write("go\n")
        process.stdin.close()
        found = [Round(*map(int, line.split())) for line in process.stdout]
    if process.returncode or len(found) != rounds:
        raise StormError(f"the storm ended with status {process.returncode}")
    if any(each.faults < pages for each in found):
        raise StormError(f"a round took fewer faults than its {pages} pages")
    return found


def cpu_per_fault(rounds: list[Round]) -> float:
    """Median over the rounds of CPU nanoseconds a fault."""
    return median(each.cpu_ns / each.faults for each in rounds)
