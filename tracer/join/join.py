"""Fault records to joined rows: each fault with its address space, mapping, kind and pages.

The path from the ring (bpf/shared.h) to what is printed and written
(tracer/model/rows.py); also prepares the faults for the timeline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tracer.common.fields import FEW, Columns, Records
from tracer.common.pages import PAGE_SIZE
from tracer.common.types import I64, PAGE_BITS, U8, U32, U64, Bools, Index, Structs
from tracer.join import kinds
from tracer.join.kinds import Trait
from tracer.join.neighbours import contiguous_pages, huge_pages, window_pages, zero_pages
from tracer.model.rows import (
    UNKNOWN_LATENCY,
    Access,
    Kind,
    Names,
    Region,
    Rows,
)
from tracer.procfs import kpageflags
from tracer.procfs.system import FileSystems
from tracer.spaces.spaces import Spaces
from tracer.spaces.userfaults import Userfaults
from tracer.timeline.schedule import Schedule, TouchedPages, concatenate
from tracer.timeline.timeline import Timeline
from tracer.wire.records import Mark
from tracer.wire.shared import VM_FAULT_SIGSEGV, WINDOW_CONTIGUOUS

if TYPE_CHECKING:
    from tracer.callstacks.stacks import Stacks


_ENTRY = np.uint8(Mark.ENTRY)
_PRESENT = 0x101  # in an entry: to the CPU, or to the kernel alone (PROT_NONE)
_PAGE = ~np.uint64(PAGE_SIZE - 1)
_AROUND_KINDS = [Kind.FILE.value, Kind.SHMEM.value, Kind.HUGETLB.value]
_SPECIAL_NAMES = ("[vdso]", "[vsyscall]", "[uprobes]", "[timens]")
VVAR_NAMES = ("[vvar]", "[vvar_vclock]")
_SHARED_NAMELESS = Trait.KNOWN | Trait.SHARED  # shared without a file: shmem
_SHMEM_NAMES = ("/memfd:", "/SYSV", "/dev/zero", "/dev/shm/", "[anon_shmem")


@dataclass
class Placed:
    """Fault records in order, with the address space and mapping of each at its time."""

    faults: Columns
    space: U32
    owner: U32
    region: U32
    shift: U64  # Region.shift of the mapping
    comm: U32

    def select(self, at: Bools) -> "Placed":
        return Placed(*(getattr(self, each.name)[at] for each in fields(self)))


@dataclass(frozen=True)
class Renamed:
    """Before the fault `at` of some, in ring order, the thread `tid` had the name `comm`."""

    at: int
    tid: int
    comm: int


class Placing:
    """A batch's faults while they become `Placed`; `len` is how many there are.

    The space of each has to be looked up before the next lifecycle record is followed; its
    mapping only before a fork or exec changes the space's history, and looking up many at
    once costs less.
    """

    def __init__(self, join: "Join") -> None:
        self._join = join
        self._parts: list[Placed] = []  # their regions and shifts 0 until looked up
        self._looked_up = np.empty(0, np.bool_)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, faults: Columns, renamed: Sequence[Renamed] = ()) -> U64:
        """Add faults in ring order with no lifecycle record between them except RENAME.

        They are sorted by time; returns the time of each.
        """
        comm = self._join.comm_ids(faults["tid"])
        for name in reversed(renamed):
            comm[: name.at][faults["tid"][: name.at] == name.tid] = name.comm
        times = faults["time_ns"]
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            faults, comm, times = faults[order], comm[order], times[order]
        space, owner = self._join.spaces.resolve(faults)
        none = np.zeros((2, len(faults)), np.uint64)
        self._parts.append(Placed(faults, space, owner, none[0].astype(np.uint32), none[1], comm))
        self._count += len(faults)
        return times

    def settle(self, numbers: list[int]) -> None:
        """Look up the mappings of the faults so far in these spaces."""
        so_far = self._so_far()
        if so_far is not None:
            chosen = ~self._looked_up & np.isin(so_far.space, numbers)
            self._look_up(so_far, np.flatnonzero(chosen))

    def placed(self) -> Placed:
        """All of them, at least one, with their mappings."""
        so_far = self._so_far()
        assert so_far is not None
        if self._looked_up.any():
            self._look_up(so_far, np.flatnonzero(~self._looked_up))
        else:
            region, so_far.shift = self._join.spaces.places(so_far.space, so_far.faults)
            so_far.region = region.astype(np.uint32)
        return so_far

    def _look_up(self, placed: Placed, at: Index) -> None:
        if len(at):
            found = self._join.spaces.places(placed.space[at], placed.faults[at])
            placed.region[at], placed.shift[at] = found
            self._looked_up[at] = True

    def _so_far(self) -> Placed | None:
        if len(self._parts) > 1:
            ids = ("space", "owner", "region", "shift", "comm")
            together = Placed(
                Columns.together([part.faults for part in self._parts]),
                *(np.concatenate([getattr(part, name) for part in self._parts]) for name in ids),
            )
            self._parts = [together]
        more = np.zeros(self._count - len(self._looked_up), np.bool_)
        self._looked_up = np.append(self._looked_up, more)
        return self._parts[0] if self._parts else None


@dataclass
class Batch:
    """Rows, and the pages in them."""

    rows: Rows
    kept: I64 | None  # rows made of so many of the first faults; None: all
    schedule: Schedule

    def row_at(self, faults: int) -> int:
        """How many rows the first `faults` faults have."""
        return faults if self.kept is None else int(self.kept[faults])


@dataclass
class Join:
    """Turns batches of fault and window records into rows, in order."""

    names: Names
    spaces: Spaces
    timeline: Timeline
    zero_frame: int
    large_anon: bool = False  # anonymous memory may have large folios
    symbols: bool = False  # look up which mapping each instruction is in, too
    stacks: "Stacks | None" = None  # … and which call stack each fault has
    file_systems: FileSystems = field(default_factory=FileSystems)
    vvar_seen: bool = False  # pagemap shows [vvar]: since 6.16 or so, where it is no PFNMAP
    userfaults: Userfaults = field(default_factory=Userfaults)
    are_zero: Callable[[U64], Bools] = kpageflags.are_zero
    comms: dict[int, int] = field(default_factory=dict)  # tid -> index into names.comms
    stray: int = 0  # exceptions that are no page fault: a SIGSEGV follows (perf)
    _number: int = 0
    _traits: U8 = field(default_factory=lambda: np.zeros(64, np.uint8))
    _known_regions: int = 0  # so many of them are set

    def place(self, faults: Records) -> Placed:
        """Look up spaces and mappings of `faults` (fault_record), before the next lifecycle record.

        They come in ring order, with no lifecycle record between them, and are
        sorted by time.
        """
        placing = Placing(self)
        placing.add(Columns.of(faults))
        return placing.placed()

    def describe(self, placed: Placed, windows: Structs) -> Batch:
        """The rows of faults, to which `windows` (window_record) belong.

        The batch's `schedule` adds how many pages each mapped, and which were
        spurious. Exceptions that are no page fault are left out and counted in
        `stray`.
        """
        kept = None
        real = ~self._is_stray(placed.faults, placed.region)
        if not real.all():
            self.stray += int((~real).sum())
            kept = np.r_[0, np.cumsum(real)]
            placed = placed.select(real)
        faults, space, region = placed.faults, placed.space, placed.region
        traits = kinds.traits(faults, self._region_traits()[region])
        # By the record's own flags if it has them, else by the registered ranges.
        registered = self.userfaults.hold(space, faults["address"], faults["time_ns"])
        registered &= (faults["marks"] & Mark.MAPPING) == 0
        traits[registered] |= np.uint8(Trait.UFFD)
        found = kinds.judge(faults, placed.owner, traits, self.zero_frame)
        old, new = found.old, found.new

        times = faults["time_ns"].view(np.int64)
        first = self._number + 1
        self._number += len(faults)
        columns: dict[str, npt.NDArray[Any]] = {
            "number": np.arange(first, first + len(faults), dtype=np.uint64),
            "time_ns": times,
            **{name: faults[name] for name in ("tid", "cpu", "address", "ip", "count")},
            **{"pid": placed.owner, "space": space, "region": region, "comm": placed.comm},
            "offset": (faults["address"] & _PAGE) + placed.shift,
            **{name: getattr(found, name) for name in ("access", "cause", "major", "kind")},
            "latency_ns": _latencies(faults, times),
            **{"frame": new.frame, "frame_before": old.frame},
        }
        if self.symbols:
            ip_region, ip_shift = self.spaces.places_at(space, faults["ip"], times)
            columns |= {"ip_region": ip_region, "ip_offset": faults["ip"] + ip_shift}
        if self.stacks is not None:
            columns["stack"] = self.stacks.numbers(faults, space)
        rows = Rows.of(columns)
        seen = (traits & Trait.UNSEEN) == 0
        of_file = (traits & Trait.FILE) != 0
        touched = self._touched(rows, faults, old, new, windows, seen, of_file)
        return Batch(
            rows, kept, Schedule(self.timeline, rows, columns, touched, _starts(faults), old.swap)
        )

    # -- columns of rows, and the pages they touched -------------------------------

    def comm_ids(self, tids: U32) -> U32:
        """Each thread's comm now: indices into names.comms, in a new array."""
        if len(tids) <= FEW:
            return np.array([self.comms.get(tid, 0) for tid in tids.tolist()], np.uint32)
        if (tids == tids[0]).all():
            return np.full(len(tids), self.comms.get(int(tids[0]), 0), np.uint32)
        distinct, inverse = np.unique(tids, return_inverse=True)
        ids = [self.comms.get(tid, 0) for tid in distinct.tolist()]
        return np.asarray(np.array(ids, np.uint32)[inverse])

    def _region_traits(self) -> U8:
        known, count = self._known_regions, len(self.names.regions)
        if count > len(self._traits):
            more = np.zeros(2 * count, np.uint8)
            more[:known] = self._traits[:known]
            self._traits = more
        for number in range(known, count):
            region = self.names.regions[number]
            pids = (space.owner for space in self.spaces.alive())
            kind = self.file_systems.of(region.device, pids)
            self._traits[number] = region_traits(region, kind, self.vvar_seen)
        self._known_regions = count
        return self._traits

    def _is_stray(self, faults: Records, region: U32) -> Bools:
        """Exceptions (perf) outside every mapping or against its permissions: no page fault.

        Other threads may have changed the mappings at that moment; a SIGSEGV is certain, unless
        a marker in the page table (MADV_GUARD_INSTALL) caused it.
        """
        failed = (faults["marks"] & (Mark.FAILED | Mark.ERRORCODE)) == Mark.FAILED | Mark.ERRORCODE
        stray = np.zeros(len(faults), np.bool_)
        if not failed.any():
            return stray
        access = kinds.access(faults)
        letters = {Access.WRITE: "w", Access.EXEC: "x"}
        for index in np.flatnonzero(failed).tolist():
            mapping = self.names.regions[int(region[index])]
            stray[index] = letters.get(Access(int(access[index])), "r") not in mapping.perms
        entry = faults["entry_before"]
        marker = (entry != 0) & (entry & np.uint64(_PRESENT) == 0)
        stray |= failed & (faults["result"] & VM_FAULT_SIGSEGV != 0) & ~marker
        return stray

    # -- the timeline -----------------------------------------------------------

    def _touched(
        self,
        rows: Rows,
        faults: Columns,
        old: kinds.Entries,
        new: kinds.Entries,
        windows: Structs,
        seen: Bools,
        of_file: Bools,
    ) -> TouchedPages:
        """The pages these faults touched, by row; neighbours right after the fault's own."""
        known = (rows["kind"] != Kind.FAILED) & new.known & seen
        own = TouchedPages(
            row=np.arange(len(rows)),
            page=faults["address"] >> PAGE_BITS,
            frame=new.frame,
            before=old.frame,
            absent=old.known & ~old.present,
            around=np.zeros(len(rows), np.bool_),
        )
        if not known.all():
            own = own.select(np.flatnonzero(known))
        others: list[TouchedPages] = []
        if old.huge.any() or new.huge.any():
            # A write to the huge zero page may split it: the zero page in all other entries.
            split = old.huge & ~new.huge & new.present & ~old.writable & ~old.dirty & ~of_file
            at = np.flatnonzero(split)
            at = at[self.are_zero(old.frame[at])]  # another huge page may look the same (MADV_FREE)
            zeros = zero_pages(rows, at, old, self.zero_frame)
            others += [huge_pages(rows, faults["level_before"], old, new), zeros]
        if len(windows):
            contiguous = (windows["marks"] & WINDOW_CONTIGUOUS) != 0
            along = window_pages(rows, windows[~contiguous], old)
            further = contiguous_pages(rows, windows[contiguous])
            others += [self._brought_along(rows, part) for part in (along, further)]
        if not any(len(part.row) for part in others):
            return own
        touched = concatenate([own, *others])
        return touched.select(np.lexsort((touched.around, touched.row)))

    def _brought_along(self, rows: Rows, touched: TouchedPages) -> TouchedPages:
        """The neighbours that a fault itself mapped, without those other threads mapped.

        Fault-around maps files only. Anonymous neighbours are of one large folio:
        their frames are contiguous, as their pages are.
        """
        mapped = np.isin(rows["kind"][touched.row], _AROUND_KINDS)
        if self.large_anon:
            own = rows["address"][touched.row] >> PAGE_BITS
            apart = (touched.page - own) << PAGE_BITS  # wraps for those below: so does the sum
            mapped |= touched.frame == (rows["frame"][touched.row] & _PAGE) + apart
        return touched.select(np.flatnonzero(mapped))


def _latencies(faults: Columns, times: I64) -> I64:
    """Latency of each fault in ns, UNKNOWN_LATENCY where that is not known."""
    took: I64 = times - faults["start_ns"].view(np.int64)
    # A failed exception (perf) has no completion of its own.
    untimed = ((faults["marks"] & _ENTRY) == 0) | (took == 0)
    if untimed.any():
        took[untimed] = UNKNOWN_LATENCY
    return took


def _starts(faults: Columns) -> I64:
    """When each fault began; when it completed where the beginning was not seen."""
    start = faults["start_ns"]
    if not start.all():
        start = np.where(start == 0, faults["time_ns"], start)
    return start.view(np.int64)


def region_traits(
    region: Region,
    file_system: str = "",
    vvar_seen: bool = False,
) -> Trait:
    """The traits that a region's name and permissions imply (where the record has none).

    `file_system` is the type of its file's file system, "" where that is not known;
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
    if file_system == "hugetlbfs" or name.startswith(("/anon_hugepage", "/dev/hugepages/")):
        traits |= Trait.HUGETLB
    elif (
        file_system in ("tmpfs", "devtmpfs")
        or name.startswith(_SHMEM_NAMES)
        or traits == _SHARED_NAMELESS
    ):
        traits |= Trait.SHMEM | Trait.FILE
    return traits
