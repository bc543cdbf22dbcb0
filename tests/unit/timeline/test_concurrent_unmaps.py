"""System calls that unmap or discard pages while other threads fault on them."""

import numpy as np

from tests.unit.timeline_data import SPACE, A, B, C, Event, P, apply, released
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.model.sources import Loss
from tracer.spaces.syscalls import PendingRelease
from tracer.timeline.timeline import Timeline


def racing() -> tuple[Timeline, PendingRelease]:
    """A page with frame A since 10, and a call on it that began at 20."""
    line, call = Timeline(), PendingRelease(7 * P, 8 * P, 20, Loss.MADVISE)
    apply(line, Event(7, 5, 10))
    line.releases.begin_unmap(SPACE, call)
    return line, call


def returns(line: Timeline, call: PendingRelease, time: int) -> None:
    line.releases.release(SPACE, call.start, call.end, time, call.loss, call.begun_ns)
    line.releases.end_unmap(call, time)


def frame_of(line: Timeline) -> int:
    return int(line.ledger["frame"][line.ledger.state(SPACE, np.array([7], np.uint64))][0])


def test_a_fault_behind_a_calls_work_keeps_its_frame() -> None:
    """The call discarded A; the fault of another thread came before it returned, and stays."""
    line, call = racing()
    apply(line, Event(7, 22, 25, after=B))
    assert released(line) == {"MADVISE": 1}
    returns(line, call, 30)
    apply(line, Event(7, 40, 45, before=B, after=B, kind=Kind.SPURIOUS))
    assert (frame_of(line), released(line)) == (B, {"MADVISE": 1})


def test_a_fault_before_a_calls_work_has_its_frame_released() -> None:
    """It came while the call was under way, and the next fault finds the page absent."""
    line, call = racing()
    apply(line, Event(7, 22, 25, after=B))
    returns(line, call, 30)
    apply(line, Event(7, 40, 45, after=C))
    assert (frame_of(line), released(line)) == (C, {"MADVISE": 2})


def test_what_was_there_before_a_call_is_gone_after_it() -> None:
    line, call = racing()
    returns(line, call, 30)
    assert (frame_of(line), released(line)) == (NO_FRAME, {"MADVISE": 1})


def test_a_fault_recorded_after_the_return_it_came_before() -> None:
    """Its record is late: the next fault shows whether the call discarded its frame."""
    for after, expected in ((B, {"MADVISE": 1}), (C, {"MADVISE": 2})):
        line, call = racing()
        returns(line, call, 30)
        apply(line, Event(7, 22, 25, after=B))
        before = B if after == B else None
        apply(line, Event(7, 40, 45, before=before, after=after, kind=Kind.ANON))
        assert (frame_of(line), released(line)) == (after, expected)


def test_a_call_that_failed_releases_nothing() -> None:
    line, call = racing()
    line.releases.end_unmap(call)
    apply(line, Event(7, 40, 45, before=A, after=A, kind=Kind.SPURIOUS))
    assert (frame_of(line), released(line)) == (A, {})
