"""Building and running bench/storm.c, and timing its rounds with or without a tracer."""

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

SOURCE = Path(__file__).with_suffix(".c")
BINARY = SOURCE.parents[1] / "build" / "storm"
PAGE = 4096
_PATIENCE_S = 60.0  # until a tracer shows its first fault


class StormError(Exception):
    """The storm could not be run, or violated its protocol."""


@dataclass(frozen=True)
class Round:
    """One burst of faults of one thread.

    CPU and wall-clock nanoseconds, the kernel's count of faults, and the address of the pages.
    """

    cpu_ns: int
    wall_ns: int
    faults: int
    address: int = 0

    @classmethod
    def parse(cls, line: str) -> "Round":
        """A line of the storm's output."""
        cpu, wall, faults, address = line.split()
        return cls(int(cpu), int(wall), int(faults), int(address, 16))


def build() -> Path:
    """The compiled storm, rebuilt if its source is newer."""
    if BINARY.exists() and BINARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return BINARY
    BINARY.parent.mkdir(exist_ok=True)
    flags = ["-O2", "-Wall", "-Wextra", "-pthread"]
    subprocess.run(["cc", *flags, "-o", BINARY, SOURCE], check=True)
    return BINARY


class Storm:
    """A storm that is ready and waits; `cpus` are those it may run on (by default all).

    Used as a context manager, which ends it. Raises StormError where it does not get ready.
    """

    def __init__(
        self,
        pages: int,
        rounds: int,
        *,
        threads: int = 1,
        rate: int = 0,
        cpus: Iterable[int] = (),
    ) -> None:
        self.pages, self.expected = pages, rounds * threads
        self.seconds = 0.0  # duration of the whole storm, once it is over
        options = ["-t", str(threads), "-r", str(rate)]
        self._process = subprocess.Popen(
            [str(BINARY), *options, str(pages), str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=pinned(cpus),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        word, _, pid = self._read().partition(" ")
        if word != "ready":
            self.close()
            raise StormError("the storm did not get ready")
        self.pid = int(pid)

    def poke_until(self, seen: Callable[[], bool], faults: int = 1) -> None:
        """Make it fault, `faults` at a time, until a tracer has `seen` one.

        Raises StormError if none does.
        """
        latest = time.monotonic() + _PATIENCE_S
        while not seen():
            if time.monotonic() > latest:
                raise StormError("the tracer shows no fault")
            self._write(f"poke {faults}\n")
            if self._read() != "poked":
                raise StormError("the storm ended early")
            select.select([], [], [], 0.01)  # leave the CPU to the tracer

    def go(self) -> None:
        """Start the storm; it needs no more input."""
        self._began = time.monotonic()
        self._write("go\n")
        self._stdin.close()

    def rounds(self) -> list[Round]:
        """Its rounds, once it has ended.

        Raises StormError where a round took fewer faults than it has pages.
        """
        found = [Round.parse(line) for line in self._stdout]
        self.seconds = time.monotonic() - self._began
        status = self._process.wait()
        if status or len(found) != self.expected:
            raise StormError(f"the storm ended with status {status}")
        if any(each.faults < self.pages for each in found):
            raise StormError(f"a round took fewer faults than its {self.pages} pages")
        return found

    def close(self) -> None:
        """Kill it if it is running."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def _read(self) -> str:
        return str(self._stdout.readline()).strip()

    def _write(self, text: str) -> None:
        self._stdin.write(text)
        self._stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def pinned(cpus: Iterable[int]) -> Callable[[], None] | None:
    """A function for a new process to call before exec, which pins it to `cpus`."""
    allowed = set(cpus)
    return (lambda: os.sched_setaffinity(0, allowed)) if allowed else None


def run(pages: int, rounds: int, attach: Callable[[int], None] = lambda pid: None) -> list[Round]:
    """The rounds of one storm; `attach(pid)` runs after it is ready and before it begins.

    Raises StormError where a round took fewer faults than it has pages.
    """
    with Storm(pages, rounds) as storm:
        attach(storm.pid)
        storm.go()
        return storm.rounds()


def cpu_per_fault(rounds: Iterable[Round]) -> float:
    """Median over the rounds of CPU nanoseconds per fault."""
    return median(each.cpu_ns / each.faults for each in rounds)


def wall_per_fault(rounds: Iterable[Round]) -> float:
    """Median over the rounds of wall-clock nanoseconds per fault."""
    return median(each.wall_ns / each.faults for each in rounds)
