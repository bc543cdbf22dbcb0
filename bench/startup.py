"""Time from a tool's start to its first traced fault: pagefault-trace cold and warm, and others."""

import compileall
import os
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import outputs
from bench.figures import spread
from bench.storm import BINARY, Storm
from bench.tools import PROGRAM, ROOT, Tool, ToolError, bpftrace, ours, plain_bcc, stand_in

_TICKS = 1000  # faults per second of the traced program
_MOST_TICKS = 600_000
_PART = re.compile(r"^ *([\d.]+) ms  (.+)$", re.MULTILINE)
_PATIENCE_S = 60.0

Start = Callable[[Path], dict[str, Any]]  # one start: milliseconds, and its parts


def measure(rounds: int = 10) -> dict[str, Any]:
    """Each kind of start, `rounds` times in turn; with bytecode, as of an installed program."""
    compileall.compile_dir(ROOT / "tracer", quiet=1)
    why_not: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench.") as name:
        starts = _starts(Path(name), why_not)
        for start in starts.values():  # once unmeasured, to fill the page cache
            _try(start)
        found: dict[str, list[dict[str, Any]]] = {title: [] for title in starts}
        for number in range(rounds):
            for title, start in starts.items():
                found[title].append(_try(start))
            print(f"round {number + 1} of {rounds}", flush=True)
    return {"starts": found, "why_not": why_not}


def _try(start: Start) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        return start(Path(folder))


def _starts(caches: Path, why_not: dict[str, str]) -> dict[str, Start]:
    """The starts by title. Reasons for those not possible here go into `why_not`."""
    warm, number = str(caches / "warm"), iter(range(1 << 30))

    def cold(folder: Path) -> dict[str, Any]:
        return _attached(ours(cache=str(caches / f"cold{next(number)}")), folder)

    starts: dict[str, Start] = {
        "pagefault-trace --pid, compiled before": lambda folder: _attached(
            ours(cache=warm), folder
        ),
        "pagefault-trace -- COMMAND, compiled before": lambda folder: _command(warm, folder),
        "pagefault-trace --pid, never compiled": cold,
    }
    if bpftrace().missing():
        why_not["bpftrace"] = bpftrace().missing()
    else:
        starts["bpftrace"] = lambda folder: _attached(bpftrace(), folder)
    if stand_in():
        starts["BCC script, our stand-ins for headers"] = lambda folder: _attached(
            plain_bcc(stand_in()), folder
        )
    release, why = real_headers()
    if not release:
        why_not["BCC script, a kernel's headers"] = why
    else:
        title = f"BCC script, the headers of Linux {release}"
        starts[title] = lambda folder: _attached(_with_headers(release), folder)
    return starts


def real_headers(
    modules: Path = Path("/lib/modules"), own: str = os.uname().release
) -> tuple[str, str]:
    """The kernel whose headers to compile with: the running one or, to measure the time, another.

    Empty, and why, where there is none.
    """
    with_headers = [path.parent.name for path in sorted(modules.glob("*/build"))]
    if own in with_headers:
        return own, ""
    if with_headers:
        return with_headers[-1], ""
    return "", "no kernel's headers are installed (Debian: linux-headers-amd64)"


def _with_headers(release: str) -> Tool:
    """The BCC script, compiled with the headers of `release` as if of the running kernel."""
    here = f"/lib/modules/{os.uname().release}"
    theirs = [Path(f"/lib/modules/{release}") / name for name in ("build", "source")]
    links = [
        f"ln -s {shlex.quote(str(path.resolve()))} {here}/{path.name}"
        for path in theirs
        if path.exists()
    ]
    mounts = " && ".join(["mount -t tmpfs none /lib/modules", f"mkdir {here}", *links])
    return replace(plain_bcc({}), mounts="" if release == os.uname().release else mounts)


def _attached(tool: Tool, folder: Path) -> dict[str, Any]:
    """Trace a program that faults every millisecond, until one of its faults is recorded."""
    assert tool.first_time is not None
    with Storm(_MOST_TICKS, 1, rate=_TICKS) as storm:
        storm.go()
        began = time.monotonic_ns()
        work = tool.start(storm.pid, folder)
        try:
            _wait(lambda: tool.traces(work))
            after = _faults(storm.pid) + 3
            _wait(lambda: _faults(storm.pid) >= after)
            storm.close()
            tool.end(work)
        finally:
            tool.close(work)
    return _found(tool.first_time(folder) - began, work.err.read_text())


def _command(cache: str, folder: Path) -> dict[str, Any]:
    """Trace a command; its first fault is one of its exec."""
    csv = folder / "csv"
    options = ["--csv", str(csv), "-q", "--", str(BINARY), "1", "1"]
    environment = {**os.environ, "PAGEFAULT_TIMINGS": "1", "PAGEFAULT_CACHE": cache}
    began = time.monotonic_ns()
    ended = subprocess.run(
        [str(PROGRAM), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return _found(outputs.first_csv_time(csv) - began, ended.stderr)


def _found(took_ns: int, said: str) -> dict[str, Any]:
    if took_ns <= 0:
        raise ToolError("it recorded no fault")
    return {"ms": took_ns / 1e6, "parts": {name: float(ms) for ms, name in _PART.findall(said)}}


def _wait(until: Callable[[], bool]) -> None:
    latest = time.monotonic() + _PATIENCE_S
    while not until():
        if time.monotonic() > latest:
            raise ToolError("it does not get ready")
        select.select([], [], [], 0.005)


def _faults(pid: int) -> int:
    """min_flt of a process (proc_pid_stat(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def imports(most: int = 12) -> str:
    """The slowest imports of the tracer: `python -X importtime`."""
    command = [sys.executable, "-X", "importtime", "-c", "import tracer.app.cli, tracer.app.run"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    rows = [line.split("|") for line in said.splitlines()[1:]]
    slowest = sorted(rows, key=lambda row: -int(row[0].rpartition(":")[2]))[:most]
    return "\n".join(f"{int(row[0].rpartition(':')[2]):8} µs  {row[2].strip()}" for row in slowest)


def render(data: dict[str, Any]) -> str:
    """Times to the first fault, and the steps of our own."""
    rounds = len(next(iter(data["starts"].values())))
    lines = [
        f"From starting the command to the time of the first fault that it records, {rounds} starts"
        " each, median and quartiles. The program that is traced faults every millisecond.",
        "",
        "| | first traced fault after |",
        "|---|---|",
    ]
    for title, starts in data["starts"].items():
        lines.append(f"| {title} | **{spread([each['ms'] for each in starts]).text(0, ' ms')}** |")
    lines += [f"| {title} | {why} |" for title, why in data["why_not"].items()]
    titles = [title for title, starts in data["starts"].items() if starts[0]["parts"]]
    parts = dict.fromkeys(
        part for title in titles for start in data["starts"][title] for part in start["parts"]
    )
    lines += [
        "",
        "Where it goes, in milliseconds (`PAGEFAULT_TIMINGS=1`; what is indented works beside the"
        " part above it, and may have begun earlier):",
        "",
        f"| | {' | '.join(titles)} |",
        f"|---|{'---|' * len(titles)}",
    ]
    for part in sorted(parts, key=_in_order(data, titles)):
        name = f"&nbsp;&nbsp;{part.strip()}" if part.startswith(" ") else part
        lines.append(f"| {name} | {' | '.join(_part(data, title, part) for title in titles)} |")
    return "\n".join(lines)


def _in_order(data: dict[str, Any], titles: list[str]) -> Callable[[str], int]:
    """Sort key of the steps: their order in the start with most of them."""
    longest: dict[str, Any] = max(
        (data["starts"][title][0]["parts"] for title in titles), key=len, default={}
    )
    order = {part: at for at, part in enumerate(longest)}
    return lambda part: order.get(part, len(order))


def _part(data: dict[str, Any], title: str, part: str) -> str:
    took = [start["parts"][part] for start in data["starts"][title] if part in start["parts"]]
    return f"{median(took):.0f}" if took else ""
