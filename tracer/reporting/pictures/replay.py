"""The page map over time, small enough for a page: cells, and what happened to them when."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer.common.types import I64, U8, U16, U32, U64, Bools
from tracer.reporting.analysis.axis import Axis, axis_of
from tracer.reporting.analysis.curves import Curve
from tracer.reporting.analysis.gains import Gains, gains
from tracer.reporting.pictures import style
from tracer.reporting.reading.columns import Words
from tracer.reporting.reading.run import SPACE_SHIFT, Run, identity

MOST_CELLS = 20_000
MOST_EVENTS = 300_000
STEPS = 1000
_MOST_ISLANDS = 400


@dataclass(frozen=True)
class Events:
    """One element a cell and step in which something happened to it, in the order of steps."""

    step: U16
    cell: U32
    kind: U8  # of the last gain; 255 where there was none
    new: U32  # pages that had no frame before in this run
    gone: U32  # pages whose frame was released permanently


@dataclass(frozen=True)
class Island:
    """Pages side by side, as cells `first_cell` and following."""

    first_cell: int
    cells: int
    space: int
    page: int  # the first
    pages: int  # from the first to the last
    name: str


@dataclass(frozen=True)
class Replay:
    """`steps` moments of a run, and 0 for the one before it began."""

    steps: int
    pages_per_cell: int
    islands: list[Island]
    kinds: list[str]
    events: Events
    faults: list[int]  # by step: how many had happened
    mapped: list[int]  # by step: pages


def replay(run: Run, curve: Curve, most_events: int = MOST_EVENTS) -> Replay:
    """The map of a run; coarser where it is large, in space first, then in time."""
    points = gains(run, initial=True)
    axis = axis_of(points, _MOST_ISLANDS)
    per_cell = _pages_per_cell(axis)
    steps = STEPS
    events = _events(run, points, axis, per_cell, steps)
    while len(events.step) > most_events:
        if steps > STEPS // 4:
            steps //= 2
        else:
            per_cell *= 2
        events = _events(run, points, axis, per_cell, steps)
    # Rounded up, as steps are: what happened within a step is in it.
    moments = run.start_ns - (-np.arange(steps + 1) * (run.end_ns - run.start_ns)) // steps
    return Replay(
        steps=steps,
        pages_per_cell=per_cell,
        islands=_islands(axis, per_cell),
        kinds=points.label.words,
        events=events,
        faults=np.searchsorted(run.faults.time_ns, moments, side="right").tolist(),
        mapped=curve.at(moments).tolist(),
    )


def _pages_per_cell(axis: Axis) -> int:
    sizes = (axis.ends - axis.starts).astype(np.int64)
    per_cell = 1
    while int((-(-sizes // per_cell)).sum()) > max(MOST_CELLS, 2 * len(sizes)):
        per_cell *= 2
    return per_cell


def _first_cells(axis: Axis, per_cell: int) -> I64:
    sizes = (axis.ends - axis.starts).astype(np.int64)
    return np.concatenate([[0], np.cumsum(-(-sizes // per_cell))])


def _islands(axis: Axis, per_cell: int) -> list[Island]:
    first = _first_cells(axis, per_cell).tolist()
    lows = np.array([band.low for band in axis.bands])
    found = []
    for at, (start, end) in enumerate(zip(axis.starts.tolist(), axis.ends.tolist(), strict=True)):
        band = axis.bands[int(np.searchsorted(lows, axis.low[at], side="right")) - 1]
        space, page = divmod(start, 1 << SPACE_SHIFT)
        cells = first[at + 1] - first[at]
        found.append(Island(first[at], cells, space, page, end - start, band.name))
    return found


def _events(run: Run, points: Gains, axis: Axis, per_cell: int, steps: int) -> Events:
    cell, row, pages = _cells(points, axis, per_cell)
    step = _step(run, points.time_ns, steps)
    initial = points.label.mask("initial")
    step[initial] = 0
    new = np.where(_first_gains(points)[row], pages, 0)
    parts = [(step[row], cell, points.label.codes[row].astype(np.int64), new, np.zeros_like(new))]
    if run.pages is not None:
        released = np.flatnonzero(~run.pages.present & (run.pages.last_ns >= 0))
        keys = identity(run.pages.space[released], run.pages.page[released])
        there = np.isfinite(axis.position(keys)) if len(keys) else np.zeros(0, np.bool_)
        released, keys = released[there], keys[there]
        ones = np.ones(len(released), np.int64)
        at = _step(run, run.pages.last_ns[released], steps)
        parts.append((at, _cell_of(axis, keys, per_cell), ones * 255, ones * 0, ones))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _merged(*columns)


def _first_gains(points: Gains) -> Bools:
    """Which gains are their page's first; `points` are in the order of time.

    A huge page and its first page are not the same: what either gains does not say whether
    the rest of the huge one had been there.
    """
    keys = identity(points.space, points.page)
    first = np.zeros(len(points), np.bool_)
    for rows in (np.flatnonzero(points.span == 1), np.flatnonzero(points.span > 1)):
        first[rows[np.unique(keys[rows], return_index=True)[1]]] = True
    return first


def _step(run: Run, time_ns: I64, steps: int) -> I64:
    span = max(1, run.end_ns - run.start_ns)
    return np.clip(-((run.start_ns - time_ns) * steps // span), 1, steps)


def _cell_of(axis: Axis, keys: U64, per_cell: int) -> I64:
    at = np.searchsorted(axis.starts, keys, side="right") - 1
    return np.asarray(_first_cells(axis, per_cell)[at] + _inside(axis, keys) // per_cell)


def _inside(axis: Axis, keys: U64) -> I64:
    """How many pages of its island come before each."""
    at = np.searchsorted(axis.starts, keys, side="right") - 1
    return (keys - axis.starts[at]).astype(np.int64)


def _cells(points: Gains, axis: Axis, per_cell: int) -> tuple[I64, I64, I64]:
    """The cell, the point and the pages of each pair of a point and a cell it lies in."""
    if not len(points):
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    keys = identity(points.space, points.page)
    first = _cell_of(axis, keys, per_cell)
    last = _cell_of(axis, keys + (points.span - 1).astype(np.uint64), per_cell)
    times = last - first + 1
    row = np.repeat(np.arange(len(points)), times)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
    # Of a huge page's first and last cell some pages may lie before it and after it.
    before = _inside(axis, keys) % per_cell
    start = np.maximum(nth * per_cell - before[row], 0)
    end = np.minimum((nth + 1) * per_cell - before[row], points.span[row].astype(np.int64))
    return first[row] + nth, row, end - start


def _merged(step: I64, cell: I64, kind: I64, new: I64, gone: I64) -> Events:
    """What happened to a cell in one step, as one event."""
    order = np.lexsort((cell, step))
    step, cell, kind, new, gone = (column[order] for column in (step, cell, kind, new, gone))
    starts = np.flatnonzero(np.r_[True, (step[1:] != step[:-1]) | (cell[1:] != cell[:-1])])
    if not len(step):
        starts = np.empty(0, np.int64)
    ends = np.r_[starts[1:], len(step)] if len(starts) else starts
    gained = np.where(kind < 255, np.arange(len(kind)), -1)
    latest = np.maximum.reduceat(gained, starts) if len(starts) else starts
    return Events(
        step=step[starts].astype(np.uint16),
        cell=cell[starts].astype(np.uint32),
        kind=np.where(latest >= 0, kind[latest], 255).astype(np.uint8),
        new=_sums(new, starts),
        gone=_sums(gone, starts) if len(ends) else np.empty(0, np.uint32),
    )


def _sums(values: I64, starts: I64) -> U32:
    sums = np.add.reduceat(values, starts) if len(starts) else np.empty(0)
    return sums.astype(np.uint32)


def as_json(found: Replay, run: Run, owners: dict[int, str]) -> dict[str, Any]:
    """The map as the page's script reads it; arrays in base64, little-endian."""
    islands = [
        {
            "name": island.name or "(not known)",
            "owner": owners.get(island.space, ""),
            "page": f"{island.page:x}",
            "pages": island.pages,
            "cell": island.first_cell,
            "cells": island.cells,
        }
        for island in found.islands
    ]
    kinds = [{"name": style.label(kind), "colour": style.colour(kind)} for kind in found.kinds]
    columns = vars(found.events).items()
    return {
        "steps": found.steps,
        "seconds": run.seconds,
        "per_cell": found.pages_per_cell,
        "islands": islands,
        "kinds": kinds,
        "faults": found.faults,
        "mapped": found.mapped,
        "events": {name: base64.b64encode(column.tobytes()).decode() for name, column in columns},
    }


def owners(run: Run) -> dict[int, str]:
    """The process of each address space, where there are several."""
    space, at = np.unique(run.faults.space, return_index=True)
    if len(space) < 2:
        return {}
    return {
        int(number): f"{_word(run.faults.comm, row) or 'process'} {run.faults.pid[row]}"
        for number, row in zip(space.tolist(), at.tolist(), strict=True)
    }


def _word(words: Words, row: int) -> str:
    return words.words[int(words.codes[row])]
