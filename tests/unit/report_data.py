"""Finished traces for the tests of reports: written by the tracer's own outputs."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.outputs_data import HOSTILE, PAGE, START, five, info, names, rows, table
from tracer.files.output import open_output
from tracer.model.result import Books, PageTable, RunInfo
from tracer.model.rows import Kind, Names, Region, Rows
from tracer.model.sources import Loss
from tracer.outputs.cells import text_cell
from tracer.outputs.csv import CsvOutput
from tracer.outputs.meta import MetaFile
from tracer.outputs.pages import write_pages

MS = 1_000_000

# Reports are an extra: where it is not installed, their tests are skipped, but never in CI.
if not os.environ.get("CI"):
    for wanted in ("pyarrow", "matplotlib", "perfetto"):
        pytest.importorskip(wanted)


def written(
    path: Path,
    faults: Rows,
    known: Names | None = None,
    *,
    pages: PageTable | None = None,
    facts: RunInfo | None = None,
    books: Books | None = None,
    meta: bool = True,
) -> str:
    """The files of a run at `path`; the pages, where given, at `path`.pages.csv."""
    known = known or names()
    output = CsvOutput(open_output(str(path), force=True))
    output.write(faults, known)
    output.close()
    beside = f"{path.name}.pages.csv"
    if pages is not None:
        file = open_output(str(path.parent / beside), force=True)
        write_pages(file, [pages], known)
        file.close()
    if meta:
        facts = facts or info()
        facts.pages_csv = beside if pages is not None else ""
        books = books or Books(traced=len(faults), kernel=len(faults), gained=len(faults))
        MetaFile(str(path), force=True).finish(facts, books)
    return str(path)


def demo(path: Path, **changes: Any) -> str:
    """Five writes, from the highest page down, a millisecond apart."""
    faults = five()
    pages = table(faults)
    return written(path, faults, pages=pages, facts=info(**changes))


def known_names() -> Names:
    """comm 1 and 2, regions 1 ([anon]), 2 (a library) and 3 ([heap])."""
    made = names(comm="worker")
    made.comms.append("other")
    made.regions.append(Region(0x7F0400000000, 0x7F0400100000, "r-xp", 0, "/usr/lib/libx.so"))
    made.regions.append(Region(0x600000, 0x700000, "rw-p", 0, "[heap]"))
    return made


def mixed(path: Path) -> str:
    """Ten faults with known answers.

    Six anonymous pages upwards by thread 1 ([anon], 1000 to 6000 ns), three windows of a library
    by thread 2 (16 pages each, 20, 30 and 40 us, the last major), one write to the heap that was
    `reuse` (no page gained).
    """
    faults = rows(10)
    faults["comm"][:] = [1] * 6 + [2] * 3 + [1]
    faults["tid"][:] = [1] * 6 + [2] * 3 + [1]
    faults["pid"][:] = 1
    faults["region"][:] = [1] * 6 + [2] * 3 + [3]
    base = np.arange(6) * PAGE + 0x7F03141A2000
    library = np.array([0x7F0400000000, 0x7F0400080000, 0x7F0400040000])
    faults["address"][:] = [*base, *library, 0x600010]
    faults["kind"][:] = [Kind.ANON] * 6 + [Kind.FILE] * 3 + [Kind.REUSE]
    faults["pages"][:] = [1] * 6 + [16] * 3 + [0]
    faults["latency_ns"][:] = [1000, 2000, 3000, 4000, 5000, 6000, 20_000, 30_000, 40_000, 500]
    faults["major"][8] = True
    faults["frame_before"][9] = faults["frame"][9]
    return written(path, faults, known_names(), facts=info(ended_monotonic_ns=START + 20 * MS))


def hostile(path: Path) -> str:
    """A fault for each of the names that want to be something else."""
    known = Names()
    for name in [*HOSTILE, *MARKUP]:
        known.comms.append(name)
        known.regions.append(Region(0x1000, 0x2000, "rw-p", 0, name))
    count = len(known.comms) - 1
    faults = rows(count, comm=np.arange(count) + 1, region=np.arange(count) + 1)
    facts = info(command=[*HOSTILE, *MARKUP], host=MARKUP[0], notes=list(MARKUP))
    return written(path, faults, known, pages=table(faults), facts=facts)


MARKUP = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "\"onmouseover=\"document.title='owned'",
    "&lt;b&gt;&#x27;&amp;",
    "]]>--><!--",
    "=HYPERLINK(\"http://x\")",
    "$x_1^2$ and \\frac{a}{b}",
    "a;b;c 7",
]  # fmt: skip


def lossy(path: Path) -> str:
    """Four pages gained at 0, 1, 2 and 3 ms; the first two were unmapped at 5 ms.

    Pagemap was read at 4 ms (4 pages) and at 8 ms (2 pages).
    """
    faults = rows(4, comm=1, region=1)
    pages = table(
        faults,
        last_frame=[(1 << 64) - 1] * 2 + [0x1000, 0x2000],
        losses=[1, 1, 0, 0],
        last_loss=[Loss.MUNMAP] * 2 + [0, 0],
        last_time_ns=[START + 5 * MS] * 2 + [START + 2 * MS, START + 3 * MS],
    )
    snapshots = [(START + 4 * MS, 4), (START + 8 * MS, 2)]
    facts = info(mapped=snapshots, ended_monotonic_ns=START + 10 * MS)
    return written(path, faults, pages=pages, facts=facts)


# -- call stacks ------------------------------------------------------------------

STACK_COLUMNS = (
    *("stack", "frame", "side", "function", "offset", "module", "module_offset", "build_id"),
    *("file", "line", "address", "note"),
)
APP, LIBC = "/opt/app/bin/app", "/usr/lib/x86_64-linux-gnu/libc.so.6"


def frame(function: str, module: str = APP, **more: Any) -> dict[str, Any]:
    """A frame of user code, but for what `more` says."""
    return {"side": "user", "function": function, "module": module, **more}


def kernel(function: str) -> dict[str, Any]:
    """A frame of kernel code."""
    return frame(function, "[kernel]", side="kernel")


def stack_line(stack: int, at: int, cells: dict[str, Any]) -> bytes:
    """A row of FILE.stacks.csv, as docs/csv.md describes it."""
    known: dict[str, Any] = {
        **{"stack": stack, "frame": at, "address": 0x400000 + at, "offset": 0x1F, "line": ""},
        **{"module_offset": 0x1000 + at, "build_id": "abcdef", "file": "", "note": ""},
        **cells,
    }
    row = b""
    for name in STACK_COLUMNS:
        value = known[name]
        if name in ("function", "module", "file"):
            row += text_cell(value)  # with its comma
        else:
            hexadecimal = name in ("offset", "module_offset", "address") and value != ""
            row += (f"{value:#x}" if hexadecimal else str(value)).encode() + b","
    return row.removesuffix(b",") + b"\n"


def add_stacks(
    path: str, numbers: Iterable[int], stacks: Sequence[Sequence[dict[str, Any]]]
) -> str:
    """As with --stacks: a column in the CSV at `path`, and FILE.stacks.csv.

    `stacks[n - 1]` is stack n, innermost frame first; 0 is none.
    """
    csv = Path(path)
    header, *lines = csv.read_bytes().removesuffix(b"\n").split(b"\n")
    cells = [str(number or "").encode() for number in numbers]
    rows = [line + b"," + cell for line, cell in zip(lines, cells, strict=True)]
    csv.write_bytes(b"\n".join([header + b",stack", *rows]) + b"\n")
    content = [",".join(STACK_COLUMNS).encode() + b"\n"]
    for number, frames in enumerate(stacks, 1):
        for at, cells_of in enumerate(frames):
            content.append(stack_line(number, at, cells_of))
    Path(path + ".stacks.csv").write_bytes(b"".join(content))
    meta = Path(path + ".meta.json")
    if meta.exists():
        facts = json.loads(meta.read_text()) | {"stacks": csv.name + ".stacks.csv"}
        meta.write_text(json.dumps(facts))
    return path


MAIN = [frame("main", file="app.c", line=40), frame("__libc_start_main", LIBC), frame("_start")]
STACKS = [
    [frame("memset", LIBC), frame("fill", file="app.c", line=12), *MAIN],
    [frame("fill", file="app.c", line=14), *MAIN],
    [kernel("copy_to_user"), kernel("vfs_read"), frame("read", LIBC), *MAIN],
    [frame("memcpy", LIBC, note="no frame pointers")],
    [*[frame("recurse")] * 6, frame("recurse", note="truncated")],
    [frame("", module_offset=0x1F30), *MAIN],
]


def stacked(path: Path) -> str:
    """Ten faults with the stacks STACKS: 1, 1, 2, 3, 4, 5, 6, none, and 2, 2 by another thread.

    A page each, but 16 for the one of stack 3; 1000 ns each. Pages 0 and 2 are gone at the end.
    """
    known = names(comm="worker")
    known.comms.append("other")
    faults = rows(10, comm=[1] * 8 + [2] * 2, tid=[1] * 8 + [2] * 2, region=1, latency_ns=1000)
    faults["pages"][3] = 16
    pages = table(faults)
    pages.last_frame[[0, 2]] = (1 << 64) - 1
    pages.losses[[0, 2]] = 1
    pages.last_loss[[0, 2]] = Loss.MUNMAP
    csv = written(path, faults, known, pages=pages)
    return add_stacks(csv, [1, 1, 2, 3, 4, 5, 6, 0, 2, 2], STACKS)


def hostile_stacks(path: Path) -> str:
    """A fault for each name that wants to be something else, with a stack of two such frames."""
    wanted = [name for name in [*HOSTILE, *MARKUP] if name]
    known = names(comm=MARKUP[0], region=MARKUP[1])
    faults = rows(len(wanted), comm=1, region=1)
    csv = written(path, faults, known, pages=table(faults), facts=info(command=MARKUP))
    stacks = [
        [
            frame(name, wanted[at - 1], file=name, line=3),
            frame(wanted[at - 1], name, note="no frame pointers" if at % 2 else ""),
        ]
        for at, name in enumerate(wanted)
    ]
    return add_stacks(csv, range(1, len(wanted) + 1), stacks)
