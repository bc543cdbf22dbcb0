"""Fault records to joined rows: each fault with its address space, mapping, kind and pages.

The road from the ring (bpf/record.h) to what is printed and written
(tracer/rows.py); also where the timeline learns of the faults.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from tracer import kinds
from tracer.kinds import Trait
from tracer.records import Mark
from tracer.rows import NO_FRAME, ROW, UNKNOWN_LATENCY, Access, Kind, Names, Region, Rows
from tracer.sources import Source
from tracer.spaces import Spaces
from tracer.timeline import Events, Timeline

Records = npt.NDArray[np.void]

_WINDOW = 16  # pages a window record shows (bpf/walk.h)
_HUGE = 512  # pages behind a PMD
_PAGE = ~np.uint64(4095)
_AROUND_KINDS = [Kind.FILE.value, Kind.SHMEM.value, Kind.HUGETLB.value]
_SPECIAL_NAMES = ("[vdso]", "[vsyscall]", "[uprobes]", "[timens]")
VVAR_NAMES = ("[vvar]", "[vvar_vclock]")
_SHARED_NAMELESS = Trait.KNOWN | Trait.SHARED  # no file, yet shared: kept by shmem
_SHMEM_NAMES = ("/memfd:", "/SYSV", "/dev/zero", "/dev/shm/", "[anon_shmem")


@dataclass
class Batch:
    """Rows, and what the timeline needs to know of their faults."""

    rows: Rows
    start_ns: npt.NDArray[np.int64]
    old: kinds.Entries
    parts: "_Parts"


@dataclass
class Join:
    """Turns batches of fault and window records into rows, in order."""

    names: Names
    spaces: Spaces
    timeline: Timeline
    zero_frame: int
    large_anon: bool = False  # the kernel may give anonymous memory several frames at once
    symbols: bool = False  # look up which mapping each instruction is in, too
    on_tmpfs: Callable[[str], bool] = lambda path: False  # whether a file's pages are shmem
    vvar_seen: bool = False  # pagemap shows [vvar]: it does since 6.16 or so, where it is no PFNMAP
    comms: dict[int, int] = field(default_factory=dict)  # tid -> index into names.comms
    stray: int = 0  # exceptions that were no page's fault: a SIGSEGV on its way (perf)
    _number: int = 0
    _traits: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(64, np.uint8))
    _known_regions: int = 0  # so many of them are set

    def describe(self, faults: Records, windows: Records) -> "Batch":
        """The rows of `faults` (fault_record), to which `windows` (window_record) belong.

        Both in the ring's order, with no lifecycle record between them. The rows
        come in order of time; how many pages each brought, and which were only
        lost races, `tell` adds. Exceptions that were no page's fault are left
        out and counted in `stray`.
        """
        order = np.argsort(faults["time_ns"], kind="stable")
        faults = faults[order]
        space, owner = self.spaces.resolve(faults)
        region = self.spaces.regions(space, faults)
        real = ~self._is_stray(faults, region)
        if not real.all():
            self.stray += int((~real).sum())
            faults, space, owner, region = faults[real], space[real], owner[real], region[real]
        traits = kinds.traits(faults, self._region_traits()[region])
        old, new = kinds.before(faults), kinds.after(faults)

        rows = np.zeros(len(faults), ROW)
        rows["number"] = self._number + 1 + np.arange(len(faults), dtype=np.uint64)
        self._number += len(faults)
        for name in ("time_ns", "tid", "cpu", "address", "ip", "count"):
            rows[name] = faults[name]
        rows["pid"], rows["space"], rows["region"] = owner, space, region
        rows["comm"] = self._comm_ids(faults["tid"])
        rows["access"] = kinds.access(faults)
        rows["cause"] = kinds.cause(faults, owner)
        rows["major"] = kinds.is_major(faults)
        rows["kind"] = kinds.decide(faults, old, new, traits, self.zero_frame)
        timed = (faults["marks"] & Mark.ENTRY) != 0
        # A failed exception (perf) has no completion of its own.
        timed &= faults["time_ns"] != faults["start_ns"]
        took = faults["time_ns"].astype(np.int64) - faults["start_ns"].astype(np.int64)
        rows["latency_ns"] = np.where(timed, took, UNKNOWN_LATENCY)
        if self.symbols:
            rows["ip_region"] = self.spaces.regions_at(space, faults["ip"], faults["time_ns"])
        rows["frame"] = new.frame
        rows["frame_before"] = old.frame
        seen = (traits & Trait.UNSEEN) == 0
        parts = self._parts(rows, faults["level_before"], old, new, windows, seen)
        return Batch(rows, _starts(faults), old, parts)

    # -- parts of a row -----------------------------------------------------------

    def _comm_ids(self, tids: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        distinct, inverse = np.unique(tids, return_inverse=True)
        ids = [self.comms.get(tid, 0) for tid in distinct.tolist()]
        return np.asarray(np.array(ids, np.uint32)[inverse])

    def _region_traits(self) -> npt.NDArray[np.uint8]:
        known, count = self._known_regions, len(self.names.regions)
        if count > len(self._traits):
            more = np.zeros(2 * count, np.uint8)
            more[:known] = self._traits[:known]
            self._traits = more
        for number in range(known, count):
            self._traits[number] = region_traits(
                self.names.regions[number], self.on_tmpfs, self.vvar_seen
            )
        self._known_regions = count
        return self._traits

    def _is_stray(self, faults: Records, region: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Exceptions (perf) outside every mapping or against its permissions: no page's fault."""
        failed = (faults["marks"] & (Mark.FAILED | Mark.ERRORCODE)) == Mark.FAILED | Mark.ERRORCODE
        stray = np.zeros(len(faults), np.bool_)
        if not failed.any():
            return stray
        access = kinds.access(faults)
        letters = {Access.WRITE: "w", Access.EXEC: "x"}
        for index in np.flatnonzero(failed).tolist():
            mapping = self.names.regions[int(region[index])]
            stray[index] = letters.get(Access(int(access[index])), "r") not in mapping.perms
        return stray

    # -- the timeline -----------------------------------------------------------

    def _parts(
        self,
        rows: Rows,
        level: npt.NDArray[np.uint8],
        old: kinds.Entries,
        new: kinds.Entries,
        windows: Records,
        seen: npt.NDArray[np.bool_],
    ) -> "_Parts":
        """The pages these faults touched, by row; a neighbour right after the fault's own."""
        told = np.flatnonzero((rows["kind"] != Kind.FAILED) & new.known & seen)
        own = _Parts(
            row=told,
            page=rows["address"][told] >> np.uint64(12),
            frame=new.frame[told],
            before=old.frame[told],
            absent=(old.known & ~old.present)[told],
            around=np.zeros(len(told), np.bool_),
        )
        along = self._brought_along(rows, _window_parts(rows, windows, old))
        parts = _concatenate([own, _huge_parts(rows, level, old, new), along])
        return parts.take(np.lexsort((parts.around, parts.row)))

    def tell(self, batch: "Batch", start: int, end: int) -> None:
        """Let the timeline know of the rows [start, end) of a batch, and them of what it says."""
        rows, old = batch.rows, batch.old
        first, last = np.searchsorted(batch.parts.row, (start, end)).tolist()
        parts = batch.parts.take(slice(first, last))
        spaces = rows["space"][parts.row]
        for space in np.unique(spaces).tolist():
            mine = parts.take(np.flatnonzero(spaces == space))
            row, around = mine.row, mine.around
            outcome = self.timeline.apply(
                space,
                Events(
                    page=mine.page,
                    start_ns=batch.start_ns[row],
                    time_ns=rows["time_ns"][row],
                    absent_before=mine.absent,
                    swapped_before=old.swap[row] & ~around,
                    frame_before=mine.before,
                    frame=mine.frame,
                    number=rows["number"][row],
                    kind=rows["kind"][row],
                    region=rows["region"][row],
                    source=np.where(around, Source.AROUND, Source.FAULT).astype(np.uint8),
                ),
            )
            np.add.at(rows["pages"], row[outcome.gained], 1)
            rows["kind"][row[outcome.raced]] = Kind.SPURIOUS

    def _brought_along(self, rows: Rows, parts: "_Parts") -> "_Parts":
        """The neighbours that a fault itself brought, without those other threads put there.

        Fault-around maps files only. Anonymous pages come along as parts of one
        large folio: their frames follow each other as their pages do.
        """
        mapped = np.isin(rows["kind"][parts.row], _AROUND_KINDS)
        if self.large_anon:
            own = rows["address"][parts.row] >> np.uint64(12)
            apart = (parts.page - own) << np.uint64(12)  # wraps for those below: so does the sum
            mapped |= parts.frame == (rows["frame"][parts.row] & _PAGE) + apart
        return parts.take(np.flatnonzero(mapped))


@dataclass
class _Parts:
    """Pages that faults touched: their own, and those that came along."""

    row: npt.NDArray[np.int64]
    page: npt.NDArray[np.uint64]
    frame: npt.NDArray[np.uint64]
    before: npt.NDArray[np.uint64]  # NO_FRAME where absent or not known
    absent: npt.NDArray[np.bool_]  # had no frame when the fault began
    around: npt.NDArray[np.bool_]  # came along

    def take(self, at: npt.NDArray[np.int64] | slice) -> "_Parts":
        return _Parts(*(getattr(self, each.name)[at] for each in fields(self)))


def _concatenate(parts: list[_Parts]) -> _Parts:
    if not any(len(part.row) for part in parts[1:]):
        return parts[0]
    return _Parts(
        *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(_Parts))
    )


def _starts(faults: Records) -> npt.NDArray[np.int64]:
    """When each fault began; its completion where the beginning was not seen."""
    start = np.where(faults["start_ns"] == 0, faults["time_ns"], faults["start_ns"])
    return start.astype(np.int64)


def _huge_parts(
    rows: Rows, level: npt.NDArray[np.uint8], old: kinds.Entries, new: kinds.Entries
) -> _Parts:
    """The other 511 pages of each huge page that a fault mapped; `level` is that of `old`."""
    fresh = new.huge & (old.frame != new.frame) & (rows["kind"] != Kind.FAILED)
    row = np.flatnonzero(fresh)
    number = np.arange(_HUGE, dtype=np.uint64)
    own = rows["address"][row] >> np.uint64(12)
    page = (own & ~np.uint64(_HUGE - 1))[:, None] + number
    base = ~np.uint64((1 << 21) - 1)
    inside = number << np.uint64(12)
    frame = (new.frame[row] & base)[:, None] + inside
    before = (old.frame[row] & base)[:, None] + inside
    before[~old.huge[row]] = NO_FRAME
    # No page table at all: all were absent. Of the pages behind one, only the fault's own is known.
    absent = old.known & ~old.present & (level >= 2)
    others = page != own[:, None]
    return _Parts(
        row=np.repeat(row, _HUGE - 1),
        page=page[others],
        frame=frame[others],
        before=before[others],
        absent=np.repeat(absent[row], _HUGE - 1),
        around=np.ones(len(row) * (_HUGE - 1), np.bool_),
    )


def _window_parts(rows: Rows, windows: Records, old: kinds.Entries) -> _Parts:
    """The neighbours each window shows present after its fault and absent before."""
    row = match_windows(rows, windows)
    # Where a huge page was split, or nothing is known, the mask of before is empty, not true.
    told = (row >= 0) & (old.known & ~old.huge)[row] if len(rows) else row >= 0
    windows, row = windows[told], row[told]
    seen = windows["seen"]
    fresh = ((seen >> np.uint64(16)) & ~seen & np.uint64(0xFFFF)).astype(np.uint32)
    own = rows["address"][row] >> np.uint64(12)
    number = np.arange(_WINDOW, dtype=np.uint64)
    page = (windows["address"] >> np.uint64(12))[:, None] + number
    chosen = ((fresh[:, None] >> number.astype(np.uint32)) & 1).astype(np.bool_)
    chosen &= page != own[:, None]
    levels = np.ones(chosen.sum(), np.uint8)
    found = kinds.entries(
        windows["entries"][chosen], levels, levels.astype(np.bool_), page[chosen] << np.uint64(12)
    )
    return _Parts(
        row=np.repeat(row, chosen.sum(axis=1)),
        page=page[chosen],
        frame=found.frame,
        before=np.full(len(levels), NO_FRAME, np.uint64),
        absent=np.ones(len(levels), np.bool_),
        around=np.ones(len(levels), np.bool_),
    )


def match_windows(faults: Records, windows: Records) -> npt.NDArray[np.int64]:
    """Which fault each window belongs to (same thread, same completion time); -1 where none.

    Takes fault records or rows, in any order.
    """
    result = np.full(len(windows), -1, np.int64)
    if not len(windows) or not len(faults):
        return result
    order = np.argsort(faults["time_ns"], kind="stable")
    times = faults["time_ns"].astype(np.int64)[order]
    wanted = windows["time_ns"].astype(np.int64)
    at = np.searchsorted(times, wanted)
    # Several threads may finish in the same nanosecond: look a few records on.
    for step in range(8):
        index = order[np.minimum(at + step, len(faults) - 1)]
        match = (faults["time_ns"][index].astype(np.int64) == wanted) & (
            faults["tid"][index] == windows["tid"]
        )
        result = np.where((result < 0) & match, index, result)
    return result


def region_traits(
    region: Region,
    on_tmpfs: Callable[[str], bool] = lambda path: False,
    vvar_seen: bool = False,
) -> Trait:
    """What a region's name and permissions tell of its pages (where the record itself does not).

    `vvar_seen`: pagemap shows [vvar] here.
    """
    if not region.perms:
        return Trait(0)
    traits = Trait.KNOWN
    if region.perms.endswith("s"):
        traits |= Trait.SHARED
    name = region.name
    if name in _SPECIAL_NAMES:
        traits |= Trait.SPECIAL
    if name in VVAR_NAMES:
        traits |= Trait.SPECIAL | (Trait(0) if vvar_seen else Trait.UNSEEN)
    if name.startswith(("/", "[inode ")):
        traits |= Trait.FILE
    if name.startswith(("/anon_hugepage", "/dev/hugepages/")):
        traits |= Trait.HUGETLB
    elif name.startswith(_SHMEM_NAMES) or on_tmpfs(name) or traits == _SHARED_NAMELESS:
        traits |= Trait.SHMEM | Trait.FILE
    return traits
