"""Quantiles of any number of latencies in constant memory."""

from functools import cache

import numpy as np

from tracer.common.types import I64, Index

EXACT = 4096  # up to this many are kept exactly
_SUB = 6  # 64 buckets an octave: a bucket's middle is within 0.8 % of what is in it
_LINEAR = 1 << (_SUB + 1)  # below this a bucket is one nanosecond
_TABLED = 1 << 14  # nanoseconds; the buckets of shorter latencies are looked up
_BUCKETS = _LINEAR + (63 - _SUB - 1 << _SUB)

Nanoseconds = I64


class Latencies:
    """Exact while there are at most EXACT, then within 0.8 %; count, sum and max always exact."""

    def __init__(self) -> None:
        self.count = 0
        self.max = -1
        self._values: Nanoseconds = np.empty(0, np.int64)
        self._buckets: Nanoseconds | None = None

    def add(self, values: Nanoseconds) -> None:
        """Add known latencies, in nanoseconds, none negative."""
        if not len(values):
            return
        self.count += len(values)
        self.max = max(self.max, int(values.max()))
        if self._buckets is None:
            self._values = np.append(self._values, values)
            if self.count > EXACT:
                self._spill()
            return
        self._buckets += np.bincount(_bucket(values), minlength=_BUCKETS)

    def _spill(self) -> None:
        """Convert the values to buckets."""
        if self._buckets is None:
            self._buckets = np.bincount(_bucket(self._values), minlength=_BUCKETS)
            self._values = np.empty(0, np.int64)

    def merge(self, other: "Latencies") -> None:
        """Add all latencies of another."""
        count, longest = self.count + other.count, max(self.max, other.max)
        self.add(other._values)
        if other._buckets is not None:
            self._spill()
            assert self._buckets is not None
            self._buckets += other._buckets
        self.count, self.max = count, longest

    def quantile(self, share: float) -> int:
        """The smallest latency that at least `share` of all do not exceed; -1 without any."""
        if not self.count:
            return -1
        rank = max(1, int(np.ceil(share * self.count)))
        if self._buckets is None:
            return int(np.partition(self._values, rank - 1)[rank - 1])
        bucket = int(np.searchsorted(np.cumsum(self._buckets), rank))
        return min(_middle(bucket), self.max)


def _bucket(values: Nanoseconds) -> Index:
    """Bucket: linear below _LINEAR; above, the highest _SUB + 1 bits and their shift."""
    table = _table()
    found = table.take(values, mode="clip")  # wrong beyond the table: computed below, few
    longer = np.flatnonzero(values >= len(table))
    if len(longer):
        found[longer] = _computed(values[longer])
    return found


@cache
def _table() -> Index:
    """The bucket of each short latency."""
    return _computed(np.arange(_TABLED, dtype=np.int64))


def _computed(values: Nanoseconds) -> Index:
    exponent = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    # Near 2**53 and above a float rounds up to the next octave.
    exponent -= (values >> np.maximum(exponent - 1, 0)) == 0
    shift = np.maximum(exponent - _SUB - 1, 0)
    bucket: Index = (shift << _SUB) + (values >> shift)
    return bucket


def _middle(bucket: int) -> int:
    if bucket < _LINEAR:
        return bucket
    shift = (bucket >> _SUB) - 1
    low = ((1 << _SUB) + (bucket & ((1 << _SUB) - 1))) << shift
    return low + (1 << shift) // 2
