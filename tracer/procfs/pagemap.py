"""/proc/PID/pagemap in numpy arrays: one uint64 entry a page.

The bits and the raw reads are in tracer/procfs/entries.py. A frame here is its
physical address in bytes, as ptdump prints it; NO_FRAME where there is none.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

import numpy as np

from tracer.common.closing import Closing
from tracer.common.pages import NO_FRAME, PAGE_SIZE
from tracer.common.types import U64, Bools
from tracer.procfs import entries as raw
from tracer.procfs.entries import frames_visible

__all__ = [
    "PAGE_SIZE",
    "PageMap",
    "exclusive",
    "file_or_shared",
    "frames",
    "frames_visible",
    "held",
    "present",
    "swapped",
]

Entries = U64

_CHUNK_PAGES = 1 << 16  # 512 KiB of entries
_GAP_PAGES = 512  # reading this many absent entries costs less than another system call


def present(entries: Entries) -> Bools:
    """Which pages have a frame."""
    return _any_bit(entries, raw.PRESENT)


def swapped(entries: Entries) -> Bools:
    """Which pages are in swap (guard, migration and poison markers count as such)."""
    return _any_bit(entries, raw.SWAPPED)


def held(entries: Entries) -> Bools:
    """Which pages are present or swapped."""
    return _any_bit(entries, raw.HELD)


def exclusive(entries: Entries) -> Bools:
    """Which present pages are mapped exactly once."""
    return _any_bit(entries, raw.EXCLUSIVE)


def file_or_shared(entries: Entries) -> Bools:
    """Which pages belong to a file or to shared memory (5.10: not for PMD-mapped ones)."""
    return _any_bit(entries, raw.FILE_OR_SHARED)


def frames(entries: Entries) -> Entries:
    """The physical address of each page's frame; NO_FRAME where it is not present.

    Without CAP_SYS_ADMIN the kernel shows frame 0 for every present page: check
    `frames_visible` first.
    """
    shift = np.uint64(PAGE_SIZE.bit_length() - 1)
    addresses = (entries & np.uint64(raw.PFN_MASK)) << shift
    return np.where(present(entries), addresses, np.uint64(NO_FRAME))


class PageMap(Closing):
    """The pagemap of a process's current address space.

    After exec or exit that address space is gone and every method raises
    ProcessGone; open a new PageMap for the next one. Use as a context manager.
    """

    def __init__(self, pid: int, tid: int | None = None) -> None:
        """Open it. Raises ProcessGone, or TraceError without the right to read it."""
        self.pid = pid
        self._descriptor = raw.open_pagemap(pid, tid)

    @classmethod
    def held(cls, pid: int, descriptor: int) -> "PageMap":
        """A PageMap of an open descriptor; the caller's stays open."""
        pagemap = cls.__new__(cls)
        pagemap.pid = pid
        pagemap._descriptor = os.dup(descriptor)
        return pagemap

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def gone(self) -> bool:
        """Whether the address space has ended."""
        return raw.is_gone(self._descriptor)

    def read(self, start: int, end: int) -> Entries:
        """The entries of all pages in [start, end), page-aligned, usually by one read.

        Eight bytes a page, mapped or not: use `read_ranges` where it may be sparse.
        Pages outside the user address space (vsyscall) read as 0.
        """
        entries = np.empty((end - start) // PAGE_SIZE, dtype=np.uint64)
        self.read_into(start, entries)
        return entries

    def read_into(self, start: int, entries: Entries) -> None:
        """Fill `entries` with those of the pages from `start` on; contiguous."""
        if len(entries):
            raw.read_into(self._descriptor, self.pid, start, entries.data.cast("B"))

    def scan_present(
        self, spans: Sequence[tuple[int, int]], skip: Sequence[tuple[int, int]] = ()
    ) -> Iterator[tuple[int, int]]:
        """Ranges of pages present or swapped within `spans`; see entries.scan_held."""
        return raw.scan_held(self._descriptor, self.pid, spans, skip)

    def read_ranges(
        self, spans: Sequence[tuple[int, int]], likely: Sequence[tuple[int, int]] = ()
    ) -> Iterator[tuple[int, Entries]]:
        """Every present or swapped page of `spans` ([start, end), ascending).

        `likely`: ranges with most of the pages, read without a scan first.

        Yields (address of the first page, entries of the pages from there on), ascending, at
        most 65,536 pages long. The entries may include pages that are neither, and pages between
        two spans, but no long runs of them: sparse terabytes cost nothing where the kernel has
        PAGEMAP_SCAN.
        """
        below = [span for span in spans if span[0] < raw.USER_LIMIT]
        known = list(_shared(_joined(below, 0), likely))
        found = self.scan_present(list(_joined(below, 0)), known)
        ranges = merge(known, found)
        for first, last in _split(_joined(ranges, _GAP_PAGES * PAGE_SIZE), _CHUNK_PAGES):
            yield first, self.read(first, last)


def _any_bit(entries: Entries, bits: int) -> Bools:
    result: Bools = (entries & np.uint64(bits)) != 0
    return result


def _joined(ranges: Iterable[tuple[int, int]], gap: int) -> Iterator[tuple[int, int]]:
    """The ranges, merged where no more than `gap` bytes apart."""
    pending: tuple[int, int] | None = None
    for first, last in ranges:
        if pending is not None and first - pending[1] <= gap:
            pending = (pending[0], last)
            continue
        if pending is not None:
            yield pending
        pending = (first, last)
    if pending is not None:
        yield pending


def _shared(
    spans: Iterable[tuple[int, int]], others: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """The intersection of both; each ascending, without overlaps."""
    low = 0
    for start, end in spans:
        while low < len(others) and others[low][1] <= start:
            low += 1
        at = low
        while at < len(others) and others[at][0] < end:
            yield max(start, others[at][0]), min(end, others[at][1])
            at += 1


def _split(ranges: Iterable[tuple[int, int]], pages: int) -> Iterator[tuple[int, int]]:
    """Ranges cut at multiples of `pages`."""
    step = pages * PAGE_SIZE
    for first, last in ranges:
        start = first
        while start < last:
            end = min(start - start % step + step, last)
            yield start, end
            start = end
