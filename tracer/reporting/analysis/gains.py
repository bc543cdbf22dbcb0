"""Every frame gained, as points in time and memory."""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64, U32, U64, Integers
from tracer.reporting.analysis.findings import HUGE
from tracer.reporting.reading.columns import Words
from tracer.reporting.reading.run import Faults, Pages, Run

_FIRST = np.uint64(~(HUGE - 1) & (1 << 64) - 1)


@dataclass(frozen=True)
class Gains:
    """One element a gain, in the order of time: `span` pages from `page` on (1, or a huge page).

    `label` is the fault's kind; "around" for pages of files mapped along with a
    neighbour; else the source.
    """

    time_ns: I64
    space: U32
    page: U64  # virtual page number
    span: U32
    label: Words
    region: Words

    def __len__(self) -> int:
        return len(self.time_ns)


def gains(run: Run, initial: bool = False) -> Gains:
    """All gains whose addresses the files record.

    With a pages file neighbours and gains without a fault have their addresses, too,
    and with `initial` the pages that were there when tracing started.
    """
    parts = [_by_faults(run.faults)]
    if run.pages is not None:
        parts.append(_by_pages(run, run.pages, initial))
    label = _joined([part.label for part in parts])
    region = _joined([part.region for part in parts])
    time_ns = np.concatenate([part.time_ns for part in parts])
    order = np.argsort(time_ns, kind="stable") if len(parts) > 1 else slice(None)
    return Gains(
        time_ns=time_ns[order],
        space=np.concatenate([part.space for part in parts])[order],
        page=np.concatenate([part.page for part in parts])[order],
        span=np.concatenate([part.span for part in parts])[order],
        label=Words(label.words, label.codes[order]),
        region=Words(region.words, region.codes[order]),
    )


def without_address(run: Run) -> int:
    """Pages mapped along with a fault, whose addresses the files do not record."""
    if run.pages is not None:
        return 0
    pages = run.faults.pages.astype(np.int64)
    return int(np.maximum(pages[pages != HUGE] - 1, 0).sum())


def _by_faults(faults: Faults) -> Gains:
    gained = faults.select(faults.pages > 0)
    huge = gained.pages == HUGE
    page = gained.page
    return Gains(
        time_ns=gained.time_ns,
        space=gained.space,
        page=np.where(huge, page & _FIRST, page),
        span=np.where(huge, HUGE, 1).astype(np.uint32),
        label=gained.kind,
        region=gained.region,
    )


def _by_pages(run: Run, pages: Pages, initial: bool) -> Gains:
    leave = ["fault"] if initial else ["fault", "initial"]
    with_huge = pages.source.mask("around") & pages.kind.mask("huge", "hugetlb")
    rows = np.flatnonzero(~pages.source.mask(*leave) & ~with_huge)
    label = _joined([pages.source, pages.kind])
    source, kind = label.codes[: len(pages)][rows], label.codes[len(pages) :][rows]
    by_kind = pages.source.mask("around")[rows] & ~pages.kind.mask("file", "")[rows]
    was_there = pages.source.mask("initial")[rows]
    return Gains(
        time_ns=np.where(was_there, run.start_ns, pages.first_ns[rows]),
        space=pages.space[rows],
        page=pages.page[rows],
        span=np.ones(len(rows), np.uint32),
        label=Words(label.words, np.where(by_kind, kind, source).astype(np.int32)),
        region=pages.region.select(rows),
    )


def _joined(columns: list[Words]) -> Words:
    """Columns one after the other, with one list of words."""
    ids: dict[str, int] = {}
    codes = []
    for column in columns:
        known = np.array([ids.setdefault(word, len(ids)) for word in column.words] or [0], np.int32)
        codes.append(known[column.codes])
    return Words(list(ids), np.concatenate(codes))


def in_space(points: Gains, spaces: Integers) -> Gains:
    """Those in one of `spaces`."""
    rows = np.flatnonzero(np.isin(points.space, spaces))
    if len(rows) == len(points):
        return points
    return Gains(
        points.time_ns[rows], points.space[rows], points.page[rows], points.span[rows],
        points.label.select(rows), points.region.select(rows),
    )  # fmt: skip
