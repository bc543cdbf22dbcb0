"""The result of a trace: the books, and the table of pages."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.accounting.totals import KernelCount
from tracer.common.types import PAGE_BITS
from tracer.model.result import Books, PageTable, joined
from tracer.model.sources import Loss, Source
from tracer.probes import perf
from tracer.session.parts import Parts
from tracer.session.recorder import Recorder
from tracer.spaces.spaces import Space

_UNDER_WAY = "they were under way when tracing began"
_TOGETHER = 1 << 13  # pages of small spaces in a table
_STAY = (Source.INITIAL.value,)  # resident before the trace: not a gain


def books_of(recorder: Recorder, kernel: KernelCount | None = None) -> Books:
    """Faults against the kernel's count, frames against pagemap (model.result.Books).

    Without `kernel` the count is the one in the records.
    """
    parts, unread = recorder.parts, recorder.gaps.unread
    attached = parts.attached
    counters = attached.program.counters()
    kernel = kernel or KernelCount(parts.threads.counted, 0)
    lost_faults = counters["lost"] + unread.faults
    lost_other = counters["lost_other"] + unread.other
    ours = recorder.traced - recorder.foreign + counters["filtered"] + lost_faults
    # The kernel counted each of ours: where its sum is a bound, so is this.
    counted = max(kernel.faults, ours) if kernel.at_least else kernel.faults
    missed = max(0, counted - ours)
    blind = min(kernel.blind, missed)
    # Where handlers are skipped, a completion without an entry need not be from before the trace.
    skips = attached.probe.missed(attached.program)
    under_way = 0 if skips else min(counters["orphans"], missed - blind)
    gained, released = parts.timeline.ledger.tally.gained, parts.timeline.ledger.tally.released
    gained_by = {s.name.lower(): int(gained[s]) for s in Source if gained[s] and s not in _STAY}
    lost_by = {cause.name.lower(): int(released[cause]) for cause in Loss if released[cause]}
    total, gone = sum(gained_by.values()), sum(lost_by.values())
    unexplained = missed - blind - under_way
    why = _why_missed(recorder, skips, unexplained, counters["crowded"])
    mapped = _mapped(parts)
    resident, reconciler = parts.resident, parts.reconciler
    return Books(
        traced=recorder.traced,
        failed=recorder.failed,
        foreign=recorder.foreign,
        kernel=counted,
        kernel_at_least=bool(kernel.at_least),
        kernel_reason=kernel.at_least,
        lost=lost_faults,
        missed=missed,
        skipped=skips,
        missed_reason=_reasons(why, unexplained, blind, under_way),
        blind_faults=blind,
        under_way=under_way,
        blind=missed > 0 and not unexplained,
        lost_other=lost_other,
        unfollowed=attached.program.missed_lifecycle_events(),
        filtered=counters["filtered"],
        failed_lost=counters["failed_lost"] + unread.failed,
        failed_filtered=counters["failed_filtered"],
        foreign_lost=counters["foreign_lost"] + unread.foreign,
        foreign_filtered=counters["foreign_filtered"],
        conflict=parts.reconciler.conflicts,
        gained=total,
        given_up=gone,
        unseen_fills=reconciler.unseen_fills + reconciler.unsettled_fills(parts.closed),
        mapped=mapped,
        mapped_change=mapped - int(gained[Source.INITIAL]),
        resident=resident.end,
        resident_growth=resident.growth,
        resident_peak=resident.peak,
        gained_by=gained_by,
        lost_by=lost_by,
        gained_in=dict(parts.timeline.ledger.tally.gained_in),
        lost_in=dict(parts.timeline.ledger.tally.released_in),
    )


def _mapped(parts: Parts) -> int:
    """Pages with a frame at the end, by space: by the last snapshot, else by the timeline."""
    count = 0
    for space in parts.spaces.all():
        if space.retired:
            continue
        if space.number in parts.closed:
            count += parts.reconciler.view(space.number).mapped
        else:
            # Pages it may have inherited are not known to be there.
            at = parts.timeline.ledger.resident(space.number)
            count += int((parts.timeline.ledger["gains"][at] > 0).sum())
    return count


def _why_missed(recorder: Recorder, skips: int, missed: int, crowded: int) -> str:
    """Why faults were missed that the probe could have seen."""
    if missed <= 0:
        return ""
    if skips:
        return f"the kernel skipped the probe's handler {skips} times"
    if crowded:
        return "more threads faulted at once than there are slots"
    if recorder.buffers.cpu_gaps:
        return "a CPU came online, and its first faults were not traced"
    return "cause unknown"


def _reasons(why: str, unexplained: int, blind: int, under_way: int) -> str:
    """Why faults were missed, each reason with its number where there are several."""
    every = [(unexplained, why), (blind, perf.BLIND), (under_way, _UNDER_WAY)]
    said = [(count, reason) for count, reason in every if count]
    if len(said) == 1:
        return said[0][1]
    return "; ".join(f"{count}: {reason}" for count, reason in said)


def pop_page_tables(parts: Parts) -> list[PageTable]:
    """Every page that ever had a frame, by space and address, some spaces at a time.

    Empties the timeline: where there are millions of pages, two copies are too many.
    """
    tables: list[PageTable] = []
    few: list[PageTable] = []
    count = 0  # of their pages
    for space in parts.spaces.all():
        few.append(_table(space, parts.timeline.ledger.pop_history(space.number)))
        count += len(few[-1].page)
        if count >= _TOGETHER:
            tables.append(joined(few))
            few, count = [], 0
    return [*tables, joined(few)]


def _table(space: Space, history: Mapping[str, npt.NDArray[Any]]) -> PageTable:
    """A space's pages, from Ledger.history."""
    count = len(history["page"])
    return PageTable(
        space=np.full(count, space.number, np.uint32),
        pid=np.full(count, space.owner, np.uint32),
        page=history["page"].astype(np.uint64) << PAGE_BITS,
        region=history["region"].astype(np.uint32),
        first_time_ns=history["first_ns"],
        first_source=history["first_source"],
        first_kind=history["first_kind"],
        first_fault=history["first_fault"],
        first_frame=history["first_frame"],
        last_frame=history["frame"],
        last_source=history["source"],
        confirmed=history["confirmed"],
        gains=history["gains"],
        losses=history["losses"],
        last_loss=history["last_loss"],
        last_time_ns=history["changed_ns"],
    )
