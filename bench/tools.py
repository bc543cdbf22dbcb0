"""The tracers to compare: how each is started, known to be ready, ended, and its faults counted.

A tool is attached to a storm that waits. It is ready once it shows a fault that
the storm was made to take, or reports it itself; there are no fixed delays.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TypeVar

from bench import outputs
from bench.storm import Round, Storm, pinned
from tracer.common.resources import bpf_dir

HERE = Path(__file__).parent
ROOT = HERE.parent
PROGRAM = Path(sys.executable).with_name("pagefault-trace")
_POKES = 256  # faults: more lines than stdio buffers
_ENDING_S = 300.0
# perf and bpftrace look for tracepoints there; a private mount leaves the machine unchanged.
_TRACEFS = "{ mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing; }"


class ToolError(Exception):
    """A tool does not work here; the message is its own."""


@dataclass(frozen=True)
class Work:
    """A running tool: its process, its folder, and the descriptors that control it."""

    process: subprocess.Popen[bytes]
    folder: Path
    control: tuple[FileIO, FileIO] | None = None  # to it, and its answers

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def err(self) -> Path:
        return self.folder / "err"

    def said(self) -> str:
        """The last line on stderr, for an error message."""
        lines = self.err.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self.process.returncode}"


@dataclass(frozen=True)
class Tool:
    """One way of tracing. `command` gets the storm's pid and a folder for what it writes."""

    name: str  # for files and --only
    title: str  # for the table
    command: Callable[[int, Path], list[str]]
    addresses: Callable[[Path], Iterable[int]] | None  # of the faults recorded, from its folder
    first_time: Callable[[Path], int] | None = None  # when the first of them was, CLOCK_MONOTONIC
    ready: str = ""  # text on stderr or stdout once it traces; else it shows a poked fault
    interrupted: bool = False  # it does not end with the storm by itself
    controlled: bool = False  # perf record's --control
    after: Callable[[Path], list[str]] | None = None  # a command that converts its output to lines
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: str = ""  # shell commands that come before it, in a mount namespace of its own
    program: str = ""  # the program that has to be installed
    package: str = ""  # the name of Debian's package of it

    def missing(self) -> str:
        """Why it cannot be run, or ""."""
        if self.program and not shutil.which(self.program):
            return f"{self.program} is not installed (Debian: {self.package})"
        return ""

    def start(self, pid: int, folder: Path, cpus: Iterable[int] = ()) -> Work:
        """Start it on process `pid`, on `cpus` (all, if none)."""
        command = self.command(pid, folder)
        if self.mounts:
            command = _mounted(self.mounts, command)
        control: tuple[FileIO, FileIO] | None = None
        theirs: tuple[int, ...] = ()
        if self.controlled:
            (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
            control, theirs = (FileIO(our_out, "w"), FileIO(our_in)), (their_in, their_out)
            command += [f"--control=fd:{their_in},{their_out}", "-D", "-1"]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **self.environment},
                cwd=ROOT,
                pass_fds=theirs,
                preexec_fn=pinned(cpus),
            )
        for fd in theirs:
            os.close(fd)
        return Work(process, folder, control)

    def wait_ready(self, work: Work, storm: Storm) -> None:
        """Return once it traces `storm`. Raises ToolError where it ends before, StormError."""
        if work.control is not None:
            orders, answers = work.control
            orders.write(b"enable\n")
            if not answers.read(16).startswith(b"ack"):
                raise ToolError(work.said())
            return

        storm.poke_until(lambda: self.traces(work), _POKES)

    def traces(self, work: Work) -> bool:
        """Whether it reports or shows that it traces. Raises ToolError where it has ended."""
        if work.process.poll() is not None:
            raise ToolError(work.said())
        if self.ready:
            return self.ready.encode() in work.err.read_bytes() + work.out.read_bytes()
        assert self.addresses is not None
        return work.out.exists() and any(True for _ in self.addresses(work.folder))

    def end(self, work: Work) -> None:
        """After the end of the storm: wait until the tool has written what it recorded."""
        if self.interrupted and work.process.poll() is None:
            work.process.send_signal(signal.SIGINT)
        try:
            work.process.wait(_ENDING_S)
        finally:
            self.close(work)

    def close(self, work: Work) -> None:
        """Kill it if it is running."""
        if work.process.poll() is None:
            work.process.kill()
            work.process.wait()
        for end in work.control or ():
            end.close()

    def make_lines(self, folder: Path) -> float:
        """Run `after`, which converts the recording to lines; returns its CPU seconds."""
        if self.after is None:
            return 0.0
        before = _children_s()
        with (folder / "out").open("wb") as out:
            command = self.after(folder)
            subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=True)
        return _children_s() - before


def _children_s() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _perf_record(*options: str) -> Callable[[int, Path], list[str]]:
    events = ["-e", "minor-faults,major-faults", "-c1", "-d", "--phys-data", *options]

    def command(pid: int, folder: Path) -> list[str]:
        return ["perf", "record", *events, "-o", str(folder / "data"), "-p", str(pid)]

    return command


def _perf_script(folder: Path) -> list[str]:
    fields = "comm,tid,time,event,addr,ip,sym,phys_addr"
    return ["perf", "script", "-i", str(folder / "data"), "-G", "-F", fields]


def _perf_trace(pid: int, folder: Path) -> list[str]:
    return ["perf", "trace", "-F", "all", "-o", str(folder / "out"), "-p", str(pid)]


def _bpftrace(pid: int, folder: Path) -> list[str]:
    return ["bpftrace", "-p", str(pid), str(HERE / "faults.bt"), str(pid)]


def _plain_bcc(pid: int, folder: Path) -> list[str]:
    return [sys.executable, str(HERE / "plain_bcc.py"), str(pid)]


def _floor(*options: str) -> Callable[[int, Path], list[str]]:
    return lambda pid, folder: [sys.executable, "-m", "bench.floor", *options, str(pid)]


def _ours(*options: str) -> Callable[[int, Path], list[str]]:
    def command(pid: int, folder: Path) -> list[str]:
        csv = ["--csv", str(folder / "csv"), "--force", "-q"]
        return [str(PROGRAM), *options, *csv, "--pid", str(pid)]

    return command


def ours(probe: str = "auto", cache: str | None = None, *, stacks: bool = False) -> Tool:
    """pagefault-trace writing CSV; `cache` is the folder of compiled probes."""
    name = probe if probe != "auto" else "pagefault-trace"
    options = ("--probe", probe, *(["--stacks"] if stacks else []))
    return Tool(
        name=f"{name}-stacks" if stacks else name,
        title=f"pagefault-trace --csv {' '.join(options)}",
        command=_ours(*options),
        addresses=lambda folder: outputs.csv_addresses(folder / "csv"),
        first_time=lambda folder: outputs.first_csv_time(folder / "csv"),
        ready="until tracing is on",
        environment={
            "PAGEFAULT_TIMINGS": "1",
            **({"PAGEFAULT_CACHE": cache} if cache is not None else {}),
        },
        mounts=_TRACEFS if probe == "kprobe" else "",
    )


def stand_in() -> dict[str, str]:
    """The environment for BCC scripts where the kernel's headers are not installed."""
    if Path(f"/lib/modules/{os.uname().release}/build").exists():
        return {}
    return {"BCC_KERNEL_SOURCE": str(bpf_dir() / "compat"), "STAND_IN": "1"}


def plain_bcc(environment: Mapping[str, str]) -> Tool:
    """A plain BCC script; `environment` selects the headers it is compiled with."""
    return Tool(
        name="bcc",
        title="BCC script, a Python callback a fault",
        command=_plain_bcc,
        addresses=lambda folder: outputs.line_addresses(folder / "out", 3),
        first_time=lambda folder: outputs.first_time(folder / "out"),
        interrupted=True,
        environment=environment,
    )


def bpftrace() -> Tool:
    """bpftrace, printing each fault."""
    return Tool(
        name="bpftrace",
        title="bpftrace, printing each fault",
        command=_bpftrace,
        addresses=lambda folder: outputs.line_addresses(folder / "out", 3),
        first_time=lambda folder: outputs.first_time(folder / "out"),
        mounts=_TRACEFS,
        program="bpftrace",
        package="bpftrace",
    )


def floors() -> list[Tool]:
    """An empty program on the perf probe's hooks, and one that emits a record per fault."""
    return [
        Tool(
            name="empty",
            title="an empty program on the same events",
            command=_floor("--empty"),
            addresses=None,
            ready="ready",
            interrupted=True,
        ),
        Tool(
            name="floor",
            title="the floor: 8 bytes a fault, no more",
            command=_floor(),
            addresses=lambda folder: outputs.line_addresses(folder / "out", 0),
            ready="ready",
            interrupted=True,
        ),
    ]


def perf_record(*, stacks: bool = False) -> Tool:
    """perf record, with call stacks by frame pointers or without; perf script prints the lines."""
    options = ("-g",) if stacks else ()
    return Tool(
        name="perf-record-stacks" if stacks else "perf-record",
        title=" ".join(["perf record -c1 -d --phys-data", *options]),
        command=_perf_record(*options),
        addresses=lambda folder: outputs.perf_script_addresses(folder / "out"),
        controlled=True,
        mounts=_TRACEFS,
        after=_perf_script,
        program="perf",
        package="linux-perf",
    )


def others() -> list[Tool]:
    """The other tracers."""
    return [
        perf_record(),
        Tool(
            name="perf-trace",
            title="perf trace -F all",
            command=_perf_trace,
            addresses=lambda folder: outputs.perf_trace_addresses(folder / "out"),
            mounts=_TRACEFS,
            program="perf",
            package="linux-perf",
        ),
        bpftrace(),
        plain_bcc(stand_in()),
    ]


def probes_here() -> tuple[list[str], dict[str, str]]:
    """The probes this kernel supports, and why it does not support the others."""
    command = _mounted(_TRACEFS, [sys.executable, "-m", "bench.probes"])
    said = subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout
    refused = json.loads(said)
    return [name for name, why in refused.items() if not why], {
        name: why for name, why in refused.items() if why
    }


def _mounted(mounts: str, command: list[str]) -> list[str]:
    """`command`, after the shell commands `mounts` in a mount namespace of their own."""
    return ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *command]


T = TypeVar("T")


def run_under(
    tool: Tool, storm: Storm, cpus: Iterable[int], read: Callable[[Path], T]
) -> tuple[list[Round], T]:
    """Trace a storm from when it is ready to its end: its rounds, and the result of `read`.

    `read` gets the folder of the tool's output once that is complete. Raises ToolError, StormError.
    """
    with tempfile.TemporaryDirectory(prefix="bench.") as name:
        work = tool.start(storm.pid, Path(name), cpus)
        try:
            tool.wait_ready(work, storm)
            storm.go()
            rounds = storm.rounds()
            tool.end(work)
        finally:
            tool.close(work)
        return rounds, read(Path(name))


def books(folder: Path) -> dict[str, int]:
    """The books of a run of pagefault-trace, from its meta.json."""
    meta = json.loads((folder / "csv.meta.json").read_text())
    return dict(meta["books"])
