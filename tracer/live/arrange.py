"""Which regions are shown, in what order, and how their pages are laid out in rows of cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, get_args

import numpy as np

from tracer.common.pages import PAGE_SHIFT
from tracer.common.text import printable
from tracer.live.model import Area
from tracer.live.pages import State, Table, present
from tracer.model.rows import Kind

Sort = Literal["active", "address", "mapped", "faults", "name"]
SORTS: tuple[Sort, ...] = get_args(Sort)
MOST_ZOOM = 1 << 30  # pages a cell: more than an address space has in a row of 64
_ACTIVE_NS = 2_000_000_000
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Stat:
    """Counts of an area at one moment."""

    area: Area
    mapped: int  # pages with a frame
    zero: int
    huge: int
    swapped: int
    released: int
    gained_ns: int  # when a page last gained a frame; 0: never since tracing began
    faults: int  # of the whole run
    known: int  # pages of any kind that ever had a frame


@dataclass(frozen=True)
class Row:
    """A line of an area in the map: cells, or an empty stretch."""

    first: int  # virtual page number
    cells: int
    gap: int = 0  # pages left out, instead of cells
    head: bool = False  # the area's first line


def stat_of(table: Table, area: Area, faults: int, kind: Kind | None) -> Stat:
    """Count an area's pages, of one kind only where `kind` says so."""
    known = len(table)
    table = of_kind(table, kind)
    count = np.bincount(table["state"], minlength=len(State)).tolist()
    zero, huge = count[State.ZERO], count[State.HUGE]
    return Stat(
        area=area,
        mapped=count[State.RESIDENT] + zero + huge,
        zero=zero,
        huge=huge,
        swapped=count[State.SWAPPED],
        released=count[State.RELEASED],
        gained_ns=int(table["time_ns"].max(initial=0, where=present(table))),
        faults=faults,
        known=known,
    )


def of_kind(table: Table, kind: Kind | None) -> Table:
    """The pages mapped by faults of `kind`; all where it is None."""
    return table if kind is None else np.asarray(table[table["kind"] == kind])


def chosen(areas: Sequence[Area], find: str, only: tuple[int, int] | None) -> list[Area]:
    """The areas whose name holds `find` (as it is shown), or the one of the key `only`."""
    if not find and only is None:
        return list(areas)
    word = find.lower()
    return [
        area
        for area in areas
        if (only is None or area.key == only) and word in printable(area.name).lower()
    ]


class Countable(Protocol):
    """An area whose lines can be counted (pieces.Piece)."""

    @property
    def stat(self) -> Stat:
        """What is in it."""

    def row_count(self, pages: int) -> int:
        """About how many lines of so many pages it takes."""


Sortable = TypeVar("Sortable", bound=Countable)


def ordered(pieces: Sequence[Sortable], sort: Sort, now_ns: int) -> list[Sortable]:
    """The pieces in the requested order; ties stay by address."""
    found = sorted(pieces, key=lambda piece: piece.stat.area.key)
    match sort:
        case "active":
            return sorted(found, key=lambda piece: _idle(piece.stat, now_ns))
        case "mapped":
            return sorted(found, key=lambda piece: -piece.stat.mapped)
        case "faults":
            return sorted(found, key=lambda piece: -piece.stat.faults)
        case "name":
            return sorted(found, key=lambda piece: printable(piece.stat.area.name))
        case _:
            return found


def _idle(stat: Stat, now_ns: int) -> int:
    """Smallest for active areas, then by the second of the last gain: it must be readable."""
    if now_ns - stat.gained_ns < _ACTIVE_NS:
        return -now_ns
    return -(stat.gained_ns // _SECOND_NS)


def fitting_zoom(pieces: Sequence[Countable], width: int, height: int) -> int:
    """The fewest pages a cell, a power of two, with which all but fits into `height` rows.

    An area takes a row at least; what the large ones take beyond that is to fit.
    """
    zoom = 1
    room = max(height - min(len(pieces), height // 2), 1)
    large = list(pieces)
    while zoom < MOST_ZOOM:
        large = [piece for piece in large if piece.stat.area.pages > zoom * width]
        if sum(piece.row_count(zoom * width) - 1 for piece in large) <= room:
            break
        zoom *= 2
    return zoom


def chunks_of(table: Table, area: Area, pages: int) -> list[int]:
    """Which stretches of so many pages, counted from the area's first, hold anything."""
    number = (table["page"] - np.uint64(area.start >> PAGE_SHIFT)) // np.uint64(pages)
    if not len(number):
        return []
    return [int(each) for each in number[np.append(True, number[1:] != number[:-1])]]


def rows_of(area: Area, table: Table, width: int, zoom: int) -> list[Row]:
    """An area's lines: the stretches in which something is, and what lies between."""
    pages = width * zoom
    first, total = area.start >> PAGE_SHIFT, area.pages
    whole = -(-total // pages)
    if whole <= 1:
        return [Row(first, -(-total // zoom), head=True)]
    rows: list[Row] = []
    done = 0  # stretches
    for chunk in [*chunks_of(table, area, pages), whole]:
        if chunk - done == 1:
            rows.append(_cells(area, first, done, pages, zoom))
        elif chunk > done:
            left = min(chunk * pages, total) - done * pages
            rows.append(Row(first + done * pages, 0, gap=left))
        if chunk < whole:
            rows.append(_cells(area, first, chunk, pages, zoom))
        done = chunk + 1
    rows[0] = Row(rows[0].first, rows[0].cells, rows[0].gap, head=True)
    return rows


def _cells(area: Area, first: int, chunk: int, pages: int, zoom: int) -> Row:
    left = min(pages, area.pages - chunk * pages)
    return Row(first + chunk * pages, -(-left // zoom))
