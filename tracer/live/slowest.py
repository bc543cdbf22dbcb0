"""The slowest faults up to any moment, exactly, without keeping them all."""

import heapq
from collections.abc import Callable

import numpy as np

from tracer.model.rows import ROW, RowRecords, Rows

_KEPT = 10  # of a kind
_MOST = 8192


class Slowest:
    """Keeps each fault that was among its kind's ten slowest when it came.

    Of a stream of n those are about 10·ln(n).
    """

    def __init__(self) -> None:
        self._least: dict[int, list[int]] = {}  # by kind: a heap of the longest latencies
        self._floors = np.full(256, -1, np.int64)  # by kind: what a fault must exceed
        self._kept: RowRecords = np.empty(0, ROW)

    def add(self, rows: Rows) -> None:
        """Add a batch, in order of time."""
        found: list[int] = []
        kinds, latencies = np.asarray(rows["kind"]), np.asarray(rows["latency_ns"])
        for at in np.flatnonzero(latencies > self._floors[kinds]).tolist():
            kind, latency = int(kinds[at]), int(latencies[at])
            heap = self._least.setdefault(kind, [])
            if len(heap) < _KEPT:
                heapq.heappush(heap, latency)
            elif latency > heap[0]:
                heapq.heapreplace(heap, latency)
            else:
                continue
            if len(heap) == _KEPT:
                self._floors[kind] = heap[0]
            found.append(at)
        if found:
            self._kept = np.concatenate([self._kept, rows[np.array(found)].records()])[-_MOST:]

    def until(
        self,
        time_ns: int,
        count: int,
        wanted: Callable[[RowRecords], RowRecords] = lambda rows: rows,
    ) -> RowRecords:
        """The slowest `count` that ended by then, of those `wanted` selects."""
        rows = wanted(self._kept[self._kept["time_ns"] <= time_ns])
        order = np.argsort(-rows["latency_ns"], kind="stable")
        return np.asarray(rows[order[:count]])
