"""What a batch of faults has to tell the timeline, as late as may be and much at a time.

What forks and system calls did to a space comes between its faults; what
happened in another space meanwhile does not matter to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.rows import Kind, Rows
from tracer.sources import Source
from tracer.timeline import Events, Timeline


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
    """The pages of some rows, of which the timeline hears up to a row at a time.

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
        self._told = 0  # parts
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

    def waiting(self, space: int, until: int) -> npt.NDArray[np.uint64]:
        """The addresses of the space's pages that rows before `until` are still to tell of."""
        due = self._due(until)
        pages = self._events.page[due][self._space[due] == space]
        return np.asarray(pages << np.uint64(12))

    def tell(self, space: int, until: int) -> None:
        """Let the timeline know of the space's rows before `until`, and them of what it says.

        With the other spaces' rows: it costs less to tell of many at once.
        """
        if (self._space[self._due(until)] == space).any():
            self.tell_all(until)

    def tell_all(self, until: int | None = None) -> None:
        """Tell of the rows before `until`; by default of all that is left."""
        due = self._due(len(self._rows) if until is None else until)
        if due.start == due.stop:
            return
        self._told = due.stop
        outcome = self._timeline.apply(self._space[due], self._events.take(due))
        row = self._row[due]
        first = int(row[0])
        # Of many, bincount counts quicker than np.add.at.
        gained = np.bincount(row[outcome.gained] - first)
        self._rows["pages"][first : first + len(gained)] += gained.astype(np.uint32)
        if outcome.raced.any():
            self._rows["kind"][row[outcome.raced]] = Kind.SPURIOUS

    def _due(self, until: int) -> slice:
        return slice(self._told, max(self._told, int(np.searchsorted(self._row, until))))


def _sources(kind: npt.NDArray[np.uint8], around: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Where the frames came from that these faults show."""
    source = np.full(len(kind), Source.FAULT, np.uint8)
    source[kind == Kind.UFFD] = Source.UFFD
    source[around] = Source.AROUND
    return source
