"""Running pagefault-trace as a user does: as a program, with its own stdin, stdout and signals."""

import contextlib
import csv
import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
SECONDS = 400.0  # a limit, not a wait: a guest under emulation is slow

# A Python program that touches a new page a hundred times a second.
TOUCHING = """
import mmap, time
memory = mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, 1 << 26, 4096):
    memory[at] = 1
    time.sleep(0.01)
"""

_SYS_BPF = 321  # x86-64
_BPF_PROG_GET_NEXT_ID = 11


def argv(*arguments: str | int | Path) -> list[str]:
    """The command line that runs pagefault-trace from this checkout."""
    return [sys.executable, "-m", "tracer.app.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Ours, with this checkout on the path and no word on colours or sudo."""
    leave = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "COLUMNS", "SUDO_UID", "SUDO_GID")
    kept = {name: value for name, value in os.environ.items() if name not in leave}
    return kept | {"PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Done:
    """How a run ended and what it said."""

    status: int
    out: str
    err: str


def run(*arguments: str | int | Path, stdin: str = "", user: int | None = None) -> Done:
    """Run it to its end."""
    done = subprocess.run(
        argv(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=SECONDS,
        user=user,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Attached:
    """pagefault-trace on a running process: inside, its hooks are in place.

    FILE.meta.json says "running" from the moment they are.
    """

    def __init__(self, pid: int, csv_file: Path, *arguments: str | int | Path) -> None:
        self.csv = csv_file
        self.meta = Path(f"{csv_file}.meta.json")
        self.process = subprocess.Popen(
            argv("--pid", pid, "--csv", csv_file, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        deadline = time.monotonic() + SECONDS
        while not self._running():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"did not start: {self.process.communicate()}")
            time.sleep(0.005)

    def _running(self) -> bool:
        return self.meta.exists() and self.meta.stat().st_size > 0

    def end(self, number: int | None = signal.SIGINT) -> Done:
        """Its end, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        return Done(self.process.returncode, out, err)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, which must end with a whole line."""
    text = path.read_text()
    assert text.endswith("\n")
    return parse_rows(text)


def parse_rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text; each must be as long as the header."""
    header, *lines = csv.reader(text.splitlines())
    assert all(len(line) == len(header) for line in lines)
    return [dict(zip(header, line, strict=True)) for line in lines]


def meta(path: Path) -> dict[str, object]:
    """FILE.meta.json beside a CSV file."""
    content = json.loads(Path(f"{path}.meta.json").read_text())
    assert isinstance(content, dict)
    return content


def books(path: Path) -> dict[str, int]:
    """The books in it, which must balance, unless the kernel skipped what follows threads."""
    found = meta(path)["books"]
    assert isinstance(found, dict)
    assert found["balanced"] or (found["unfollowed"] and found["kernel_at_least"]), found
    return found


def fault_lines(text: str) -> list[str]:
    """The lines of faults in what was printed: a time, then a thread."""
    return [line for line in text.splitlines() if re.match(r" *[\d:]+\.\d{3,6} \S+/\d+", line)]


def bpf_programs() -> set[int]:
    """The ids of all programs in the kernel (bpf(2), BPF_PROG_GET_NEXT_ID)."""
    libc = ctypes.CDLL(None, use_errno=True)
    found: set[int] = set()
    last = 0
    while True:
        attr = ctypes.create_string_buffer(struct.pack("<III", last, 0, 0).ljust(128, b"\0"), 128)
        if libc.syscall(_SYS_BPF, _BPF_PROG_GET_NEXT_ID, attr, 128) < 0:
            return found
        (last,) = struct.unpack_from("<I", attr, 4)
        found.add(last)


def _held_by_processes() -> set[int]:
    """The ids of programs some process has a descriptor for: a tracer at work beside us."""
    held = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for number in os.listdir(process / "fdinfo"):
                with contextlib.suppress(OSError):
                    held.update(_programs_listed(process / "fdinfo" / number))
    return held


def _programs_listed(info: Path) -> list[int]:
    lines = info.read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("prog_id:")]


@contextlib.contextmanager
def nothing_left_attached() -> Iterator[None]:
    """No program stays in the kernel that no process holds; they go a moment after their end."""
    before = bpf_programs()
    yield
    deadline = time.monotonic() + SECONDS
    while left := bpf_programs() - before:
        left -= _held_by_processes()
        if not left:
            return
        assert time.monotonic() < deadline, f"programs left in the kernel: {left}"
        time.sleep(0.02)


def python(script: str) -> Sequence[str]:
    """The command that runs a few lines of Python without the surroundings of a test run."""
    return [sys.executable, "-ISc", script]
