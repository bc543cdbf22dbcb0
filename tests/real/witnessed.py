"""A program traced under the eyes of witnesses that share nothing with the tracer.

`witness` (witness.c) is what is traced, and the program is its child: its getrusage says what the
kernel counted for both, to the fault. perf counts them, too, from before the program begins.
"""

import contextlib
import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live import cli
from tests.live.perf_stat import Counted, PerfStat
from tests.real.programs import PATH, Program
from tracer.common.cache_files import VARIABLE, default_folder
from tracer.procfs import stat

HANG = 400.0 if os.environ.get("PAGEFAULT_GUEST") else 120.0  # seconds; a guard, not a budget
_SOURCE = Path(__file__).with_name("witness.c")
BINARY = _SOURCE.parents[2] / "build" / "witness"


class Hung(Exception):
    """Something did not end within the guard."""


@dataclass(frozen=True)
class Ended:
    """What the program left: its status and output, and what the kernel counted for it."""

    pid: int  # of witness, as are `before` and `own`
    before: int  # faults before the program began, those before exec included
    own: int  # faults in all
    minor: int  # of the program and its descendants
    major: int
    status: int
    out: bytes
    err: bytes
    seconds: float


@dataclass(frozen=True)
class Witnessed:
    """A trace of a program, and what the witnesses say."""

    program: Program
    command: bool  # given to the tracer as its command; else the tracer attached to `witness`
    ended: Ended
    plain: Ended  # the same program, untraced
    tracer: cli.Done
    perf: Counted | None
    csv: Path
    pages: Path

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(f"{self.csv}.meta.json").read_text())
        return found

    @property
    def books(self) -> dict[str, Any]:
        found: dict[str, Any] = self.meta["books"]
        return found

    @property
    def how(self) -> str:
        return self.csv.stem

    def is_early(self, row: dict[str, str]) -> bool:
        """Whether `witness` took this fault before it waited, and so before perf counted."""
        return row["tid"] == str(self.ended.pid) and int(row["count"]) <= self.ended.before

    def rows(self) -> Iterator[dict[str, str]]:
        with self.csv.open(newline="") as file:
            yield from csv.DictReader(file)

    def shares(self) -> dict[str, Any]:
        """What the table at the end of a run shows of it."""
        books = self.books
        rows = list(self.rows())
        return {
            "program": self.program.name,
            "how": self.how,
            "kernel": books["kernel"],
            "witnessed": kernel_count(self),
            "lost": books["lost"],
            "lost_other": books["lost_other"],
            "missed": books["missed"],
            "seconds": round(self.ended.seconds, 2),
            "seconds_untraced": round(self.plain.seconds, 2),
            "kinds": dict(Counter(row["kind"] or "unknown" for row in rows).most_common()),
            "sources": books["gained_by"],
            "losses": books["lost_by"],
        }


def build() -> Path:
    """The compiled `witness`, made anew when its source is newer."""
    if not BINARY.exists() or BINARY.stat().st_mtime < _SOURCE.stat().st_mtime:
        BINARY.parent.mkdir(exist_ok=True)
        made = BINARY.with_name(f"witness.{os.getpid()}")
        flags = ["-O1", "-Wall", "-Wextra", "-static"]
        subprocess.run(["gcc", *flags, "-o", str(made), str(_SOURCE)], check=True)
        made.replace(BINARY)
    return BINARY


class Stage:
    """A folder for one program, in which it runs as often as wanted."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self._made = folder / "made"
        self._made.mkdir()
        # Its own, for what is stored between runs; the probes of ours need not be compiled anew.
        self._cache = folder / "cache"
        self._cache.mkdir(0o700)
        known = default_folder()
        for compiled in known.glob("*.json") if known is not None else ():
            shutil.copy(compiled, self._cache)
        self._environment = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "MADE": str(self._made),
        }
        if program.prepare:
            command = ["/bin/bash", "-euc", program.prepare]
            subprocess.run(
                command, cwd=self._made, env=self._environment, check=True, timeout=HANG,
                stdin=subprocess.DEVNULL, capture_output=True,
            )  # fmt: skip

    def forget_rules(self) -> None:
        """The next run is to learn all unwind rules itself."""
        for stored in self._cache.glob("*rules*"):
            stored.unlink()

    def plain(self) -> Ended:
        """The program by itself."""
        where = self._fresh("plain")
        started = time.monotonic()
        with self._start([], where) as process:
            done = _end(process, _later(started))
        return _ended(where, done, time.monotonic() - started)

    def command(self, how: str, plain: Ended, *options: str) -> Witnessed:
        """`pagefault-trace … -- witness … -- PROGRAM`: stdout and stderr are the program's alone.

        The program runs once perf is there, as well. `how` names the files.
        """
        where = self._fresh(how)
        tracer = cli.argv(
            *("--csv", str(where.with_suffix(".csv"))),
            *("--pages-csv", str(where.with_suffix(".pages.csv"))),
            *("--quiet", "--output", str(where.with_suffix(".summary")), *options, "--"),
        )
        with self._start(tracer, where, wait=True) as process:
            pid, _ = _started(where, process)
            with _perf(pid) as perf:
                started = time.monotonic()
                _go(where)
                done = _end(process, _later(started), also=pid)
                counted = perf.end() if perf else None
        ended = _ended(where, done, time.monotonic() - started)
        said = where.with_suffix(".summary").read_text()
        traced = cli.Done(done.returncode, said, "")
        return self._witnessed(True, ended, plain, traced, counted, where)

    def attached(self, how: str, plain: Ended, *options: str) -> Witnessed:
        """`pagefault-trace … --pid WITNESS`, attached before the program begins."""
        where = self._fresh(how)
        with self._start([], where, wait=True) as process:
            pid, _ = _started(where, process)
            files = ("--pages-csv", where.with_suffix(".pages.csv"), "--quiet")
            tracing = cli.Attached(pid, where.with_suffix(".csv"), *files, *options)
            with tracing, _perf(pid) as perf:
                started = time.monotonic()
                _go(where)
                done = _end(process, _later(started), also=pid)
                ended = _ended(where, done, time.monotonic() - started)
                try:
                    out, err = tracing.process.communicate(timeout=HANG)
                except subprocess.TimeoutExpired:
                    raise Hung(f"the tracer goes on {HANG:g} s after the program's end") from None
                counted = perf.end() if perf else None
        traced = cli.Done(tracing.process.returncode, out, err)
        return self._witnessed(False, ended, plain, traced, counted, where)

    def _witnessed(
        self,
        command: bool,
        ended: Ended,
        plain: Ended,
        tracer: cli.Done,
        perf: Counted | None,
        where: Path,
    ) -> Witnessed:
        files = where.with_suffix(".csv"), where.with_suffix(".pages.csv")
        return Witnessed(self.program, command, ended, plain, tracer, perf, *files)

    def _fresh(self, name: str) -> Path:
        """An empty folder to run in; what is written about the run is beside it."""
        where = self.folder / name
        where.mkdir()
        os.mkfifo(where.with_suffix(".go"))
        return where

    @contextlib.contextmanager
    def _start(
        self, before: Sequence[str], where: Path, wait: bool = False
    ) -> Iterator[subprocess.Popen[bytes]]:
        """`witness` with the program, or what starts it; nothing of it outlives a failure."""
        go = [str(where.with_suffix(".go"))] if wait else []
        witness = [str(build()), str(where.with_suffix(".witness")), *go, "--"]
        environment = self._environment | ({"PYTHONPATH": str(cli.ROOT)} if before else {})
        environment |= {k: v for k, v in os.environ.items() if k.startswith("PAGEFAULT_")}
        environment[VARIABLE] = str(self._cache)
        with subprocess.Popen(
            [*before, *witness, *self.program.argv()],
            cwd=where, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    _kill(process.pid)


def kernel_count(traced: Witnessed) -> int:
    """What the kernel counted in the trace, by `witness`.

    Attached, that is since it waited to be. As a command, since its exec: what was counted
    before, the first of its rows shows by the thread's own count.
    """
    ended = traced.ended
    before = ended.before
    if traced.command:
        own = next(row for row in traced.rows() if row["tid"] == str(ended.pid))
        before = int(own["count"]) - 1
    return ended.own - before + ended.minor + ended.major


def _later(started: float) -> float:
    return started + HANG


def _started(where: Path, process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """`witness`'s pid, and its faults so far, once it waits."""
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            words = where.with_suffix(".witness").read_text().split()
            if len(words) == 3 and stat.state(int(words[1])) == "S":
                return int(words[1]), int(words[2])
        if process.poll() is not None:
            raise AssertionError(f"it did not start: {process.communicate()}")
        time.sleep(0.005)
    process.kill()
    raise Hung(f"the tracer did not start its command within {HANG:g} s")


def _go(where: Path) -> None:
    descriptor = os.open(where.with_suffix(".go"), os.O_WRONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
        os.write(descriptor, b"g")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _perf(pid: int) -> Iterator[PerfStat | None]:
    """perf, counting; under emulation its start takes longer than what it would count."""
    if os.environ.get("PAGEFAULT_GUEST"):
        yield None
        return
    with PerfStat(pid) as perf:
        perf.enable()
        yield perf


def _end(
    process: subprocess.Popen[bytes], deadline: float, also: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Its end and output; a hung one is ended with all it started."""
    try:
        out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        program = "the program ended" if also and not _alive(also) else "the program goes on"
        for pid in {process.pid, also or process.pid}:
            _kill(pid)
        process.communicate(timeout=HANG)
        raise Hung(f"no end within {HANG:g} s; {program}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _alive(pid: int) -> bool:
    try:
        return stat.state(pid) not in "ZX"
    except OSError:
        return False


def _kill(pid: int) -> None:
    """A process and its descendants, first of all stopped, so that none is added."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    for child in _children(pid):
        _kill(child)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def _ended(where: Path, done: subprocess.CompletedProcess[bytes], seconds: float) -> Ended:
    """What `witness` wrote, with the program's output."""
    text = where.with_suffix(".witness").read_text()
    words = text.split()
    assert (words[0], words[3]) == ("start", "end"), (text, done)
    pid, before = map(int, words[1:3])
    own, minor, major, status = map(int, words[4:])
    return Ended(pid, before, own, minor, major, status, done.stdout, done.stderr, seconds)
