"""The row of a fault: its record, joined with its mapping and what it did to the page.

Everything downstream of the timeline (console, CSV, summary) takes batches
of these. A batch is one numpy structured array of `ROW`, so nothing is done
per event in Python between the ring and the file. Strings are interned:
a row holds small integers into `Names`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from tracer.common.fields import Picked, repeated
from tracer.common.types import Structs

UNKNOWN_LATENCY = -1


class Kind(IntEnum):
    """What the fault did to the page; docs/csv.md has the table of rules."""

    UNKNOWN = 0
    ANON = 1  # a new zeroed page of its own
    ZERO = 2  # the shared zero page (or huge zero page)
    COW = 3  # a private copy in place of a shared page
    REUSE = 4  # made writable in place, no copy needed
    FILE = 5  # a page-cache page
    MKWRITE = 6  # a shared file page made writable
    SHMEM = 7  # a page of tmpfs, memfd or shared anonymous memory
    SWAP = 8  # back from swap
    HUGE = 9  # a PMD-mapped transparent huge page
    HUGETLB = 10
    NUMA = 11  # a NUMA-balancing hint
    MIGRATION = 12  # waited for a page under migration
    SPURIOUS = 13  # nothing changed: another thread was first, or a stale TLB entry
    FAILED = 14  # SIGBUS, out of memory, poisoned
    SPECIAL = 15  # a frame without a struct page (VM_PFNMAP, vdso, vvar)
    UFFD = 16  # waited for a page supplied through userfaultfd


class Access(IntEnum):
    UNKNOWN = 0
    READ = 1
    WRITE = 2
    EXEC = 3


class Cause(IntEnum):
    UNKNOWN = 0
    USER = 1  # an instruction of the program
    KERNEL = 2  # copy_to_user and its like, inside a system call
    POPULATE = 3  # mlock, MAP_POPULATE, get_user_pages on its own memory
    REMOTE = 4  # another process accessed this memory


class Confirmed(IntEnum):
    FAULT = 0  # the fault alone: unmapped, replaced or moved before a snapshot
    BOTH = 1  # a later pagemap snapshot shows the same frame


ROW = np.dtype(
    [
        ("number", "<u8"),  # 1, 2, 3 … in order of completion within the run
        ("time_ns", "<i8"),  # CLOCK_MONOTONIC at completion
        ("address", "<u8"),  # faulting virtual address
        ("latency_ns", "<i8"),  # UNKNOWN_LATENCY where the entry was not seen
        ("frame", "<u8"),  # physical address after; NO_FRAME where none
        ("frame_before", "<u8"),
        ("offset", "<u8"),  # the page's offset in the file its region maps, in bytes
        ("ip", "<u8"),  # faulting instruction; 0 where there is none
        ("ip_offset", "<u8"),  # its offset in what is mapped there; without meaning for ip_region 0
        ("count", "<u8"),  # the thread's min_flt + maj_flt, this fault included; 0 where unknown
        ("pid", "<u4"),  # whose memory: the owner of the address space
        ("space", "<u4"),  # the address space, a small integer from 1
        ("tid", "<u4"),  # the thread that took the fault
        ("comm", "<u4"),  # index into Names.comms
        ("cpu", "<u4"),
        ("pages", "<u4"),  # pages that gained a frame by this fault
        ("region", "<u4"),  # index into Names.regions
        ("ip_region", "<u4"),  # the mapping the instruction is in; 0 unless symbols are requested
        (
            "stack",
            "<u4",
        ),  # the call stack's number (tracer.callstacks.stacks); 0: none, unknown, not requested
        ("access", "u1"),
        ("cause", "u1"),
        ("kind", "u1"),
        ("major", "?"),
        ("confirmed", "u1"),
    ]
)

_FIELDS = {name: np.dtype(kind) for name, (kind, *_) in (ROW.fields or {}).items()}
_WRITTEN = ("kind", "pages", "confirmed")  # filled in after the row is made
_NOTHING = np.zeros(1, np.uint64)


RowRecords = Structs  # of dtype ROW: for reading a few rows one by one


class Rows:
    """Rows (ROW) by column: `rows["tid"]` is an array, `rows[5]` one row of dtype ROW,
    `rows[slice, mask or indices]` are some of them.

    A column that is the same in all rows has one value, at a stride of 0 (`alike`). Only "kind",
    "pages" and "confirmed" may be written to; slices share their columns with what they are of.
    """

    def __init__(self, columns: Mapping[str, npt.NDArray[Any]], count: int) -> None:
        self._columns = columns
        self._count = count

    @classmethod
    def of(cls, columns: Mapping[str, npt.NDArray[Any]]) -> "Rows":
        """Rows from arrays of equal length, by column; columns not given are 0.

        Arrays that are views are copied: rows may outlive the buffers behind them.
        """
        count = len(next(iter(columns.values())))
        made = {}
        for name, kind in _FIELDS.items():
            given = columns.get(name)
            if name in _WRITTEN:
                made[name] = np.zeros(count, kind) if given is None else np.array(given, kind)
            elif given is None:
                made[name] = repeated(_NOTHING.astype(kind), count)
            elif (
                count
                and given[0] == given[-1]
                and (not given.strides[0] or (given == given[0]).all())
            ):
                made[name] = repeated(given[:1].astype(kind), count)
            else:
                own = given.base is None and given.dtype == kind
                made[name] = given if own else np.array(given, kind)
        return cls(made, count)

    @classmethod
    def from_records(cls, records: RowRecords) -> "Rows":
        """A structured array of dtype ROW by column, not copied."""
        return cls({name: records[name] for name in _FIELDS}, len(records))

    @classmethod
    def together(cls, parts: "Sequence[Rows]") -> "Rows":
        """The parts concatenated."""
        every = {name: np.concatenate([part[name] for part in parts]) for name in _FIELDS}
        return cls.of(every)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: str) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, at: int) -> np.void: ...
    @overload
    def __getitem__(self, at: Picked) -> "Rows": ...

    def __getitem__(self, at: "str | int | Picked") -> "npt.NDArray[Any] | np.void | Rows":
        if isinstance(at, str):
            return self._columns[at]
        if isinstance(at, int):
            row: np.void = np.array([tuple(each[at] for each in self._columns.values())], ROW)[0]
            return row
        picked = {name: column[at] for name, column in self._columns.items()}
        return Rows(picked, len(picked["number"]))

    def records(self) -> RowRecords:
        """A structured array of dtype ROW."""
        records = np.empty(self._count, ROW)
        for name, column in self._columns.items():
            records[name] = column
        return records


class Region(NamedTuple):
    """A mapping as it was at a fault: half-open [start, end), offset in the file in bytes.

    `name` is the path, or "[heap]", "[stack]", "[vdso]", "[anon]", …; raw, not
    made printable. "" where no mapping is known. All numbers are 0 where the
    region stands for many mappings (Names.fold).
    """

    start: int
    end: int
    perms: str
    offset: int
    name: str
    device: int = 0  # the file system's, where one is mapped
    file: int = 0  # of code to be symbolized: which file it is (tracer.spaces.code_files)

    @property
    def shift(self) -> int:
        """What to add to an address for its file offset, modulo 2**64."""
        return (self.offset - self.start) % (1 << 64)


NO_REGION = Region(0, 0, "", 0, "")
# Names shared by many mappings: private, and shared (mm/shmem.c:shmem_zero_setup)
ANONYMOUS = ("[anon]", "/dev/zero (deleted)")
MOST_ARRAYS = 4096  # mappings of one name that are distinguished in a run
THREAD_STACKS = "thread stacks"  # the label of those that are threads' stacks


@dataclass
class Names:
    """Interned strings and regions, shared by all rows of a run. Index 0 is "unknown".

    `fold`: mappings are distinguished by name, file and permissions only, their addresses
    and offsets are 0: a program that maps and unmaps for hours, or starts others,
    each with its libraries elsewhere, would exhaust our memory otherwise. A fault's
    offset in its mapping is in its row.

    `arrays`: what distinguishes mappings of one name in tables, in words; a
    region's number into it is in `array_of`, where it is not 0 (tracer.spaces.arrays).
    Those in `stacks` are threads' stacks; of those in `whole` nothing that adjoins is a part.
    """

    comms: list[str] = field(default_factory=lambda: [""])
    regions: list[Region] = field(default_factory=lambda: [NO_REGION])
    fold: bool = False
    arrays: list[str] = field(default_factory=lambda: [""])
    array_of: dict[int, int] = field(default_factory=dict)
    stacks: set[int] = field(default_factory=set)
    whole: set[int] = field(default_factory=set)
    _comm_ids: dict[str, int] = field(default_factory=lambda: {"": 0})
    _region_ids: dict[tuple[Region, int], int] = field(default_factory=lambda: {(NO_REGION, 0): 0})
    _folded_ids: dict[tuple[str, str, int, int, int], int] = field(default_factory=dict)
    _arrays_after: dict[str, int] = field(default_factory=dict)

    def comm(self, text: str) -> int:
        """The index of `text` in `comms`, added if new."""
        number = self._comm_ids.get(text)
        if number is None:
            number = self._comm_ids[text] = len(self.comms)
            self.comms.append(text)
        return number

    def array_at(self, address: int, *, whole: bool = False) -> int:
        """A number for a mapping that begins at `address`; 0 where there are too many."""
        number = self._array(f"{address:#x}")
        if number and whole:
            self.whole.add(number)
        return number

    def array_after(self, file: str) -> int:
        """The number of anonymous memory that begins where `file` ends, as .bss does."""
        number = self._arrays_after.get(file)
        if number is None:
            number = self._array(f"after {file.rpartition('/')[2]}")
            if number:
                self._arrays_after[file] = number
        return number

    def name_stack(self, array: int) -> None:
        """Record that a mapping is a thread's stack."""
        self.stacks.add(array)
        self.whole.add(array)
        self.arrays[array] = THREAD_STACKS

    def by_address(self, array: int) -> bool:
        """Whether a number stands for a mapping of which only the address is known."""
        return self.arrays[array].startswith("0x")

    @property
    def full(self) -> bool:
        """Whether there are no more numbers of mappings."""
        return len(self.arrays) > MOST_ARRAYS

    def _array(self, words: str) -> int:
        if self.full:
            return 0
        self.arrays.append(words)
        return len(self.arrays) - 1

    def region(self, region: Region, array: int = 0) -> int:
        """The index of `region` in `regions`, added if new; of several alike that of `array`."""
        if self.fold and region.end:
            # Called for each mapping whenever another changes: what is left of it is looked up.
            folded = region.perms, region.name, region.device, region.file, array
            known = self._folded_ids.get(folded)
            if known is None:
                bare = region._replace(start=0, end=0, offset=0)
                known = self._folded_ids[folded] = self.region(bare, array)
            return known
        number = self._region_ids.get((region, array))
        if number is None:
            number = self._region_ids[region, array] = len(self.regions)
            self.regions.append(region)
            if array:
                self.array_of[number] = array
        return number
