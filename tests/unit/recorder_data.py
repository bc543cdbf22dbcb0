"""A kernel of our own for a recorder to read from, and what the recorder makes of it."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.replay import FedRing
from tests.unit.faults_data import LAYOUT, PRESENT, WRITABLE, faults, pte, windows
from tracer.common.errors import TraceError
from tracer.model.rows import Names
from tracer.model.sources import Loss, Source
from tracer.procfs import kpageflags, stat, userfaultfd
from tracer.procfs.maps import Mapping
from tracer.session import lifecycle, parts
from tracer.session.parts import open_parts
from tracer.session.recorder import Recorder
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
    """What the recorder reads from: a ring we write, counters, /proc of one process."""

    def __init__(self) -> None:
        self.ring = FedRing(RING)
        self.counts = {"lost": 0, "filtered": 0, "lost_other": 0}
        self.targets: list[tuple[int, dict[str, bool]]] = []
        self.program = SimpleNamespace(
            layout=LAYOUT,
            open_ring=self.ring.open,
            counters=lambda: self.counts,
            skipped_calls=lambda: 0,
            missed_lifecycle_events=lambda: 0,
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

    def filled_until(self, first: int, last: int, until: int) -> None:
        """How far of a range such a call reported."""
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


def released(recorder: Recorder) -> dict[Loss, int]:
    tally = recorder.parts.timeline.ledger.tally.released
    return {loss: int(tally[loss]) for loss in Loss if tally[loss]}


def gained(recorder: Recorder) -> dict[Source, int]:
    tally = recorder.parts.timeline.ledger.tally.gained
    return {source: int(tally[source]) for source in Source if tally[source]}
