"""The executable mappings of a program: read of one process, and known of others that run it."""

import bisect
from collections.abc import Sequence

import numpy as np

from tracer.callstacks.kernel_rules import Program
from tracer.common.types import U64, Index
from tracer.procfs.maps import Mapping

_HIGHEST = 1 << 63
_HUGE = 1 << 21  # bytes of a huge page


class MappedCode:
    """Executable mappings as they were read."""

    def __init__(
        self, program: Program, mappings: Sequence[Mapping], read_ns: int, read_of: int = 0
    ) -> None:
        """`read_ns`: CLOCK_MONOTONIC before they were read of a process that runs `program`.

        `read_of`: where it was another one, that one's own number.
        """
        self._read_of = read_of or program.own
        self.read_ns = read_ns
        self.mappings = list(mappings)  # by address
        self._program = program
        self._first = [each.start for each in mappings]
        self._starts = np.array(self._first, np.uint64)
        self._ends = np.array([each.end for each in mappings], np.uint64)

    def of(self, program: Program) -> "MappedCode":
        """The same of another process that runs the program: what is randomized is elsewhere."""
        mine = self._program
        if mine[2:] == program[2:]:
            return self
        moved = []
        for each in self.mappings:
            if mine.code_start <= each.start < mine.code_end:
                by = program.code_start - mine.code_start
            elif each.start < mine.mmap_base:
                by = program.mmap_base - mine.mmap_base
            else:
                continue  # the vDSO and its like: placed at random by themselves
            if each.start + by >= 0 and each.end + by < _HIGHEST:
                moved.append(each._replace(start=each.start + by, end=each.end + by))
        return MappedCode(
            program, sorted(moved, key=lambda each: each.start), self.read_ns, self._read_of
        )

    def is_aligned(self, mappings: Sequence[Mapping]) -> bool:
        """Whether a library is so large that the kernel may align it: what follows is shifted.

        `mappings`: all of them (mm/huge_memory.c:thp_get_unmapped_area()).
        """
        extents: dict[int, tuple[int, int]] = {}
        for each in mappings:
            if each.inode and not self._program.has(each.start):
                first, last = extents.get(each.inode, (each.start, each.end))
                extents[each.inode] = min(first, each.start), max(last, each.end)
        return any(last - first >= _HUGE for first, last in extents.values())

    def is_since(self, program: Program, time_ns: int) -> bool:
        """Whether they were read of this program's own process or a fork of it, after that time."""
        return self._read_of == program.own and self.read_ns > time_ns

    def at(self, address: int) -> int:
        """Which mapping has the address; -1: none."""
        which = bisect.bisect_right(self._first, address) - 1
        return which if which >= 0 and address < self.mappings[which].end else -1

    def among(self, words: U64) -> tuple[U64, Index]:
        """Those of the words that lie in one of them, each once, and in which; shapes (n,)."""
        if not len(words) or not len(self._starts):
            return np.empty(0, np.uint64), np.empty(0, np.intp)
        words = np.unique(words[(words >= self._starts[0]) & (words < self._ends[-1])])
        which = np.searchsorted(self._starts, words, side="right") - 1
        inside = words < self._ends[which]
        return words[inside], which[inside]
