"""Durations of the start-up steps, shown on stderr with PAGEFAULT_TIMINGS=1."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "PAGEFAULT_TIMINGS"


class Timings:
    """Laps of wall time, the first from the start of the process."""

    def __init__(self) -> None:
        self._wanted = bool(os.environ.get(VARIABLE))
        self._began = self._since = _process_start() if self._wanted else 0.0
        self._laps: list[tuple[str, float]] = []

    def lap(self, name: str) -> None:
        """End the lap `name`."""
        if self._wanted:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            self._laps.append((name, (now - self._since) * 1e3))
            self._since = now

    def detail(self, parts: Mapping[str, float]) -> None:
        """Add the parts of the last lap, in milliseconds."""
        self._laps += [(f"  {name}", took) for name, took in parts.items()]

    def show(self) -> None:
        """Print the laps, one a line; only once."""
        if not self._wanted:
            return
        self._wanted = False
        lines = [f"{took:7.1f} ms  {name}\n" for name, took in self._laps]
        total = f"{(self._since - self._began) * 1e3:7.1f} ms  until tracing is on\n"
        sys.stderr.write("".join(lines) + total)
        sys.stderr.flush()


def _process_start() -> float:
    """Start of this process in seconds since boot, to a clock tick, 0.01 s (proc_pid_stat(5))."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
