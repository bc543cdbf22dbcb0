"""Page states of the live view: a table for each address space, and how changes are merged.

A table is one address space's pages that ever had a frame, sorted by page. A
batch of changes is of any spaces, in order of arrival.
"""

from enum import IntEnum

import numpy as np

from tracer.common.pages import NO_FRAME, PAGE_SHIFT, PAGE_SIZE
from tracer.common.types import I64, U8, U32, U64, Bools, Structs
from tracer.model.rows import Kind
from tracer.model.sources import Loss


class State(IntEnum):
    """The state of a page in a mapping."""

    ABSENT = 0  # no frame yet
    RESIDENT = 1
    ZERO = 2  # the shared zero page
    HUGE = 3  # one of 512 with the frames of a huge page
    SWAPPED = 4  # or reclaimed otherwise: its content is on a disk
    RELEASED = 5  # had a frame, and has none now


CHANGE = np.dtype(
    [
        ("page", "<u8"),  # virtual page number
        ("time_ns", "<i8"),  # CLOCK_MONOTONIC
        ("space", "<u4"),
        ("state", "u1"),
        ("kind", "u1"),  # rows.Kind of the fault that mapped it; UNKNOWN where none did
    ]
)
TABLE = np.dtype([("page", "<u8"), ("time_ns", "<i8"), ("state", "u1"), ("kind", "u1")])

Changes = Structs  # of dtype CHANGE
Table = Structs  # of dtype TABLE

_HUGE = 512  # pages
_HUGE_BYTES = np.uint64((1 << 21) - 1)


def empty() -> Table:
    """No pages."""
    return np.empty(0, TABLE)


def gains(
    spaces: U32,
    pages: U64,
    times: I64 | int,
    frames: U64,
    kinds: U8 | int,
    zero_frame: int = NO_FRAME,
) -> Changes:
    """Pages that gained frames (physical addresses), shapes (n,) or one for all."""
    made = np.empty(len(pages), CHANGE)
    made["page"], made["space"], made["time_ns"], made["kind"] = pages, spaces, times, kinds
    zero = (frames == np.uint64(zero_frame)) | (made["kind"] == Kind.ZERO)
    made["state"] = np.where(zero, State.ZERO.value, State.RESIDENT.value)
    if len(pages) >= _HUGE:
        order = np.lexsort((pages, spaces))  # the page at fault may come before its neighbours
        large = order[huge(pages[order], frames[order])]
        made["state"][large[~zero[large]]] = State.HUGE
    return made


def losses(
    spaces: U32,
    pages: U64,
    times: I64 | int,
    causes: U8 | int,
) -> Changes:
    """Pages whose frames were released, by sources.Loss; NONE: they never had one after all."""
    made = np.empty(len(pages), CHANGE)
    made["page"], made["space"], made["time_ns"], made["kind"] = pages, spaces, times, Kind.UNKNOWN
    cause = np.asarray(causes)
    state = np.where(cause == Loss.RECLAIM, State.SWAPPED.value, State.RELEASED.value)
    # What is mapped after an unmapping is another page, and has had none.
    never = (cause == Loss.NONE) | (cause == Loss.MUNMAP)
    made["state"] = np.where(never, State.ABSENT.value, state)
    return made


def states(
    space: int,
    pages: U64,
    times: I64,
    frames: U64,
    kinds: U8,
    causes: U8,
    zero_frame: int = NO_FRAME,
) -> Changes:
    """The state of pages of one space: in a frame, or (NO_FRAME) gone by a cause."""
    here = frames != np.uint64(NO_FRAME)
    spaces = np.full(len(pages), space, np.uint32)
    return np.concatenate(
        [
            gains(spaces[here], pages[here], times[here], frames[here], kinds[here], zero_frame),
            losses(spaces[~here], pages[~here], times[~here], causes[~here]),
        ]
    )


def newer(table: Table, changes: Changes) -> Changes:
    """Those of `changes` (a page each) that `table` does not have yet."""
    if not len(table) or not len(changes):
        return changes
    at = np.minimum(np.searchsorted(table["page"], changes["page"]), len(table) - 1)
    known = (table["page"][at] == changes["page"]) & (table["time_ns"][at] >= changes["time_ns"])
    return np.asarray(changes[~known])


def huge(pages: U64, frames: U64) -> Bools:
    """Which pages, ascending, are one of 512 in a row, on the frames of a huge page."""
    found = np.zeros(len(pages), np.bool_)
    if len(pages) < _HUGE:
        return found
    heads = np.flatnonzero(
        (pages[: 1 - _HUGE] & np.uint64(_HUGE - 1) == 0)
        & (frames[: 1 - _HUGE] & _HUGE_BYTES == 0)
        & (pages[_HUGE - 1 :] == pages[: 1 - _HUGE] + np.uint64(_HUGE - 1))
        & (frames[_HUGE - 1 :] == frames[: 1 - _HUGE] + np.uint64((_HUGE - 1) << PAGE_SHIFT))
    )
    for head in heads.tolist():
        whole = slice(head, head + _HUGE)
        found[whole] = bool((np.diff(pages[whole]) == 1).all()) and bool(
            (np.diff(frames[whole]) == PAGE_SIZE).all()
        )
    return found


def merge(table: Table, changes: Changes) -> Table:
    """The table after `changes` of its space, in order; `table` itself may be written to."""
    if not len(changes):
        return table
    order = np.argsort(changes["page"], kind="stable")
    page = changes["page"][order]
    last = order[np.append(page[1:] != page[:-1], True)]
    new = np.empty(len(last), TABLE)
    for name in TABLE.names or ():
        new[name] = changes[name][last]
    at = np.searchsorted(table["page"], new["page"])
    known = np.zeros(len(new), np.bool_)
    inside = at < len(table)
    known[inside] = table["page"][at[inside]] == new["page"][inside]
    table[at[known]] = new[known]
    if known.all():
        return table
    return np.asarray(np.insert(table, at[~known], new[~known]))


def by_space(changes: Changes) -> dict[int, Changes]:
    """The changes of each space, in order."""
    if not len(changes):
        return {}
    space = changes["space"]
    if (space == space[0]).all():
        return {int(space[0]): changes}
    return {number: changes[space == number] for number in np.unique(space).tolist()}


def present(table: Table) -> Bools:
    """Which pages of a table have a frame."""
    state = table["state"]
    return np.asarray((state >= State.RESIDENT) & (state <= State.HUGE))
