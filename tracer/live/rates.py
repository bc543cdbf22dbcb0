"""Counts over time, in bounded memory: bins that get wider as a run gets longer."""

import numpy as np

from tracer.common.types import I64
from tracer.model.rows import Kind, Rows

KINDS = max(Kind) + 1
GAINED, RELEASED, MAPPED, RESIDENT = range(KINDS, KINDS + 4)  # columns beside the kinds'
_COLUMNS = KINDS + 4
_LEVELS = slice(MAPPED, RESIDENT + 1)  # those that are no counts: the last of a time holds for it
_WIDTH_NS = 50_000_000
_MOST = 4096  # bins

Bins = I64


class Rates:
    """Faults by kind, frames gained and released, pages mapped, resident: bins of `width_ns`."""

    def __init__(self, started_ns: int, width_ns: int = _WIDTH_NS, most: int = _MOST) -> None:
        self.started_ns = started_ns
        self.width_ns = width_ns
        self._most = most
        self._bins: Bins = np.zeros((64, _COLUMNS), np.int64)
        self._used = 0
        self._gained = self._released = 0
        self._levels: Bins = np.zeros(2, np.int64)

    def faults(self, rows: Rows, *, coarse: bool = False) -> None:
        """Count faults by kind; `coarse`: as if all of the batch came with its last."""
        if coarse and len(rows):
            at = self._bins_of(rows["time_ns"][-1:])
            self._bins[at[0], :KINDS] += np.bincount(rows["kind"], minlength=KINDS)
        elif len(rows):
            at = self._bins_of(rows["time_ns"])
            first = int(at.min())
            cells = (at - first) * KINDS + rows["kind"]
            counts = np.bincount(cells, minlength=(int(at.max()) - first + 1) * KINDS)
            counts = counts.reshape(-1, KINDS)
            self._bins[first : first + len(counts), :KINDS] += counts

    def frames(self, time_ns: int, mapped: int, gained: int, released: int) -> None:
        """Record how many pages have a frame, and the frames gained and released so far."""
        at = int(self._bins_of(np.array([time_ns]))[0])
        self._bins[at, GAINED] += gained - self._gained
        self._bins[at, RELEASED] += released - self._released
        self._gained, self._released = gained, released
        self._level(at, MAPPED, mapped)

    def resident(self, time_ns: int, pages: int) -> None:
        """Record how many distinct frames were counted."""
        self._level(int(self._bins_of(np.array([time_ns]))[0]), RESIDENT, pages)

    def _level(self, at: int, column: int, pages: int) -> None:
        self._bins[at:, column] = pages
        self._levels[column - MAPPED] = pages

    def spans(self, until_ns: int, columns: int, most_ns: int) -> tuple[Bins, int]:
        """The last `columns` stretches of time up to `until_ns`, and how long each is (ns).

        All of the run if that is shorter than `most_ns`, else about so much of it. Counts
        are sums, of pages mapped and resident it is the last of each.
        """
        elapsed = max(min(until_ns - self.started_ns, most_ns), 1)
        times = 1
        while times * columns * self.width_ns < elapsed:
            times *= 2
        last = max(until_ns - self.started_ns, 0) // (self.width_ns * times)
        first = max(last - columns + 1, 0)
        found = np.zeros((last - first + 1, _COLUMNS), np.int64)
        bins = self._bins[first * times : min((last + 1) * times, self._used)]
        # Up to the very moment: what came later is not known yet.
        bins = bins[: max(until_ns - self.started_ns, 0) // self.width_ns + 1 - first * times]
        whole = np.zeros((len(found) * times, _COLUMNS), np.int64)
        whole[: len(bins)] = bins
        if len(bins):
            whole[len(bins) :, _LEVELS] = bins[-1, _LEVELS]
        elif self._used:
            whole[:, _LEVELS] = self._bins[self._used - 1, _LEVELS]
        grouped = whole.reshape(len(found), times, _COLUMNS)
        found[:] = grouped.sum(axis=1)
        found[:, _LEVELS] = grouped[:, -1, _LEVELS]
        return found, self.width_ns * times

    def second(self, until_ns: int) -> Bins:
        """What each column counted in about the second before then, as a rate per second."""
        last = max(until_ns - self.started_ns, 0) // self.width_ns
        count = min(max(1_000_000_000 // self.width_ns, 1), last + 1)
        bins = self._bins[max(last + 1 - count, 0) : min(last + 1, self._used)]
        return np.asarray(bins.sum(axis=0) * 1_000_000_000 // (count * self.width_ns))

    def totals(self, until_ns: int) -> Bins:
        """Sums up to then, one a column; of pages mapped and resident: the last."""
        last = max(until_ns - self.started_ns, 0) // self.width_ns
        bins = self._bins[: min(last + 1, self._used)]
        sums = bins.sum(axis=0)
        sums[_LEVELS] = bins[-1, _LEVELS] if len(bins) else 0
        return np.asarray(sums)

    def _bins_of(self, times: I64) -> I64:
        """The bins of these times, made where they are new."""
        since = np.maximum(times - self.started_ns, 0)
        while int(since.max()) // self.width_ns >= self._most:
            self._halve()
        at = since // self.width_ns
        last = int(at.max())
        if last >= len(self._bins):
            more = np.zeros((max(len(self._bins), last + 1 - len(self._bins)), _COLUMNS), np.int64)
            self._bins = np.concatenate([self._bins, more])
        if last >= self._used:
            self._bins[self._used : last + 1, _LEVELS] = self._levels
            self._used = last + 1
        return np.asarray(at)

    def _halve(self) -> None:
        """Bins of twice the width."""
        self._bins = self._bins[: (self._used + 1) // 2 * 2]
        pairs = self._bins.reshape(-1, 2, _COLUMNS)
        last = pairs[:, 1, _LEVELS].copy()
        if self._used % 2 and len(last):
            last[-1] = pairs[-1, 0, _LEVELS]
        self._bins = pairs.sum(axis=1)
        self._bins[:, _LEVELS] = last
        self._used = len(self._bins)
        self.width_ns *= 2
