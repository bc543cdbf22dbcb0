"""Processes that share frames: resident counts each once, mapped in every process.

Held against pagemap, read here, and against the kernel's own sums: Pss divides each page among
all who map it, Rss does not.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from tests import witnesses
from tests.live import cli
from tests.live.resident import areas, zeros
from tracer.procfs import stat
from tracer.procfs.maps import read_maps
from tracer.procfs.pagemap import PageMap, file_or_shared, frames, present

PAGE = 4096
BUFFER, CHILDREN = 10 << 20, 5
_TRIES = 3  # the kernel may move pages of its own accord

# It fills a buffer and forks children that only sleep; the first word on stdin lets it begin.
FORKING = f"""
import os, sys, time
sys.stdin.readline()
kept = bytearray(os.urandom(4096)) * {BUFFER // PAGE}
pids = [os.getpid()]
for _ in range({CHILDREN}):
    child = os.fork()
    if not child:
        time.sleep(1000)
    pids.append(child)
print(*pids, flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True)
class Shown:
    """What the kernel shows of processes taken together: pages, and bytes."""

    distinct: int
    mapped: int
    rss: int
    pss: int
    beside: int  # pages that are in neither sum: zero pages and their like
    anonymous: int  # distinct frames of memory that no other process has, in pages …
    pss_anonymous: int  # … and their sum in Pss, in bytes


def shown(pids: Sequence[int]) -> Shown:
    held, own, rollup = [], [], {"Rss": 0, "Pss": 0, "Pss_Anon": 0}
    for pid in pids:
        with PageMap(pid) as pagemap:
            for _, _, entries in witnesses.read_present(pagemap, read_maps(pid)):
                entries = entries[present(entries)]
                held.append(frames(entries))
                own.append(frames(entries[~file_or_shared(entries)]))
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        for name in rollup:
            rollup[name] += int(re.findall(rf"^{name}: +(\d+) kB", text, re.M)[0]) << 10
    every = np.concatenate(held)
    anonymous = np.unique(np.concatenate(own))
    return Shown(
        len(np.unique(every)),
        len(every),
        rollup["Rss"],
        rollup["Pss"],
        sum(area.beside for pid in pids for area in areas(pid)),
        len(anonymous) - zeros(anonymous),
        rollup["Pss_Anon"],
    )


def check(csv: Path, there: Shown) -> None:
    books = cli.books(csv)
    assert (books["resident"], books["mapped"]) == (there.distinct, there.mapped)
    assert there.mapped * PAGE == there.rss + there.beside * PAGE
    # What was the family's alone is in Pss to the page, but for its rounding to kilobytes in each
    # process. Of files others have their share, too, and of the zero page Pss has nothing.
    most = there.distinct * PAGE
    assert abs(there.anonymous * PAGE - there.pss_anonymous) <= (CHILDREN + 1) << 10
    assert BUFFER < there.pss <= most
    assert most - there.pss <= (there.distinct - there.anonymous) * PAGE + ((CHILDREN + 1) << 10)
    assert books["resident"] * PAGE > BUFFER
    assert books["mapped"] * PAGE > (CHILDREN + 1) * BUFFER > 3 * most
    assert books["resident_peak"] >= books["resident"]
    assert books["gained"] - books["given_up"] == books["mapped_change"]
    assert 0 < books["resident_growth"] <= books["resident"]
    meta = cli.meta(csv)
    assert meta["format"] == 2
    for name in ("resident", "mapped"):
        points = meta[name]
        assert isinstance(points, dict)
        assert points["pages"][-1] == books[name]


class Family:
    """A parent that forks children when it is told to; all end with the block."""

    def __init__(self) -> None:
        self.parent = subprocess.Popen(
            cli.python(FORKING), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pids: list[int] = []

    def fork(self) -> None:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write("go\n")
        self.parent.stdin.flush()
        self.pids = [int(word) for word in self.parent.stdout.readline().split()]
        deadline = time.monotonic() + 60
        while any(stat.state(pid) != "S" for pid in self.pids):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids[1:]:
            os.kill(pid, signal.SIGKILL)
        self.parent.kill()
        self.parent.communicate()


@pytest.mark.parametrize("early", [True, False], ids=["forks while traced", "had forked"])
def test_frames_that_children_share_count_once(early: bool, tmp_path: Path) -> None:
    """Attached before it forks, and to a family that stands already."""
    for attempt in range(1, _TRIES + 1):
        csv = tmp_path / f"{attempt}.csv"
        with Family() as family:
            if not early:
                family.fork()
            with cli.Attached(family.parent.pid, csv, "--quiet") as tracing:
                if early:
                    family.fork()
                before = shown(family.pids)
                done = tracing.end()
            there = shown(family.pids)
        assert (done.status, done.err) == (0, "")
        if (before.distinct, before.mapped) == (there.distinct, there.mapped):
            break
    else:
        pytest.fail(f"the kernel moved pages {_TRIES} times")
    if early:
        check(csv, there)
        return
    books = cli.books(csv)
    assert (books["resident"], books["mapped"]) == (there.distinct, there.mapped)
    assert books["resident_growth"] == books["gained"] == 0


def test_a_buffer_that_comes_and_goes_is_gained_many_times_and_there_once(tmp_path: Path) -> None:
    """Gross and net: in the books, and by region in the summary."""
    script = """
import mmap
memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for _ in range(50):
    memory.madvise(mmap.MADV_DONTNEED)
    memory[::4096] = bytes(256)
"""
    csv = tmp_path / "a.csv"
    done = cli.run("-q", "--csv", csv, "--", *cli.python(script))
    assert done.status == 0
    books = cli.books(csv)
    assert books["gained"] > 50 * 256
    assert 256 < books["resident"] <= books["mapped"] < 10_000
    assert books["resident_peak"] >= books["resident"]
    gross = re.search(r"memory: ([0-9.]+) MiB gained in all, \+([0-9.]+) MiB net", done.out)
    assert gross is not None
    assert float(gross[1]) > 50 > float(gross[2]) > 1
    header = next(line for line in done.out.splitlines() if "REGION" in line)
    assert header.split()[1:5] == ["GAINED", "GONE", "GROSS", "NET"]


def test_a_budget_for_what_is_resident(tmp_path: Path) -> None:
    """A command that leaves its children behind: mapped six times, held to the budget once."""
    csv, listed = tmp_path / "a.csv", tmp_path / "pids"
    script = FORKING.replace("sys.stdin.readline()\n", "")
    script = script.replace("time.sleep(1000)", "os.closerange(0, 3); time.sleep(1000)")
    script += f"open({str(listed)!r}, 'w').write(' '.join(map(str, pids)))\nos._exit(0)\n"
    given = [f"resident>{3 * BUFFER}", f"resident<{BUFFER}", f"growth<{BUFFER}", f"peak<{BUFFER}"]
    budgets = [word for budget in given for word in ("--fail-if", budget)]
    try:
        done = cli.run("-q", "--csv", csv, *budgets, "--", *cli.python(script))
    finally:
        for pid in listed.read_text().split()[1:]:
            os.kill(int(pid), signal.SIGKILL)
    assert (done.status, done.err) == (0, "")
    books = cli.books(csv)
    assert books["mapped"] * PAGE > (CHILDREN + 1) * BUFFER
    assert BUFFER < books["resident"] * PAGE < 3 * BUFFER
    assert books["resident_growth"] == books["resident"] <= books["resident_peak"]
