"""System calls that unmap, discard or move pages, in order with the faults."""

from tests.unit.faults_data import PRESENT, WRITABLE, pte
from tests.unit.recorder_data import (
    BASE,
    BRK,
    CHILD,
    CHILD_MM,
    MADVISE,
    MMAP,
    MREMAP,
    MUNMAP,
    NEW_MM,
    F,
    Kernel,
    P,
    cycle,
    frame,
    gained,
    of,
    released,
)
from tracer.common.pages import NO_FRAME
from tracer.model.sources import Loss, Source
from tracer.session.recorder import Recorder
from tracer.snapshots.evidence import Hint
from tracer.wire.records import RecordType


def test_a_page_unmapped_between_two_faults(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    kernel.syscall(MADVISE, BASE, 4 * P, 4)
    kernel.fault(1)
    rows = cycle(recorder)
    assert of(rows, "pages") == [1, 1]
    assert released(recorder) == {Loss.MADVISE: 1}


def test_system_calls_follow_time_not_the_ring(recorder: Recorder, kernel: Kernel) -> None:
    """Two CPUs: the later call's record came first, and before the faults of either."""
    now = kernel.time
    kernel.syscall(MADVISE, BASE + P, P, 4, time_ns=now + 3000)
    kernel.syscall(MADVISE, BASE + 2 * P, P, 4, time_ns=now + 2000)
    kernel.fault(1, time_ns=now + 2500)
    kernel.fault(2, F + P, time_ns=now + 2600)
    assert of(cycle(recorder), "pages") == [1, 1]
    assert (frame(recorder, 1), frame(recorder, 2)) == (NO_FRAME, F + P)


def test_system_calls_without_faults(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    cycle(recorder)
    kernel.syscall(MUNMAP, BASE, 4 * P)
    assert cycle(recorder) == []
    assert released(recorder) == {Loss.MUNMAP: 1}
    assert recorder.parts.changed == {1}


def test_a_mapping_moved_over_another(recorder: Recorder, kernel: Kernel) -> None:
    """Nothing moves, for the old one has no page; what was at the destination goes."""
    kernel.fault(8)
    to = BASE + 8 * P
    kernel.syscall(MREMAP, BASE, 2 * P, 2 * P, 3, to, result=to)
    kernel.fault(20, F + P)
    cycle(recorder)
    assert frame(recorder, 8) == NO_FRAME
    assert released(recorder) == {Loss.MUNMAP: 1}


def test_a_mapping_moved_with_its_pages(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    to = BASE + 100 * P
    kernel.syscall(MREMAP, BASE, 4 * P, 4 * P, 1, result=to)
    kernel.fault(101, F, entry_before=pte(F, PRESENT | WRITABLE))
    rows = cycle(recorder)
    assert of(rows, "pages") == [1, 0]
    assert gained(recorder) == {Source.FAULT: 1, Source.MOVE: 1}


def test_filling_in_advance_is_reported_to_the_observer(recorder: Recorder, kernel: Kernel) -> None:
    kernel.syscall(MMAP, 0, 2 * P, 3, 0x8022, result=BASE)
    cycle(recorder)
    hint = Hint(BASE, BASE + 2 * P, Source.POPULATE, time_ns=kernel.time)
    assert recorder.parts.reconciler.view(1).hints == [hint]
    assert released(recorder) == {}


def test_a_child_s_break_is_its_parent_s(recorder: Recorder, kernel: Kernel) -> None:
    kernel.syscall(BRK, 0, result=BASE + 4 * P)
    fork = {"child_tgid": CHILD, "child_tid": CHILD, "child_mm": CHILD_MM}
    kernel.task(RecordType.FORK, **fork)
    child = {"mm": CHILD_MM, "tgid": CHILD, "tid": CHILD}
    kernel.fault(3, F, current_mm=CHILD_MM, **child)
    kernel.syscall(BRK, BASE + 2 * P, result=BASE + 2 * P, **child)
    cycle(recorder)
    assert frame(recorder, 3, 2) == NO_FRAME
    assert released(recorder) == {Loss.MUNMAP: 1}


def test_calls_of_nobody_we_know(recorder: Recorder, kernel: Kernel) -> None:
    kernel.syscall(MUNMAP, BASE, P, mm=NEW_MM, tgid=77, tid=77)
    assert cycle(recorder) == []
