"""Running tests/live/workload.c: the Python side of its protocol (see the comment there).

with Workload("anon-write", 101) as work:  # it is ready: attach, take a snapshot
    work.go()  # the faults happen; work.counts says how many, thread by thread
    work.range("anon")  # where
    work.finish()
"""

import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_SOURCE = Path(__file__).with_name("workload.c")
BINARY = _SOURCE.parents[2] / "build" / "workload"
_SECONDS = 400.0  # a limit, not a wait: a guest under emulation is slow


class WorkloadError(Exception):
    """The workload did not do as the protocol says."""


@dataclass(frozen=True, slots=True)
class Range:
    """Where the faults will be."""

    start: int
    pages: int

    @property
    def end(self) -> int:
        return self.start + self.pages * 4096

    def addresses(self) -> list[int]:
        """The address of each page."""
        return list(range(self.start, self.end, 4096))


@dataclass(frozen=True, slots=True)
class Count:
    """min_flt + maj_flt of a thread around a step; `expected` None: the kernel's choice."""

    label: str
    tid: int
    before: int
    after: int
    expected: int | None

    @property
    def faults(self) -> int:
        return self.after - self.before


def build() -> Path:
    """The compiled workload, made anew when its source is newer. Raises CalledProcessError."""
    if BINARY.exists() and BINARY.stat().st_mtime >= _SOURCE.stat().st_mtime:
        return BINARY
    BINARY.parent.mkdir(exist_ok=True)
    made = BINARY.with_name(f"workload.{os.getpid()}")  # several test runs may build at once
    flags = ["-O1", "-Wall", "-Wextra", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", str(made), str(_SOURCE)], check=True)
    made.replace(BINARY)
    return BINARY


def command(*arguments: str | int, directory: Path | None = None) -> list[str]:
    """The command line that runs it without waiting: for `pagefault-trace -- …`."""
    options = ["--no-wait"] if directory is None else ["--no-wait", "--dir", str(directory)]
    return [str(build()), *options, *map(str, arguments)]


@dataclass
class Report:
    """What the workload's lines said."""

    pid: int = 0
    child: int = 0
    file: str = ""
    file_system: int = 0  # s_magic
    ranges: dict[str, Range] = field(default_factory=dict)
    counts: list[Count] = field(default_factory=list)
    resident: dict[str, int] = field(default_factory=dict)


def parse(lines: Sequence[str]) -> Report:
    """The facts in `lines`; lines that are not the workload's are left out."""
    report = Report()
    for line in lines:
        match line.split(maxsplit=5):
            case ["range", name, start, pages]:
                report.ranges[name] = Range(int(start, 16), int(pages))
            case ["file", path, magic]:
                report.file, report.file_system = path, int(magic, 16)
            case ["child", pid]:
                report.child = int(pid)
            case ["ready", pid, _]:
                report.pid = int(pid)
            case ["resident", name, pages]:
                report.resident[name] = int(pages)
            case ["thread", tid, before, after, expected, label]:
                answer = None if expected == "-1" else int(expected)
                report.counts.append(Count(label, int(tid), int(before), int(after), answer))
    return report


class Workload:
    """The workload, ready to act. Leaving the context ends it, whatever state it is in.

    Its files are in a directory of its own, in build/ where that can be written, since
    /tmp is often tmpfs and a page of that is shmem. Raises WorkloadError.
    """

    def __init__(self, *arguments: str | int) -> None:
        self.lines: list[str] = []
        self._unread = b""
        self._directory = _directory(build().parent)
        options = ["--dir", self._directory.name]
        self._process = subprocess.Popen(
            [str(BINARY), *options, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self._process.pid
        try:
            self._read_until("ready")
        except BaseException:
            self.close()
            raise

    @property
    def report(self) -> Report:
        """What it has said so far. After `next_image` that is the new program's word alone."""
        return parse(self.lines)

    @property
    def counts(self) -> list[Count]:
        """The readings around its steps, once it has acted."""
        return self.report.counts

    def range(self, name: str = "anon") -> Range:
        """Where the faults are or will be."""
        return self.report.ranges[name]

    def go(self) -> Report:
        """Let it act; returns when it has, and waits."""
        self._send_line()
        self._read_until("done")
        return self.report

    def next_image(self) -> Report:
        """After `exec N …` has acted: let it become the next program, and wait for its `ready`."""
        self.lines.clear()
        self._send_line()
        self._read_until("ready")
        return self.report

    def finish(self) -> int:
        """Let it end; its exit status, negative if a signal ended it."""
        with contextlib.suppress(BrokenPipeError):
            self._send_line()
        try:
            return self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise WorkloadError(f"did not end in {_SECONDS} s") from error

    def close(self) -> None:
        """End it, whatever state it is in, and remove its files. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send_line(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def _read_until(self, word: str) -> None:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + _SECONDS
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                self.lines.append(line.decode())
                if line.split(b" ")[0] == word.encode():
                    return
                continue
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise WorkloadError(f"did not say '{word}' in {_SECONDS} s; it said {self.lines}")
            chunk = os.read(fd, 65536)
            if not chunk:
                status = self._process.wait(_SECONDS)
                raise WorkloadError(f"ended with {status} before '{word}'; it said {self.lines}")
            self._unread += chunk


def _directory(preferred: Path) -> "tempfile.TemporaryDirectory[str]":
    if os.environ.get("PAGEFAULT_GUEST"):
        # A guest's own folders may be overlays over tmpfs; TMPDIR lies on a disk (guest.sh).
        return tempfile.TemporaryDirectory()
    try:
        return tempfile.TemporaryDirectory(prefix="run.", dir=preferred)
    except OSError:
        return tempfile.TemporaryDirectory()
