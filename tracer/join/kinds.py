"""Kind, access and cause of a fault, from the page-table entry before and after it.

Everything here is a pure function of the fault record and of the traits of
its mapping; docs/csv.md prints the table that `decide` implements, and
tests/unit/join/test_kinds.py goes through it row by row. x86-64 entry bits are those
of arch/x86/include/asm/pgtable_types.h, pgtable-invert.h and pgtable_64.h.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.fields import Records, repeated
from tracer.common.pages import NO_FRAME, PAGE_SIZE
from tracer.common.types import PAGE_BITS, U8, U32, U64, Bools, Index
from tracer.model.rows import Access, Cause, Kind
from tracer.wire.records import Mark
from tracer.wire.shared import (
    ERROR_CODE_USER,
    ERROR_CODE_WRITE,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    VM_FAULT_MAJOR,
    WINDOW_PAGES,
)

_PRESENT = np.uint16(0x001)
_WRITABLE = np.uint16(0x002)
_LEAF = np.uint16(0x080)
_DIRTY = np.uint64(0x040 | 1 << 58)  # the hardware's bit, or _PAGE_SAVED_DIRTY (since 6.6)
_PROTNONE = np.uint16(0x100)
_EITHER = _PRESENT | _PROTNONE
_SPECIAL = np.uint64(0x200)  # _PAGE_SPECIAL, arch/x86/include/asm/pgtable_types.h
_FRAME = np.uint64(0x000FFFFFFFFFF000)
_TABLE_PAGES = 512
_NO_FRAME = np.uint64(NO_FRAME)

# Swap-like entries: the type is the top five bits (arch/x86/include/asm/pgtable_64.h).
# Real swap areas come first (MAX_SWAPFILES is 22 at least); then migration, poison, markers.
_TYPE_SHIFT = np.uint64(59)
_SPECIAL_TYPES = np.uint64(22)
_MARKER_TYPES = np.uint64(30)
_MARKER_OFFSETS = np.uint64(16)

# Looking up an enum member takes longer than arithmetic on a small array.
_BEFORE, _AFTER = np.uint8(Mark.BEFORE), np.uint8(Mark.AFTER)
_ENTRY, _MAPPING = np.uint8(Mark.ENTRY), np.uint8(Mark.MAPPING)
_FAILED, _FOREIGN = np.uint8(Mark.FAILED), np.uint8(Mark.FOREIGN)
_ERRORCODE = np.uint8(Mark.ERRORCODE)

# include/linux/mm.h, include/linux/mm_types.h
_FLAG_INSTRUCTION, _FLAG_UNSHARE, _ERROR_INSTRUCTION = 0x100, 0x400, 0x10

_ALIKE_FROM = 64  # for so few or fewer, checking whether they are alike does not pay
_DECISIVE = (
    *("marks", "flags", "mm", "tgid", "current_mm", "ip", "entry_before", "level_before"),
    *("level_after", "result", "calls", "vm_flags", "magic", "inode"),
)
_VM_SHARED, _VM_UFFD_MISSING, _VM_PFNMAP, _VM_HUGETLB = 0x8, 0x200, 0x400, 0x400000
_TMPFS_MAGIC, _HUGETLBFS_MAGIC = 0x01021994, 0x958458F6


class Trait(IntFlag):
    """Properties of a mapping that decide a fault's kind."""

    KNOWN = 0x01  # the mapping is known
    FILE = 0x02  # backed by a file, or by an unnamed one (memfd, shared anonymous)
    SHMEM = 0x04  # … of tmpfs
    SHARED = 0x08
    HUGETLB = 0x10
    SPECIAL = 0x20  # [vdso], [vvar], VM_PFNMAP: frames without ordinary pages
    UNSEEN = 0x40  # … and pagemap omits the mapping (VM_PFNMAP, fs/proc/task_mmu.c)
    UFFD = 0x80  # registered with userfaultfd in missing mode


@dataclass(frozen=True)
class Judged:
    """What faults did; arrays of one length, read-only where all of them are alike."""

    old: "Entries"
    new: "Entries"
    access: U8
    cause: U8
    major: Bools
    kind: U8


@dataclass(frozen=True)
class Entries:
    """Decoded page-table entries; arrays of one length."""

    known: Bools
    present: Bools  # to the kernel: PROT_NONE and NUMA hints included
    protnone: Bools
    writable: Bools
    dirty: Bools
    huge: Bools  # mapped by a PMD or PUD
    swap: Bools
    migration: Bools
    frame: U64  # physical address of the page's frame, NO_FRAME where not present


def judge(faults: Records, owner: U32, traits: U8, zero_frame: int) -> Judged:
    """What each fault did; `owner` is the process of its address space, `traits` as `traits`.

    Successive faults are mostly alike in all but their frames: then one is judged for all.
    """
    if len(faults) > _ALIKE_FROM and _alike(faults, owner, traits):
        frame = faults["entry_after"] & _FRAME
        one = _judge(faults[:1], owner[:1], traits[:1], zero_frame)
        other, zero = frame != one.old.frame, frame == np.uint64(zero_frame)
        if all(each[0] == each[-1] and (each == each[0]).all() for each in (other, zero)):
            return _repeated(one, frame)
    return _judge(faults, owner, traits, zero_frame)


def _judge(faults: Records, owner: U32, traits: U8, zero_frame: int) -> Judged:
    old, new = before(faults), after(faults)
    kind = decide(faults, old, new, traits, zero_frame)
    return Judged(old, new, access(faults), cause(faults, owner), is_major(faults), kind)


def _alike(faults: Records, *others: npt.NDArray[Any]) -> bool:
    """Whether they agree in all that decides here, except for a small page's frame."""
    if faults["level_before"][0] > 1 or faults["level_after"][0] > 1:
        return False
    bits = faults["entry_after"] & ~_FRAME
    if not bits[0] & np.uint64(_PRESENT):
        return False
    decisive = (*others, *(faults[name] for name in _DECISIVE), bits)
    return all(each[0] == each[-1] and bool((each == each[0]).all()) for each in decisive)


def _repeated(one: Judged, frame: U64) -> Judged:
    """`one`, repeated for each of the frames."""

    def repeat(of: object) -> dict[str, Any]:
        return {
            name: repeated(value, len(frame))
            for name, value in vars(of).items()
            if isinstance(value, np.ndarray)
        }

    old, new = Entries(**repeat(one.old)), Entries(**repeat(one.new) | {"frame": frame})
    return Judged(old=old, new=new, **repeat(one))


def filled(records: Records, zero_frame: int) -> tuple[Index, U64, U64]:
    """Decode FILLED records (bpf/shared.h): the record's index, page number and frame.

    In the order of the records. Without frames that have no struct page (remap_pfn_range() marks
    these special, see vm_normal_page() in mm/memory.c; the zero page is special, too): pagemap
    does not show them.
    """
    rows, pages, frames = np.empty(0, np.intp), np.empty(0, np.uint64), np.empty(0, np.uint64)
    for level, size in ((1, WINDOW_PAGES), (2, _TABLE_PAGES)):
        mine = np.flatnonzero(records["level"] == level)
        if not len(mine):
            continue
        number, seen = np.arange(size, dtype=np.uint64), records["seen"][mine, None]
        inside = (number >= seen & np.uint64(0xFFFF)) & (number < seen >> np.uint64(16))
        row, at = np.nonzero(inside)
        row = mine[row]
        raw = records["entries"][row, at if level == 1 else 0]
        address = records["address"][row] + (number[at] << PAGE_BITS)
        levels, known = np.full(len(raw), level, np.uint8), np.ones(len(raw), np.bool_)
        found = entries(raw, levels, known, address)
        there = found.present & (found.frame != _NO_FRAME)
        special = raw & _SPECIAL != 0
        if level == 1:
            special &= found.frame != np.uint64(zero_frame)
        there &= ~special
        rows = np.append(rows, row[there])
        pages = np.append(pages, address[there] >> PAGE_BITS)
        frames = np.append(frames, found.frame[there])
    order = np.argsort(rows, kind="stable")
    return rows[order], pages[order], frames[order]


def entries(raw: U64, level: U8, known: Bools, address: U64) -> Entries:
    """Decode raw entries found at `level` (1 PTE, 2 PMD, 3 PUD) for the page at `address`."""
    some = raw != 0
    if not some.any():
        return _nothing(known)
    bits = raw.astype(np.uint16)  # the flags at the lower end
    high = level >= 2
    leaf = (level == 1) | ((bits & _LEAF) != 0)
    hardware = (bits & _PRESENT) != 0
    # The entry of a huge page being split is invalid briefly; only the leaf bit is left.
    present = known & leaf & (((bits & _EITHER) != 0) | (high & some))
    protnone = present & ~hardware & ((bits & _PROTNONE) != 0)
    absent = known & ~present & some & (level <= 2) & ~hardware
    swap, migration = _absent(raw, absent)
    return Entries(
        known=known,
        present=present,
        protnone=protnone,
        writable=present & ((bits & _WRITABLE) != 0),
        dirty=present & ((raw & _DIRTY) != 0),
        huge=present & high,
        swap=swap,
        migration=migration,
        frame=_frames(raw, level, hardware, present, address),
    )


def _nothing(known: Bools) -> Entries:
    """Entries that are all empty."""
    no = np.zeros(len(known), np.bool_)
    frame = np.full(len(known), _NO_FRAME)
    return Entries(known, no, no, no, no, no, no, no, frame)


def _absent(raw: U64, absent: Bools) -> tuple[Bools, Bools]:
    """Which of the non-present entries are swap entries, and which migration entries."""
    if not absent.any():
        return absent, absent
    kind = raw >> _TYPE_SHIFT
    offset = (~raw << np.uint64(5)) >> np.uint64(14)
    marker = absent & (kind >= _MARKER_TYPES) & (offset < _MARKER_OFFSETS)
    return absent & (kind < _SPECIAL_TYPES), absent & (kind >= _SPECIAL_TYPES) & ~marker


def _frames(raw: U64, level: U8, hardware: Bools, present: Bools, address: U64) -> U64:
    """The physical address of each page's frame, NO_FRAME where not present."""
    frame = raw & _FRAME
    # A non-zero entry without the present bit keeps its frame inverted (L1TF).
    inverted = present & ~hardware
    if inverted.any():
        frame[inverted] = ~raw[inverted] & _FRAME
    for size, at in ((1 << 21, level == 2), (1 << 30, level == 3)):
        at &= present
        if at.any():
            below = np.uint64(size - PAGE_SIZE)
            frame[at] = (frame[at] & ~below) | (address[at] & below)
    if not present.all():
        frame[~present] = _NO_FRAME
    return frame


def before(faults: Records) -> Entries:
    """The entries as they were when the faults began."""
    known = (faults["marks"] & _BEFORE) != 0
    return entries(faults["entry_before"], faults["level_before"], known, faults["address"])


def after(faults: Records) -> Entries:
    """The entries as the faults left them."""
    known = (faults["marks"] & _AFTER) != 0
    return entries(faults["entry_after"], faults["level_after"], known, faults["address"])


def _flags(faults: Records, error: int, flag: int) -> Bools:
    """Whether each has the bits `error` in an x86 error code, or `flag` in fault_flag bits."""
    code, flags = (faults["marks"] & _ERRORCODE) != 0, faults["flags"]
    if code.all():
        return np.asarray((flags & error) != 0)
    if not code.any():
        return np.asarray((flags & flag) != 0)
    return np.asarray(np.where(code, flags & error, flags & flag) != 0)


def access(faults: Records) -> U8:
    """rows.Access of each fault, from fault_flag bits or the x86 error code."""
    return _first_that_holds(
        [
            ((faults["marks"] & _ENTRY) == 0, Access.UNKNOWN),
            (_flags(faults, ERROR_CODE_WRITE, FAULT_FLAG_WRITE), Access.WRITE),
            (_flags(faults, _ERROR_INSTRUCTION, _FLAG_INSTRUCTION), Access.EXEC),
        ],
        Access.READ,
    )


def cause(faults: Records, owner: U32) -> U8:
    """rows.Cause of each fault; `owner` is the process each address space belongs to."""
    marks, ip = faults["marks"], faults["ip"]
    user = _flags(faults, ERROR_CODE_USER, FAULT_FLAG_USER)
    blind = (marks & _ENTRY) == 0
    if blind.any():
        # A completion without its entry (perf) has no flags: the instruction's address decides.
        user = user | (blind & (ip != 0) & (ip >> np.uint64(63) == 0))
    other = (faults["mm"] != faults["current_mm"]) & (faults["tgid"] != owner)
    remote = other | ((marks & _FOREIGN) != 0)
    return _first_that_holds(
        [(remote, Cause.REMOTE), (ip == 0, Cause.POPULATE), (user, Cause.USER)], Cause.KERNEL
    )


def _first_that_holds(rules: Sequence[tuple[Bools, IntEnum]], otherwise: IntEnum) -> U8:
    """For each row, the value of the first rule that holds."""
    result = np.full(len(rules[0][0]), otherwise, np.uint8)
    for rule, value in reversed(rules):  # the first rule is applied last, and so wins
        if rule.any():
            result[rule] = value
    return result


def is_major(faults: Records) -> Bools:
    """Whether the kernel counts it in maj_flt: it waited for I/O, or was retried."""
    return np.asarray((faults["result"] & VM_FAULT_MAJOR) != 0)


def traits(faults: Records, by_region: U8) -> U8:
    """Trait bits of each fault's mapping: the record's own vm_* fields, else the region's.

    `by_region` has the traits from the region's name and permissions. Only names
    identify [vdso] and the like, so SPECIAL is taken from both.
    """
    mapped = (faults["marks"] & _MAPPING) != 0
    if not mapped.any():
        return by_region
    flags, magic = faults["vm_flags"].astype(np.uint32), faults["magic"]  # bits below 32 only
    own = by_region & np.uint8(Trait.SPECIAL)
    for rule, given in (
        (faults["inode"] != 0, Trait.FILE),
        (magic == _TMPFS_MAGIC, Trait.SHMEM),
        ((flags & _VM_SHARED) != 0, Trait.SHARED),
        (((flags & _VM_HUGETLB) != 0) | (magic == _HUGETLBFS_MAGIC), Trait.HUGETLB),
        ((flags & _VM_PFNMAP) != 0, Trait.SPECIAL | Trait.UNSEEN),
        ((flags & _VM_UFFD_MISSING) != 0, Trait.UFFD),
    ):
        own |= rule.view(np.uint8) * np.uint8(given)
    own |= np.uint8(Trait.KNOWN)
    return own if mapped.all() else np.where(mapped, own, by_region)


def decide(faults: Records, old: Entries, new: Entries, traits: U8, zero_frame: int) -> U8:
    """rows.Kind of each fault, from this record alone (a lost race shows in the timeline).

    The first rule that holds decides; docs/csv.md has the same rules in the
    same order.
    """
    write = _flags(faults, ERROR_CODE_WRITE, FAULT_FLAG_WRITE) & ((faults["marks"] & _ENTRY) != 0)
    failed = (faults["marks"] & _FAILED) != 0
    code = (faults["marks"] & _ERRORCODE) != 0
    # A page is copied for a write, and for reading it through a long-term pin.
    copies = write | (~code & ((faults["flags"] & _FLAG_UNSHARE) != 0))

    def has(trait: Trait) -> Bools:
        return np.asarray((traits & trait) != 0)

    file, shared = has(Trait.FILE), has(Trait.SHARED)
    # Pages in the page cache do not go to userfaultfd. (perf cannot distinguish that.)
    waited = code | (faults["calls"] > 1)
    changed = old.frame != new.frame
    # A write to a writable page does not fault: it was gone when the fault was handled.
    released = old.writable & ~old.protnone & changed & write
    fresh = ~old.present & ~old.swap & ~old.migration | released
    # The huge zero page is mapped clean; any other anonymous huge page dirty
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
        (fresh & has(Trait.UFFD) & (~file | waited), Kind.UFFD),
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
    return _first_that_holds(rules, Kind.SPURIOUS)
