"""Fewer lines than faults: runs of neighbouring pages as one line, when faults come fast.

Nothing is dropped: over all lines `faults` adds up to the batch's rows and
`pages` to their pages, however coarse the merging had to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracer.common.pages import NO_FRAME, PAGE_SIZE
from tracer.common.types import U32, U64, Bools, Index, Integers
from tracer.model.rows import UNKNOWN_LATENCY, Rows

# From fine to coarse: what all the faults of a line have in common.
_WHAT = ("space", "kind", "access", "major")
_LEVELS = ((*_WHAT, "tid", "region"), (*_WHAT, "tid"), _WHAT)
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbouring numbers
_SUMMED = ("time_ns", "address", "pages", "latency_ns", "frame", "region", "tid", "ip")


@dataclass(frozen=True, slots=True)
class Line:
    """One fault, or several of one kind."""

    row: np.void  # of dtype ROW: the only fault, or the earliest
    page: int  # lowest page
    faults: int
    pages: int  # pages the line stands for: those gained, at least one a fault
    end: int  # end of the highest page a fault was in
    neighbours: bool  # the pages follow one another
    frame: int  # where it is the same for all, else NO_FRAME
    frames: int  # pages gained
    latency_ns: int  # median of the known ones; UNKNOWN_LATENCY where none is
    total_ns: int  # sum of the known ones
    regions: int
    threads: int
    one_ip: bool


def merge(rows: Rows, above: int) -> list[Line]:
    """The batch's faults as lines in time order; merged when there are more than `above`.

    Merges no further than it takes to come to twice `above` lines.
    """
    if len(rows) <= above:
        order = np.arange(len(rows))
        return _lines(rows, order, order, neighbours=True)
    page = rows["address"] // np.uint64(PAGE_SIZE)
    most = 2 * above
    for fields in _LEVELS:
        key = _key(rows, fields)
        if len(np.unique(key)) <= most or fields is _LEVELS[-1]:
            break
    order, starts = _sorted(key, page)
    if fields is _LEVELS[0]:
        gaps = starts | _gaps(rows["pages"][order], page[order])
        if np.count_nonzero(gaps) <= most:
            return _lines(rows, order, np.flatnonzero(gaps), neighbours=True)
    return _lines(rows, order, np.flatnonzero(starts), neighbours=False)


def _key(rows: Rows, fields: Sequence[str]) -> U64:
    """A key for each row: equal where all the fields are, else almost never."""
    key = np.zeros(len(rows), np.uint64)
    for name in fields:
        key = (key ^ rows[name]) * _ODD
    return key


def _sorted(key: U64, page: U64) -> tuple[Index, Bools]:
    """The order by key and page, and where in it a new key begins."""
    group = np.unique(key, return_inverse=True)[1].astype(np.uint64)
    # Page numbers take 45 bits (57-bit addresses), which leaves 19 for groups: one sort does.
    order = np.argsort((group << np.uint64(45)) | page)
    by_group = group[order]
    return order, np.append(True, by_group[1:] != by_group[:-1])


def _gaps(pages: U32, page: U64) -> Bools:
    """Where a page does not follow the one before it.

    A fault that mapped neighbours may sit anywhere among them, so two windows
    of n pages side by side may have their faults up to 2n - 1 pages apart.
    """
    window = np.maximum(pages, 1).astype(np.int64)
    reach = 2 * np.maximum(window[1:], window[:-1]) - 1
    return np.append(True, np.diff(page.astype(np.int64)) > reach)


def _lines(rows: Rows, order: Index, starts: Index, neighbours: bool) -> list[Line]:
    columns = {name: rows[name].take(order) for name in _SUMMED}
    ends = np.append(starts[1:], len(rows))
    lines = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        part = {name: column[start:end] for name, column in columns.items()}
        first = order[start + int(part["time_ns"].argmin())]
        lines.append(_line(rows[int(first)], part, neighbours))
    return sorted(lines, key=lambda line: int(line.row["time_ns"]))


def _line(row: np.void, part: dict[str, Integers], neighbours: bool) -> Line:
    known = part["latency_ns"][part["latency_ns"] != UNKNOWN_LATENCY]
    page = part["address"] // PAGE_SIZE
    return Line(
        row=row,
        page=int(page.min()) * PAGE_SIZE,
        faults=len(page),
        pages=int(np.maximum(part["pages"], 1).sum()),
        end=(int(page.max()) + 1) * PAGE_SIZE,
        neighbours=neighbours,
        frame=int(part["frame"][0]) if _same(part["frame"]) else NO_FRAME,
        frames=int(part["pages"].sum()),
        latency_ns=int(np.median(known)) if len(known) else UNKNOWN_LATENCY,
        total_ns=int(known.sum()),
        regions=_distinct(part["region"]),
        threads=_distinct(part["tid"]),
        one_ip=_same(part["ip"]),
    )


def _same(column: Integers) -> bool:
    return bool((column == column[0]).all())


def _distinct(column: Integers) -> int:
    return 1 if _same(column) else len(np.unique(column))
