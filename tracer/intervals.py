"""One address space at one moment: which stretch was laid last over each address."""

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.rows import Names, Region

Ids = npt.NDArray[np.uint32]  # indices into Names.regions
# Shape (2, n): indices into Names.regions, and the shift of each mapping, Region.shift: a region
# that stands for many mappings (Names.fold) does not have it
Places = npt.NDArray[np.uint64]
Array = npt.NDArray[np.uint64]
Times = npt.NDArray[np.uint64] | npt.NDArray[np.int64]  # CLOCK_MONOTONIC ns

_UNSET = np.uint64((1 << 32) - 1)


@dataclass(frozen=True, slots=True)
class Laid:
    """A stretch of address space as it was last laid.

    `gone`: it is known to be unmapped. It is still the answer for faults there
    (one that succeeded proves that a mapping existed) until something newer
    is laid over it or two lists of mappings do not have it.
    """

    region: Region
    device: int
    inode: int
    gone: bool = False

    @property
    def is_file(self) -> bool:
        return bool(self.inode) or self.region.name.startswith("/")

    def clipped(self, start: int, end: int) -> "Laid":
        """What the kernel leaves of it in [start, end)."""
        return self if self.gone else self.moved(start, end, start)

    def moved(self, start: int, end: int, source: int) -> "Laid":
        """Its part from address `source` on, as mremap lays it at [start, end)."""
        region = self.region
        offset = region.offset + (source - region.start) if self.is_file else 0
        # Spelt out: it is done for every call, and replace() takes several times that.
        there = Region(start, end, region.perms, offset, region.name, region.device)
        return Laid(there, self.device, self.inode, self.gone)

    def left(self) -> "Laid":
        """It, once it is unmapped."""
        return self if self.gone else Laid(self.region, self.device, self.inode, True)


class IntervalMap:
    """The latest stretch laid over each address: disjoint [start, end), sorted."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._laid: list[Laid] = []
        self._places: list[tuple[int, int] | None] = []  # of each: `place`, where asked for before
        self._arrays: tuple[Array, Array, Places] | None = None

    def copy(self) -> "IntervalMap":
        """What a forked child starts with."""
        child = IntervalMap(self._names)
        kept = [at for at, laid in enumerate(self._laid) if not laid.gone]
        child._starts = [self._starts[at] for at in kept]
        child._ends = [self._ends[at] for at in kept]
        child._laid = [self._laid[at] for at in kept]
        child._places = [self._places[at] for at in kept]
        return child

    def at(self, address: int) -> Laid | None:
        """The stretch `address` lies in."""
        index = bisect.bisect_right(self._starts, address) - 1
        return self._laid[index] if index >= 0 and address < self._ends[index] else None

    def within(self, start: int, end: int) -> list[tuple[int, int, Laid]]:
        """The stretches that overlap [start, end), cut to it."""
        first, last = self._overlapping(start, end)
        return [
            (max(self._starts[i], start), min(self._ends[i], end), self._laid[i])
            for i in range(first, last)
        ]

    def present(self) -> list[Region]:
        """The mappings there are, by address."""
        return [laid.region for laid in self._laid if not laid.gone]

    def lay(self, laid: Laid) -> None:
        """Put `laid` over whatever was in its region; what it cuts keeps the rest."""
        start, end = laid.region.start, laid.region.end
        index = bisect.bisect_left(self._starts, start)
        if self._is(index, start, end):  # mapped and unmapped again and again
            self._laid[index] = laid
            self._places[index] = None
            if self._arrays is not None:
                self._arrays[2][:, index] = _UNSET
        elif start < end:
            self._replace(start, end, [(start, end, laid)])

    def unmap(self, start: int, end: int) -> None:
        """Mark [start, end) as gone."""
        index = bisect.bisect_left(self._starts, start)
        if self._is(index, start, end):
            self._laid[index] = self._laid[index].left()  # in the same place as before
        elif start < end:
            middle = [(s, e, laid.left()) for s, e, laid in self.within(start, end)]
            self._replace(start, end, middle)

    def reset(self, stretches: list[Laid]) -> None:
        """Everything there is now; what is missing is gone, what was gone is forgotten.

        `stretches` do not overlap and are sorted by address.
        """
        starts = [laid.region.start for laid in stretches]
        before = list(zip(self._starts, self._ends, self._laid, strict=True))
        leftovers: list[tuple[int, int, Laid]] = []
        for start, end, laid in before:
            if not laid.gone:
                leftovers += _uncovered(start, end, laid.left(), stretches, starts)
        merged = sorted(
            [(laid.region.start, laid.region.end, laid) for laid in stretches] + leftovers,
            key=lambda stretch: stretch[0],
        )
        self._starts = [start for start, _, _ in merged]
        self._ends = [end for _, end, _ in merged]
        self._laid = [laid for _, _, laid in merged]
        self._places = [None] * len(merged)
        self._arrays = None

    def place(self, address: int) -> tuple[int, int]:
        """(region, shift) of the mapping `address` lies in, (0, 0) where none is known."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._ends[index]:
            return 0, 0
        return self._places[index] or self._place_of(index)

    def _place_of(self, index: int) -> tuple[int, int]:
        region = self._laid[index].region
        found = self._places[index] = self._names.region(region), region.shift
        return found

    def places(self, addresses: Array) -> Places:
        """`place` of many addresses; shapes (n,) → (2, n)."""
        if not self._starts:
            return np.zeros((2, len(addresses)), dtype=np.uint64)
        starts, ends, known = self._as_arrays()
        index = np.searchsorted(starts, addresses, side="right") - 1
        inside = (index >= 0) & (addresses < ends[index])
        index[~inside] = known.shape[1] - 1  # a sentinel whose region is 0
        unset = known[0, index] == _UNSET
        if unset.any():
            for at in np.unique(index[unset]).tolist():
                known[:, at] = self._places[at] or self._place_of(at)
        return known[:, index]

    def _as_arrays(self) -> tuple[Array, Array, Places]:
        """Starts, ends, and places made on demand (one more: nothing's, 0)."""
        if self._arrays is None:
            places = np.full((2, len(self._laid) + 1), _UNSET, dtype=np.uint64)
            places[:, -1] = 0
            self._arrays = (
                np.array(self._starts, dtype=np.uint64),
                np.array(self._ends, dtype=np.uint64),
                places,
            )
        return self._arrays

    def _is(self, index: int, start: int, end: int) -> bool:
        """Whether the stretch with that index is [start, end)."""
        starts = self._starts
        return index < len(starts) and starts[index] == start and self._ends[index] == end

    def _overlapping(self, start: int, end: int) -> tuple[int, int]:
        first = bisect.bisect_right(self._starts, start) - 1
        if first < 0 or self._ends[first] <= start:
            first += 1
        return first, bisect.bisect_left(self._starts, end)

    def _replace(self, start: int, end: int, middle: list[tuple[int, int, Laid]]) -> None:
        first, last = self._overlapping(start, end)
        stretches = middle
        if first < last:
            left, right = self._starts[first], self._ends[last - 1]
            if left < start:
                kept = self._laid[first].clipped(left, start)
                stretches = [(left, start, kept), *stretches]
            if right > end:
                kept = self._laid[last - 1].clipped(end, right)
                stretches = [*stretches, (end, right, kept)]
        self._starts[first:last] = [s for s, _, _ in stretches]
        self._ends[first:last] = [e for _, e, _ in stretches]
        self._laid[first:last] = [laid for _, _, laid in stretches]
        self._places[first:last] = [None] * len(stretches)
        self._arrays = None


def _uncovered(
    start: int, end: int, laid: Laid, cover: list[Laid], starts: list[int]
) -> list[tuple[int, int, Laid]]:
    """The parts of [start, end) no region of `cover` has."""
    parts = []
    index = max(bisect.bisect_right(starts, start) - 1, 0)
    while start < end and index < len(cover):
        region = cover[index].region
        if region.start >= end:
            break
        if region.start > start:
            parts.append((start, region.start, laid))
        start = max(start, region.end)
        index += 1
    if start < end:
        parts.append((start, end, laid))
    return parts
