"""Running tests/live/programs/workload.c: the Python side of its protocol (see the comment there).

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tracer.procfs import stat

_PROGRAMS = Path(__file__).with_name("programs")
BINARY = _PROGRAMS.parents[2] / "build" / "workload"
_SECONDS = 400.0  # a limit, not a wait: a guest under emulation is slow


_SMALL = _PROGRAMS / "small" / "small.c"


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
    """The compiled workload, made anew when a source is newer. Raises CalledProcessError."""
    newest = max(source.stat().st_mtime for source in _PROGRAMS.glob("*.[ch]"))
    if BINARY.exists() and BINARY.stat().st_mtime >= newest:
        return BINARY
    BINARY.parent.mkdir(exist_ok=True)
    made = BINARY.with_name(f"workload.{os.getpid()}")  # several test runs may build at once
    flags = ["-O1", "-Wall", "-Wextra", "-pthread"]
    sources = sorted(map(str, _PROGRAMS.glob("*.c")))
    subprocess.run(["gcc", *flags, "-o", str(made), *sources], check=True)
    made.replace(BINARY)
    return BINARY


def build_small(bits: int) -> Path:
    """A static program for x86-64 (64) or i386 (32) that needs no library of either."""
    binary = BINARY.with_name(f"small{bits}")
    if not binary.exists() or binary.stat().st_mtime < _SMALL.stat().st_mtime:
        BINARY.parent.mkdir(exist_ok=True)
        made = binary.with_name(f"small{bits}.{os.getpid()}")
        flags = ["-O1", "-Wall", "-Wextra", "-nostdlib", "-static", "-ffreestanding"]
        flags += ["-fno-pie", "-no-pie", "-fno-stack-protector", "-fcf-protection=none"]
        subprocess.run(["gcc", f"-m{bits}", *flags, "-o", str(made), str(_SMALL)], check=True)
        made.replace(binary)
    return binary


def command(*arguments: str | int, directory: Path | None = None) -> list[str]:
    """The command line that runs it without waiting: for `pagefault-trace -- …`."""
    options = ["--no-wait"] if directory is None else ["--no-wait", "--dir", str(directory)]
    return [str(build()), *options, *map(str, arguments)]


@dataclass
class Report:
    """What the workload's lines said."""

    pid: int = 0
    child: int = 0
    children: list[int] = field(default_factory=list)
    missing: str = ""  # a feature that the kernel does not have
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
                report.children.append(int(pid))
            case ["missing", feature]:
                report.missing = feature
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

    def __init__(self, *arguments: str | int, under: Sequence[str] = ()) -> None:
        """`under`: a command that runs the workload, in a PID namespace of its own maybe."""
        self.lines: list[str] = []
        self._unread = b""
        self._numbers: dict[int, int] = {}  # what it calls itself and its threads -> what we do
        self._directory = _directory(build().parent)
        options = ["--dir", self._directory.name]
        self._process = subprocess.Popen(
            [*under, *_program(arguments[0], options), *map(str, arguments[1:])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self._process.pid
        try:
            self._read_until("ready")
            if under:
                self.pid = self._process_of(self._process.pid)
                self._learn_numbers()
        except BaseException:
            self.close()
            raise

    @property
    def report(self) -> Report:
        """What it has said so far. After `next_image` that is the new program's word alone."""
        return _renumbered(parse(self.lines), self._numbers)

    @property
    def counts(self) -> list[Count]:
        """The readings around its steps, once it has acted."""
        return self.report.counts

    def range(self, name: str = "anon") -> Range:
        """Where the faults are or will be."""
        return self.report.ranges[name]

    def go(self, at: Mapping[str, Callable[["Workload"], None]] | None = None) -> Report:
        """Let it act; returns when it has, and waits.

        `at` says what to do at each of the workload's own stops (`at WORD`).
        """
        self.send_line()
        while self._read_until("done", "at") != "done":
            (at or {})[self.lines[-1].split()[1]](self)
            self.send_line()
        if self._numbers:
            self._learn_numbers()
        return self.report

    def start(self) -> None:
        """Let it act, and do not wait for it."""
        self.send_line()

    def step(self, act: Callable[["Workload"], object]) -> None:
        """After `send_line`: at its next stop (`at WORD`), `act`, and let it go on."""
        self._read_until("at")
        act(self)
        self.send_line()

    def next_image(self) -> Report:
        """After `exec N …` has acted: let it become the next program, and wait for its `ready`."""
        self.lines.clear()
        self.send_line()
        self._read_until("ready")
        return self.report

    def finish(self) -> int:
        """Let it end; its exit status, negative if a signal ended it."""
        with contextlib.suppress(BrokenPipeError):
            self.send_line()
        try:
            return self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise WorkloadError(f"did not end in {_SECONDS} s") from error

    def send_line(self) -> None:
        """What lets it go on, once: also ahead of the moment it waits."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def _process_of(self, pid: int) -> int:
        """The workload itself, where `pid` may have started it in a namespace of its own."""
        children = stat.children(pid)
        return children[0] if children else pid

    def _learn_numbers(self) -> None:
        """NSpid of proc(5): outer number first, its own number for itself last."""
        for pid in [self.pid, *stat.children(self.pid)]:
            for tid in stat.threads(pid):
                status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
                numbers = next(line for line in status.splitlines() if line.startswith("NSpid"))
                self._numbers[int(numbers.split()[-1])] = tid

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

    def _read_until(self, *words: str) -> str:
        """The first of `words` that begins a line."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + _SECONDS
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                self.lines.append(line.decode())
                word = self.lines[-1].split(" ")[0]
                if word in words:
                    return word
                continue
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise WorkloadError(f"did not say {words} in {_SECONDS} s; it said {self.lines}")
            chunk = os.read(fd, 65536)
            if not chunk:
                status = self._process.wait(_SECONDS)
                raise WorkloadError(f"ended with {status} before {words}; it said {self.lines}")
            self._unread += chunk


def _program(name: str | int, options: list[str]) -> list[str]:
    """The workload with its subcommand, a small program (`small32`, `small64`), or a golden one."""
    if str(name).startswith("golden"):
        return [str(BINARY.with_name(str(name)))]
    if str(name).startswith("small"):
        return [str(build_small(int(str(name).removeprefix("small"))))]
    return [str(BINARY), *options, str(name)]


def _renumbered(report: Report, numbers: Mapping[int, int]) -> Report:
    """The report of a workload in a PID namespace of its own, with the numbers we know."""
    report.pid = numbers.get(report.pid, report.pid)
    report.child = numbers.get(report.child, report.child)
    report.children = [numbers.get(pid, pid) for pid in report.children]
    report.counts = [replace(each, tid=numbers.get(each.tid, each.tid)) for each in report.counts]
    return report


def _directory(preferred: Path) -> "tempfile.TemporaryDirectory[str]":
    if os.environ.get("PAGEFAULT_GUEST"):
        # A guest's own folders may be overlays over tmpfs; TMPDIR lies on a disk (guest.sh).
        return tempfile.TemporaryDirectory()
    try:
        return tempfile.TemporaryDirectory(prefix="run.", dir=preferred)
    except OSError:
        return tempfile.TemporaryDirectory()
