"""One look at all pages of a process: /proc/PID/maps and pagemap, as sorted arrays."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.procfs.maps import Mapping, parse_maps, read_maps
from tracer.procfs.pagemap import PageMap, frames, present, swapped
from tracer.rows import Names, Region

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Snapshot:
    """What pagemap showed between two moments (CLOCK_MONOTONIC ns).

    Something that happened before `before_ns` is in it, something after
    `after_ns` is not; in between either may hold.
    """

    pid: int
    before_ns: int
    after_ns: int
    mappings: list[Mapping]
    pages: U64  # virtual page numbers of the present pages, ascending
    frames: U64  # their physical addresses
    swapped: U64  # virtual page numbers of pages in swap (or behind another non-present entry)

    def frame_of(self, pages: U64) -> U64:
        """The frame of each page, NO_FRAME (all bits) where it was not present."""
        if not len(self.pages):
            return np.full(len(pages), ~np.uint64(0))
        at = np.minimum(np.searchsorted(self.pages, pages), len(self.pages) - 1)
        return np.where(self.pages[at] == pages, self.frames[at], ~np.uint64(0))

    def mapped(self, pages: U64) -> npt.NDArray[np.bool_]:
        """Whether each page lay in a mapping."""
        return self._mapping_of(pages) >= 0

    def regions(self, names: Names) -> npt.NDArray[np.uint32]:
        """The region (index into names.regions) of each of `pages`."""
        at = self._mapping_of(self.pages)
        ids = np.zeros(len(self.mappings) + 1, np.uint32)  # the last: no mapping
        for index in np.unique(at[at >= 0]).tolist():
            m = self.mappings[index]
            ids[index] = names.region(Region(m.start, m.end, m.perms, m.offset, m.name))
        return np.asarray(ids[at])

    def _mapping_of(self, pages: U64) -> npt.NDArray[np.int64]:
        """Which mapping each page lay in; -1 where in none."""
        starts = np.array([m.start >> 12 for m in self.mappings], np.uint64)
        ends = np.array([m.end >> 12 for m in self.mappings], np.uint64)
        if not len(starts):
            return np.full(len(pages), -1, np.int64)
        at = np.searchsorted(starts, pages, side="right").astype(np.int64) - 1
        return np.where((at >= 0) & (pages < ends[np.maximum(at, 0)]), at, -1)


def take(pid: int) -> Snapshot:
    """Look at a living process now. Raises ProcessGone."""
    before = time.monotonic_ns()
    mappings = read_maps(pid)
    with PageMap(pid) as pagemap:
        return _read(pid, before, mappings, pagemap)


def take_pinned(pid: int, maps: bytes, pagemap: PageMap) -> Snapshot:
    """Look at memory that is held past its process's end (mm_pin)."""
    before = time.monotonic_ns()
    return _read(pid, before, parse_maps(maps), pagemap)


def _read(pid: int, before: int, mappings: list[Mapping], pagemap: PageMap) -> Snapshot:
    pages: list[U64] = []
    found: list[U64] = []
    away: list[U64] = []
    for _, start, entries in pagemap.read_present(mappings):
        here = np.flatnonzero(present(entries))
        first = np.uint64(start >> 12)
        pages.append(here.astype(np.uint64) + first)
        found.append(frames(entries[here]))
        out = np.flatnonzero(swapped(entries))
        if len(out):
            away.append(out.astype(np.uint64) + first)
    return Snapshot(
        pid=pid,
        before_ns=before,
        after_ns=time.monotonic_ns(),
        mappings=mappings,
        pages=_joined(pages),
        frames=_joined(found),
        swapped=_joined(away),
    )


def _joined(parts: list[U64]) -> U64:
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)
