"""The ring between the kernel's programs and the reader: how much it holds, and many writers."""

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests import witnesses
from tests.live.workload import Workload
from tracer.common.resources import bpf_dir
from tracer.probes import bpf
from tracer.probes.choose import Attached, attach
from tracer.wire.records import Mark, RecordType
from tracer.wire.ring import MappedRing

SMALL = 1 << 15


@pytest.fixture(scope="module")
def small(attached: Attached) -> Iterator[Attached]:
    """The same probe once more, with hardly any room."""
    probe = attach(attached.probe.name, bpf_dir(), SMALL)
    yield probe
    probe.close()


def test_it_is_mapped_where_programs_can_compare_and_swap(attached: Attached) -> None:
    version = tuple(map(int, os.uname().release.split(".")[:2]))
    assert bpf.supports_atomics() == (version >= (5, 12))
    with attached.program.open_ring() as ring:
        assert isinstance(ring, MappedRing) == bpf.supports_atomics()


def test_it_holds_as_many_as_there_is_room_for(small: Attached) -> None:
    """Whole, and the oldest; each of the others is counted. Then there is room again."""
    program = small.program
    program.reset()
    with Workload("storm", 2, 211, 7) as work, program.open_ring() as ring:
        ring.read(1 << 20)  # what others have left
        before = witnesses.process_fault_count(work.pid)
        program.add_target(work.pid, children=False)
        work.go()
        program.clear_targets()
        counted = witnesses.process_fault_count(work.pid) - before
        assert ring.pending() == ring.capacity
        records = ring.read(1 << 20)
        assert ring.pending() == 0
    assert len(records) == ring.capacity
    faults = records[records[:, 0] == RecordType.FAULT].view(program.layout.fault).ravel()
    if not small.probe.inexact():
        assert len(faults) + program.counters()["lost"] == counted
    for tid in np.unique(faults["tid"]).tolist():
        counts = faults["count"][faults["tid"] == tid]
        assert (np.diff(counts) == 1).all() or small.probe.inexact()
    with Workload("storm", 1, 7, 1) as work, program.open_ring() as ring:
        program.add_target(work.pid, children=False)
        work.go()
        program.clear_targets()
        assert ring.pending() >= 7


def test_nothing_shines_through(small: Attached) -> None:
    """Its memory is used again: a record has nothing of the one that was there before."""
    program, layout = small.program, small.program.layout
    program.reset()
    with program.open_ring() as ring:

        def faults_of(*arguments: str | int, range_: str) -> np.ndarray:
            with Workload(*arguments) as work:
                ring.read(1 << 20)
                program.add_target(work.pid, children=False)
                work.go()
                program.clear_targets()
                where = work.range(range_)
            records = ring.read(1 << 20)
            faults = records[records[:, 0] == RecordType.FAULT].view(layout.fault).ravel()
            inside = (faults["address"] >= where.start) & (faults["address"] < where.end)
            found: np.ndarray = faults[inside]
            return found

        for _ in range(3):  # around the ring, with windows and much about a file in every record
            faults = faults_of("file-read-write", 100, 0, range_="file")
            assert len(faults)
            if faults["marks"][0] & Mark.MAPPING:
                assert faults["inode"].all()
                assert faults["magic"].all()
        faults = faults_of("storm", 1, 100, 1, range_="anon")
        assert len(faults) >= 100
        for name in ("vm_pgoff", "inode", "magic", "device", "owner", "stack"):
            assert not faults[name].any(), name


def test_many_threads_write_at_once(attached: Attached) -> None:
    """Each record is there once, whole, and in its thread's order; a reader keeps reading."""
    program = attached.program
    program.reset()
    with Workload("storm", 8, 211, 20) as work, program.open_ring() as ring:
        ring.read(1 << 20)  # what others have left
        before = witnesses.process_fault_count(work.pid)
        program.add_target(work.pid, children=False)
        batches = [ring.read(0)]
        done = threading.Event()

        def keep_reading() -> None:
            while not done.is_set():
                batches.append(ring.read(97))

        reader = threading.Thread(target=keep_reading)
        reader.start()
        work.go()
        done.set()
        reader.join()
        program.clear_targets()
        counted = witnesses.process_fault_count(work.pid) - before
        batches.append(ring.read(1 << 20))
    records = np.concatenate(batches)
    faults = records[records[:, 0] == RecordType.FAULT].view(program.layout.fault).ravel()
    assert program.counters()["lost"] == 0
    if not attached.probe.inexact():
        assert len(faults) == counted >= 8 * 211 * 20
    for tid in np.unique(faults["tid"]).tolist():
        mine = faults[faults["tid"] == tid]
        steps = np.diff(mine["count"].astype(np.int64))
        assert (steps == 1).all() or (attached.probe.inexact() and (steps >= 1).all())
        assert (np.diff(mine["time_ns"].astype(np.int64)) > 0).all()
