"""What a trace comes to: the books that balance, and the table of pages."""

import numpy as np

from tracer.outputs.base import Books, PageTable
from tracer.probes import perf
from tracer.probes.choose import Attached
from tracer.recorder import Recorder
from tracer.sources import Loss, Source

_STAY = (Source.INITIAL.value,)  # resident before the trace: no gain of its


def books_of(recorder: Recorder, attached: Attached) -> Books:
    """Faults against the kernel's count, frames against pagemap (outputs.base.Books)."""
    counters = attached.program.counters()
    missed = recorder.missed()
    gained, lost = recorder.timeline.tally.gained, recorder.timeline.tally.lost
    gained_by = {s.name.lower(): int(gained[s]) for s in Source if gained[s] and s not in _STAY}
    lost_by = {cause.name.lower(): int(lost[cause]) for cause in Loss if lost[cause]}
    total, gone = sum(gained_by.values()), sum(lost_by.values())
    return Books(
        traced=recorder.traced,
        failed=recorder.failed,
        foreign=recorder.foreign,
        kernel=recorder.threads.counted,
        lost=counters["lost"],
        missed=missed,
        skipped=attached.probe.missed(attached.program),
        missed_reason=_why_missed(recorder, attached, missed, counters),
        filtered=counters["filtered"],
        conflict=recorder.observer.conflicts,
        gained=total,
        given_up=gone,
        resident_change=total - gone,
        gained_by=gained_by,
        lost_by=lost_by,
        gained_in=dict(recorder.timeline.tally.gained_in),
        lost_in=dict(recorder.timeline.tally.lost_in),
    )


def _why_missed(
    recorder: Recorder, attached: Attached, missed: int, counters: dict[str, int]
) -> str:
    if missed <= 0:
        return ""
    if skipped := attached.probe.missed(attached.program):
        return f"the kernel skipped the probe's handler {skipped} times"
    if counters["orphans"] >= missed:
        return "they were under way when tracing began"
    if counters["crowded"]:
        return "more threads were faulting at once than there is room for"
    if attached.probe.name == "perf":
        return perf.BLIND
    return "no hook saw them"


def pages_of(recorder: Recorder) -> PageTable:
    """Every page that ever had a frame, by space and address (outputs.base.PageTable)."""
    line = recorder.timeline
    parts = []
    spaces = []
    for each in recorder.spaces.all():
        parts.append(line.touched(each.number))
        spaces.append(np.full(len(parts[-1]), each.number, np.uint32))
    at = np.concatenate(parts) if parts else np.empty(0, np.int64)
    space = np.concatenate(spaces) if spaces else np.empty(0, np.uint32)
    owners = np.array([0, *(each.owner for each in recorder.spaces.all())], np.uint32)
    return PageTable(
        space=space,
        pid=owners[space],
        page=line.pages_at(at) << np.uint64(12),
        region=line["region"][at],
        first_time_ns=line["first_ns"][at],
        first_source=line["first_source"][at],
        first_kind=line["first_kind"][at],
        first_fault=line["first_fault"][at],
        first_frame=line["first_frame"][at],
        last_frame=line["frame"][at],
        last_source=line["source"][at],
        confirmed=line["confirmed"][at],
        gains=line["gains"][at],
        losses=line["losses"][at],
        last_loss=line["last_loss"][at],
    )
