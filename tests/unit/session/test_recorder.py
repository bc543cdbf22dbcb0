"""From the ring to rows: the order of records and windows, batches, what is counted."""

import pytest

from tests.unit.recorder_data import (
    BASE,
    MM,
    MUNMAP,
    NEW_MM,
    PID,
    RING,
    F,
    Kernel,
    P,
    cycle,
    of,
    released,
)
from tracer.model.rows import Kind
from tracer.model.sources import Loss
from tracer.session import recorder as module
from tracer.session.recorder import Recorder
from tracer.wire.records import Mark, RecordType


def test_without_the_sideband_there_is_a_note(recorder: Recorder, kernel: Kernel) -> None:
    assert recorder.parts.notes == ["mappings are known from snapshots only: not here"]
    assert kernel.targets == [(PID, {"children": True})]


def test_nothing_in_the_ring(recorder: Recorder) -> None:
    assert cycle(recorder) == []
    assert recorder.gaps.missed() == 0


def test_faults_become_rows_once(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1, count=101)
    kernel.fault(2, F + P, count=102)
    rows = cycle(recorder)
    assert of(rows, "page") == [1, 2]
    assert of(rows, "number") == [1, 2]
    assert of(rows, "comm") == ["target", "target"]
    assert of(rows, "kind") == [Kind.ANON, Kind.ANON]
    assert cycle(recorder) == []
    assert (recorder.traced, recorder.failed, recorder.foreign) == (2, 0, 0)
    assert recorder.gaps.missed() == 0
    assert recorder.parts.changed == {1}


def test_what_is_counted(recorder: Recorder, kernel: Kernel) -> None:
    """Failed faults and those of strangers are not in the targets' count; gaps are missed."""
    known = Mark.ENTRY | Mark.BEFORE | Mark.AFTER
    kernel.fault(1, count=101)
    kernel.fault(2, marks=known | Mark.FAILED, count=101)
    kernel.fault(3, marks=known | Mark.FOREIGN, tgid=9, tid=9, current_mm=NEW_MM, count=7)
    kernel.fault(4, count=105)
    cycle(recorder)
    assert (recorder.traced, recorder.failed, recorder.foreign) == (3, 1, 1)
    assert (recorder.parts.threads.counted, recorder.parts.threads.seen) == (5, 2)
    assert recorder.gaps.missed() == 3
    kernel.counts = {"lost": 1, "filtered": 1}
    assert recorder.gaps.missed() == 1


def test_a_stray_exception_is_no_failed_fault(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(-1, marks=Mark.ENTRY | Mark.ERRORCODE | Mark.FAILED)
    assert cycle(recorder) == []
    assert (recorder.failed, recorder.parts.join.stray) == (0, 1)


# -- windows -------------------------------------------------------------------------


def test_a_window_comes_before_its_fault(recorder: Recorder, kernel: Kernel) -> None:
    kernel.window(0b111, kernel.time + 100)
    kernel.fault(0)
    assert of(cycle(recorder), "pages") == [3]


def test_a_window_waits_for_its_fault(recorder: Recorder, kernel: Kernel) -> None:
    kernel.window(0b111, kernel.time + 100)
    assert cycle(recorder) == []
    kernel.fault(0)
    assert of(cycle(recorder), "pages") == [3]
    assert len(recorder._windows) == 0


def test_a_window_is_not_waited_for_forever(recorder: Recorder, kernel: Kernel) -> None:
    kernel.window(0b111, 5)
    cycle(recorder)
    assert len(recorder._windows) == 1
    kernel.window(0b111, 5 + module._PATIENCE_NS + 1)
    cycle(recorder)
    assert recorder._windows["time_ns"].tolist() == [5 + module._PATIENCE_NS + 1]


def test_a_window_on_the_other_side_of_a_cut(recorder: Recorder, kernel: Kernel) -> None:
    """Another CPU's record came in between the two."""
    kernel.window(0b111, kernel.time + 300)
    kernel.fault(20, F + 20 * P)
    kernel.task(RecordType.RENAME, comm=b"new")
    kernel.fault(0)
    rows = cycle(recorder)
    assert of(rows, "pages") == [1, 3]
    assert of(rows, "comm") == ["target", "new"]


def test_names_are_those_of_the_moment(recorder: Recorder, kernel: Kernel) -> None:
    """By the ring's order: of another CPU an older record may come later."""
    other = {"tid": PID + 1, "count": 1}
    kernel.fault(0)
    kernel.fault(1, F + P, **other)
    for name in (b"one", b"two"):
        kernel.task(RecordType.RENAME, comm=name)
        kernel.fault(len(name) + len(name) * (name == b"two"), F + 9 * P)
    kernel.fault(8, F + 8 * P, time_ns=kernel.time - 150)
    rows = cycle(recorder)
    assert of(rows, "page") == [0, 1, 3, 8, 6]
    assert of(rows, "comm") == ["target", "", "one", "two", "two"]


@pytest.mark.parametrize("built", [True, False])
def test_exec_s_own_faults_come_before_its_record(
    recorder: Recorder, kernel: Kernel, built: bool
) -> None:
    """Its new name is recorded in between, as it changes to the new memory."""
    below = MM - 0x1000  # of many faults, whose memory is asked by pointer, not by time
    new = {"mm": below, "current_mm": below}
    for page in range(70):
        kernel.fault(page, F + page * P)
    if built:  # the arguments
        kernel.fault(99, F, **new | {"current_mm": MM, "vm_flags": 0x18000})
    kernel.task(RecordType.RENAME, comm=b"new", mm=0)
    for page in range(70):
        kernel.fault(page, F + (100 + page) * P, **new)
    kernel.task(RecordType.EXEC, comm=b"new", mm=below)
    kernel.fault(2, F, **new)
    rows = cycle(recorder)
    assert of(rows, "space") == [1] * 70 + [2] * (71 + built)
    assert len(recorder.parts.spaces) == 2


# -- reading -------------------------------------------------------------------------


def test_a_storm_is_read_in_batches(
    recorder: Recorder, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 16)
    for n in range(50):
        kernel.fault(n, F + n * P, count=101 + n)
    assert of(cycle(recorder), "page") == list(range(50))
    assert recorder.gaps.missed() == 0


def test_what_comes_meanwhile_waits(
    recorder: Recorder, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that faults faster than it can be followed does not hold the loop for ever."""
    monkeypatch.setattr(module, "_BATCH", 4)
    kernel.fault(0)
    for turns, _ in enumerate(recorder.cycle()):
        assert turns < 3
        for n in range(4):
            kernel.fault(4 * turns + n + 1, F + (4 * turns + n + 1) * P)
    assert recorder.parts.ring.pending() > 0


def test_it_stops_when_it_is_enough(kernel: Kernel, recorder: Recorder) -> None:
    for page in range(RING):
        kernel.fault(page % 100, count=101 + page)
    assert not list(recorder.cycle(lambda: True))
    assert recorder.parts.ring.pending()


def test_what_is_handled_one_by_one_ends_a_batch(
    kernel: Kernel, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many faults it could take: the end of a trace waits for no more."""
    monkeypatch.setattr(module, "_MOST_BETWEEN", 4)
    for n in range(10):
        kernel.fault(n, F + n * P, count=101 + n)
        kernel.syscall(MUNMAP, BASE + n * P, P)
    found = [len(rows) for rows in recorder.cycle()]
    assert found == [5, 4, 1]
    assert recorder.gaps.missed() == 0
    assert released(recorder) == {Loss.MUNMAP: 10}
