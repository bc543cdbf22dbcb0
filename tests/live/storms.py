"""Programs that begin and end threads, processes and mappings faster than records can be read."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.live.background import wait_until_all

# Under emulation a process takes a tenth of a second, and a small ring is full at once.
_LESS = 10 if os.environ.get("PAGEFAULT_GUEST") else 1

# What each does once. Its children are waited for: their faults are charged to it then.
STORMS = {
    "forks": (
        f"for n in range({120 // _LESS}):\n"
        " if os.fork() == 0:\n  bytearray(1 << 16); os._exit(0)\n"
        " os.wait()"
    ),
    "orphans": (
        f"for n in range({20 // _LESS}):\n"
        " if os.fork() == 0:\n"
        "  for m in range(6): os.fork() or os._exit(m)\n"
        "  while True:\n"
        "   try: os.wait()\n"
        "   except ChildProcessError: os._exit(0)\n"
        f"for n in range({20 // _LESS}): os.wait()"
    ),
    "execs": f"for n in range({40 // _LESS}): os.spawnv(os.P_WAIT, '/bin/true', ['x' * 9000])",
    "threads": (
        "def touch():\n"
        " with mmap.mmap(-1, 1 << 17) as m: m[::4096] = bytes(32)\n"
        f"for n in range({25 // _LESS}):\n"
        " each = [threading.Thread(target=touch) for m in range(4)]\n"
        " for t in each: t.start()\n"
        " for t in each: t.join()"
    ),
    "mappings": "for n in range(600):\n with mmap.mmap(-1, 16384) as m: m[::4096] = b'1234'",
}
_HEAD = "import ctypes, mmap, os, sys, threading\ndef storm():\n"
# Says when it is over; not in the storm itself, whose last words would be faults, too.
_WAITING = """
def work():
    for line in iter(sys.stdin.readline, "end\\n"):
        storm()
        print("done", flush=True)
"""
_LEADERLESS = "threading.Thread(target=work).start()\nctypes.CDLL(None).syscall(60, 0)\n"


def _script(name: str) -> str:
    return _HEAD + "".join(f"    {line}\n" for line in STORMS[name].splitlines())


def _python(script: str) -> Sequence[str]:
    """Without the surroundings of a test run."""
    return [sys.executable, "-ISc", script]


def commanded(name: str) -> Sequence[str]:
    """The command that makes a storm and ends."""
    return _python(_script(name) + "storm()\n")


def charged(pid: int) -> int:
    """What the kernel charges for a process and for children it waited for, as getrusage has it.

    Of one that has ended, too, while nobody has waited for it.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[7:11]))


class Storm:
    """A process that waits for a word, then makes a storm and waits for all of it to end.

    `leaderless`: its first thread has ended, and another one does that.
    """

    def __init__(self, name: str, *, leaderless: bool = False) -> None:
        self._begun = 0
        ending = _LEADERLESS if leaderless else "work()\n"
        self.process = subprocess.Popen(
            _python(_script(name) + _WAITING + ending),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.rage()  # what it needs for the first time, it has

    def rage(self) -> None:
        """One whole storm."""
        self.begin()
        self.finish()

    def begin(self, times: int = 1) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("storm\n" * times)
        self.process.stdin.flush()
        self._begun += times

    def finish(self) -> None:
        """Until all that have begun are over, and everything sleeps."""
        assert self.process.stdout is not None
        for _ in range(self._begun):
            assert self.process.stdout.readline() == "done\n"
        self._begun = 0
        wait_until_all(self.pid, "SZ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
