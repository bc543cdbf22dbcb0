"""What a fault did, read off the page-table entry before and after it.

Everything here is a pure function of the fault record and of the traits of
its mapping; docs/csv.md prints the table that `decide` implements, and
tests/unit/test_kinds.py goes through it row by row. x86-64 entry bits are those
of arch/x86/include/asm/pgtable_types.h, pgtable-invert.h and pgtable_64.h.
"""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from tracer.records import Mark
from tracer.rows import NO_FRAME, Access, Cause, Kind

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_PRESENT = np.uint64(0x001)
_WRITABLE = np.uint64(0x002)
_LEAF = np.uint64(0x080)
_DIRTY = np.uint64(0x040 | 1 << 58)  # the hardware's bit, or _PAGE_SAVED_DIRTY (since 6.6)
_PROTNONE = np.uint64(0x100)
_EITHER = _PRESENT | _PROTNONE
_FRAME = np.uint64(0x000FFFFFFFFFF000)
_NO_FRAME = np.uint64(NO_FRAME)

# Swap-like entries: the type is the top five bits (arch/x86/include/asm/pgtable_64.h).
# Real swap areas come first (MAX_SWAPFILES is 22 at least); then migration, poison, markers.
_TYPE_SHIFT = np.uint64(59)
_SPECIAL_TYPES = np.uint64(22)
_MARKER_TYPES = np.uint64(30)
_MARKER_OFFSETS = np.uint64(16)

# include/linux/mm.h, include/linux/mm_types.h
_FLAG_WRITE, _FLAG_USER, _FLAG_INSTRUCTION, _FLAG_UNSHARE = 0x1, 0x40, 0x100, 0x400
_ERROR_WRITE, _ERROR_USER, _ERROR_INSTRUCTION = 0x2, 0x4, 0x10
_MAJOR = 0x4
_VM_SHARED, _VM_PFNMAP, _VM_HUGETLB = 0x8, 0x400, 0x400000
_TMPFS_MAGIC, _HUGETLBFS_MAGIC = 0x01021994, 0x958458F6


class Trait(IntFlag):
    """What a mapping is, as far as it decides a fault's kind."""

    KNOWN = 0x01  # which mapping it was is known at all
    FILE = 0x02  # backed by a file, or by an unnamed one (memfd, shared anonymous)
    SHMEM = 0x04  # … of tmpfs
    SHARED = 0x08
    HUGETLB = 0x10
    SPECIAL = 0x20  # [vdso], [vvar], VM_PFNMAP: frames that are no ordinary pages
    UNSEEN = 0x40  # … and pagemap leaves the mapping out (VM_PFNMAP, fs/proc/task_mmu.c)


@dataclass(frozen=True)
class Entries:
    """Raw page-table entries taken apart; arrays of one length."""

    known: Bools
    present: Bools  # to the kernel: PROT_NONE and NUMA hints included
    protnone: Bools
    writable: Bools
    dirty: Bools
    huge: Bools  # mapped by a PMD or PUD
    swap: Bools
    migration: Bools
    frame: U64  # physical address of the page's frame, NO_FRAME where not present


def entries(raw: U64, level: npt.NDArray[np.uint8], known: Bools, address: U64) -> Entries:
    """Take apart raw entries found at `level` (1 PTE, 2 PMD, 3 PUD) for the page at `address`."""
    leaf = (level == 1) | ((raw & _LEAF) != 0)
    # A huge page that is being split is invalid for a moment; only the leaf bit is left.
    present = known & leaf & (((raw & _EITHER) != 0) | ((level >= 2) & (raw != 0)))
    hardware = (raw & _PRESENT) != 0
    protnone = present & ~hardware & ((raw & _PROTNONE) != 0)
    # A non-zero entry without the present bit keeps its frame inverted (L1TF).
    bits = np.where(hardware, raw, ~raw) & _FRAME
    below = np.select(
        [level == 2, level == 3],
        [np.uint64((1 << 21) - 4096), np.uint64((1 << 30) - 4096)],
        np.uint64(0),
    )
    frame = np.where(present, (bits & ~below) | (address & below), _NO_FRAME)
    absent = known & ~present & (raw != 0) & (level <= 2) & ((raw & _PRESENT) == 0)
    kind = raw >> _TYPE_SHIFT
    offset = (~raw << np.uint64(5)) >> np.uint64(14)
    marker = absent & (kind >= _MARKER_TYPES) & (offset < _MARKER_OFFSETS)
    return Entries(
        known=known,
        present=present,
        protnone=protnone,
        writable=present & ((raw & _WRITABLE) != 0),
        dirty=present & ((raw & _DIRTY) != 0),
        huge=present & (level >= 2),
        swap=absent & (kind < _SPECIAL_TYPES),
        migration=absent & (kind >= _SPECIAL_TYPES) & ~marker,
        frame=frame,
    )


def before(faults: npt.NDArray[np.void]) -> Entries:
    """The entries as they were when the faults began."""
    known = (faults["marks"] & Mark.BEFORE) != 0
    return entries(faults["entry_before"], faults["level_before"], known, faults["address"])


def after(faults: npt.NDArray[np.void]) -> Entries:
    """The entries as the faults left them."""
    known = (faults["marks"] & Mark.AFTER) != 0
    return entries(faults["entry_after"], faults["level_after"], known, faults["address"])


def access(faults: npt.NDArray[np.void]) -> npt.NDArray[np.uint8]:
    """rows.Access of each fault, from fault_flag bits or the x86 error code."""
    marks, flags = faults["marks"], faults["flags"]
    code = (marks & Mark.ERRORCODE) != 0
    write = np.where(code, flags & _ERROR_WRITE, flags & _FLAG_WRITE) != 0
    fetch = np.where(code, flags & _ERROR_INSTRUCTION, flags & _FLAG_INSTRUCTION) != 0
    seen = (marks & Mark.ENTRY) != 0
    return np.select(
        [~seen, write, fetch], [Access.UNKNOWN, Access.WRITE, Access.EXEC], Access.READ
    ).astype(np.uint8)


def cause(faults: npt.NDArray[np.void], owner: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """rows.Cause of each fault; `owner` is the process each address space belongs to."""
    marks, flags = faults["marks"], faults["flags"]
    code = (marks & Mark.ERRORCODE) != 0
    user = np.where(code, flags & _ERROR_USER, flags & _FLAG_USER) != 0
    # A completion without its entry (perf) has no flags: the instruction's address tells.
    user |= ((marks & Mark.ENTRY) == 0) & (faults["ip"] != 0) & (faults["ip"] >> np.uint64(63) == 0)
    other = (faults["mm"] != faults["current_mm"]) & (faults["tgid"] != owner)
    remote = other | ((marks & Mark.FOREIGN) != 0)
    return np.select(
        [remote, faults["ip"] == 0, user], [Cause.REMOTE, Cause.POPULATE, Cause.USER], Cause.KERNEL
    ).astype(np.uint8)


def is_major(faults: npt.NDArray[np.void]) -> Bools:
    """Whether the kernel had to wait for I/O (VM_FAULT_MAJOR on any call)."""
    return np.asarray((faults["result"] & _MAJOR) != 0)


def traits(faults: npt.NDArray[np.void], by_region: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Trait bits of each fault's mapping: the record's own vm_* fields, else the region's.

    `by_region` holds the traits the region's name and permissions give. Names
    alone tell [vdso] and its like, so SPECIAL is taken from both.
    """
    flags = faults["vm_flags"]
    shmem = faults["magic"] == _TMPFS_MAGIC
    own = np.full(len(faults), Trait.KNOWN, np.uint8)
    own |= np.where(faults["inode"] != 0, Trait.FILE, 0).astype(np.uint8)
    own |= np.where(shmem, Trait.SHMEM, 0).astype(np.uint8)
    own |= np.where(flags & _VM_SHARED, Trait.SHARED, 0).astype(np.uint8)
    huge = (flags & _VM_HUGETLB) | (faults["magic"] == _HUGETLBFS_MAGIC)
    own |= np.where(huge, Trait.HUGETLB, 0).astype(np.uint8)
    unseen = np.uint8(Trait.SPECIAL | Trait.UNSEEN)
    own |= np.where(flags & _VM_PFNMAP, unseen, 0).astype(np.uint8)
    own |= by_region & np.uint8(Trait.SPECIAL)
    mapped = (faults["marks"] & Mark.MAPPING) != 0
    return np.where(mapped, own, by_region).astype(np.uint8)


def decide(
    faults: npt.NDArray[np.void],
    old: Entries,
    new: Entries,
    traits: npt.NDArray[np.uint8],
    zero_frame: int,
) -> npt.NDArray[np.uint8]:
    """rows.Kind of each fault, from this record alone (a lost race is the timeline's to see).

    The first rule that holds decides; docs/csv.md has the same rules in the
    same order.
    """
    write = access(faults) == Access.WRITE
    failed = (faults["marks"] & Mark.FAILED) != 0
    code = (faults["marks"] & Mark.ERRORCODE) != 0
    # A page is copied for a write, and for reading it through a long-term pin.
    copies = write | (~code & ((faults["flags"] & _FLAG_UNSHARE) != 0))

    def has(trait: Trait) -> Bools:
        return np.asarray((traits & trait) != 0)

    file, shared = has(Trait.FILE), has(Trait.SHARED)
    fresh = ~old.present & ~old.swap & ~old.migration
    changed = old.frame != new.frame
    # The huge zero page is mapped clean; a huge page of one's own is dirty from the start
    # (do_huge_pmd_anonymous_page(), mm/huge_memory.c).
    huge_zero = new.huge & ~new.writable & ~new.dirty & has(Trait.KNOWN) & ~file
    upgraded = ~old.writable & new.writable
    rules: list[tuple[Bools, Kind]] = [
        (failed, Kind.FAILED),
        (has(Trait.HUGETLB), Kind.HUGETLB),
        (~old.known | ~new.known, Kind.UNKNOWN),
        (~new.present & old.migration, Kind.MIGRATION),
        (~new.present, Kind.SPURIOUS),
        (fresh & has(Trait.SPECIAL), Kind.SPECIAL),
        (fresh & (new.frame == np.uint64(zero_frame)), Kind.ZERO),
        (fresh & huge_zero, Kind.ZERO),
        (fresh & file & ~shared & write, Kind.COW),
        (fresh & new.huge, Kind.HUGE),
        (fresh & has(Trait.SHMEM), Kind.SHMEM),
        (fresh & file, Kind.FILE),
        (fresh & has(Trait.KNOWN), Kind.ANON),
        (fresh, Kind.UNKNOWN),
        (old.swap, Kind.SWAP),
        (old.migration, Kind.MIGRATION),
        (old.protnone & ~new.protnone, Kind.NUMA),
        (changed & copies, Kind.COW),
        (upgraded & write & shared & file, Kind.MKWRITE),
        (upgraded & write, Kind.REUSE),
    ]
    return np.select(
        [rule for rule, _ in rules], [kind.value for _, kind in rules], Kind.SPURIOUS.value
    ).astype(np.uint8)
