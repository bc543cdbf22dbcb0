"""`perf stat -e minor-faults,major-faults`: a second witness, which shares nothing with us.

Its events are those that a fault with a register frame raises: what a process has the kernel
fault in for it (mlock, exec's arguments) is in the kernel's count and not in perf's.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pytest

_SECONDS = 400.0  # a limit, not a wait


@dataclass(frozen=True)
class Counted:
    """Faults by a process, its threads and the children it came to have."""

    minor: int
    major: int


class PerfStat:
    """Counts the faults of process `pid` from `enable` to `end`.

    with PerfStat(pid) as perf:
        perf.enable()
        …
        perf.end()
    """

    def __init__(self, pid: int) -> None:
        if not shutil.which("perf"):
            pytest.skip("the perf tool")
        ours, theirs = os.pipe(), os.pipe()
        self._ask, self._answer = ours[1], theirs[0]
        command = ["perf", "stat", "--no-big-num", "-x", ","]
        command += ["-e", "minor-faults,major-faults", "--delay", "-1"]
        command += ["--control", f"fd:{ours[0]},{theirs[1]}", "-p", str(pid)]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=(ours[0], theirs[1]), stderr=subprocess.PIPE, text=True
            )
        finally:
            os.close(ours[0])
            os.close(theirs[1])

    def enable(self) -> None:
        """Begin to count; returns once the kernel does."""
        os.write(self._ask, b"enable\n")
        answer = os.read(self._answer, 16)
        assert answer.startswith(b"ack\n"), self._said()

    def end(self) -> Counted:
        """Stop, and what was counted."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        said = self._said()
        counts = {}
        for line in said.splitlines():
            fields = line.split(",")
            if len(fields) > 2 and fields[0].isdigit():
                counts[fields[2]] = int(fields[0])
        assert counts.keys() == {"minor-faults", "major-faults"}, (counts, said)
        return Counted(counts["minor-faults"], counts["major-faults"])

    def _said(self) -> str:
        _, said = self._process.communicate(timeout=_SECONDS)
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        os.close(self._ask)
        os.close(self._answer)
