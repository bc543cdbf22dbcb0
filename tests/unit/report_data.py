"""Finished traces for the tests of reports: written by the tracer's own outputs."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outputs_data import HOSTILE, PAGE, START, five, info, names, rows, table

from tracer.outputs.base import Books, PageTable, RunInfo
from tracer.outputs.csv import CsvOutput
from tracer.outputs.files import open_output
from tracer.outputs.meta import MetaFile
from tracer.outputs.pages import write_pages
from tracer.rows import Kind, Names, Region, Rows
from tracer.sources import Loss

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
        write_pages(file, pages, known)
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

    Pagemap was looked at at 4 ms (4 pages) and at 8 ms (2 pages).
    """
    faults = rows(4, comm=1, region=1)
    pages = table(
        faults,
        last_frame=[(1 << 64) - 1] * 2 + [0x1000, 0x2000],
        losses=[1, 1, 0, 0],
        last_loss=[Loss.MUNMAP] * 2 + [0, 0],
        last_time_ns=[START + 5 * MS] * 2 + [START + 2 * MS, START + 3 * MS],
    )
    looks = [(START + 4 * MS, 4), (START + 8 * MS, 2)]
    facts = info(resident=looks, ended_monotonic_ns=START + 10 * MS)
    return written(path, faults, pages=pages, facts=facts)
