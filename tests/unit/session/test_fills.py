"""Calls that fill pages in advance: the pages they report, and those in no record."""

from typing import Any

import pytest

from tests.unit.faults_data import PRESENT, WRITABLE, pte
from tests.unit.recorder_data import (
    BASE,
    CHILD,
    CHILD_MM,
    MADVISE,
    MMAP,
    MUNMAP,
    PID,
    POPULATE,
    F,
    Kernel,
    P,
    cycle,
    frame,
    gained,
    released,
)
from tracer.common.pages import NO_FRAME
from tracer.kernel.sideband import MmapEvent
from tracer.model.sources import Loss, Source
from tracer.session.recorder import Recorder
from tracer.wire.records import RecordType


def test_what_a_call_filled_in_advance(recorder: Recorder, kernel: Kernel) -> None:
    """The pages as it returned, with their mapping, though all are unmapped before a snapshot."""
    recorder.parts.reconciler.view(1).has_snapshot = True
    kernel.fault(33, F + 33 * P)
    kernel.syscall(MMAP, 0, 4 * P, 3, POPULATE, result=BASE + 32 * P)
    there, special = pte(F + 33 * P), pte(F + 40 * P) | 0x200
    kernel.filled(32, [pte(F + 32 * P), there, special, pte(F + 35 * P)], first=0)
    kernel.syscall(MUNMAP, BASE + 32 * P, 4 * P)
    cycle(recorder)
    assert gained(recorder) == {Source.FAULT: 1, Source.POPULATE: 2}
    assert recorder.parts.timeline.ledger.tally.released[Loss.MUNMAP] == 3
    (region,) = recorder.parts.timeline.ledger.tally.gained_in
    assert recorder.parts.names.regions[region].perms == "rw-p"


def test_what_a_call_filled_with_a_huge_page(recorder: Recorder, kernel: Kernel) -> None:
    recorder.parts.reconciler.view(1).has_snapshot = True
    kernel.filled(0, [pte(1 << 30, PRESENT | WRITABLE | 0x80)], first=100, level=2)
    cycle(recorder)
    assert gained(recorder) == {Source.POPULATE: 412}
    assert frame(recorder, 100, 1) == (1 << 30) + 100 * P


def test_what_may_have_been_filled_before_the_trace(recorder: Recorder, kernel: Kernel) -> None:
    """The first snapshot has it."""
    kernel.filled(0, [pte(F)])
    cycle(recorder)
    assert gained(recorder) == {}


def test_what_a_child_filled_before_its_first_snapshot(recorder: Recorder, kernel: Kernel) -> None:
    recorder.parts.reconciler.view(1).has_snapshot = True
    fork = {"child_tgid": CHILD, "child_tid": CHILD, "child_mm": CHILD_MM}
    kernel.task(RecordType.FORK, count=101, comm=b"child", **fork)
    kernel.filled(0, [pte(F)], mm=CHILD_MM, tgid=CHILD, tid=CHILD)
    cycle(recorder)
    assert gained(recorder) == {Source.POPULATE: 1}


@pytest.mark.parametrize(
    ("known", "reported", "unmapped", "unseen"),
    [
        (True, 8, (0, 8), 0),
        (True, 7, (0, 7), 0),  # the last page is there still
        (True, 7, (7, 1), 1),
        (True, 0, (0, 100), 1),
        (False, 8, (0, 1), 1),  # nobody knows what was there before
    ],
)
def test_a_call_that_filled_more_than_is_reported(
    recorder: Recorder,
    kernel: Kernel,
    known: bool,
    reported: int,
    unmapped: tuple[int, int],
    unseen: int,
) -> None:
    """What is unmapped before a snapshot is in no record: the pages gained are a bound."""
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.reconciler.view(1).has_snapshot = known
    kernel.syscall(MMAP, 0, 8 * P, 3, POPULATE, result=BASE)
    kernel.filled_until(0, 8, reported)
    for _ in range(2):  # once is enough
        kernel.syscall(MUNMAP, BASE + unmapped[0] * P, unmapped[1] * P)
    cycle(recorder)
    assert recorder.parts.reconciler.unseen_fills == unseen


def test_without_a_direct_map_nothing_is_reported(recorder: Recorder, kernel: Kernel) -> None:
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.attached.direct_map.base = 0  # type: ignore[misc]
    recorder.parts.reconciler.view(1).has_snapshot = True
    kernel.syscall(MMAP, 0, 8 * P, 3, POPULATE, result=BASE)
    kernel.syscall(MUNMAP, BASE, P)
    cycle(recorder)
    assert recorder.parts.reconciler.unseen_fills == 1


def test_what_is_filled_instead_of_something(recorder: Recorder, kernel: Kernel) -> None:
    """Also where the same frames come back, as a file's do."""
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.reconciler.view(1).has_snapshot = True
    for page in range(4):
        kernel.fault(page, F + page * P)
    kernel.syscall(MMAP, BASE, 4 * P, 3, POPULATE | 0x10, result=BASE)
    kernel.filled(0, [pte(F + page * P) for page in (0, 1, 9, 8)])
    cycle(recorder)
    assert gained(recorder) == {Source.FAULT: 4, Source.POPULATE: 4}
    assert recorder.parts.timeline.ledger.tally.released[Loss.MUNMAP] == 4
    assert recorder.parts.timeline.ledger.tally.released[Loss.REPLACED] == 0


def test_a_fault_while_a_filling_call_is_under_way(recorder: Recorder, kernel: Kernel) -> None:
    """Another thread's, in what the call has mapped already: the call does not release it."""
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.reconciler.view(1).has_snapshot = True
    kernel.fault(0, F)
    mapped = (MMAP, BASE, 2 * P, 3, POPULATE | 0x10)
    kernel.syscall(*mapped, type=RecordType.CALL)
    kernel.time += 100
    kernel.fault(0, F + 5 * P, tid=PID + 1)
    kernel.syscall(*mapped, result=BASE)
    kernel.filled(0, [pte(F + 5 * P), pte(F + 6 * P)])
    cycle(recorder)
    assert gained(recorder) == {Source.FAULT: 2, Source.POPULATE: 1}
    assert released(recorder) == {Loss.MUNMAP: 1}
    assert [frame(recorder, page) for page in (0, 1)] == [F + 5 * P, F + 6 * P]


def test_two_threads_fill_at_once(recorder: Recorder, kernel: Kernel) -> None:
    """Each call's own time counts: what one unmaps is gone before the other call is over."""
    recorder.parts.reconciler.view(1).has_snapshot = True
    other = {"tid": PID + 1}
    kernel.filled(100, [pte(F + 100 * P)], **other)
    kernel.filled(0, [pte(F)])
    kernel.syscall(MUNMAP, BASE, P)
    kernel.filled(101, [pte(F + 101 * P)], **other)
    kernel.time += 500
    kernel.syscall(MUNMAP, BASE + 100 * P, 2 * P, **other)
    cycle(recorder)
    assert gained(recorder) == {Source.POPULATE: 3}
    assert recorder.parts.timeline.ledger.tally.released[Loss.MUNMAP] == 3
    assert frame(recorder, 0, 1) == NO_FRAME


@pytest.mark.parametrize("between", ["fault", "madvise"])
def test_what_comes_between_a_calls_records(
    recorder: Recorder, kernel: Kernel, between: str
) -> None:
    """A frame that was replaced, or discarded, while the rest was read does not come back."""
    recorder.parts.reconciler.view(1).has_snapshot = True
    start = kernel.time
    kernel.filled(0, [pte(F + page * P) for page in range(16)])
    late = kernel.time + 2000
    kernel.time = late
    kernel.filled(16, [pte(F + (16 + page) * P) for page in range(16)])
    kernel.time = start + 500
    if between == "fault":
        kernel.fault(0, F + 99 * P, entry_before=pte(F), tid=PID + 1)
    else:
        kernel.syscall(MADVISE, BASE, P, 4, tid=PID + 1)
    kernel.time = late + 100
    cycle(recorder)
    assert gained(recorder)[Source.POPULATE] == 32
    assert frame(recorder, 0, 1) == (F + 99 * P if between == "fault" else NO_FRAME)
    assert frame(recorder, 1, 1) == F + P


def test_each_fill_is_in_what_was_mapped_then(recorder: Recorder, kernel: Kernel) -> None:
    """Files mapped at one address, one after another, and a fault after all of them."""
    recorder.parts.reconciler.view(1).has_snapshot = True
    for name in ("/a", "/b", "/c"):
        kernel.time += 100
        at = BASE + 32 * P, BASE + 36 * P
        event = MmapEvent(kernel.time, PID, PID, *at, 0, "r--p", 8, hash(name), name)
        recorder.parts.spaces.feed([event])
        kernel.syscall(MMAP, 0, 4 * P, 1, 0x8002, result=at[0])
        kernel.filled(32, [pte(F + page * P) for page in range(4)])
        kernel.syscall(MUNMAP, at[0], 4 * P)
    kernel.fault(3, F)
    cycle(recorder)
    names = recorder.parts.names
    counts = recorder.parts.timeline.ledger.tally.gained_in
    assert {names.regions[region].name: n for region, n in counts.items()} == {
        **dict.fromkeys(("/a", "/b", "/c"), 4),
        "[anon]": 1,
    }


def test_windows_of_a_call_are_filled_at_once(
    recorder: Recorder, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.parts.reconciler.view(1).has_snapshot = True
    calls: list[int] = []
    fill = recorder.parts.timeline.releases.fill

    def counted(*given: Any) -> None:
        calls.append(len(given[1]))
        fill(*given)

    monkeypatch.setattr(recorder.parts.timeline.releases, "fill", counted)
    for window in range(0, 320, 16):
        kernel.filled(window, [pte(F + (window + page) * P) for page in range(16)])
    kernel.filled_until(0, 320, 320)
    cycle(recorder)
    assert calls == [320]
    assert gained(recorder) == {Source.POPULATE: 320}
