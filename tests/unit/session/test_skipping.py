"""Records that there is no time to read are counted, every one."""

from tests.unit.recorder_data import CHILD, CHILD_MM, MM, NEW_MM, PID, Kernel
from tracer.session.recorder import Recorder
from tracer.wire.records import Mark, RecordType


def test_what_there_is_no_time_for_is_counted(kernel: Kernel, recorder: Recorder) -> None:
    """Threads' counts stay exact: what was described, what was not, the kernel's count."""
    kernel.fault(0, count=101)
    list(recorder.cycle())
    kernel.fault(1, count=102)
    kernel.task(RecordType.FORK, count=102, child_tgid=CHILD, child_tid=CHILD, child_mm=CHILD_MM)
    child = {"tgid": CHILD, "tid": CHILD, "mm": CHILD_MM, "current_mm": CHILD_MM}
    for count in (1, 2, 3):
        kernel.fault(count, count=count, **child)
    kernel.fault(9, count=3, **{**child, "marks": Mark.ENTRY | Mark.FAILED})
    kernel.task(RecordType.EXIT, tgid=CHILD, tid=CHILD, mm=CHILD_MM, count=4, group_dead=1)
    kernel.fault(2, count=103)
    recorder.skipping.skip()
    assert recorder.gaps.unread.faults == 5
    assert (recorder.gaps.unread.failed, recorder.gaps.unread.foreign) == (1, 0)
    assert recorder.gaps.unread.other == 2
    assert recorder.traced == 1
    assert recorder.parts.threads.counted == 3 + 4
    assert recorder.gaps.missed() == 1  # the child's last, of which there is no record
    assert [space.owner for space in recorder.parts.spaces.alive()] == [PID]


def test_every_record_there_is_no_time_for_is_in_a_count(
    kernel: Kernel, recorder: Recorder
) -> None:
    """Of whatever type: no record is thrown away without a word."""
    for number, kind in enumerate(RecordType):
        if kind == RecordType.FAULT:
            kernel.fault(1, count=101)
            kernel.fault(2, count=101, marks=Mark.ENTRY | Mark.FAILED)
            kernel.fault(3, count=7, tid=9, tgid=9, marks=Mark.ENTRY | Mark.FOREIGN)
        else:
            kernel.task(kind, child_tid=500 + number)
    recorder.skipping.skip()
    counts = (
        recorder.gaps.unread.faults,
        recorder.gaps.unread.failed,
        recorder.gaps.unread.foreign,
        recorder.gaps.unread.other,
    )
    assert counts == (1, 1, 1, len(RecordType) - 1)
    assert not recorder.parts.ring.pending()


def test_a_number_used_again_while_only_counted(kernel: Kernel, recorder: Recorder) -> None:
    """What comes before the fork that gives it away is the old thread's."""
    thread = {"child_tgid": PID, "child_tid": 77, "child_mm": MM}
    for count, task in ((3, 0x10), (5, 0x20), (2, 0x30)):
        kernel.task(RecordType.FORK, count=100, **thread)
        for each in range(1, count + 1):
            kernel.fault(each, tid=77, count=each)
        kernel.task(RecordType.EXIT, tid=77, count=count, task=task)
        kernel.task(RecordType.FREE, tid=77, count=count, task=task)
    recorder.skipping.skip()
    assert recorder.gaps.unread.faults == recorder.parts.threads.counted == 3 + 5 + 2
    assert recorder.gaps.missed() == 0
    assert list(recorder.parts.threads.live) == [PID]


def test_exec_by_another_thread_while_only_counted(kernel: Kernel, recorder: Recorder) -> None:
    """It takes the leader's number and keeps its own count."""
    kernel.task(RecordType.FORK, count=100, child_tgid=PID, child_tid=77, child_mm=MM)
    kernel.fault(1, tid=77, count=1)
    kernel.fault(2, count=101)
    kernel.task(RecordType.EXIT, count=101, task=0x10)
    kernel.task(RecordType.EXEC, mm=NEW_MM, count=1, child_tid=77)
    kernel.fault(3, mm=NEW_MM, current_mm=NEW_MM, count=2)
    recorder.skipping.skip()
    assert recorder.gaps.unread.faults == recorder.parts.threads.counted == 3
    assert recorder.gaps.missed() == 0


def test_a_thread_met_while_only_counted(kernel: Kernel, recorder: Recorder) -> None:
    """Counted after its base was read, before it was stored; and one without a start."""
    kernel.fault(0, count=99)
    kernel.fault(1, count=100)
    kernel.fault(2, tid=78, count=1)
    recorder.skipping.skip()
    assert recorder.gaps.unread.faults == recorder.parts.threads.counted == 3
    assert recorder.gaps.missed() == 0
