"""Forks, execs and ends of processes; and ends that no record reports."""

import time

import pytest

from tests.unit.faults_data import pte
from tests.unit.recorder_data import (
    CHILD,
    CHILD_MM,
    MM,
    NEW_MM,
    PID,
    F,
    Kernel,
    P,
    cycle,
    frame,
    gained,
    of,
    released,
)
from tracer.accounting.missed_exits import MissedExits
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.model.sources import Loss, Source
from tracer.session.recorder import Recorder
from tracer.wire.records import RecordType

# -- lives ---------------------------------------------------------------------------


def test_a_child_inherits_what_was_there_at_the_fork(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1, F)
    fork = {"child_tgid": CHILD, "child_tid": CHILD, "child_mm": CHILD_MM}
    kernel.task(RecordType.FORK, count=101, comm=b"child", **fork)
    kernel.fault(2, F + P)
    child = {"mm": CHILD_MM, "current_mm": CHILD_MM, "tgid": CHILD, "tid": CHILD}
    kernel.fault(1, F + 9 * P, entry_before=pte(F), count=1, **child)
    rows = cycle(recorder)
    assert of(rows, "kind") == [Kind.ANON, Kind.ANON, Kind.COW]
    assert of(rows, "comm") == ["target", "target", "child"]
    assert of(rows, "pid") == [PID, PID, CHILD]
    assert of(rows, "space") == [1, 1, 2]
    assert (frame(recorder, 1, 2), frame(recorder, 2, 2)) == (F + 9 * P, NO_FRAME)
    assert gained(recorder) == {Source.FAULT: 3, Source.FORK: 1}
    assert recorder.parts.reconciler.view(2).born == Source.FORK
    assert recorder.parts.tgids == {PID, CHILD}


def test_a_new_thread_does_not_cut_the_batch(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1, count=101)
    thread = {"child_tgid": PID, "child_tid": 43, "child_mm": MM}
    kernel.task(RecordType.FORK, count=101, comm=b"worker", **thread)
    kernel.fault(2, F + P, tid=43, count=1)
    assert [len(rows) for rows in recorder.cycle()] == [2]
    assert recorder.gaps.missed() == 0
    assert len(recorder.parts.spaces) == 1


def test_a_thread_id_used_again_within_a_batch(recorder: Recorder, kernel: Kernel) -> None:
    thread = {"child_tgid": PID, "child_tid": 43, "child_mm": MM}
    kernel.task(RecordType.FORK, comm=b"first", **thread)
    for count in range(1, 4):
        kernel.fault(count, F + count * P, tid=43, count=count)
    kernel.task(RecordType.EXIT, tid=43, count=3)
    kernel.task(RecordType.FREE, tid=43, count=3)
    kernel.task(RecordType.FORK, comm=b"second", **thread)
    kernel.fault(9, F + 9 * P, tid=43, count=1)
    rows = cycle(recorder)
    assert of(rows, "comm") == ["first", "first", "first", "second"]
    assert (recorder.parts.threads.counted, recorder.parts.threads.seen) == (4, 4)


def test_the_final_count_shows_what_the_end_hid(recorder: Recorder, kernel: Kernel) -> None:
    kernel.task(RecordType.FREE, tid=PID, count=999)  # of an earlier thread of that id
    cycle(recorder)
    assert recorder.gaps.missed() == 0
    kernel.task(RecordType.EXIT, count=101)
    kernel.task(RecordType.FREE, tid=PID, count=103)
    cycle(recorder)
    assert recorder.gaps.missed() == 3


def test_exec_begins_a_new_space(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    kernel.task(RecordType.EXEC, mm=NEW_MM, child_tid=PID, count=101, comm=b"after")
    kernel.fault(1, F + P, mm=NEW_MM, current_mm=NEW_MM, count=102)
    rows = cycle(recorder)
    assert of(rows, "space") == [1, 2]
    assert of(rows, "comm") == ["target", "after"]
    assert of(rows, "pages") == [1, 1]
    assert recorder.parts.last_space == {PID: 2}
    assert recorder.parts.changed == {2}
    assert recorder.parts.reconciler.view(2).born == Source.EXEC


def test_a_target_that_waits_is_traced_from_its_exec(recorder: Recorder, kernel: Kernel) -> None:
    recorder.life.expect(60, children=False)
    assert kernel.targets[-1] == (60, {"children": False, "waits": True})
    own = {"tgid": 60, "tid": 60, "mm": NEW_MM}
    kernel.task(RecordType.EXEC, child_tid=60, count=180, comm=b"cmd", **own)
    kernel.fault(1, current_mm=NEW_MM, count=181, **own)
    assert of(cycle(recorder), "pid") == [60]
    assert recorder.gaps.missed() == 0


def test_the_end_of_a_process(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    kernel.task(RecordType.EXIT, group_dead=1, count=101)
    assert of(cycle(recorder), "pages") == [1]
    assert recorder.parts.changed == set()
    assert recorder.parts.spaces[1].ended_ns is not None


# -- ends that no record reports -----------------------------------------------------


def begin_child(kernel: Kernel, tgid: int = CHILD, mm: int = CHILD_MM) -> None:
    """A child of the target, and a fault of its own."""
    kernel.task(RecordType.FORK, count=100, child_tgid=tgid, child_tid=tgid, child_mm=mm)
    child = {"mm": mm, "current_mm": mm, "tgid": tgid, "tid": tgid}
    kernel.fault(7, F + 7 * P, count=1, **child)


def kept(recorder: Recorder) -> tuple[list[int], set[int], list[int], set[int]]:
    """Spaces whose pages are followed, processes, threads with a name, spaces of processes."""
    recorder.life.retire(None)
    spaces = [space.number for space in recorder.parts.spaces.all() if not space.retired]
    threads = sorted(recorder.parts.threads.live)
    assert threads == sorted(recorder.parts.join.comms)
    return spaces, recorder.parts.tgids, threads, set(recorder.parts.last_space.values())


@pytest.mark.parametrize("number", [CHILD, 51])
def test_memory_used_again_after_a_lost_exit(
    recorder: Recorder, kernel: Kernel, number: int
) -> None:
    """The next child has its `struct mm_struct`, or its number as well."""
    begin_child(kernel)
    cycle(recorder)
    begin_child(kernel, number)
    rows = cycle(recorder)
    assert of(rows, "space") == [3]
    spaces, tgids, _, last = kept(recorder)
    assert (spaces, tgids, last) == ([1, 3], {PID, number}, {1, 3})
    assert released(recorder) == {Loss.EXIT: 1}
    assert recorder.gaps.missed() == 0


def test_a_number_used_again_after_a_lost_exit(recorder: Recorder, kernel: Kernel) -> None:
    begin_child(kernel)
    cycle(recorder)
    begin_child(kernel, mm=NEW_MM)
    assert of(cycle(recorder), "space") == [3]
    assert kept(recorder) == ([1, 3], {PID, CHILD}, [PID, CHILD], {1, 3})
    begin_child(kernel, 51)  # what ended there is no other's end
    assert of(cycle(recorder), "space") == [4]
    assert kept(recorder)[0] == [1, 3, 4]


def test_an_exec_whose_record_is_lost(recorder: Recorder, kernel: Kernel) -> None:
    begin_child(kernel)
    cycle(recorder)
    moved = {"mm": NEW_MM, "current_mm": NEW_MM, "tgid": CHILD, "tid": CHILD}
    kernel.fault(1, F + P, count=2, **moved)
    assert of(cycle(recorder), "space") == [3]
    assert kept(recorder)[:3] == ([1, 3], {PID, CHILD}, [PID, CHILD])
    assert released(recorder) == {Loss.EXIT: 1}


@pytest.mark.parametrize("busy", [False, True])
def test_a_process_that_is_gone(
    recorder: Recorder, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """/proc is asked, and believed once all that was recorded until then has been read."""
    asked_of: list[tuple[int, int]] = []
    moment = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: moment)

    def exists(pid: int, tid: int) -> bool:
        asked_of.append((pid, tid))
        return pid == PID

    recorder.life._missed_exits = MissedExits(lambda: kernel.counts["lost_other"], exists)
    begin_child(kernel)
    cycle(recorder)
    assert not asked_of  # nothing was lost
    kernel.counts["lost_other"] = 1
    moment += 2_000_000_000
    cycle(recorder)
    assert asked_of == [(PID, PID), (CHILD, CHILD)]
    assert kept(recorder)[0] == [1, 2]
    moment += 2_000_000_000
    if busy:
        kernel.time = moment - 3_500_000_000
        kernel.fault(1, count=101)
        cycle(recorder)  # what is read now is older
        assert kept(recorder)[0] == [1, 2]
        kernel.time = moment
        kernel.fault(2, count=102)
    cycle(recorder)
    assert kept(recorder) == ([1], {PID}, [PID], {1})
    assert released(recorder) == {Loss.EXIT: 1}
    assert (recorder.parts.threads.counted, recorder.gaps.missed()) == (3 if busy else 1, 0)
