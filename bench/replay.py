"""Replays a feed of records through the tracer, without tracing a kernel.

What a recorder otherwise reads from the machine is replaced by fixed values.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np

from bench.feed import COUNT, PID, ZERO_FRAME, Bytes, Feed
from tracer.common.errors import TraceError
from tracer.model.rows import Names
from tracer.session.parts import open_parts
from tracer.session.recorder import Recorder
from tracer.wire.records import Layout
from tracer.wire.ring import MappedRing
from tracer.wire.shared import COUNTER_NAMES

CAPACITY = 1 << 18  # records: the capacity of the tracer's default buffer


class FedRing:
    """The producer side of a mapped ring of `capacity` records, in our own memory."""

    def __init__(self, capacity: int = CAPACITY, record_size: int = 176) -> None:
        self.capacity, self.record_size = capacity, record_size
        self._fds = os.memfd_create("positions"), os.memfd_create("records")
        self._maps = []
        for fd, size in zip(self._fds, (mmap.PAGESIZE, capacity * record_size), strict=True):
            os.ftruncate(fd, size)
            self._maps.append(mmap.mmap(fd, size))
        self.positions = np.frombuffer(self._maps[0], "<u8")
        self.positions[0] = self.positions[MappedRing.TAIL // 8] = capacity
        self.records = np.frombuffer(self._maps[1], np.uint8).reshape(capacity, record_size)

    def open(self) -> MappedRing:
        """A reader of the ring."""
        return MappedRing(*self._fds, self.capacity, self.record_size)

    def put(self, records: Bytes) -> None:
        """Add records; the ring must have room for them."""
        numbers = int(self.positions[0]) + np.arange(len(records), dtype=np.uint64)
        at = numbers & np.uint64(self.capacity - 1)
        self.records[at] = records
        self.records[:, 4:8].view("<u4")[at, 0] = numbers & np.uint64(0xFFFF_FFFF)
        self.positions[0] += np.uint64(len(records))

    def close(self) -> None:
        """Release the memory."""
        del self.positions, self.records
        for memory, fd in zip(self._maps, self._fds, strict=True):
            memory.close()
            os.close(fd)


@contextmanager
def recording(feed: Feed, layout: Layout, ring: FedRing) -> Iterator[Recorder]:
    """A recorder that reads from `ring`, attached to the feed's first process."""
    counters = dict.fromkeys(COUNTER_NAMES, 0)
    program = SimpleNamespace(
        layout=layout,
        open_ring=ring.open,
        counters=lambda: counters,
        skipped_calls=lambda: 0,
        add_target=lambda *pid, **options: None,
        expect_large_folios=lambda expected: None,
        skipped_tracepoints=lambda: 0,
        missed_lifecycle_events=lambda: 0,
    )
    attached: Any = SimpleNamespace(
        program=program,
        probe=SimpleNamespace(name="fentry", missed=lambda program: 0),
        direct_map=SimpleNamespace(zero_frame=ZERO_FRAME),
    )
    with ExitStack() as stack:
        for name, value in _machine(feed).items():
            stack.enter_context(patch(name, value))
        recorder = Recorder(open_parts(attached, Names()))
        stack.callback(recorder.parts.close)
        recorder.parts.join.file_systems = cast(
            Any, SimpleNamespace(of=lambda device, pids: "ext4")
        )
        recorder.life.attach(PID, children=True)
        yield recorder


def _machine(feed: Feed) -> dict[str, Any]:
    def refuse() -> None:
        raise TraceError("there is no sideband in a replay")

    stopped = SimpleNamespace(monotonic_ns=lambda: 1)
    return {
        "tracer.session.parts.Sideband": refuse,
        "tracer.session.parts.large_anonymous_folios": lambda: True,
        "tracer.session.parts.shows_vvar": lambda: True,
        "tracer.session.buffers.online_cpus": lambda: "0-3",
        "tracer.session.parts.kpageflags.calls_all_ksm": lambda: False,
        "tracer.session.lifecycle.userfaultfd.registered": lambda pid: None,
        "tracer.session.lifecycle.read_maps": lambda pid: feed.mappings,
        "tracer.session.lifecycle.stat.threads": lambda pid: [pid],
        "tracer.session.lifecycle.stat.fault_count": lambda pid, tid: COUNT,
        "tracer.session.lifecycle.stat.comm": lambda pid, tid: "worker",
        # All is after the start, and no clock says that it is time for something else.
        **{f"tracer.session.{part}.time": stopped for part in ("lifecycle", "recorder", "buffers")},
        "tracer.snapshots.reconcile.movement_counters": dict,
    }
