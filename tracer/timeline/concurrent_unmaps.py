"""Unmapping system calls concurrent with other threads' faults: which faults they may affect."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracer.common.pages import PAGE_SHIFT
from tracer.common.types import I64, U8, U64, Bools, Ids
from tracer.spaces.syscalls import PendingRelease

_LATE_NS = 2_000_000_000  # a record may come that much after one of a later moment


@dataclass
class Suspected:
    """By fault: the calls that may have released its page; arrays of one length."""

    under_way: U8  # Loss of a call that had begun and not returned; 0: none
    over: U8  # … of one that returned after the fault, but is applied before it
    over_ns: I64  # when that one returned

    @staticmethod
    def none(count: int) -> "Suspected":
        """No call was under way."""
        under_way, over = np.zeros((2, count), np.uint8)
        return Suspected(under_way, over, np.zeros(count, np.int64))

    def select(self, at: I64 | Bools | slice) -> "Suspected":
        """Those of some faults."""
        return Suspected(self.under_way[at], self.over[at], self.over_ns[at])


@dataclass(slots=True)  # not frozen: making one would take three times as long
class _Call:
    """A call under way; of one that is over also its return, and the latest return so far."""

    space: int
    release: PendingRelease
    ended_ns: int = 0
    latest_ns: int = 0


class ConcurrentUnmaps:
    """The calls under way, and those that returned recently."""

    def __init__(self) -> None:
        self._open: dict[int, _Call] = {}  # by their PendingRelease's identity
        self._over: deque[_Call] = deque()

    def begin(self, space: int, release: PendingRelease) -> None:
        """A call has begun that may release pages of `space`."""
        self._open[id(release)] = _Call(space, release)
        while self._over and self._over[0].latest_ns < release.begun_ns - _LATE_NS:
            self._over.popleft()

    def end(self, release: PendingRelease, time_ns: int = 0) -> None:
        """It has returned at `time_ns`; 0: it released nothing."""
        known = self._open.pop(id(release), None)
        if known is not None and time_ns:
            latest = max(time_ns, self._over[-1].latest_ns if self._over else 0)
            self._over.append(_Call(known.space, release, time_ns, latest))

    def forget(self, space: int) -> None:
        """The space has ended."""
        if any(call.space == space for call in (*self._open.values(), *self._over)):
            self._open = {key: call for key, call in self._open.items() if call.space != space}
            self._over = deque(call for call in self._over if call.space != space)

    def suspected(
        self,
        spaces: Ids,
        pages: U64,
        times: I64,
        returns: Mapping[int, tuple[int, int]] | None = None,
    ) -> Suspected:
        """Which calls may have released the pages of faults, in the order they are applied.

        A fault reads the page table some time before its completion, `times`. `returns`: of
        calls that return between these faults, by their PendingRelease's identity, how many of the
        faults are applied before that, and when it was.
        """
        count = len(pages)
        found = Suspected.none(count)
        if not count or not (self._open or self._over):
            return found
        returns = returns or {}
        latest = np.maximum.accumulate(times)
        earliest = np.minimum.accumulate(times[::-1])[::-1]
        calls = self._over_since(int(earliest[0]))
        returned_at, ended = [0] * len(calls), [call.ended_ns for call in calls]
        for key, call in self._open.items():
            at, end = returns.get(key, (count, 0))
            calls.append(call)
            returned_at.append(at)
            ended.append(end)
        # Before `low` all faults are earlier than the call's beginning, from `high` on later than
        # its end: only the few between need checking.
        low = np.searchsorted(latest, [call.release.begun_ns for call in calls]).tolist()
        high = np.searchsorted(earliest, ended, side="right").tolist()
        for call, begin, end in zip(calls, low, returned_at, strict=True):
            if begin < end:
                part = slice(begin, end)
                hit = _covered(call, spaces[part], pages[part])
                hit &= (times[part] >= call.release.begun_ns) & (found.under_way[part] == 0)
                found.under_way[part][hit] = call.release.loss
        # Of several the last one applied: those that were over before, then in `returns`' order.
        order = {key: n for n, key in enumerate(returns)}
        turn = [order.get(id(call.release), -1) for call in calls]
        late = [
            n for n, (begin, end) in enumerate(zip(returned_at, high, strict=True)) if begin < end
        ]
        for n in sorted(late, key=turn.__getitem__):
            part = slice(returned_at[n], high[n])
            hit = _covered(calls[n], spaces[part], pages[part]) & (times[part] <= ended[n])
            found.over[part][hit] = calls[n].release.loss
            found.over_ns[part][hit] = ended[n]
        return found

    def _over_since(self, time_ns: int) -> list[_Call]:
        """The calls that returned then or later, in order."""
        found = []
        for call in reversed(self._over):
            if call.latest_ns < time_ns:
                break
            if call.ended_ns >= time_ns:
                found.append(call)
        return found[::-1]


def _covered(call: _Call, spaces: Ids, pages: U64) -> Bools:
    """Whether each of `pages` is in the range of a call."""
    first, last = (
        np.uint64(call.release.start >> PAGE_SHIFT),
        np.uint64(call.release.end >> PAGE_SHIFT),
    )
    return np.asarray((spaces == call.space) & (pages >= first) & (pages < last))
