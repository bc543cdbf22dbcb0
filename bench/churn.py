"""Cost of tracing a program that maps, discards and unmaps memory without pause.

    python -m bench churn

Each tracer starts the program (bench/churn.c, and `make -j2` of many small C files); its cost
is its own CPU time, without the program's.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.programs import built
from bench.tools import PROGRAM

KINDS = {
    "discard": "write, `madvise(MADV_DONTNEED)`",
    "map": "`mmap`, write, `munmap`",
    "threads": "64 threads that map, write, move, discard, protect and unmap",
}
SIZES = {
    "discard": (10_000, 20_000, 100_000, 1_000_000),
    "map": (10_000, 20_000, 100_000),
    "threads": (100, 400),
}
_SLOW = 100_000  # more rounds than that are only run with pagefault-trace
_THREADS = 64
_FILES = 300


@dataclass(frozen=True)
class _Tracer:
    title: str
    command: Callable[[Path], list[str]]
    program: str = ""


_TRACERS = {
    "ours": _Tracer(
        "pagefault-trace",
        lambda folder: [str(PROGRAM), "-q", "--csv", str(folder / "csv"), "--force", "--"],
    ),
    "pages": _Tracer(
        "… `--pages-csv`",
        lambda folder: [str(PROGRAM), "-q", "--pages-csv", str(folder / "pages"), "--force", "--"],
    ),
    "strace": _Tracer(
        "`strace -f -e trace=memory`",
        lambda folder: ["strace", "-f", "-e", "trace=memory", "-o", str(folder / "out")],
        "strace",
    ),
    "perf": _Tracer(
        "`perf trace -F all`",
        lambda folder: ["perf", "trace", "-F", "all", "-o", str(folder / "out"), "--"],
        "perf",
    ),
}


def measure(runs: int = 3, share: float = 1.0) -> dict[str, Any]:
    """By kind, size and tracer, medians of `runs`; `share` of the sizes."""
    program = built("churn")
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, sizes in SIZES.items():
            for size in (1, *(round(size * share) for size in sizes)):
                command = [program, kind, str(size)]
                for tracer in _usable():
                    if size > _SLOW and tracer not in ("", "ours"):
                        continue
                    cells.append(
                        {"kind": kind, "size": size, "tracer": tracer}
                        | _middle([_run(tracer, command, folder) for _ in range(runs)])
                    )
        return {"cells": cells, "build": _build(folder, runs, round(_FILES * share))}


def _usable() -> list[str]:
    names = [name for name, each in _TRACERS.items() if not each.program or _there(each.program)]
    return ["", *(name for name in names if name != "pages")]


def _there(program: str) -> bool:
    return shutil.which(program) is not None


def _run(tracer: str, command: Sequence[str], folder: Path) -> dict[str, float]:
    """CPU seconds of tracer and program, wall seconds, peak memory; when it was over."""
    before = _TRACERS[tracer].command(folder) if tracer else []
    with (folder / "said").open("wb") as said:
        began = time.monotonic()
        process = subprocess.Popen([*before, *command], stdout=said, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.monotonic_ns()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{command[0]} under {tracer or 'nothing'}: status {process.returncode}")
    found = {
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": ended / 1e9 - began,
        "memory": usage.ru_maxrss * 1024.0,
    }
    done = [line for line in (folder / "said").read_text().split() if line.isdecimal()]
    if done and len(done[0]) > 9:
        found["after"] = (ended - int(done[0])) / 1e9
    meta = folder / "csv.meta.json"
    if tracer == "ours" and meta.exists():
        books = json.loads(meta.read_text())["books"]
        found["lost"] = float(books["lost"] + books["lost_other"])
    return found


def _middle(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in found) for name in found[0]}


def _build(folder: Path, runs: int, files: int) -> dict[str, Any]:
    """`make -j2` of small C files, from scratch each time, under each tracer in turn."""
    source = folder / "source"
    source.mkdir()
    for number in range(files):
        (source / f"f{number}.c").write_text(
            "#include <stdio.h>\n"
            f'int f{number}(int n) {{ return printf("%d\\n", n + {number}); }}\n'
        )
    names = " ".join(f"f{number}.o" for number in range(files))
    (source / "Makefile").write_text(f"all: {names}\nclean:\n\trm -f *.o\n")
    make = f"make -s -j2 -C {source} CC=cc all"
    # The program's own duration, without the tracer's end: it prints it itself.
    command = [
        "sh",
        "-c",
        f"read -r a b </proc/uptime; {make}; read -r c d </proc/uptime; echo took $a $c",
    ]
    cells: dict[str, list[dict[str, float]]] = {}
    for _ in range(runs):
        for tracer in [*_usable(), "pages"]:
            subprocess.run(["make", "-s", "-C", str(source), "clean"], check=True)
            found = _run(tracer, command, folder)
            took = re.search(r"(?m)^took (\S+) (\S+)$", (folder / "said").read_text())
            assert took is not None, f"nothing said how long the build took under {tracer}"
            found["own"] = float(took[2]) - float(took[1])
            cells.setdefault(tracer, []).append(found)
    return {"files": files, "cells": {name: _middle(each) for name, each in cells.items()}}


def render(data: dict[str, Any]) -> str:
    """A row for each kind and size; then the build."""
    found = {(cell["kind"], cell["size"], cell["tracer"]): cell for cell in data["cells"]}
    tracers = [name for name in _TRACERS if any(cell["tracer"] == name for cell in data["cells"])]
    titles = [_TRACERS[name].title for name in tracers]
    lines = [
        "A tracer starts a program that takes memory and gives it back without pause. Processor"
        " time of the tracer a round (less what it takes for one round and the program for itself),"
        " when it was done after the program, and what it lost.",
        "",
        f"| a round | rounds | {' | '.join(titles)} | done after | lost |",
        f"|---|---:|{'---:|' * len(titles)}---:|---:|",
    ]
    for kind, title in KINDS.items():
        for size in sorted({cell["size"] for cell in data["cells"] if cell["kind"] == kind} - {1}):
            times = size * (_THREADS if kind == "threads" else 1)
            each = []
            for name in tracers:
                cell, start = found.get((kind, size, name)), found[kind, 1, name]
                if cell is None:
                    each.append("")
                    continue
                took = cell["cpu"] - start["cpu"]
                took -= found[kind, size, ""]["cpu"] - found[kind, 1, ""]["cpu"]
                each.append(f"{took / times * 1e6:,.1f} µs" if took > 0 else "≈ 0")
            ours = found[kind, size, "ours"]
            lines.append(
                f"| {title} | {times:,} | {' | '.join(each)} | {ours['after']:.1f} s |"
                f" {ours['lost']:,.0f} |"
            )
    build = data["build"]
    base = build["cells"][""]["own"]
    lines += [
        "",
        f"`make -j2` of {build['files']} small C files, afresh ({base:.1f} s untraced):",
        "",
        "| tracer | the build's own time | until the tracer is done | peak memory |",
        "|---|---:|---:|---:|",
    ]
    for name, cell in build["cells"].items():
        if name:
            lines.append(
                f"| {_TRACERS[name].title} | {cell['own'] / base:.2f}×"
                f" | {cell['wall'] / base:.2f}× |"
                f" {cell['memory'] / 1e6:,.0f} MB |"
            )
    return "\n".join(lines)
