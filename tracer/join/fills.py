"""Pages that calls populated (MAP_POPULATE, mlock, MADV_POPULATE), from FILLED records.

bpf/fill.h reads the page table as such a call returns; a call's records come in sequence, with
those of other threads in between.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from tracer.common.fields import Columns
from tracer.common.pages import PAGE_SHIFT
from tracer.common.types import PAGE_BITS, U8, U64, Bools, Index, Structs
from tracer.join.kinds import filled
from tracer.spaces.changes import Question
from tracer.spaces.mappings import MappingHistory
from tracer.spaces.syscalls import Effect

BY_TIME = attrgetter("time_ns")


@dataclass(frozen=True, slots=True)
class Fill:
    """Pages a call has populated, recorded as it returned."""

    space: int
    mm: int
    pages: U64  # ascending
    frames: U64
    times: U64  # when each entry was read
    history: MappingHistory
    question: Question  # which mappings they are in
    at: Index  # indices into its addresses

    @property
    def time_ns(self) -> int:
        """When the last entry was read."""
        return int(self.times.max())

    def range_(self) -> tuple[int, int, int]:
        """Action.ranges: from the first page to the last."""
        return self.space, int(self.pages[0]), int(self.pages[-1]) + 1

    def parts(self, effects: "Sequence[Effect | Fill]", faults: Columns) -> "list[Fill]":
        """The fill as a whole; split by time of reading if other events in its range came between.

        `effects` are in order of time.
        """
        first, last = int(self.times.min()), self.time_ns
        if first == last:
            return [self]
        _, start, end = self.range_()
        since, until = (bisect.bisect_right(effects, at, key=BY_TIME) for at in (first, last))
        between = any(
            each.space == self.space
            and each.start < end << PAGE_SHIFT
            and start << PAGE_SHIFT < each.end
            for each in effects[since:until]
            if isinstance(each, Effect)
        )
        if not between and len(faults):
            page, times = faults["address"] >> PAGE_BITS, faults["time_ns"]
            mine = (faults["mm"] == np.uint64(self.mm)) & (page >= start) & (page < end)
            between = bool((mine & (times > first) & (times <= last)).any())
        if not between:
            return [self]
        return [self._part(self.times == each) for each in np.unique(self.times)]

    def _part(self, mine: Bools) -> "Fill":
        columns = self.pages[mine], self.frames[mine], self.times[mine]
        return Fill(self.space, self.mm, *columns, self.history, self.question, self.at[mine])


class Mine(NamedTuple):
    """The contents of one thread's FILLED records; `start` is the index of the first.

    `ends`: by call, start and end of its range, how far the records go, and when.
    """

    start: int
    pages: U64
    frames: U64
    times: U64
    ends: list[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Filled:
    """A batch's FILLED records, in order, decoded to columns: record, page, frame."""

    records: Structs
    rows: Index
    pages: U64
    frames: U64

    @classmethod
    def by(cls, raw: U8, dtype: np.dtype[np.void], zero_frame: int) -> "Filled":
        """`raw`: shape (count, bytes of a record)."""
        records = np.ascontiguousarray(raw).view(dtype).ravel()
        if not len(records):  # as in most batches
            return cls(records, np.empty(0, np.intp), *(np.empty(0, np.uint64) for _ in range(2)))
        return cls(records, *filled(records, zero_frame))

    def of(self, since: int, until: int, tid: int | None) -> Mine:
        """Select from records `since` to `until` those of a thread, or (None) all."""
        first, last = np.searchsorted(self.rows, (since, until)).tolist()
        rows, pages = self.rows[first:last], self.pages[first:last]
        frames = self.frames[first:last]
        few = self.records[since:until]
        start = since
        if tid is not None:
            start += int((few["tid"] == tid).argmax())
            mine = self.records["tid"][rows] == tid
            rows, pages, frames = rows[mine], pages[mine], frames[mine]
            few = few[few["tid"] == tid]
        if len(pages) > 1 and not (pages[1:] > pages[:-1]).all():
            pages, kept = np.unique(pages, return_index=True)
            rows, frames = rows[kept], frames[kept]
        ends = few[few["level"] == 0]
        columns = ends["entries"][:, 0], ends["entries"][:, 1], ends["address"], ends["time_ns"]
        reached = list(zip(*(column.tolist() for column in columns), strict=True))
        return Mine(start, pages, frames, self.records["time_ns"][rows], reached)
