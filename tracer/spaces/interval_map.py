"""One address space at one moment: the range mapped last at each address."""

import bisect
from collections import deque
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from tracer.common.types import I64, U64
from tracer.model.rows import Names, Region

# Shape (2, n): indices into Names.regions, and the shift of each mapping, Region.shift: a region
# that stands for many mappings (Names.fold) has none
Places = U64
Times = U64 | I64  # CLOCK_MONOTONIC ns

_MOST_REPLACED = 256
_UNSET = np.uint64((1 << 32) - 1)


class Mapped(NamedTuple):
    """A range of address space as it was last mapped.

    `gone`: it is known to be unmapped. Faults there are still attributed to it
    (one that succeeded proves that a mapping existed) until something newer
    is mapped over it or two lists of mappings lack it. `array`: its number in Names.arrays.
    """

    region: Region
    device: int
    inode: int
    gone: bool = False
    array: int = 0

    @property
    def is_file(self) -> bool:
        return bool(self.inode) or self.region.name.startswith("/")

    def clipped(self, start: int, end: int) -> "Mapped":
        """What remains of it in [start, end) after a split."""
        return self if self.gone else self.moved(start, end, start)

    def moved(self, start: int, end: int, source: int) -> "Mapped":
        """Its part from address `source` on, as mremap moves it to [start, end)."""
        region = self.region
        offset = region.offset + source - region.start if self.is_file else 0
        return Mapped(Region(start, end, region.perms, offset, *region[4:]), *self[1:])

    def left(self) -> "Mapped":
        """The same range, unmapped."""
        return self if self.gone else Mapped(self.region, self.device, self.inode, True, self.array)


@dataclass(slots=True)
class _Stretch:
    """What was mapped last, up to `end`."""

    end: int
    mapped: Mapped
    place: tuple[int, int] | None = None  # IntervalMap.place, once computed


class Replaced(NamedTuple):
    """Executable memory where something else was mapped, at CLOCK_MONOTONIC `at_ns`."""

    start: int
    end: int
    place: tuple[int, int]  # as IntervalMap.place had it
    at_ns: int


class IntervalMap:
    """The latest range mapped at each address: disjoint [start, end), sorted."""

    def __init__(self, names: Names) -> None:
        self.now_ns = 0  # of what is mapped now
        self.replaced: deque[Replaced] = deque(maxlen=_MOST_REPLACED)  # by time
        self._names = names
        self._starts: list[int] = []
        self._stretches: list[_Stretch] = []
        self._arrays: tuple[U64, U64, Places] | None = None

    def copy(self) -> "IntervalMap":
        """Return the copy that a forked child starts with."""
        child = IntervalMap(self._names)
        kept = [at for at, each in enumerate(self._stretches) if not each.mapped.gone]
        child._starts = [self._starts[at] for at in kept]
        child._stretches = [self._stretches[at] for at in kept]  # they are replaced, not changed
        return child

    def at(self, address: int) -> Mapped | None:
        """The range that contains `address`."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._stretches[index].end:
            return None
        return self._stretches[index].mapped

    def exactly(self, start: int, end: int) -> Mapped | None:
        """The range that is exactly [start, end), if there is one."""
        index = bisect.bisect_left(self._starts, start)
        if index == len(self._starts) or self._starts[index] != start:
            return None
        stretch = self._stretches[index]
        return stretch.mapped if stretch.end == end else None

    def is_whole(self, address: int) -> bool:
        """Whether the range there is still the whole mapping it was mapped as."""
        index = bisect.bisect_right(self._starts, address) - 1
        stretch = self._stretches[index]
        return stretch.mapped.region[:2] == (self._starts[index], stretch.end)

    def within(self, start: int, end: int) -> list[tuple[int, int, Mapped]]:
        """The ranges that overlap [start, end), clipped to it."""
        first, last = self._overlapping(start, end)
        return self._cut(first, last, start, end)

    def _cut(self, first: int, last: int, start: int, end: int) -> list[tuple[int, int, Mapped]]:
        starts, stretches = self._starts, self._stretches
        return [
            (max(starts[i], start), min(stretches[i].end, end), stretches[i].mapped)
            for i in range(first, last)
        ]

    def present(self) -> list[Region]:
        """The current mappings, by address."""
        return [each.mapped.region for each in self._stretches if not each.mapped.gone]

    def put(self, mapped: Mapped) -> None:
        """Map `mapped` over whatever is in its region; ranges it splits keep the rest."""
        start, end = mapped.region[:2]
        if start >= end:
            return
        first, last = self._overlapping(start, end)
        self._note_replaced(first, last, mapped)
        if self._is(first, last, start, end):  # mapped and unmapped again and again
            self._stretches[first] = _Stretch(end, mapped)
            if self._arrays is not None:
                self._arrays[2][:, first] = _UNSET
        else:
            self._replace(first, last, start, end, [start], [_Stretch(end, mapped)])

    def unmap(self, start: int, end: int) -> None:
        """Mark [start, end) as gone."""
        first, last = self._overlapping(start, end)
        if start >= end or first >= last:
            return
        if self._is(first, last, start, end):
            there = self._stretches[first]  # keeps its region and shift
            self._stretches[first] = _Stretch(end, there.mapped.left(), there.place)
            return
        middle = self._cut(first, last, start, end)
        gone = [_Stretch(until, mapped.left()) for _, until, mapped in middle]
        self._replace(first, last, start, end, [since for since, _, _ in middle], gone)

    def reset(self, stretches: list[Mapped]) -> None:
        """Set all current mappings; what is missing is gone, what was gone is forgotten.

        `stretches` do not overlap and are sorted by address.
        """
        starts = [mapped.region.start for mapped in stretches]
        merged = [(mapped.region.start, mapped.region.end, mapped) for mapped in stretches]
        for start, each in zip(self._starts, self._stretches, strict=True):
            if not each.mapped.gone:
                merged += _uncovered(start, each.end, each.mapped.left(), stretches, starts)
        merged.sort(key=itemgetter(0))
        for mapped in stretches:
            self._note_replaced(*self._overlapping(*mapped.region[:2]), mapped)
        self._starts = [start for start, _, _ in merged]
        self._stretches = [_Stretch(end, mapped) for _, end, mapped in merged]
        self._arrays = None

    def place(self, address: int) -> tuple[int, int]:
        """(region, shift) of the mapping that contains `address`, (0, 0) where none is known."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return 0, 0
        there = self._stretches[index]
        if address >= there.end:
            return 0, 0
        return there.place or self._place_of(there)

    def _note_replaced(self, first: int, last: int, mapped: Mapped) -> None:
        """Keep what was executable in the range of `mapped`, which these stretches overlap."""
        start, end = mapped.region[:2]
        for index in range(first, last):
            each = self._stretches[index]
            region = each.mapped.region
            if "x" in region.perms and (region.name, region.shift) != (
                mapped.region.name,
                mapped.region.shift,
            ):
                since, until = max(self._starts[index], start), min(each.end, end)
                place = each.place or self._place_of(each)
                self.replaced.append(Replaced(since, until, place, self.now_ns))

    def _place_of(self, stretch: _Stretch) -> tuple[int, int]:
        region = stretch.mapped.region
        found = stretch.place = self._names.region(region, stretch.mapped.array), region.shift
        return found

    def places(self, addresses: U64) -> Places:
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
                there = self._stretches[at]
                known[:, at] = there.place or self._place_of(there)
        return known[:, index]

    def _as_arrays(self) -> tuple[U64, U64, Places]:
        """Starts, ends, and places computed on demand (one more: a sentinel, 0)."""
        if self._arrays is None:
            places = np.full((2, len(self._starts) + 1), _UNSET, dtype=np.uint64)
            places[:, -1] = 0
            self._arrays = (
                np.array(self._starts, dtype=np.uint64),
                np.array([each.end for each in self._stretches], dtype=np.uint64),
                places,
            )
        return self._arrays

    def _is(self, first: int, last: int, start: int, end: int) -> bool:
        """Whether [start, end) is exactly one range."""
        return (
            last - first == 1 and self._starts[first] == start and self._stretches[first].end == end
        )

    def _overlapping(self, start: int, end: int) -> tuple[int, int]:
        """The first range that overlaps [start, end), and the one after the last."""
        starts = self._starts
        first = bisect.bisect_right(starts, start) - 1
        if first < 0 or self._stretches[first].end <= start:
            first += 1
        return first, bisect.bisect_left(starts, end, first)

    def _replace(
        self,
        first: int,
        last: int,
        start: int,
        end: int,
        starts: list[int],
        stretches: list[_Stretch],
    ) -> None:
        """Replace [start, end), which those from `first` to `last` overlap, by these ranges."""
        if first < last:
            left, before, after = (
                self._starts[first],
                self._stretches[first],
                self._stretches[last - 1],
            )
            if left < start:
                starts.insert(0, left)
                stretches.insert(0, _Stretch(start, before.mapped.clipped(left, start)))
            if after.end > end:
                starts.append(end)
                stretches.append(_Stretch(after.end, after.mapped.clipped(end, after.end)))
        self._starts[first:last] = starts
        self._stretches[first:last] = stretches
        self._arrays = None


def _uncovered(
    start: int, end: int, mapped: Mapped, cover: list[Mapped], starts: list[int]
) -> list[tuple[int, int, Mapped]]:
    """The parts of [start, end) that no region of `cover` covers."""
    parts = []
    index = max(bisect.bisect_right(starts, start) - 1, 0)
    while start < end and index < len(cover):
        region = cover[index].region
        if region.start >= end:
            break
        if region.start > start:
            parts.append((start, region.start, mapped))
        start = max(start, region.end)
        index += 1
    if start < end:
        parts.append((start, end, mapped))
    return parts
