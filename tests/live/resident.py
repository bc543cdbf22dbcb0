"""What the kernel itself says is in a process's memory: pagemap and smaps, mapping by mapping."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests import witnesses
from tests.live.workload import Range
from tracer.procfs import kpageflags, stat
from tracer.procfs.maps import parse_maps
from tracer.procfs.pagemap import PageMap, frames, present

Frames = npt.NDArray[np.uint64]

_HUGE = 512  # pages
_TRIES = 5


@dataclass(frozen=True)
class Area:
    """One mapping: its extent, its name in maps, and counts of 4 KiB pages."""

    start: int
    end: int
    name: str
    present: int  # with a frame, by pagemap
    rss: int  # by smaps
    zero: int  # of the present: the shared zero page or the huge one
    hugetlb: int  # of the present: hugetlbfs, which Rss leaves out
    special: int  # of the present: frames without a page (VM_PFNMAP)

    @property
    def beside(self) -> int:
        """Of the present: what Rss leaves out."""
        return self.zero + self.hugetlb + self.special


def areas(pid: int) -> list[Area]:
    """Every mapping of a process that stands still.

    Read again where smaps and pagemap differ: the kernel may be moving pages (compaction), and
    one on its way is in no Rss, while it may have arrived when pagemap is read.
    """
    for _ in range(_TRIES - 1):
        found = _areas(pid)
        if all(area.present == area.rss + area.beside for area in found):
            return found
        time.sleep(0.01)
    return _areas(pid)


def _areas(pid: int) -> list[Area]:
    tid = stat.living_thread(pid)
    text = Path(f"/proc/{pid}/task/{tid}/smaps").read_bytes()
    rss = [int(kib) // 4 for kib in re.findall(rb"^Rss: +(\d+) kB", text, re.M)]
    flags = re.findall(rb"^VmFlags:(.*)", text, re.M)
    mappings = parse_maps(text)
    held: dict[int, list[Frames]] = {mapping.start: [] for mapping in mappings}
    with PageMap(pid, tid) as pagemap:
        for mapping, _, entries in witnesses.read_present(pagemap, mappings):
            held[mapping.start].append(frames(entries[present(entries)]))
    found = []
    for mapping, pages, flag in zip(mappings, rss, flags, strict=True):
        here = np.concatenate([*held[mapping.start], np.empty(0, np.uint64)])
        count = len(here)
        hugetlb = b" ht" in flag
        area = Area(
            mapping.start,
            mapping.end,
            mapping.name,
            count,
            pages,
            # The kernel is asked for each frame's flags only where some are not in Rss.
            0 if hugetlb or count == pages else zeros(here),
            count if hugetlb else 0,
            count if b" pf" in flag else 0,
        )
        found.append(area)
    return found


def zeros(held: Frames) -> int:
    """How many frames are the zero page's or the huge zero page's (its head has the flag)."""
    numbers = held >> np.uint64(12)
    zero = kpageflags.flags(numbers) & np.uint64(kpageflags.ZERO_PAGE)
    head = kpageflags.flags(numbers & ~np.uint64(_HUGE - 1))
    both = np.uint64(kpageflags.ZERO_PAGE | kpageflags.THP)
    return int(((zero != 0) | ((head & both) == both)).sum())


@dataclass(frozen=True)
class Resident:
    """Pages by region: the workload's ranges by their names, other mappings by theirs."""

    present: Counter[str]
    rss: Counter[str]
    beside: Counter[str]  # present, and not in Rss: zero, hugetlb and special pages


def resident(pids: list[int], ranges: Mapping[str, Range]) -> Resident:
    """What these processes have, taken together."""
    result = Resident(Counter(), Counter(), Counter())
    for pid in pids:
        for area in areas(pid):
            name = region_name(area.start, area.end, area.name, ranges)
            result.present[name] += area.present
            result.rss[name] += area.rss
            result.beside[name] += area.beside
    return result


def region_name(start: int, end: int, name: str, ranges: Mapping[str, Range]) -> str:
    """The workload's range a mapping lies in, else the mapping's own name."""
    for known, range_ in ranges.items():
        if start < range_.end and end > range_.start:
            return known
    return name
