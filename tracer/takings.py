"""System calls that take pages from under other threads: which faults they may concern."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.sources import Loss
from tracer.syscalls import Taking

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]

_NEVER_NS = (1 << 63) - 1
_LATE_NS = 2_000_000_000  # a record may come that much after one of a later moment


@dataclass
class _Call:
    """One call, and when it returned (0: not yet)."""

    space: int
    taking: Taking
    ended_ns: int = 0

    def covers(self, spaces: Ids, pages: U64) -> Bools:
        """Whether each of `pages` is in its range."""
        first, last = np.uint64(self.taking.start >> 12), np.uint64(self.taking.end >> 12)
        return np.asarray((spaces == self.space) & (pages >= first) & (pages < last))


class Takings:
    """The calls under way, and those that returned just now."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def begin(self, space: int, taking: Taking) -> None:
        """A call has begun that may take pages of `space`."""
        since = taking.begun_ns - _LATE_NS
        self._calls = [call for call in self._calls if not 0 < call.ended_ns < since]
        self._calls.append(_Call(space, taking))

    def end(self, taking: Taking, time_ns: int = 0) -> None:
        """It has returned at `time_ns`; 0: it took nothing."""
        for call in self._calls:
            if call.taking is taking:
                call.ended_ns = time_ns
        self._calls = [call for call in self._calls if time_ns or call.taking is not taking]

    def forget(self, space: int) -> None:
        """The space has ended."""
        self._calls = [call for call in self._calls if call.space != space]

    def under_way(self, spaces: Ids, pages: U64, times: I64) -> npt.NDArray[np.uint8]:
        """By fault (its space, page and completion): what may have taken its page; 0: none.

        A fault looks at the page table some time before its completion.
        """
        loss = np.zeros(len(pages), np.uint8)
        for call in self._calls:
            if not call.ended_ns:
                found = call.covers(spaces, pages) & (times >= call.taking.begun_ns) & (loss == 0)
                loss[found] = call.taking.loss
        return loss

    def over(self, spaces: Ids, pages: U64, times: I64) -> Iterator[tuple[Bools, Loss, int]]:
        """(faults completed before a call returned and told after that, its loss, its return)."""
        earliest = int(times.min(initial=_NEVER_NS))
        for call in self._calls:
            if call.ended_ns and call.ended_ns >= earliest:
                late = call.covers(spaces, pages) & (times <= call.ended_ns)
                if late.any():
                    yield late, call.taking.loss, call.ended_ns
