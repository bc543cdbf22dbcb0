"""Building and running the C programs of bench/, and measuring the CPU time of a command."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[1]


def built(name: str) -> str:
    """The path of build/`name`, built by the Makefile if its source is newer."""
    subprocess.run(["make", "--silent", f"build/{name}"], cwd=ROOT, check=True)
    return str(ROOT / "build" / name)


@dataclass
class Target:
    """A program that printed `ready PID` and waits on its stdin."""

    process: "subprocess.Popen[str]"
    pid: int

    def say(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line it writes."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def target(name: str, *arguments: int) -> Iterator[Target]:
    """build/`name`, started and waiting; its stdin is closed at the end of the block."""
    command = [built(name), *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        word, _, pid = process.stdout.readline().partition(" ")
        if word != "ready":
            raise RuntimeError(f"{name} did not get ready")
        yield Target(process, int(pid))


@dataclass(frozen=True)
class Cost:
    """Seconds: CPU time (user and system), and wall-clock time."""

    cpu: float
    wall: float


def cost(command: Sequence[str], output: str) -> Cost:
    """Run `command`, its output into file `output`; returns its cost. RuntimeError if it fails."""
    with open(output, "wb") as file:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=file)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, wall)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4)
    return {"median": median(values), "low": low, "high": high}


def milliseconds(figures: dict[str, float]) -> str:
    """A spread of seconds as a cell of a table."""
    middle, low, high = (figures[name] * 1e3 for name in ("median", "low", "high"))
    return f"{middle:,.0f} ms ({low:,.0f}–{high:,.0f})"
