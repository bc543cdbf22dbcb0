"""Distinct frames of all traced spaces together: each once, however many share it.

The timeline has what each space maps at any time. Which of these frames are the same (after fork,
of files, the zero page) takes a pass over all of them, so they are counted at snapshots and at the
end only: the highest count is a lower bound of the true peak.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from tracer.common.types import PAGE_BITS, U64

Frames = Callable[[], Iterable[U64]]

MOST_POINTS = 4096
_STRETCH = 1 << 23  # frames marked at a time: 32 GiB of memory in 8 MiB
_SHARE = 20  # counting may take one part in so many of the time


class Series:
    """Points in time order; where there are too many, every second one is dropped."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most = most
        self._points: list[tuple[int, int]] = []

    def add(self, time_ns: int, pages: int) -> None:
        """Append a point: `pages` at `time_ns` (CLOCK_MONOTONIC)."""
        self._points.append((time_ns, pages))
        if len(self._points) > self._most:
            # The first and the latest point stay.
            self._points = self._points[:-1:2] + self._points[-1:]

    @property
    def points(self) -> list[tuple[int, int]]:
        """(time_ns, pages), at most `most` of them."""
        return list(self._points)


class Resident:
    """The number of distinct frames of all spaces, counted from time to time.

    `Frames` gives them as physical addresses, in arrays of any length.
    """

    def __init__(self) -> None:
        self.series = Series()
        self.now: int | None = None  # by the last count
        self.start: int | None = None
        self.end: int | None = None
        self._most = 0
        self._due_ns = 0

    def begin(self, frames: Frames, time_ns: int) -> None:
        """Count the frames before anything is traced."""
        self.start = self._count(frames, time_ns)

    def count(self, frames: Frames, time_ns: int) -> None:
        """Count, unless the last count was too recent for its cost."""
        if time.monotonic_ns() >= self._due_ns:
            self._count(frames, time_ns)

    def finish(self, frames: Frames, time_ns: int) -> None:
        """Count the frames at the end; without this, `end` is not known."""
        self.end = self._count(frames, time_ns)

    @property
    def growth(self) -> int | None:
        """From the start to the end; None where one of them is not known."""
        return None if self.start is None or self.end is None else self.end - self.start

    @property
    def peak(self) -> int | None:
        """The highest count; None where there was none."""
        return None if self.now is None else self._most

    def _count(self, frames: Frames, time_ns: int) -> int:
        began = time.monotonic_ns()
        found = self.now = distinct(frames())
        self._most = max(self._most, found)
        self.series.add(time_ns, found)
        ended = time.monotonic_ns()
        self._due_ns = ended + _SHARE * (ended - began)
        return found


def distinct(parts: Iterable[U64]) -> int:
    """How many different frames there are in arrays of physical addresses.

    By marking, one range of memory after the other: a tenth of the time of sorting.
    """
    left: Iterable[U64] = (part >> PAGE_BITS for part in parts)
    start, count = np.uint64(0), 0
    while True:
        seen = np.zeros(_STRETCH, np.bool_)
        further = []
        for part in left:
            away = part - start
            near = away < _STRETCH
            if near.all():
                seen[away] = True
            else:
                seen[away[near]] = True
                further.append(part[~near])
        count += int(np.count_nonzero(seen))
        if not further:
            return count
        left, start = further, min(part.min() for part in further)
