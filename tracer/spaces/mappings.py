"""One address space's mappings over time.

Fed by whole lists of mappings (/proc/PID/maps), by the sideband's reports of
new mappings, and by the system calls the sideband does not report. Changes
are queued by time until they are due, so that each fault is looked up
among the mappings of its moment.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tracer.common.fields import Records, runs
from tracer.common.pages import PAGE_SHIFT, PAGE_SIZE
from tracer.common.types import I64, U32, U64, Bools, Index
from tracer.kernel.sideband import MmapEvent
from tracer.model.rows import Names, Region
from tracer.procfs.maps import Mapping
from tracer.spaces.arrays import Arrays
from tracer.spaces.changes import Brk, Change, Claim, Move, Question, ThreadStack, Unmap
from tracer.spaces.interval_map import IntervalMap, Mapped, Places, Times
from tracer.wire.records import Mark

# vm_flags bits, the same on every kernel (include/linux/mm.h)
VM_READ, VM_WRITE, VM_EXEC, VM_SHARED, VM_MAYSHARE = 0x1, 0x2, 0x4, 0x8, 0x80
VM_GROWSDOWN = 0x100

_VMA_FIELDS = ("vm_start", "vm_end", "vm_flags", "vm_pgoff", "device", "inode")

Vma = tuple[int, int, int, int, int, int]
Part = Index | slice

_SHORT_RUN = 32  # faults between two changes that are looked up one by one
_MOST_APPLIED = 1024  # applied changes that are kept before they are freed
# Paths that are remembered: each mapping of shared anonymous memory is a file of its own.
_MOST_FILES = 1 << 16


class Files:
    """Paths by (device, inode), as last seen in any address space; at most _MOST_FILES."""

    def __init__(self) -> None:
        self._paths: dict[tuple[int, int], str] = {}

    def learn(self, device: int, inode: int, path: str) -> None:
        if inode and path.startswith("/"):
            self._paths.pop((device, inode), None)
            self._paths[device, inode] = path  # moved to the end
            if len(self._paths) > _MOST_FILES:
                del self._paths[next(iter(self._paths))]

    def knows(self, device: int, inode: int) -> bool:
        return (device, inode) in self._paths

    def name(self, device: int, inode: int) -> str:
        """The path, or device and inode in brackets where no path was ever seen."""
        path = self._paths.get((device, inode))
        return path or f"[inode {device >> 20}:{device & 0xFFFFF} {inode}]"


class _Dated:
    """Changes by time; at equal times in order of arrival."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.changes: list[Change] = []
        self._next = 0  # those before are applied

    def is_last(self, time_ns: int) -> bool:
        """Whether a change of that time comes after all others."""
        return not self.times or time_ns >= self.times[-1]

    def add(self, time_ns: int, change: Change) -> None:
        """Insert by time; fast where few are later."""
        if self.is_last(time_ns):
            self.times.append(time_ns)
            self.changes.append(change)
        else:
            at = bisect.bisect_right(self.times, time_ns, self._next)
            self.times.insert(at, time_ns)
            self.changes.insert(at, change)

    def pop(self, time_ns: int) -> tuple[list[int], list[Change]]:
        """Pop those up to and including `time_ns`."""
        first = self._next
        if first == len(self.times) or self.times[first] > time_ns:
            return [], []
        due = bisect.bisect_right(self.times, time_ns, first)
        popped = self.times[first:due], self.changes[first:due]
        self._next = due
        if due == len(self.times) or due > _MOST_APPLIED:
            del self.times[:due], self.changes[:due]
            self._next = 0
        return popped


class MappingHistory:
    """One address space's mappings: those of now, and the dated changes to come."""

    def __init__(self, names: Names, files: Files) -> None:
        self._names = names
        self._files = files
        self._map = IntervalMap(names)
        self._arrays = Arrays(names)
        self._brk = 0
        # Future changes: tens of thousands may queue where the sideband is ahead of the ring.
        self._ahead = _Dated()
        self._late = _Dated()  # changes that arrived after ones of a later time
        self._vmas: dict[Vma, tuple[int, int]] = {}
        self._mixed: set[Vma] = set()

    def add(self, time_ns: int, change: Change) -> None:
        """Queue a change at CLOCK_MONOTONIC `time_ns`; at equal times in order of arrival.

        A list of mappings is dated when reading it *began*: what happened
        meanwhile is then applied to it once more.
        """
        queue = self._ahead if self._ahead.is_last(time_ns) else self._late
        queue.add(time_ns, change)

    def add_mappings(self, time_ns: int, mappings: Iterable[Mapping]) -> None:
        """`add` of a whole /proc/PID/maps."""
        self.add(time_ns, tuple(mappings))

    def fork(self, time_ns: int) -> "MappingHistory":
        """Return the copy of the mappings that a child forked at `time_ns` starts with."""
        self.advance(time_ns)
        child = MappingHistory(self._names, self._files)
        child._map = self._map.copy()
        child._arrays = self._arrays.fork()
        child._brk = self._brk
        return child

    def advance(self, time_ns: int) -> None:
        """Apply the changes up to and including `time_ns`."""
        self._apply_all(*self._pop(time_ns))

    def _pop(self, time_ns: int) -> tuple[list[int], list[Change]]:
        """Pop the changes up to and including `time_ns`, in order, and their times."""
        times, changes = self._ahead.pop(time_ns)
        late_times, late = self._late.pop(time_ns)
        if not late or not changes:
            return times + late_times, changes + late
        times += late_times  # behind those of the same time
        changes += late
        order = sorted(range(len(times)), key=times.__getitem__)
        return [times[at] for at in order], [changes[at] for at in order]

    def _apply_all(self, times: Sequence[int], changes: Sequence[Change]) -> None:
        for time_ns, change in zip(times, changes, strict=True):
            self._map.now_ns = time_ns
            self._apply(change)
        if changes:
            self._vmas.clear()
            self._mixed.clear()

    def arrays(self, addresses: U64) -> I64:
        """The number (Names.arrays) of the mapping each address is in now; shape (n,)."""
        regions = self._map.places(addresses)[0]
        heads = runs(regions)
        numbers = [self._names.array_of.get(each, 0) for each in regions[heads].tolist()]
        return np.repeat(np.array(numbers, np.int64), np.diff(heads, append=len(regions)))

    def present(self) -> list[Region]:
        """The mappings by address, as of the last `advance`."""
        return self._map.present()

    def lookup(self, addresses: U64, times: Times) -> Places:
        """Region and shift of each address at its time (CLOCK_MONOTONIC ns); 0 where not known.

        Applies the changes up to the latest time; what was due before stays
        applied, so calls come in order of time (times within a call need not).
        Shapes: (n,), (n,) → (2, n).
        """
        return self._by_time(
            times,
            lambda part: self._map.places(addresses[part]),
            lambda index: self._map.place(int(addresses[index])),
        )

    def code(self, address: int, time_ns: int) -> tuple[int, int]:
        """`lookup` of an address of code; at a time before the last lookup, too."""
        self.advance(time_ns)
        found, replaced = self._map.place(address), self._map.replaced
        if replaced and time_ns < replaced[-1].at_ns:
            for each in reversed(replaced):  # the first after that time holds
                if time_ns < each.at_ns and each.start <= address < each.end:
                    found = each.place
        return found

    def codes(self, addresses: U64, time_ns: int) -> Places:
        """The same of many, shapes (n,) → (2, n)."""
        self.advance(time_ns)
        found = self._map.places(addresses).copy()
        for each in reversed(self._map.replaced):
            if time_ns < each.at_ns:
                inside = (addresses >= np.uint64(each.start)) & (addresses < np.uint64(each.end))
                found[:, inside] = np.array(each.place, np.uint64)[:, None]
        return found

    def lookup_faults(self, faults: Records) -> Places:
        """`lookup` of fault records (bpf/shared.h), shape (n,).

        Where a record has its mapping (MARK_MAPPING), that is used; only the
        name, which it lacks, is looked up.
        """

        brought = (faults["marks"] & np.uint8(Mark.MAPPING)) != 0
        if not brought.any():
            return self.lookup(faults["address"], faults["time_ns"])
        vmas, which = _distinct_vmas(faults, brought)
        addresses = np.ascontiguousarray(faults["address"])

        def places(part: Part) -> Places:
            numbers = which[part]
            there = addresses[part]
            heads = runs(numbers)
            each = numbers[heads].tolist()
            known: dict[int, tuple[int, int]] = {-1: (0, 0)}
            for number, address in zip(each, there[heads].tolist(), strict=True):
                if number not in known:
                    known[number] = self._vma_place(vmas[number], address)
            found: Places = np.array([known[number] for number in each], dtype=np.uint64).T
            mixed = [number for number in known if number >= 0 and vmas[number] in self._mixed]
            if len(heads) == 1 and numbers[0] >= 0 and not mixed:
                return found  # shape (2, 1): all the same
            found = np.repeat(found, np.diff(heads, append=len(numbers)), axis=1)
            for number in mixed:
                mine = numbers == number
                found[0, mine] = self._arrays_in(vmas[number], there[mine])
            alone = numbers < 0
            if alone.any():
                found[:, alone] = self._map.places(there[alone])
            return found

        one_by_one: list[tuple[int, int]] = []

        def place(index: int) -> tuple[int, int]:
            if not one_by_one:  # only where there are short runs
                one_by_one.extend(zip(which.tolist(), addresses.tolist(), strict=True))
            number, address = one_by_one[index]
            if number >= 0:
                return self._vma_place(vmas[number], address)
            return self._map.place(address)

        return self._by_time(faults["time_ns"], places, place)

    def _by_time(
        self,
        times: Times,
        places_of: Callable[[Part], Places],
        place_of: Callable[[int], tuple[int, int]],
    ) -> Places:
        """The places of each run of faults between two changes, the changes applied in between.

        `places_of` is called for a long run, and may return one place for all of it.
        `place_of` is called for each fault of a short run: there plain Python
        costs less than numpy.
        """
        result = np.zeros((2, len(times)), dtype=np.uint64)
        if not len(times):
            return result
        times = np.asarray(times, dtype=np.uint64)
        order = None
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            times = times[order]
        # Each change comes before the first fault that is not earlier.
        dated, changes = self._pop(int(times[-1]))
        before = np.searchsorted(times, np.array(dated, np.uint64), side="left").tolist()
        done = applied = 0
        few: list[int] = []  # faults, one by one, and their places
        places: list[tuple[int, int]] = []
        for until in [*dict.fromkeys(before), len(times)]:
            if until - done > _SHORT_RUN:
                part = slice(done, until) if order is None else order[done:until]
                result[:, part] = places_of(part)
            else:
                one_by_one: Sequence[int] = range(done, until)
                if order is not None:
                    one_by_one = order[done:until].tolist()
                few += one_by_one
                places += map(place_of, one_by_one)
            done = until
            due = bisect.bisect_right(before, until, applied)
            self._apply_all(dated[applied:due], changes[applied:due])
            applied = due
        if few:
            result[:, few] = np.array(places, np.uint64).T
        return result

    def _vma_place(self, vma: Vma, address: int) -> tuple[int, int]:
        known = self._vmas.get(vma)
        if known is None:
            region, mapped = self._vma_region(vma, address), self._map.at(address)
            array = mapped.array if mapped and mapped.region.name == region.name else 0
            known = self._names.region(region, array), region.shift
            if vma not in self._mixed and self._is_mixed(vma):
                self._mixed.add(vma)
            if vma not in self._mixed:
                self._vmas[vma] = known
        return known

    def _is_mixed(self, vma: Vma) -> bool:
        """Whether the kernel has merged what several calls mapped."""
        start, end, *_, inode = vma
        return not inode and len({mapped.array for *_, mapped in self._map.within(start, end)}) > 1

    def _arrays_in(self, vma: Vma, addresses: U64) -> U64:
        """The region of each address in a mixed mapping; shapes (n,)."""
        _, first, which = np.unique(
            self._map.places(addresses)[0], return_index=True, return_inverse=True
        )
        regions = [self._vma_place(vma, address)[0] for address in addresses[first].tolist()]
        return np.array(regions, np.uint64)[which.reshape(-1)]

    def _vma_region(self, vma: Vma, address: int) -> Region:
        start, end, flags, pgoff, device, inode = vma
        mapped = self._map.at(address)
        if not inode:
            return Region(start, end, perms_of(flags), 0, _anonymous_name(mapped, flags))
        offset = pgoff << PAGE_SHIFT
        name, file = self._files.name(device, inode), 0
        if mapped and (
            mapped.inode == inode or (not self._files.knows(device, inode) and _fits(mapped, vma))
        ):
            name, device, file = mapped.region.name, mapped.device, mapped.region.file
        return Region(start, end, perms_of(flags), offset, name, device, file)

    def _apply(self, change: Change) -> None:
        match change:
            case MmapEvent():
                self._put(self._as_mapped(change, change.pgoff))
            case Unmap(start, end):
                self._map.unmap(start, end)
            case Brk(end):
                self._move_brk(end)
            case Move():
                self._move(change)
            case Claim():
                self._claim(change)
            case ThreadStack(pointer):
                self._arrays.thread_stack(self._map, pointer)
            case Question(addresses):
                change.regions = self._regions_of(addresses)
            case _:
                listed = [self._as_mapped(mapping, mapping.offset) for mapping in change]
                self._map.reset(self._arrays.distinguish_all(self._map, listed))

    def _regions_of(self, addresses: U64) -> U32:
        """Of addresses in order, most often all in one mapping; at least one. Shape (n,)."""
        first, last = int(addresses[0]), int(addresses[-1])
        there = self._map.within(first, last + 1)
        if len(there) == 1 and there[0][:2] == (first, last + 1):
            return np.full(len(addresses), self._map.place(first)[0], np.uint32)
        return np.asarray(self._map.places(addresses)[0], np.uint32)

    def _put(self, mapped: Mapped) -> None:
        for part in self._arrays.distinguish(self._map, mapped):
            self._map.put(part)

    def _claim(self, claim: Claim) -> None:
        pieces = self._map.within(claim.start, claim.end)
        covered = sum(end - start for start, end, _ in pieces) == claim.end - claim.start
        letters = claim.perms[:3]
        if covered and all(
            not mapped.gone and mapped.region.perms[:3] == letters for _, _, mapped in pieces
        ):
            return
        if claim.name:
            region = Region(claim.start, claim.end, claim.perms, 0, claim.name)
            self._put(Mapped(region, 0, 0))
            return
        for start, end, mapped in pieces:
            if not mapped.gone:
                part = mapped.moved(start, end, start)
                perms = letters + mapped.region.perms[3:]
                self._map.put(part._replace(region=part.region._replace(perms=perms)))

    def _as_mapped(self, seen: MmapEvent | Mapping, offset: int) -> Mapped:
        self._files.learn(seen.device, seen.inode, seen.path)
        name = seen.path
        if not name:
            name = self._files.name(seen.device, seen.inode) if seen.inode else "[anon]"
        region = Region(seen.start, seen.end, seen.perms, offset, name, seen.device, seen.file)
        return Mapped(region, seen.device, seen.inode)

    def _move_brk(self, end: int) -> None:
        before, self._brk = self._brk, end
        if end < before:
            self._map.unmap(page_up(end), page_up(before))
        elif end > before:
            # The break is known from here on, or has grown.
            # perf_event_mmap runs before mm->brk grows, so on newer kernels (seen on 6.18)
            # the first piece of the heap is reported without its name
            mapped = self._map.at(end - 1)
            if before and (mapped is None or mapped.gone):  # the sideband's record was dropped
                start = page_up(before)
                self._map.put(Mapped(Region(start, page_up(end), "rw-p", 0, "[heap]"), 0, 0))
            elif (
                mapped is not None
                and not mapped.gone
                and mapped.region.name == "[anon]"
                and (before or mapped.region.end == page_up(end))
            ):
                heap = mapped.region._replace(name="[heap]")
                self._map.put(mapped._replace(region=heap, array=0))

    def _move(self, move: Move) -> None:
        if move.new == move.old:
            mapped = self._map.at(move.old)
            if move.new_size > move.old_size and mapped:
                start = mapped.region.start
                self._map.put(mapped.moved(start, move.new + move.new_size, start))
            self._map.unmap(move.old + move.new_size, move.old + move.old_size)
            return
        size = move.old_size or move.new_size  # 0: a second mapping of shared memory
        old_end, new_end = move.old + size, move.old + move.new_size
        shift = move.new - move.old
        pieces = self._map.within(move.old, old_end)
        if not move.keep:
            self._map.unmap(move.old, move.old + move.old_size)
        self._map.unmap(move.new, move.new + move.new_size)
        for start, end, mapped in pieces:
            end = new_end if end == old_end else min(end, new_end)
            if not mapped.gone and start < end:
                self._map.put(mapped.moved(start + shift, end + shift, start))


def perms_of(flags: int) -> str:
    """vm_flags as /proc/PID/maps shows them (fs/proc/task_mmu.c:show_vma_header_prefix)."""
    return (
        ("r" if flags & VM_READ else "-")
        + ("w" if flags & VM_WRITE else "-")
        + ("x" if flags & VM_EXEC else "-")
        + ("s" if flags & VM_MAYSHARE else "p")
    )


def _anonymous_name(mapped: Mapped | None, flags: int) -> str:
    if mapped and not mapped.is_file:
        return mapped.region.name
    return "[stack]" if flags & VM_GROWSDOWN else "[anon]"


def _fits(mapped: Mapped, vma: Vma) -> bool:
    """Whether `mapped` can be `vma` although their inodes differ.

    On overlayfs vm_file is the file of the layer below, and maps shows the
    inode of the overlay, which is on another device.
    """
    start, _, _, pgoff, device, _ = vma
    region = mapped.region
    same_place = region.offset - region.start == (pgoff << PAGE_SHIFT) - start
    return mapped.is_file and not mapped.gone and mapped.device != device and same_place


def _distinct_vmas(faults: Records, brought: Bools) -> tuple[list[Vma], Index]:
    """(the distinct mappings in the records, which of them is each fault's or -1)."""
    columns = [faults[name] for name in _VMA_FIELDS]
    if brought.all():
        chosen, which = _distinct(columns)
    else:
        columns = [column[brought] for column in columns]
        which = np.full(len(faults), -1, dtype=np.intp)
        chosen, which[brought] = _distinct(columns)
    distinct = zip(*(column[chosen].tolist() for column in columns), strict=True)
    return list(distinct), which


def _distinct(columns: list[U64]) -> tuple[Index, Index]:
    """(index of one of each distinct row, which of them each row is)."""
    heads = runs(*columns)  # faults close in time are mostly close in memory
    mixed = np.zeros(len(heads), dtype=np.uint64)
    for column in columns:
        mixed = (mixed ^ column[heads].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    _, first, inverse = np.unique(mixed, return_index=True, return_inverse=True)
    chosen = heads[first]
    if any((column[chosen][inverse] != column[heads]).any() for column in columns):
        chosen, inverse = heads, np.arange(len(heads))  # two rows mixed to one number
    return chosen, np.repeat(inverse, np.diff(heads, append=len(columns[0])))


def page_up(address: int) -> int:
    """`address` rounded up to a whole page."""
    return (address + PAGE_SIZE - 1) & -PAGE_SIZE
