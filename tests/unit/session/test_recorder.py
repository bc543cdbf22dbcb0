"""From the ring to rows: the order of records, windows, effects and lives; a kernel of our own."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.replay import FedRing
from tests.unit.faults_data import LAYOUT, PRESENT, WRITABLE, faults, pte, windows
from tracer.accounting.missed_exits import MissedExits
from tracer.common.errors import TraceError
from tracer.common.pages import NO_FRAME
from tracer.kernel.sideband import MmapEvent
from tracer.model.rows import Kind, Names
from tracer.model.sources import Loss, Source
from tracer.procfs import kpageflags, stat, userfaultfd
from tracer.procfs.maps import Mapping
from tracer.session import lifecycle, parts
from tracer.session import recorder as module
from tracer.session.parts import open_parts
from tracer.session.recorder import Recorder
from tracer.snapshots.evidence import Hint
from tracer.snapshots.snapshots import Snapshot
from tracer.wire.records import Mark, RecordType

P = 4096
RING = 1 << 13  # records
PID, CHILD = 42, 50
MM, CHILD_MM, NEW_MM = (0xFFFF_8880_0000_0000 + n * 0x1000 for n in (1, 2, 3))
BASE = 0x7F00_0000_0000
F = 0x2_8664_0000
MUNMAP, MMAP, BRK, MREMAP, MADVISE = 11, 9, 12, 25, 28
POPULATE = 0x8000  # of mmap


class Kernel:
    """What the recorder hears from: a ring we write, counters, /proc of one process."""

    def __init__(self) -> None:
        self.ring = FedRing(RING)
        self.counts = {"lost": 0, "filtered": 0, "lost_other": 0}
        self.targets: list[tuple[int, dict[str, bool]]] = []
        self.program = SimpleNamespace(
            layout=LAYOUT,
            open_ring=self.ring.open,
            counters=lambda: self.counts,
            skipped_calls=lambda: 0,
            unheard_lives=lambda: 0,
            add_target=lambda pid, **options: self.targets.append((pid, options)),
            expect_command=lambda pid: None,
            expect_large_folios=lambda expected: None,
        )
        self.time = 0

    def put(self, record: np.ndarray) -> None:
        self.put_bytes(record.tobytes())

    def put_bytes(self, record: bytes) -> None:
        self.ring.put(np.frombuffer(record, np.uint8).reshape(1, -1))

    def fault(self, page: int, frame: int = F, **fields: Any) -> None:
        """A first write to an anonymous page, but for what `fields` says."""
        self.time += 100
        common = {
            "mm": MM,
            "current_mm": MM,
            "tgid": PID,
            "tid": PID,
            "marks": Mark.ENTRY | Mark.BEFORE | Mark.AFTER | Mark.ERRORCODE,
            "flags": 0x6,
            "time_ns": self.time,
            "start_ns": fields.get("time_ns", self.time) - 50,
            "address": BASE + page * P,
            "level_before": 1,
            "level_after": 1,
            "entry_after": pte(frame, PRESENT | WRITABLE),
            "ip": 0x401000,
        }
        self.put(faults(1, **{**common, **fields}))

    def window(self, after: int, time: int, **fields: Any) -> None:
        entries = [pte(F + n * P) if after >> n & 1 else 0 for n in range(16)]
        common = {"mm": MM, "tgid": PID, "tid": PID, "time_ns": time, "address": BASE}
        self.put(windows(1, **{**common, "entries": entries, "seen": after << 16, **fields}))

    def filled(
        self, page: int, entries: list[int], first: int = 0, level: int = 1, **fields: Any
    ) -> None:
        """A call that has just returned filled pages from `page` on."""
        self.time += 1
        last = 512 if level == 2 else len(entries)
        common = {"mm": MM, "tgid": PID, "tid": PID, "time_ns": self.time, "level": level}
        common |= fields
        window = windows(1, **common, address=BASE + page * P, seen=first | last << 16)
        window["type"] = RecordType.FILLED
        window["entries"][0, : len(entries)] = entries
        self.put(window)

    def told(self, first: int, last: int, until: int) -> None:
        """How far of a range such a call told."""
        self.filled(until, [BASE + first * P, BASE + last * P], level=0)

    def task(self, kind: RecordType, **fields: Any) -> None:
        self.time += 100
        record = np.zeros(1, LAYOUT.task)
        record["type"], record["time_ns"] = kind, self.time
        record["tgid"], record["tid"], record["mm"] = PID, PID, MM
        for name, value in fields.items():
            if name == "comm":
                raw = np.frombuffer(value.ljust(16, b"\0"), "<u8")
                record["comm"][0] = raw
            else:
                record[name] = value
        self.put(record)

    def syscall(self, number: int, *args: int, result: int = 0, **fields: Any) -> None:
        self.time += 100
        record = np.zeros(1, LAYOUT.syscall)
        record["type"], record["time_ns"] = RecordType.SYSCALL, self.time
        record["tgid"], record["tid"], record["mm"] = PID, PID, MM
        record["number"], record["result"] = number, result
        record["args"][0, : len(args)] = args
        for name, value in fields.items():
            record[name] = value
        self.put(record)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.ring.close()


@pytest.fixture
def recorder(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    yield from recording(kernel, monkeypatch)


def recording(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A recorder attached to process 42, of one thread that had 100 faults before."""

    def refuse() -> None:
        raise TraceError("not here")

    monkeypatch.setattr(parts, "Sideband", refuse)
    monkeypatch.setattr(parts, "large_anonymous_folios", lambda: True)
    monkeypatch.setattr("tracer.snapshots.reconcile.movement_counters", dict)
    monkeypatch.setattr(kpageflags, "calls_all_ksm", lambda: False)
    monkeypatch.setattr(userfaultfd, "registered", lambda pid: None)
    mappings = [Mapping(BASE, BASE + (1 << 24), "rw-p", 0, 0, 0, "")]
    monkeypatch.setattr(lifecycle, "read_maps", lambda pid: mappings)
    monkeypatch.setattr(stat, "threads", lambda pid: [pid])
    monkeypatch.setattr(stat, "fault_count", lambda pid, tid: 100)
    monkeypatch.setattr(stat, "comm", lambda pid, tid: "target")
    attached = SimpleNamespace(
        program=kernel.program,
        probe=SimpleNamespace(name="fentry"),
        direct_map=SimpleNamespace(zero_frame=0x1000, base=1),
    )
    made = Recorder(open_parts(cast(Any, attached), Names()))
    made.life.attach(PID, children=True)
    kernel.time = time.monotonic_ns()
    yield made
    made.parts.close()


def cycle(recorder: Recorder) -> list[Any]:
    """Rows as dictionaries, with the names in place of their numbers."""
    found = []
    for rows in recorder.cycle():
        for row in rows.records():
            each = {name: row[name].item() for name in row.dtype.names}
            each["page"] = (each["address"] - BASE) // P
            each["comm"] = recorder.parts.names.comms[each["comm"]]
            found.append(each)
    return found


def of(rows: list[Any], name: str) -> list[Any]:
    return [row[name] for row in rows]


def frame(recorder: Recorder, page: int, space: int = 1) -> int:
    at = recorder.parts.timeline.ledger.state(space, np.array([BASE // P + page], np.uint64))
    return int(recorder.parts.timeline.ledger["frame"][at[0]])


def lost(recorder: Recorder) -> dict[Loss, int]:
    tally = recorder.parts.timeline.ledger.tally.lost
    return {loss: int(tally[loss]) for loss in Loss if tally[loss]}


def gained(recorder: Recorder) -> dict[Source, int]:
    tally = recorder.parts.timeline.ledger.tally.gained
    return {source: int(tally[source]) for source in Source if tally[source]}


def test_without_the_sideband_the_reader_is_told(recorder: Recorder, kernel: Kernel) -> None:
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


# -- windows ----------------------------------------------------------------------------


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
    """Its new name is told in between, as it changes to the new memory."""
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


def test_what_a_call_filled_in_advance(recorder: Recorder, kernel: Kernel) -> None:
    """As it returned, with its mapping, though all is gone before anybody looks."""
    recorder.parts.observer.view(1).looked = True
    kernel.fault(33, F + 33 * P)
    kernel.syscall(MMAP, 0, 4 * P, 3, POPULATE, result=BASE + 32 * P)
    there, special = pte(F + 33 * P), pte(F + 40 * P) | 0x200
    kernel.filled(32, [pte(F + 32 * P), there, special, pte(F + 35 * P)], first=0)
    kernel.syscall(MUNMAP, BASE + 32 * P, 4 * P)
    cycle(recorder)
    assert gained(recorder) == {Source.FAULT: 1, Source.POPULATE: 2}
    assert recorder.parts.timeline.ledger.tally.lost[Loss.MUNMAP] == 3
    (region,) = recorder.parts.timeline.ledger.tally.gained_in
    assert recorder.parts.names.regions[region].perms == "rw-p"


def test_what_a_call_filled_with_a_huge_page(recorder: Recorder, kernel: Kernel) -> None:
    recorder.parts.observer.view(1).looked = True
    kernel.filled(0, [pte(1 << 30, PRESENT | WRITABLE | 0x80)], first=100, level=2)
    cycle(recorder)
    assert gained(recorder) == {Source.POPULATE: 412}
    assert frame(recorder, 100, 1) == (1 << 30) + 100 * P


def test_what_may_have_been_filled_before_the_trace(recorder: Recorder, kernel: Kernel) -> None:
    """The first look tells."""
    kernel.filled(0, [pte(F)])
    cycle(recorder)
    assert gained(recorder) == {}


def test_what_a_child_filled_before_the_first_look_at_it(
    recorder: Recorder, kernel: Kernel
) -> None:
    recorder.parts.observer.view(1).looked = True
    fork = {"child_tgid": CHILD, "child_tid": CHILD, "child_mm": CHILD_MM}
    kernel.task(RecordType.FORK, count=101, comm=b"child", **fork)
    kernel.filled(0, [pte(F)], mm=CHILD_MM, tgid=CHILD, tid=CHILD)
    cycle(recorder)
    assert gained(recorder) == {Source.POPULATE: 1}


@pytest.mark.parametrize(
    ("known", "told", "taken", "unseen"),
    [
        (True, 8, (0, 8), 0),
        (True, 7, (0, 7), 0),  # the last page is there still
        (True, 7, (7, 1), 1),
        (True, 0, (0, 100), 1),
        (False, 8, (0, 1), 1),  # nobody knows what was there before
    ],
)
def test_a_call_that_filled_more_than_is_told_of(
    recorder: Recorder, kernel: Kernel, known: bool, told: int, taken: tuple[int, int], unseen: int
) -> None:
    """What is gone before anybody looked is in no record: what was gained is a bound."""
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.observer.view(1).looked = known
    kernel.syscall(MMAP, 0, 8 * P, 3, POPULATE, result=BASE)
    kernel.told(0, 8, told)
    for _ in range(2):  # once is enough
        kernel.syscall(MUNMAP, BASE + taken[0] * P, taken[1] * P)
    cycle(recorder)
    assert recorder.parts.observer.unseen_fills == unseen


def test_without_a_direct_map_nothing_is_told(recorder: Recorder, kernel: Kernel) -> None:
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.attached.direct_map.base = 0  # type: ignore[misc]
    recorder.parts.observer.view(1).looked = True
    kernel.syscall(MMAP, 0, 8 * P, 3, POPULATE, result=BASE)
    kernel.syscall(MUNMAP, BASE, P)
    cycle(recorder)
    assert recorder.parts.observer.unseen_fills == 1


def test_what_is_filled_in_the_place_of_something(recorder: Recorder, kernel: Kernel) -> None:
    """Also where the same frames come back, as a file's do."""
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.observer.view(1).looked = True
    for page in range(4):
        kernel.fault(page, F + page * P)
    kernel.syscall(MMAP, BASE, 4 * P, 3, POPULATE | 0x10, result=BASE)
    kernel.filled(0, [pte(F + page * P) for page in (0, 1, 9, 8)])
    cycle(recorder)
    assert gained(recorder) == {Source.FAULT: 4, Source.POPULATE: 4}
    assert recorder.parts.timeline.ledger.tally.lost[Loss.MUNMAP] == 4
    assert recorder.parts.timeline.ledger.tally.lost[Loss.REPLACED] == 0


def test_a_fault_while_a_filling_call_is_under_way(recorder: Recorder, kernel: Kernel) -> None:
    """Another thread's, in what the call has mapped already: it is not the call's to take."""
    recorder.parts.attached.probe.name = "perf"
    recorder.parts.observer.view(1).looked = True
    kernel.fault(0, F)
    mapped = (MMAP, BASE, 2 * P, 3, POPULATE | 0x10)
    kernel.syscall(*mapped, type=RecordType.CALL)
    kernel.time += 100
    kernel.fault(0, F + 5 * P, tid=PID + 1)
    kernel.syscall(*mapped, result=BASE)
    kernel.filled(0, [pte(F + 5 * P), pte(F + 6 * P)])
    cycle(recorder)
    assert gained(recorder) == {Source.FAULT: 2, Source.POPULATE: 1}
    assert lost(recorder) == {Loss.MUNMAP: 1}
    assert [frame(recorder, page) for page in (0, 1)] == [F + 5 * P, F + 6 * P]


def test_two_threads_fill_at_once(recorder: Recorder, kernel: Kernel) -> None:
    """Each call's own time counts, and what one takes away is gone before the other is over."""
    recorder.parts.observer.view(1).looked = True
    other = {"tid": PID + 1}
    kernel.filled(100, [pte(F + 100 * P)], **other)
    kernel.filled(0, [pte(F)])
    kernel.syscall(MUNMAP, BASE, P)
    kernel.filled(101, [pte(F + 101 * P)], **other)
    kernel.time += 500
    kernel.syscall(MUNMAP, BASE + 100 * P, 2 * P, **other)
    cycle(recorder)
    assert gained(recorder) == {Source.POPULATE: 3}
    assert recorder.parts.timeline.ledger.tally.lost[Loss.MUNMAP] == 3
    assert frame(recorder, 0, 1) == NO_FRAME


@pytest.mark.parametrize("between", ["fault", "madvise"])
def test_what_comes_between_a_calls_records(
    recorder: Recorder, kernel: Kernel, between: str
) -> None:
    """A frame that was replaced, or taken away, while the rest was read does not come back."""
    recorder.parts.observer.view(1).looked = True
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
    """Files mapped at one place after another, and a fault after all of them."""
    recorder.parts.observer.view(1).looked = True
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
    recorder.parts.observer.view(1).looked = True
    calls: list[int] = []
    fill = recorder.parts.timeline.releases.fill

    def counted(*given: Any) -> None:
        calls.append(len(given[1]))
        fill(*given)

    monkeypatch.setattr(recorder.parts.timeline.releases, "fill", counted)
    for window in range(0, 320, 16):
        kernel.filled(window, [pte(F + (window + page) * P) for page in range(16)])
    kernel.told(0, 320, 320)
    cycle(recorder)
    assert calls == [320]
    assert gained(recorder) == {Source.POPULATE: 320}


# -- lives ------------------------------------------------------------------------------


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
    assert recorder.parts.observer.view(2).born == Source.FORK
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
    assert recorder.parts.observer.view(2).born == Source.EXEC


def test_what_exec_still_moves_is_not_looked_at(recorder: Recorder, kernel: Kernel) -> None:
    """Its own faults tell of the new space before its record does."""
    kernel.fault(1, count=101)
    kernel.fault(1, mm=NEW_MM, current_mm=NEW_MM, count=102)
    cycle(recorder)
    nothing = np.empty(0, np.uint64)
    shot = Snapshot(PID, 0, 0, [], nothing, nothing, nothing)
    assert not recorder.comparison.is_of(shot, 1)  # it has left that
    assert not recorder.comparison.is_of(shot, 2)
    assert recorder.parts.observer.view(2).born == Source.FORK
    kernel.counts["lost_other"] = 1  # its record may have been lost
    assert recorder.comparison.is_of(shot, 2)
    kernel.counts["lost_other"] = 0
    kernel.task(RecordType.EXEC, mm=NEW_MM, child_tid=PID, count=103)
    cycle(recorder)
    assert not recorder.comparison.is_of(shot, 2)  # it was taken before that
    later = Snapshot(PID, kernel.time, kernel.time + 1, [], nothing, nothing, nothing)
    assert recorder.comparison.is_of(later, 2)
    assert recorder.parts.observer.view(2).born == Source.EXEC


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


# -- ends that no record tells of ----------------------------------------------------------


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
    assert lost(recorder) == {Loss.EXIT: 1}
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
    assert lost(recorder) == {Loss.EXIT: 1}


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
    assert lost(recorder) == {Loss.EXIT: 1}
    assert (recorder.parts.threads.counted, recorder.gaps.missed()) == (3 if busy else 1, 0)


# -- system calls -------------------------------------------------------------------------


def test_a_page_unmapped_between_two_faults(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    kernel.syscall(MADVISE, BASE, 4 * P, 4)
    kernel.fault(1)
    rows = cycle(recorder)
    assert of(rows, "pages") == [1, 1]
    assert lost(recorder) == {Loss.MADVISE: 1}


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
    assert lost(recorder) == {Loss.MUNMAP: 1}
    assert recorder.parts.changed == {1}


def test_a_mapping_moved_over_another(recorder: Recorder, kernel: Kernel) -> None:
    """Nothing moves, for the old one has no page; what was at the destination goes."""
    kernel.fault(8)
    to = BASE + 8 * P
    kernel.syscall(MREMAP, BASE, 2 * P, 2 * P, 3, to, result=to)
    kernel.fault(20, F + P)
    cycle(recorder)
    assert frame(recorder, 8) == NO_FRAME
    assert lost(recorder) == {Loss.MUNMAP: 1}


def test_a_mapping_moved_with_its_pages(recorder: Recorder, kernel: Kernel) -> None:
    kernel.fault(1)
    to = BASE + 100 * P
    kernel.syscall(MREMAP, BASE, 4 * P, 4 * P, 1, result=to)
    kernel.fault(101, F, entry_before=pte(F, PRESENT | WRITABLE))
    rows = cycle(recorder)
    assert of(rows, "pages") == [1, 0]
    assert gained(recorder) == {Source.FAULT: 1, Source.MOVE: 1}


def test_filling_in_advance_is_told_the_observer(recorder: Recorder, kernel: Kernel) -> None:
    kernel.syscall(MMAP, 0, 2 * P, 3, 0x8022, result=BASE)
    cycle(recorder)
    hint = Hint(BASE, BASE + 2 * P, Source.POPULATE, time_ns=kernel.time)
    assert recorder.parts.observer.view(1).hints == [hint]
    assert lost(recorder) == {}


def test_a_child_s_break_is_its_parent_s(recorder: Recorder, kernel: Kernel) -> None:
    kernel.syscall(BRK, 0, result=BASE + 4 * P)
    fork = {"child_tgid": CHILD, "child_tid": CHILD, "child_mm": CHILD_MM}
    kernel.task(RecordType.FORK, **fork)
    child = {"mm": CHILD_MM, "tgid": CHILD, "tid": CHILD}
    kernel.fault(3, F, current_mm=CHILD_MM, **child)
    kernel.syscall(BRK, BASE + 2 * P, result=BASE + 2 * P, **child)
    cycle(recorder)
    assert frame(recorder, 3, 2) == NO_FRAME
    assert lost(recorder) == {Loss.MUNMAP: 1}


def test_calls_of_nobody_we_know(recorder: Recorder, kernel: Kernel) -> None:
    kernel.syscall(MUNMAP, BASE, P, mm=NEW_MM, tgid=77, tid=77)
    assert cycle(recorder) == []


# -- reading ---------------------------------------------------------------------------


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
    assert recorder.parts.observer.conflicts == 0


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


def test_it_stops_when_it_is_enough(kernel: Kernel, recorder: Recorder) -> None:
    for page in range(RING):
        kernel.fault(page % 100, count=101 + page)
    assert not list(recorder.cycle(lambda: True))
    assert recorder.parts.ring.pending()


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


def test_what_is_looked_at_one_by_one_ends_a_batch(
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
    assert lost(recorder) == {Loss.MUNMAP: 10}
