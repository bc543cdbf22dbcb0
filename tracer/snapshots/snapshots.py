"""Snapshots of all pages of a process: /proc/PID/maps and pagemap, as sorted arrays."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from tracer.common.deadline import go_on
from tracer.common.fields import runs
from tracer.common.pages import PAGE_SHIFT, PAGE_SIZE
from tracer.common.types import I64, PAGE_BITS, U32, U64, Bools
from tracer.model.rows import Names, Region
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import Mapping, parse_maps, read_maps
from tracer.procfs.pagemap import PageMap, frames
from tracer.snapshots.image import Image
from tracer.snapshots.unrecorded import Unrecorded


class Snapshot:
    """What pagemap showed between two moments (CLOCK_MONOTONIC ns).

    Something that happened before `before_ns` is in it, something after
    `after_ns` is not; in between either may hold. `unrecorded`: what had no record in the space
    as it began; None: not determined.
    """

    unrecorded: Unrecorded | None = None

    def __init__(
        self,
        pid: int,
        before_ns: int,
        after_ns: int,
        mappings: list[Mapping],
        pages: U64,
        frames: U64,
        swapped: U64,
    ) -> None:
        """From page numbers: `pages` present, their `frames`; `swapped` ones."""
        self.pid, self.before_ns, self.after_ns = pid, before_ns, after_ns
        self.mappings = mappings
        self.image = Image.of(pages, frames, swapped)

    @classmethod
    def of_image(
        cls, pid: int, before_ns: int, after_ns: int, mappings: list[Mapping], image: Image
    ) -> "Snapshot":
        """From the image of all pages read."""
        shot = cls.__new__(cls)
        shot.pid, shot.before_ns, shot.after_ns = pid, before_ns, after_ns
        shot.mappings, shot.image = mappings, image
        return shot

    @property
    def pages(self) -> U64:
        """Virtual page numbers of the present pages, ascending."""
        return self.image.pages

    @property
    def frames(self) -> U64:
        """The physical address of each of `pages`."""
        return self.image.frames

    @property
    def swapped(self) -> U64:
        """Virtual page numbers of pages in swap (or behind another non-present entry)."""
        return self.image.swapped

    def frame_of(self, pages: U64) -> U64:
        """The frame of each page, NO_FRAME (all bits) where it was not present."""
        return frames(self.image.words_of(pages))

    def mapped(self, pages: U64) -> Bools:
        """Whether each page was in a mapping."""
        return self.mapping_of(pages) >= 0

    def of_file(self, pages: U64) -> Bools:
        """Whether each page was in a file mapping, shmem's unnamed files included."""
        files = np.array([m.inode != 0 for m in self.mappings] + [False])
        return np.asarray(files[self.mapping_of(pages)])

    def of_driver(self, pages: U64) -> Bools:
        """Whether each page was in a driver's mapping, which may be populated by mmap."""
        drivers = np.array([_is_driver(m.name) for m in self.mappings] + [False])
        return np.asarray(drivers[self.mapping_of(pages)])

    def huge(self, pages: U64) -> Bools:
        """Whether each page is one of 512 with the frames of one huge page."""
        heads, inverse = np.unique(pages & ~np.uint64(511), return_inverse=True)
        whole = np.zeros(len(heads), np.bool_)
        for number, first in enumerate(heads.tolist()):
            held = self.frame_of(np.arange(first, first + 512, dtype=np.uint64))
            whole[number] = held[0] & np.uint64((1 << 21) - 1) == 0 and bool(
                (np.diff(held) == PAGE_SIZE).all()
            )
        return np.asarray(whole[inverse])

    def regions(
        self,
        names: Names,
        pages: U64 | None = None,
        arrays: Callable[[U64], I64] | None = None,
    ) -> U32:
        """The region (index into names.regions) of each of `pages`, by default its own.

        `arrays` returns which of the mappings of one name each address is in.
        """
        pages = self.pages if pages is None else pages
        at = self.mapping_of(pages)
        which = arrays(pages << PAGE_BITS) if arrays else np.zeros(len(pages), np.int64)
        heads = runs(at, which)
        ids = []
        for index, array in zip(at[heads].tolist(), which[heads].tolist(), strict=True):
            number = 0
            if index >= 0:
                m = self.mappings[index]
                region = Region(m.start, m.end, m.perms, m.offset, m.name, m.device, m.file)
                number = names.region(region, array)
            ids.append(number)
        return np.repeat(np.array(ids, np.uint32), np.diff(heads, append=len(pages)))

    def mapping_of(self, pages: U64) -> I64:
        """Index of the mapping each page was in; -1 for none."""
        return _index_of(pages, *self._extents)

    @cached_property
    def _extents(self) -> tuple[U64, U64]:
        return _extents(self.mappings)


def _extents(mappings: Sequence[Mapping]) -> tuple[U64, U64]:
    """First page and end (the page after the last) of each mapping."""
    starts = np.array([m.start >> PAGE_SHIFT for m in mappings], np.uint64)
    return starts, np.array([m.end >> PAGE_SHIFT for m in mappings], np.uint64)


def _index_of(pages: U64, starts: U64, ends: U64) -> I64:
    """Index of the mapping each page is in; -1 for none."""
    if not len(starts):
        return np.full(len(pages), -1, np.int64)
    at = np.searchsorted(starts, pages, side="right").astype(np.int64) - 1
    return np.where((at >= 0) & (pages < ends[np.maximum(at, 0)]), at, -1)


def _is_driver(name: str) -> bool:
    device = name.startswith("/dev/") and not name.startswith(("/dev/shm/", "/dev/zero"))
    return device or name.startswith(("anon_inode:", "socket:"))


def take_snapshot(
    pid: int, before: Image | None = None, enough: Callable[[], bool] = lambda: False
) -> Snapshot:
    """Take a snapshot of a living process, through another thread where its leader has ended.

    `before`: the image of an earlier one, where most pages will still be. Raises ProcessGone,
    and Enough once `enough` returns true.
    """
    began = time.monotonic_ns()
    try:
        mappings, tid = read_maps(pid), None
    except ProcessGone:
        tid = stat.living_thread(pid)
        mappings = read_maps(pid, tid)
    with PageMap(pid, tid) as pagemap:
        return _read(pid, began, mappings, pagemap, before, enough)


def take_pinned_snapshot(
    pid: int, maps: bytes, pagemap: PageMap, enough: Callable[[], bool] = lambda: False
) -> Snapshot:
    """Take a snapshot of memory pinned past a process's exit (mm_pin).

    Raises Enough as `take_snapshot`.
    """
    return _read(pid, time.monotonic_ns(), parse_maps(maps), pagemap, None, enough)


def _read(
    pid: int,
    began: int,
    mappings: list[Mapping],
    pagemap: PageMap,
    before: Image | None,
    enough: Callable[[], bool],
) -> Snapshot:
    spans = [(m.start, m.end) for m in mappings]
    likely = before.ranges() if before is not None else []
    holes = _holes(*_extents(mappings))
    pieces = pagemap.read_ranges(spans, likely)
    image = Image.read(
        (start >> PAGE_SHIFT, _cleared(start >> PAGE_SHIFT, entries, *holes))
        for start, entries in pieces
        if _goes_on(enough)
    )
    return Snapshot.of_image(pid, began, time.monotonic_ns(), mappings, image)


def _goes_on(enough: Callable[[], bool]) -> bool:
    go_on(enough)
    return True


def _holes(starts: U64, ends: U64) -> tuple[U64, U64]:
    """First page and end of the holes between mappings, before and behind them."""
    nothing, last = np.zeros(1, np.uint64), np.full(1, ~np.uint64(0))
    first, end = np.concatenate([nothing, ends]), np.concatenate([starts, last])
    return first[first < end], end[first < end]


def _cleared(first: int, entries: U64, starts: U64, ends: U64) -> U64:
    """The entries of the pages from `first` on, 0 in the holes.

    What is between the known mappings was mapped after they were read.
    """
    low = int(np.searchsorted(ends, np.uint64(first), side="right"))
    high = int(np.searchsorted(starts, np.uint64(first + len(entries))))
    for start, end in zip(starts[low:high].tolist(), ends[low:high].tolist(), strict=True):
        entries[max(start - first, 0) : max(end - first, 0)] = 0
    return entries
