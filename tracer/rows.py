"""The joined row: what we say of one fault.

Everything downstream of the timeline (console, CSV, summary) takes batches
of these. A batch is one numpy structured array of `ROW`, so nothing is done
per event in Python between the ring and the file. Strings are interned:
a row holds small integers into `Names`.
"""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

NO_FRAME = (1 << 64) - 1  # no physical address; 0 is a possible one
UNKNOWN_LATENCY = -1


class Kind(IntEnum):
    """What happened to the page. docs/csv.md holds the table that decides."""

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
    MIGRATION = 12  # waited for a page on the move
    SPURIOUS = 13  # nothing changed: another thread was first, or a stale TLB entry
    FAILED = 14  # SIGBUS, out of memory, poisoned
    SPECIAL = 15  # a frame without a struct page (VM_PFNMAP, vdso, vvar)


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
    REMOTE = 4  # another process reached into this memory


class Confirmed(IntEnum):
    FAULT = 0  # the fault alone says so: gone, changed or moved on before a snapshot
    BOTH = 1  # a later pagemap snapshot shows the same frame


ROW = np.dtype(
    [
        ("number", "<u8"),  # 1, 2, 3 … in order of completion within the run
        ("time_ns", "<i8"),  # CLOCK_MONOTONIC at completion
        ("pid", "<u4"),  # whose memory: the owner of the address space
        ("space", "<u4"),  # the address space, a small integer from 1
        ("tid", "<u4"),  # the thread that took the fault
        ("comm", "<u4"),  # index into Names.comms
        ("cpu", "<u4"),
        ("address", "<u8"),  # faulting virtual address
        ("access", "u1"),
        ("cause", "u1"),
        ("kind", "u1"),
        ("major", "?"),
        ("latency_ns", "<i8"),  # UNKNOWN_LATENCY where the entry was not seen
        ("frame", "<u8"),  # physical address after; NO_FRAME where none
        ("frame_before", "<u8"),
        ("pages", "<u4"),  # pages that gained a frame by this fault
        ("region", "<u4"),  # index into Names.regions
        ("ip", "<u8"),  # faulting instruction; 0 where there is none
        ("ip_region", "<u4"),  # the mapping the instruction is in; 0 unless symbols are wanted
        ("count", "<u8"),  # the thread's min_flt + maj_flt, this fault included; 0 where unknown
        ("confirmed", "u1"),
    ]
)

Rows = npt.NDArray[np.void]  # of dtype ROW


@dataclass(frozen=True, slots=True)
class Region:
    """A mapping as it was at a fault: half-open [start, end), offset in the file in bytes.

    `name` is the path, or "[heap]", "[stack]", "[vdso]", "[anon]", …; raw, not
    made printable. "" where no mapping is known.
    """

    start: int
    end: int
    perms: str
    offset: int
    name: str


NO_REGION = Region(0, 0, "", 0, "")


@dataclass
class Names:
    """Interned strings and regions, shared by all rows of a run. Index 0 is "unknown"."""

    comms: list[str] = field(default_factory=lambda: [""])
    regions: list[Region] = field(default_factory=lambda: [NO_REGION])
    _comm_ids: dict[str, int] = field(default_factory=lambda: {"": 0})
    _region_ids: dict[Region, int] = field(default_factory=lambda: {NO_REGION: 0})

    def comm(self, text: str) -> int:
        """The index of `text` in `comms`, added if new."""
        number = self._comm_ids.get(text)
        if number is None:
            number = self._comm_ids[text] = len(self.comms)
            self.comms.append(text)
        return number

    def region(self, region: Region) -> int:
        """The index of `region` in `regions`, added if new."""
        number = self._region_ids.get(region)
        if number is None:
            number = self._region_ids[region] = len(self.regions)
            self.regions.append(region)
        return number
