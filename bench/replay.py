"""A feed of records put through the tracer as a trace would be, without a kernel behind it.

What a recorder otherwise asks of the machine it runs on is answered the same everywhere.
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
from tracer.errors import TraceError
from tracer.recorder import Recorder
from tracer.records import Layout
from tracer.rows import Names

RING_BYTES = 1 << 26  # the tracer's own default
_HEADER = 8


class FedRing:
    """The kernel's side of a ring: consumer page, producer page, data, in a memfd."""

    def __init__(self, size: int = RING_BYTES) -> None:
        self.size = size
        self.fd = os.memfd_create("ring")
        page = mmap.PAGESIZE
        os.ftruncate(self.fd, 2 * page + size)
        self._map = mmap.mmap(self.fd, 2 * page + size)
        self._producer = np.frombuffer(self._map, "<u8", 1, offset=page)
        self._data = np.frombuffer(self._map, np.uint8, offset=2 * page)

    def put(self, records: Bytes) -> None:
        """Add records; the reader must have made room for them."""
        count, length = records.shape
        with_header = np.zeros((count, _HEADER + length), np.uint8)
        with_header[:, :_HEADER].view("<u4")[:, 0] = length
        with_header[:, _HEADER:] = records
        flat = with_header.ravel()
        start = int(self._producer[0]) & (self.size - 1)
        until_end = min(len(flat), self.size - start)
        self._data[start : start + until_end] = flat[:until_end]
        self._data[: len(flat) - until_end] = flat[until_end:]
        self._producer[0] += len(flat)

    def most(self) -> int:
        """Records of 176 bytes that fit at once."""
        return self.size // (_HEADER + 176) - 1

    def close(self) -> None:
        """Give the memory back."""
        del self._producer, self._data
        self._map.close()
        os.close(self.fd)


@contextmanager
def recording(feed: Feed, layout: Layout, ring: FedRing) -> Iterator[Recorder]:
    """A recorder that reads from `ring`, attached to the feed's first process."""
    counters = {"lost": 0, "filtered": 0, "lost_other": 0, "orphans": 0, "crowded": 0}
    program = SimpleNamespace(
        layout=layout,
        ring_fd=ring.fd,
        ring_bytes=ring.size,
        counters=lambda: counters,
        add_target=lambda *pid, **options: None,
        expect_large_folios=lambda expected: None,
        skipped_tracepoints=lambda *group: 0,
    )
    attached: Any = SimpleNamespace(
        program=program,
        probe=SimpleNamespace(name="fentry", missed=lambda program: 0),
        direct_map=SimpleNamespace(zero_frame=ZERO_FRAME),
    )
    with ExitStack() as stack:
        for name, value in _machine(feed).items():
            stack.enter_context(patch(name, value))
        recorder = Recorder(cast(Any, attached), Names())
        stack.callback(recorder.close)
        recorder.join.file_systems = cast(Any, SimpleNamespace(of=lambda device, pids: "ext4"))
        recorder.attach(PID, children=True)
        yield recorder


def _machine(feed: Feed) -> dict[str, Any]:
    def refuse() -> None:
        raise TraceError("there is no sideband in a replay")

    return {
        "tracer.recorder.Sideband": refuse,
        "tracer.recorder.large_anonymous_folios": lambda: True,
        "tracer.recorder.shows_vvar": lambda: True,
        "tracer.recorder.online_cpus": lambda: "0-3",
        "tracer.recorder.kpageflags.calls_all_ksm": lambda: False,
        "tracer.recorder.userfaultfd.registered": lambda pid: None,
        "tracer.recorder.read_maps": lambda pid: feed.mappings,
        "tracer.recorder.stat.threads": lambda pid: [pid],
        "tracer.recorder.stat.fault_count": lambda pid, tid: COUNT,
        "tracer.recorder.stat.comm": lambda pid, tid: "worker",
        "tracer.recorder.time": SimpleNamespace(monotonic_ns=lambda: 1),  # all is after the start
        "tracer.observer.movement_counters": dict,
    }
