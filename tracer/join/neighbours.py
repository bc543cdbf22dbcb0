"""Pages mapped together with a fault's own: of huge pages, of windows, of large folios."""

import numpy as np

from tracer.common.fields import Records
from tracer.common.pages import NO_FRAME
from tracer.common.types import I64, PAGE_BITS, U8, U64, Structs
from tracer.join import kinds
from tracer.model.rows import (
    Kind,
    Rows,
)
from tracer.timeline.schedule import TouchedPages
from tracer.wire.shared import WINDOW_PAGES, WINDOW_UNKNOWN

_HUGE = 512  # pages behind a PMD
_HUGE_BASE = ~np.uint64((1 << 21) - 1)


def huge_pages(rows: Rows, level: U8, old: kinds.Entries, new: kinds.Entries) -> TouchedPages:
    """The other 511 pages of each huge page that a fault mapped; `level` is that of `old`."""
    fresh = new.huge & (old.frame != new.frame) & (rows["kind"] != Kind.FAILED)
    row = np.flatnonzero(fresh)
    own, page = _huge_pages(rows, row)
    inside = np.arange(_HUGE, dtype=np.uint64) << PAGE_BITS
    frame = (new.frame[row] & _HUGE_BASE)[:, None] + inside
    before = (old.frame[row] & _HUGE_BASE)[:, None] + inside
    before[~old.huge[row]] = NO_FRAME
    # Without a page table all were absent. With one, only the fault's own entry is known.
    absent = old.known & ~old.present & (level >= 2)
    others = page != own
    return TouchedPages(
        row=np.repeat(row, _HUGE - 1),
        page=page[others],
        frame=frame[others],
        before=before[others],
        absent=np.repeat(absent[row], _HUGE - 1),
        around=np.ones(len(row) * (_HUGE - 1), np.bool_),
    )


def zero_pages(rows: Rows, row: I64, old: kinds.Entries, zero_frame: int) -> TouchedPages:
    """The other 511 pages of each huge zero page that a fault has split."""
    own, page = _huge_pages(rows, row)
    inside = np.arange(_HUGE, dtype=np.uint64) << PAGE_BITS
    before = (old.frame[row] & _HUGE_BASE)[:, None] + inside
    others = page != own
    count = len(row) * (_HUGE - 1)
    return TouchedPages(
        row=np.repeat(row, _HUGE - 1),
        page=page[others],
        frame=np.full(count, zero_frame, np.uint64),
        before=before[others],
        absent=np.zeros(count, np.bool_),
        around=np.ones(count, np.bool_),
    )


def _huge_pages(rows: Rows, row: I64) -> tuple[U64, U64]:
    """The page of each fault, shape (n, 1), and all pages of its huge page, (n, 512)."""
    own: U64 = (rows["address"][row] >> PAGE_BITS)[:, None]
    page: U64 = own & ~np.uint64(_HUGE - 1)
    return own, page | np.arange(_HUGE, dtype=np.uint64)


def window_pages(rows: Rows, windows: Structs, old: kinds.Entries) -> TouchedPages:
    """The neighbours in each window present after its fault and absent before."""
    row = match_windows(rows, windows)
    # Where a huge page was split, or nothing is known, the mask of before is empty, not valid.
    known = (row >= 0) & (old.known & ~old.huge)[row] if len(rows) else row >= 0
    windows, row = windows[known], row[known]
    own = rows["address"][row] >> PAGE_BITS
    number = np.arange(WINDOW_PAGES, dtype=np.uint64)
    page = (windows["address"] >> PAGE_BITS)[:, None] + number
    chosen = ((_fresh(windows["seen"])[:, None] >> number) & np.uint64(1)).astype(np.bool_)
    chosen &= page != own[:, None]
    levels = np.ones(chosen.sum(), np.uint8)
    found = kinds.entries(
        windows["entries"][chosen], levels, levels.astype(np.bool_), page[chosen] << PAGE_BITS
    )
    return TouchedPages(
        row=np.repeat(row, chosen.sum(axis=1)),
        page=page[chosen],
        frame=found.frame,
        before=np.full(len(levels), NO_FRAME, np.uint64),
        absent=np.repeat((windows["marks"] & WINDOW_UNKNOWN) == 0, chosen.sum(axis=1)),
        around=np.ones(len(levels), np.bool_),
    )


def contiguous_pages(rows: Rows, windows: Structs) -> TouchedPages:
    """The pages of large folios beyond the windows; their entries before are not known."""
    row = match_windows(rows, windows)
    windows, row = windows[row >= 0], row[row >= 0]
    # bpf/shared.h: the frame the page table's first page would have, and a bit for each page.
    words = np.ascontiguousarray(windows["entries"][:, 1 : 1 + _HUGE // 64])
    at, inside = np.nonzero(np.unpackbits(words.view(np.uint8), axis=1, bitorder="little"))
    number = inside.astype(np.uint64)
    return TouchedPages(
        row=row[at],
        page=(windows["address"] >> PAGE_BITS)[at] + number,
        frame=windows["entries"][at, 0] + (number << PAGE_BITS),
        before=np.full(len(at), NO_FRAME, np.uint64),
        absent=np.zeros(len(at), np.bool_),
        around=np.ones(len(at), np.bool_),
    )


def _fresh(seen: U64) -> U64:
    """Which pages of each window are present after and were absent before, as bits."""
    return (seen >> np.uint64(16)) & ~seen & np.uint64(0xFFFF)


def match_windows(faults: Records | Rows, windows: Structs) -> I64:
    """Which fault each window belongs to (same thread, same completion time); -1 where none.

    Takes fault records or rows, in any order.
    """
    result = np.full(len(windows), -1, np.int64)
    if not len(windows) or not len(faults):
        return result
    order = np.argsort(faults["time_ns"], kind="stable")
    times = faults["time_ns"].astype(np.int64)[order]
    wanted = windows["time_ns"].astype(np.int64)
    at = np.searchsorted(times, wanted)
    # Several faults may complete in the same nanosecond: check a few records further.
    for step in range(8):
        index = order[np.minimum(at + step, len(faults) - 1)]
        match = (faults["time_ns"][index].astype(np.int64) == wanted) & (
            faults["tid"][index] == windows["tid"]
        )
        result = np.where((result < 0) & match, index, result)
    return result
