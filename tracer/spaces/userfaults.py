"""Ranges registered with userfaultfd over time, from the ioctls on its descriptors.

Command numbers and structures from include/uapi/linux/userfaultfd.h.
"""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import U32, U64, Bools

_FOREVER = (1 << 63) - 1


@dataclass
class _Range:
    """Missing-page faults in [start, end) wait for the userfaultfd's reader."""

    start: int
    end: int
    since_ns: int
    until_ns: int = _FOREVER


class Userfaults:
    """The ranges registered in missing mode, by address space."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[_Range]] = {}

    def register(self, space: int, start: int, end: int, time_ns: int) -> None:
        """[start, end) is registered from `time_ns` on."""
        self._ranges.setdefault(space, []).append(_Range(start, end, time_ns))

    def end(self, space: int, start: int, end: int, time_ns: int) -> None:
        """[start, end) was unregistered or unmapped; what is left of a range stays."""
        for known in list(self._ranges.get(space, ())):
            if known.until_ns <= time_ns or known.start >= end or known.end <= start:
                continue
            known.until_ns = time_ns
            for first, last in ((known.start, start), (end, known.end)):
                if first < last:
                    self.register(space, first, last, time_ns)

    def hold(
        self,
        spaces: U32,
        addresses: U64,
        times: U64,
    ) -> Bools:
        """Whether each address was in such a range at its time. Shapes (n,)."""
        result = np.zeros(len(addresses), np.bool_)
        for space, ranges in self._ranges.items():
            mine = spaces == space
            for known in ranges if mine.any() else ():
                inside = (addresses >= np.uint64(known.start)) & (addresses < np.uint64(known.end))
                then = (times >= np.uint64(known.since_ns)) & (times < np.uint64(known.until_ns))
                result |= mine & inside & then
        return result
