"""Which snapshots are of which memory, and what they confirm."""

import numpy as np

from tests.unit.recorder_data import BASE, NEW_MM, PID, F, Kernel, P, cycle
from tracer.model.sources import Source
from tracer.procfs.maps import Mapping
from tracer.session.recorder import Recorder
from tracer.snapshots.snapshots import Snapshot
from tracer.wire.records import RecordType


def test_what_exec_still_moves_is_not_compared(recorder: Recorder, kernel: Kernel) -> None:
    """Its own faults show the new space before the record of it does."""
    kernel.fault(1, count=101)
    kernel.fault(1, mm=NEW_MM, current_mm=NEW_MM, count=102)
    cycle(recorder)
    nothing = np.empty(0, np.uint64)
    shot = Snapshot(PID, 0, 0, [], nothing, nothing, nothing)
    assert not recorder.comparison.is_of(shot, 1)  # it has left that
    assert not recorder.comparison.is_of(shot, 2)
    assert recorder.parts.reconciler.view(2).born == Source.FORK
    kernel.counts["lost_other"] = 1  # the exec's record may be the one lost
    assert recorder.comparison.is_of(shot, 2)
    kernel.counts["lost_other"] = 0
    kernel.task(RecordType.EXEC, mm=NEW_MM, child_tid=PID, count=103)
    cycle(recorder)
    assert not recorder.comparison.is_of(shot, 2)  # it was taken before that
    later = Snapshot(PID, kernel.time, kernel.time + 1, [], nothing, nothing, nothing)
    assert recorder.comparison.is_of(later, 2)
    assert recorder.parts.reconciler.view(2).born == Source.EXEC


def test_a_snapshot_confirms(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    cycle(recorder)
    pages, frames = np.array([BASE // P + 1], np.uint64), np.array([F], np.uint64)
    mappings = [Mapping(BASE, BASE + (1 << 24), "rw-p", 0, 0, 0, "")]
    later = kernel.time + 100
    shot = Snapshot(PID, later, later + 1, mappings, pages, frames, pages[:0])
    recorder.comparison.observe(1, shot, recorder.gaps.unrecorded())
    at = recorder.parts.timeline.ledger.state(1, pages)
    assert recorder.parts.timeline.ledger["confirmed"][at].tolist() == [1]
    assert recorder.parts.reconciler.conflicts == 0
