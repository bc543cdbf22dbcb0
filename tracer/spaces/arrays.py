"""Numbers for mappings of one name, kept while they grow, move and are split.

A number in `Names` stands for what one call mapped. It stays with that memory through mprotect,
mremap and fork, and is reused for what is mapped there again.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

from tracer.model.rows import ANONYMOUS, Names
from tracer.spaces.interval_map import IntervalMap, Mapped

_LEAST = 128 << 10  # bytes for a number: malloc(3) maps nothing smaller (M_MMAP_THRESHOLD)
_ALONE = 2 << 20  # smaller ones that adjoin others are counted as part of them: an allocator's
_MOST_FILES = 4096
# What may lie between a new thread's stack pointer and the end of its stack: what the C library
# keeps of the thread, and its thread-local variables.
_ABOVE_STACK = 64 << 10
_NO_RIGHTS = "---p"  # of a guard region or a reservation

FilePart = tuple[int, int, int, str]  # device, inode, offset and permissions of a file's mapping


def _file_part(mapped: Mapped) -> FilePart:
    return mapped.device, mapped.inode, mapped.region.offset, mapped.region.perms


@dataclass
class Arrays:
    """Numbers one address space's mappings, before they go into the interval map."""

    names: Names
    first: dict[FilePart, int] = field(default_factory=dict)  # where each was mapped first

    def fork(self) -> "Arrays":
        """Return a forked child's copy."""
        return Arrays(self.names, dict(self.first))

    def distinguish(self, there: IntervalMap, mapped: Mapped) -> list[Mapped]:
        """Split a new mapping by number: what was there already keeps its own."""
        same = self._as_before(there, mapped)
        if same is not None:
            return [same]
        if mapped.region.name not in ANONYMOUS:
            return [self._file(there, mapped, None)]
        return self._anonymous(there, mapped, there.at(mapped.region.start - 1))

    def distinguish_all(self, there: IntervalMap, listed: Sequence[Mapped]) -> list[Mapped]:
        """The same for a list of all mappings, by address."""
        found: list[Mapped] = []
        before = None
        for mapped in listed:
            same = self._as_before(there, mapped)
            if same is not None:
                found.append(same)
            elif mapped.region.name in ANONYMOUS:
                found += self._anonymous(there, mapped, before)
            else:
                found.append(self._file(there, mapped, listed))
            before = found[-1]
        return found

    def thread_stack(self, there: IntervalMap, pointer: int) -> None:
        """Name the mapping of a thread's stack pointer as its stack, if it is nothing else.

        A stack that is part of something larger, such as an allocator's memory, gets no name.
        """
        mapped = there.at(pointer - 1)
        if mapped is None or mapped.gone or not self.names.by_address(mapped.array):
            return
        end = mapped.region.end
        if end - pointer > _ABOVE_STACK:
            return
        below = there.at(mapped.region.start - 1)
        if below and below.array == mapped.array and below.region.perms == _NO_RIGHTS:
            below = there.at(below.region.start - 1)
        if not any(side and side.array == mapped.array for side in (below, there.at(end))):
            self.names.name_stack(mapped.array)

    def _as_before(self, there: IntervalMap, mapped: Mapped) -> Mapped | None:
        """The mapping, numbered as an equal one at its address; None: not that simple."""
        region, device, inode, _, _ = mapped
        start, end, perms, offset, name, *_ = region
        old = there.exactly(start, end)
        if old is None or old.region.name != name:
            return None
        array = old.array
        if old.gone and array in self.names.stacks:
            return None
        if name in ANONYMOUS:
            if not array and end - start >= _LEAST and not self.names.full:
                return None
        elif inode and (
            old.gone or old[1:3] != (device, inode) or old.region[2:4] != (perms, offset)
        ):
            return None
        return Mapped(region, device, inode, False, array) if array else mapped

    def _anonymous(self, there: IntervalMap, mapped: Mapped, before: Mapped | None) -> list[Mapped]:
        """`before`: the mapping below it, if adjacent."""
        region = mapped.region
        start, end, name = region.start, region.end, region.name
        parts: list[tuple[int, int, int]] = []  # start, end, number
        # The start of the new part, and the number mapped there before.
        begun, again = start, self._stack_again(there, mapped)
        for since, until, old in there.within(start, end):
            if old.region.name != name:
                continue
            if old.gone:
                # What was split off a mapping may become anything, as glibc's arenas show.
                if there.is_whole(since) and old.array not in self.names.stacks:
                    again = again or old.array
                continue
            if begun < since:
                parts.append(
                    (begun, since, again or self._new(there, mapped, begun, since, before))
                )
            parts.append((since, until, old.array))
            begun, again = until, 0
        if begun < end:
            parts.append((begun, end, again or self._new(there, mapped, begun, end, before)))
        found: list[Mapped] = []
        for since, until, array in parts:
            if found and found[-1].array == array:
                since = found.pop().region.start
            found.append(mapped.moved(since, until, since)._replace(array=array))
        return found

    def _stack_again(self, there: IntervalMap, mapped: Mapped) -> int:
        """The number of a thread stack just unmapped there, which began as this does; else 0.

        Other memory may have replaced it.
        """
        region = mapped.region
        if region.perms != _NO_RIGHTS:
            return 0
        before = there.within(region.start, region.end)
        arrays = {old.array if old.gone else 0 for *_, old in before}
        if len(arrays) != 1 or not arrays <= self.names.stacks:
            return 0
        first, last = before[0][2].region, before[-1][2].region
        same = (first.start, last.end) == (region.start, region.end)
        return arrays.pop() if same and all(there.is_whole(since) for since, *_ in before) else 0

    def _new(
        self,
        there: IntervalMap,
        mapped: Mapped,
        start: int,
        end: int,
        before: Mapped | None,
    ) -> int:
        """The number of the part [start, end) of a mapping, which was not there before."""
        if before is not None and (before.gone or before.region.end != mapped.region.start):
            before = None
        name = mapped.region.name
        alone = end - start >= _LEAST and (
            # A reservation, as thread stacks begin, or one with a guard region of its own.
            mapped.region.perms == _NO_RIGHTS
            or (before is not None and before.region.perms == _NO_RIGHTS)
        )
        if end - start < _ALONE and not alone:
            sides = [before if start == mapped.region.start else there.at(start - 1), there.at(end)]
            for side in sides:
                if (
                    side
                    and not side.gone
                    and side.array
                    and side.array not in self.names.whole
                    and side.region.name == name
                ):
                    return side.array
        if start == mapped.region.start and before and before.inode and "w" in before.region.perms:
            return self.names.array_after(before.region.name)
        if mapped.region.end - mapped.region.start < _LEAST:
            return 0
        return self.names.array_at(start, whole=alone)

    def _file(self, there: IntervalMap, mapped: Mapped, listed: Sequence[Mapped] | None) -> Mapped:
        """Number a mapping of a file range that is mapped at another address already."""
        if not mapped.inode:
            return mapped
        part, start = _file_part(mapped), mapped.region.start
        first = self.first.setdefault(part, start)
        if first == start:
            if len(self.first) > _MOST_FILES:
                self.first.clear()
            return mapped
        if listed is None:
            other = there.at(first)
        else:
            at = bisect.bisect_left(listed, first, key=_start)
            other = listed[at] if at < len(listed) else None
        if other and not other.gone and other.region.start == first and _file_part(other) == part:
            return mapped._replace(array=self.names.array_at(start))
        self.first[part] = start
        return mapped


def _start(mapped: Mapped) -> int:
    return mapped.region.start
