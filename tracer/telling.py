"""What a batch of faults has to tell the timeline, as much at a time as may be.

What forks and system calls did to pages comes between the faults on these pages; what
happened to other pages meanwhile does not matter to them. So a batch is told in rounds: in
each the faults of any pages that are next, then what was done to pages after them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.rows import Kind, Rows
from tracer.sources import Source
from tracer.syscalls import Effect
from tracer.timeline import Events, Timeline

_LAST = 1 << 52  # beyond all page numbers

Range = tuple[int, int, int]  # of an address space: its number, first page, the one after the last


def range_of(space: int, start: int, end: int) -> Range:
    """The pages of [start, end) (addresses) in a space."""
    return space, start >> 12, min((end + 4095) >> 12, _LAST)


def whole(space: int) -> Range:
    """All pages of a space."""
    return space, 0, _LAST


@dataclass(frozen=True)
class Action:
    """Something done to pages in `ranges` after the first `at` faults of a batch."""

    at: int
    ranges: tuple[Range, ...]
    what: Effect | Callable[[], object]


@dataclass
class Parts:
    """Pages that faults touched: their own, and those that came along."""

    row: npt.NDArray[np.int64]
    page: npt.NDArray[np.uint64]
    frame: npt.NDArray[np.uint64]
    before: npt.NDArray[np.uint64]  # NO_FRAME where absent or not known
    absent: npt.NDArray[np.bool_]  # had no frame when the fault began
    around: npt.NDArray[np.bool_]  # came along

    def take(self, at: npt.NDArray[np.int64] | slice) -> "Parts":
        return Parts(*(getattr(self, each.name)[at] for each in fields(self)))


def concatenate(parts: list[Parts]) -> Parts:
    """One after another."""
    if not any(len(part.row) for part in parts[1:]):
        return parts[0]
    return Parts(
        *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Parts))
    )


class Telling:
    """The pages of some rows, and how the timeline hears of them.

    `columns` are those of the rows as they were made; `parts` are in order of rows;
    `start_ns` and `swapped` (the entry before the fault told where in swap the page was) are
    the rows'.
    """

    def __init__(
        self,
        timeline: Timeline,
        rows: Rows,
        columns: Mapping[str, npt.NDArray[Any]],
        parts: Parts,
        start_ns: npt.NDArray[np.int64],
        swapped: npt.NDArray[np.bool_],
    ) -> None:
        self._timeline = timeline
        self._rows = rows
        self._told = 0  # parts, by `tell_all`
        self._row = parts.row
        around = parts.around
        # One part a row, as nearly always: the rows' fields are the parts' as they are.
        plain = len(parts.row) == len(rows) and not around.any()
        row = slice(None) if plain else parts.row
        self._space = columns["space"][row]
        kind = columns["kind"][row]
        self._events = Events(
            page=parts.page,
            start_ns=start_ns[row],
            time_ns=columns["time_ns"][row],
            absent_before=parts.absent,
            swapped_before=swapped[row] & ~around,
            frame_before=parts.before,
            frame=parts.frame,
            number=columns["number"][row],
            kind=kind,
            region=columns["region"][row],
            source=_sources(kind, around),
        )

    def play(self, actions: Sequence[Action], rows: Sequence[int]) -> Iterator[list[Action]]:
        """Tell of all rows; yields the actions when they are to be applied.

        Those yielded together have no page in common. An action comes after the first so
        many `rows`, which do not decrease; of each page everything comes in order.
        """
        if not actions:
            self.tell_all()
            return
        starts = np.searchsorted(self._row, np.array(rows))
        parts, depths = self._rounds(actions, starts)
        if self._mixes(parts):
            parts = np.searchsorted(starts, np.arange(len(parts)), side="right")
            depths = list(range(len(actions)))
        last = max(int(parts.max(initial=0)), *depths)
        order = np.argsort(parts, kind="stable")
        ends = np.searchsorted(parts[order], np.arange(last + 1), side="right").tolist()
        due: list[list[Action]] = [[] for _ in range(last + 1)]
        for action, depth in zip(actions, depths, strict=True):
            due[depth].append(action)
        for begin, end, then in zip([0, *ends], ends, due, strict=False):
            if begin < end:
                self.tell(order[begin:end])
            if then:
                yield then

    def _rounds(
        self, actions: Sequence[Action], starts: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], list[int]]:
        """The round of each part and of each action, which begins at the part `starts`.

        In each round the parts come first. An action comes after those before it that
        concern some of the same pages, and a part after the actions before it on its page.
        """
        parts = np.zeros(len(self._row), np.intp)
        page, space = self._events.page, self._space
        ranges = np.array([each for action in actions for each in action.ranges], np.int64).T
        rounds, known = np.full(ranges.shape[1], -1), 0
        depths = []
        for action, start in zip(actions, starts.tolist(), strict=True):
            depth = 0
            for number, first, last in action.ranges:
                spaces, firsts, lasts = ranges[:, :known]
                over = (spaces == number) & (firsts < last) & (lasts > first)
                depth = max(depth, 1 + int(rounds[:known].max(where=over, initial=-1)))
            rounds[known : known + len(action.ranges)] = depth
            known += len(action.ranges)
            depths.append(depth)
            for number, first, last in action.ranges:
                mine = space[start:] == number
                if last - first < _LAST:
                    mine &= page[start:] - np.uint64(first) < np.uint64(last - first)
                parts[start:][mine] = depth + 1
        return parts, depths

    def _mixes(self, rounds: npt.NDArray[np.intp]) -> bool:
        """Whether a row has parts in several rounds: what one shows counts for the others."""
        same = self._row[1:] == self._row[:-1]
        return bool((same & (rounds[1:] != rounds[:-1])).any())

    def tell_all(self, until: int | None = None) -> None:
        """Tell of the rows before `until`; by default of all that is left."""
        end = len(self._row) if until is None else int(np.searchsorted(self._row, until))
        if end > self._told:
            self.tell(slice(self._told, end))
            self._told = end

    def tell(self, due: npt.NDArray[np.intp] | slice) -> None:
        """Let the timeline know of some parts, in order, and their rows of what it says."""
        outcome = self._timeline.apply(self._space[due], self._events.take(due))
        row = self._row[due]
        first = int(row[0])
        # Of many, bincount counts quicker than np.add.at.
        gained = np.bincount(row[outcome.gained] - first)
        self._rows["pages"][first : first + len(gained)] += gained.astype(np.uint32)
        if outcome.raced.any():
            self._rows["kind"][row[outcome.raced]] = Kind.SPURIOUS


def _sources(kind: npt.NDArray[np.uint8], around: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Where the frames came from that these faults show."""
    source = np.full(len(kind), Source.FAULT, np.uint8)
    source[kind == Kind.UFFD] = Source.UFFD
    source[around] = Source.AROUND
    return source
