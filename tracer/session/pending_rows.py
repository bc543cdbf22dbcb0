"""Rows to be logged: they wait for the snapshot that can confirm them."""

from collections.abc import Iterator, Mapping

import numpy as np

from tracer.common.pages import NO_FRAME
from tracer.common.types import PAGE_BITS, Bools
from tracer.model.rows import Confirmed, Rows
from tracer.snapshots.snapshots import Snapshot

_TOGETHER = 4096  # rows that are better written together


class PendingRows:
    """Batches of rows, in order; `len` is how many rows there are."""

    def __init__(self) -> None:
        self._batches: list[Rows] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, rows: Rows) -> None:
        """Append rows behind those that wait already."""
        if self._batches and len(self._batches[-1]) + len(rows) <= _TOGETHER:
            last = self._batches.pop()
            self._rows -= len(last)
            rows = Rows.together([last, rows])
        self._batches.append(rows)
        self._rows += len(rows)

    def release(self, shots: Mapping[int, Snapshot]) -> Iterator[Rows]:
        """Yield the rows that this round of snapshots, by address space, decides on.

        Those that a snapshot shows in their frame are marked as confirmed. The first that came
        after the snapshot of its space holds back all behind it.
        """
        batches, self._batches = self._batches, []
        self._rows = 0
        for rows in batches:
            decided = self._confirm(rows, shots) if shots else None
            if len(self):
                self.add(rows)
            elif decided is None or decided.all():
                yield rows
            else:
                count = int(np.argmin(decided))
                self.add(rows[count:])
                if count:
                    yield rows[:count]

    def _confirm(self, rows: Rows, shots: Mapping[int, Snapshot]) -> Bools:
        """Mark what the snapshots confirm; return which rows they decide on."""
        decided = np.ones(len(rows), np.bool_)
        spaces, times = rows["space"], rows["time_ns"]
        for number, shot in shots.items():
            mine, before = spaces == number, times < shot.before_ns
            decided &= ~mine | before
            at = np.flatnonzero(mine & before)
            if not len(at):
                continue
            frames = rows["frame"][at]
            same = shot.frame_of(rows["address"][at] >> PAGE_BITS) == frames
            same &= frames != np.uint64(NO_FRAME)
            rows["confirmed"][at[same]] = Confirmed.BOTH
        return decided
