"""The weights of a flame graph's boxes, and a note on what each leaves out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracer.common.types import I64, Bools, Index
from tracer.common.units import latency, size
from tracer.reporting.analysis.findings import HUGE
from tracer.reporting.analysis.stacks import weights
from tracer.reporting.reading.run import PAGE, Faults, Pages, Run, identity
from tracer.reporting.text.overview import plural
from tracer.reporting.text.tables import GLYPHS

Weight = Literal["gained", "resident", "time", "faults"]
WEIGHTS: tuple[Weight, ...] = ("gained", "resident", "time", "faults")
TITLES: dict[Weight, str] = {
    "gained": "Memory gained",
    "resident": "Memory still mapped",
    "time": "Time in faults",
    "faults": "Faults",
}
MEANINGS: dict[Weight, str] = {
    "gained": "memory gained by the faults of each call stack",
    "resident": "memory still mapped at the end, by the call stack of the fault that brought it",
    "time": "time spent in the faults of each call stack",
    "faults": "faults of each call stack",
}
_IN_PLACE = ("migrate", "collapse", "ksm", "split")  # another frame for the same memory
_TRIES = 8  # faults of one nanosecond that are compared


@dataclass(frozen=True)
class Weighed:
    """A weight for each fault, and a sentence on what has none; "" where that is nothing."""

    values: I64
    left_out: str = ""


def weigh(run: Run, weight: Weight) -> Weighed:
    """The weights of all faults. "resident" wants a pages file."""
    if weight == "resident":
        assert run.pages is not None
        return _resident(run, run.pages)
    names = {"gained": "bytes", "time": "nanoseconds", "faults": "faults"}
    values = weights(run.faults)[names[weight]]
    unknown = int((run.faults.latency_ns < 0).sum()) if weight == "time" else 0
    said = (
        f"{plural(unknown, 'fault')} whose entry was not seen {'has' if unknown == 1 else 'have'}"
    )
    return Weighed(values, f"{said} no time." if unknown else "")


def shown(weight: Weight) -> Callable[[int], str]:
    """How values are written."""
    if weight == "time":
        return lambda value: latency(value, GLYPHS)
    if weight == "faults":
        return lambda value: f"{value:,}"
    return size


def _resident(run: Run, pages: Pages) -> Weighed:
    """Each page that has a frame at the end, for the fault that gained this frame."""
    rows = np.flatnonzero(pages.present)
    fault = np.full(len(rows), -1, np.int64)
    own, kept = (pages.latest.mask(*words)[rows] for words in (("fault", "around"), _IN_PLACE))
    gained = run.faults.select(np.flatnonzero(run.faults.pages > 0))
    back = np.flatnonzero(run.faults.pages > 0)
    fault[own] = _at_that_moment(gained, pages, rows[own])
    rest = np.flatnonzero((own | kept) & (fault < 0))
    fault[rest] = _latest_on(gained, pages, rows[rest])
    found = fault >= 0
    values = np.bincount(back[fault[found]], minlength=len(run.faults)) * PAGE
    return Weighed(values.astype(np.int64), _without(pages, rows[~found], own[~found]))


def _at_that_moment(gained: Faults, pages: Pages, rows: Index) -> I64:
    """The fault that was done when the page last gained a frame; -1 where no row shows it.

    Of several in that nanosecond the nearest one in memory, within the reach of a huge page.
    """
    best = np.full(len(rows), -1, np.int64)
    if not len(gained):
        return best
    when, page = pages.last_ns[rows], pages.page[rows].astype(np.int64)
    nearest = np.full(len(rows), HUGE, np.int64)
    first = np.searchsorted(gained.time_ns, when)
    for step in range(_TRIES):
        at = np.minimum(first + step, len(gained) - 1)
        away = np.abs(gained.page[at].astype(np.int64) - page)
        same = gained.time_ns[at] == when
        better = same & (gained.space[at] == pages.space[rows]) & (away < nearest)
        best[better], nearest[better] = at[better], away[better]
        if not same.any():
            break
    return best


def _latest_on(gained: Faults, pages: Pages, rows: Index) -> I64:
    """The last fault on the page, or on its huge page, that gained memory; -1 where none did."""
    best = np.full(len(rows), -1, np.int64)
    for reach, chosen in ((HUGE, gained.pages >= HUGE), (1, gained.pages > 0)):
        at = np.flatnonzero(chosen)
        if not len(at) or not len(rows):
            continue
        keys = identity(gained.space[at], gained.page[at] // np.uint64(reach))
        keys, last = np.unique(keys[::-1], return_index=True)
        wanted = identity(pages.space[rows], pages.page[rows] // np.uint64(reach))
        nearest = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[nearest] == wanted
        fault = at[len(at) - 1 - last[nearest]]
        best = np.where(found, np.maximum(best, fault), best)
    return best


def _without(pages: Pages, rows: Index, own: Bools) -> str:
    """What is mapped and came by no fault that a row shows."""
    counts = pages.latest.select(rows[~own]).counts()
    parts = [
        f"{size(int(counts[at]) * PAGE)} {_SOURCES.get(word) or 'by ' + word}"
        for at, word in enumerate(pages.latest.words)
        if counts[at]
    ]
    if own.any():
        parts.append(f"{size(int(own.sum()) * PAGE)} by faults without a row in the CSV")
    if not parts:
        return ""
    return f"Not shown, as no fault of this trace brought it: {', '.join(parts)}."


_SOURCES = {
    "": "from an unknown source",
    "initial": "present at the start",
    "missed": "by faults that no hook saw",
    "filtered": "by faults that were filtered out",
    "move": "by mremap",
    "populate": "by MAP_POPULATE, mlock or madvise",
    "remote": "by another process",
    "uffd": "by userfaultfd",
    "unknown": "from an unknown source",
}
