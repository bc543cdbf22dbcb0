"""What a fault did, row by row of the table in docs/csv.md, and the parts it is decided by."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.faults_data import (
    ALL,
    LEAF,
    PRESENT,
    PROTNONE,
    WRITABLE,
    faults,
    inverted,
    pte,
    swap_entry,
)
from tracer.common.pages import NO_FRAME
from tracer.join import kinds
from tracer.join.kinds import Trait
from tracer.model.rows import Access, Cause, Kind
from tracer.wire.records import Mark

DOC = (Path(__file__).parents[3] / "docs" / "csv.md").read_text()
ZERO_FRAME = 0x0123_4000
F, G = 0x2866_4D000, 0x3186_03000
DIRTY, SAVED_DIRTY, ACCESSED, NX = 0x040, 1 << 58, 0x020, 1 << 63
HUGE = 0x8_4020_0000  # a frame aligned to 2 MiB
WRITE_FLAG, USER_FLAG, FETCH_FLAG, REMOTE_FLAG, UNSHARE_FLAG = 0x1, 0x40, 0x100, 0x80, 0x400
WRITE_CODE, USER_CODE, FETCH_CODE = 0x2, 0x4, 0x10
MIGRATION, MARKER, DEVICE = swap_entry(25, F >> 12), swap_entry(31, 1), swap_entry(28, F >> 12)

ANONYMOUS = Trait.KNOWN
PRIVATE_FILE = Trait.KNOWN | Trait.FILE
SHARED_FILE = PRIVATE_FILE | Trait.SHARED
PRIVATE_SHMEM = PRIVATE_FILE | Trait.SHMEM
SHMEM = SHARED_FILE | Trait.SHMEM
HUGETLB = SHARED_FILE | Trait.HUGETLB
SPECIAL = Trait.KNOWN | Trait.SPECIAL
NOWHERE = Trait(0)

READ, WRITE = "read", "write"


def decided(
    old: int | None,
    new: int | None,
    traits: Trait,
    access: str,
    level: int = 1,
    address: int = 0x7F03141A2000,
    **fields: Any,
) -> Kind:
    """The kind of one fault, by the fault_flag bits of fentry and by perf's error code alike."""
    marks = Mark.ENTRY | Mark(0)
    if old is not None:
        marks |= Mark.BEFORE
    if new is not None:
        marks |= Mark.AFTER
    marks |= fields.pop("marks", 0)
    levels = {"level_before": level, "level_after": level, **fields}
    made = faults(1, address=address, entry_before=old or 0, entry_after=new or 0, **levels)
    answers = []
    for more, flags in ((Mark(0), WRITE_FLAG), (Mark.ERRORCODE, WRITE_CODE)):
        made["marks"] = marks | more
        if "flags" not in fields:
            made["flags"] = flags if access == WRITE else 0
        answers.append(
            kinds.decide(
                made,
                kinds.before(made),
                kinds.after(made),
                np.array([traits], np.uint8),
                ZERO_FRAME,
            )[0]
        )
        if "flags" in fields:
            break
    assert len(set(answers)) == 1
    return Kind(answers[0])


@dataclass(frozen=True)
class Case:
    rule: int  # the table's row
    kind: Kind
    old: int | None
    new: int | None
    traits: Trait
    access: str = READ
    level: int = 1
    more: tuple[tuple[str, Any], ...] = ()


RO, RW = pte(F), pte(F, PRESENT | WRITABLE)
HUGE_RO = HUGE | PRESENT | LEAF
HUGE_RW = HUGE_RO | WRITABLE | DIRTY
FAILED = (("marks", Mark.FAILED),)

CASES = [
    Case(1, Kind.FAILED, 0, 0, ANONYMOUS, more=FAILED),
    Case(1, Kind.FAILED, 0, RW, HUGETLB, WRITE, more=FAILED),
    Case(1, Kind.FAILED, None, None, NOWHERE, more=FAILED),
    Case(2, Kind.HUGETLB, 0, HUGE_RW, HUGETLB, WRITE, 2),
    Case(2, Kind.HUGETLB, 0, HUGE_RW, HUGETLB, WRITE, 3),
    Case(2, Kind.HUGETLB, HUGE_RO, HUGE_RW, HUGETLB, WRITE, 2),
    Case(2, Kind.HUGETLB, None, None, HUGETLB),
    Case(3, Kind.UNKNOWN, 0, None, ANONYMOUS, WRITE),
    Case(3, Kind.UNKNOWN, None, RW, ANONYMOUS, WRITE),
    Case(3, Kind.UNKNOWN, None, pte(ZERO_FRAME), ANONYMOUS),
    Case(3, Kind.UNKNOWN, None, None, SPECIAL),
    Case(4, Kind.MIGRATION, MIGRATION, 0, ANONYMOUS),
    Case(4, Kind.MIGRATION, MIGRATION, MIGRATION, SHARED_FILE, WRITE),
    Case(4, Kind.MIGRATION, MIGRATION, MIGRATION, ANONYMOUS, WRITE, 2),
    Case(5, Kind.SPURIOUS, 0, 0, ANONYMOUS),
    Case(5, Kind.SPURIOUS, 0, 0, SHARED_FILE, level=2),
    Case(5, Kind.SPURIOUS, RO, 0, PRIVATE_FILE, WRITE),
    Case(5, Kind.SPURIOUS, swap_entry(0, 77), swap_entry(0, 77), ANONYMOUS),
    Case(6, Kind.SPECIAL, 0, RO, SPECIAL),
    Case(6, Kind.SPECIAL, 0, RW, SPECIAL | Trait.UNSEEN | Trait.SHARED | Trait.FILE, WRITE),
    Case(7, Kind.UFFD, 0, RW, ANONYMOUS | Trait.UFFD, WRITE),
    Case(7, Kind.UFFD, 0, pte(ZERO_FRAME), ANONYMOUS | Trait.UFFD),
    Case(7, Kind.UFFD, 0, RW, SHMEM | Trait.UFFD, WRITE, more=(("calls", 2), ("flags", 1))),
    Case(8, Kind.ZERO, 0, pte(ZERO_FRAME), ANONYMOUS),
    Case(8, Kind.ZERO, 0, pte(ZERO_FRAME, PRESENT | ACCESSED | NX), ANONYMOUS),
    Case(8, Kind.ZERO, 0, pte(ZERO_FRAME), NOWHERE),
    Case(8, Kind.ZERO, MARKER, pte(ZERO_FRAME), ANONYMOUS),
    Case(9, Kind.ZERO, 0, HUGE_RO, ANONYMOUS, level=2),
    Case(9, Kind.ZERO, 0, HUGE_RO | ACCESSED | NX, ANONYMOUS, level=2),
    Case(10, Kind.COW, 0, RW, PRIVATE_FILE, WRITE),
    Case(10, Kind.COW, 0, RW, PRIVATE_SHMEM, WRITE),
    Case(10, Kind.COW, MARKER, RW, PRIVATE_FILE, WRITE),
    Case(11, Kind.HUGE, 0, HUGE_RW, ANONYMOUS, WRITE, 2),
    Case(11, Kind.HUGE, 0, HUGE_RW, ANONYMOUS, READ, 2),
    Case(11, Kind.HUGE, 0, HUGE_RO | DIRTY, ANONYMOUS, READ, 2),
    Case(11, Kind.HUGE, 0, HUGE_RO | SAVED_DIRTY, ANONYMOUS, READ, 2),
    Case(11, Kind.HUGE, 0, HUGE_RO, PRIVATE_FILE, READ, 2),
    Case(11, Kind.HUGE, 0, HUGE_RW, SHMEM, WRITE, 2),
    Case(11, Kind.HUGE, 0, HUGE_RO, NOWHERE, READ, 2),
    Case(12, Kind.SHMEM, 0, RO, SHMEM),
    Case(12, Kind.SHMEM, 0, RW, SHMEM, WRITE),
    Case(12, Kind.SHMEM, 0, RO, PRIVATE_SHMEM),
    Case(13, Kind.FILE, 0, RO, PRIVATE_FILE),
    Case(13, Kind.FILE, 0, RO, SHARED_FILE),
    Case(13, Kind.FILE, 0, RW, SHARED_FILE, WRITE),
    Case(14, Kind.ANON, 0, RW, ANONYMOUS, WRITE),
    Case(14, Kind.ANON, 0, RW, ANONYMOUS, READ),
    Case(14, Kind.ANON, MARKER, RW, ANONYMOUS, WRITE),
    Case(14, Kind.ANON, RW, pte(G, PRESENT | WRITABLE), ANONYMOUS, WRITE),
    Case(15, Kind.UNKNOWN, 0, RW, NOWHERE, WRITE),
    Case(15, Kind.UNKNOWN, 0, RO, NOWHERE),
    Case(16, Kind.SWAP, swap_entry(0, 77), RW, ANONYMOUS, WRITE),
    Case(16, Kind.SWAP, swap_entry(3, 1 << 34), RO, ANONYMOUS),
    Case(16, Kind.SWAP, swap_entry(21, 0), RO, NOWHERE),
    Case(17, Kind.MIGRATION, MIGRATION, RW, ANONYMOUS, WRITE),
    Case(17, Kind.MIGRATION, DEVICE, RO, ANONYMOUS),
    Case(18, Kind.NUMA, inverted(F, PROTNONE), RO, ANONYMOUS),
    Case(18, Kind.NUMA, inverted(F, PROTNONE), pte(G), SHARED_FILE),
    Case(18, Kind.NUMA, inverted(HUGE, PROTNONE | LEAF), HUGE_RW, ANONYMOUS, WRITE, 2),
    Case(19, Kind.COW, pte(ZERO_FRAME), RW, ANONYMOUS, WRITE),
    Case(19, Kind.COW, RO, pte(G, PRESENT | WRITABLE), PRIVATE_FILE, WRITE),
    Case(19, Kind.COW, RO, pte(G), PRIVATE_FILE, more=(("flags", UNSHARE_FLAG),)),
    Case(19, Kind.COW, HUGE_RO, (HUGE + (1 << 21)) | 0x0C3, ANONYMOUS, WRITE, 2),
    Case(20, Kind.MKWRITE, RO, RW, SHARED_FILE, WRITE),
    Case(20, Kind.MKWRITE, RO, RW, SHMEM, WRITE),
    Case(21, Kind.REUSE, RO, RW, ANONYMOUS, WRITE),
    Case(21, Kind.REUSE, RO, RW, PRIVATE_FILE, WRITE),
    Case(21, Kind.REUSE, HUGE_RO | DIRTY, HUGE_RW, ANONYMOUS, WRITE, 2),
    Case(21, Kind.REUSE, RO, RW, NOWHERE, WRITE),
    Case(22, Kind.SPURIOUS, RW, RW, ANONYMOUS, WRITE),
    Case(22, Kind.SPURIOUS, RO, RO, PRIVATE_FILE),
    Case(22, Kind.SPURIOUS, RO, pte(G), ANONYMOUS),
    Case(22, Kind.SPURIOUS, RO, RW, ANONYMOUS),
    Case(22, Kind.SPURIOUS, inverted(F, PROTNONE), inverted(F, PROTNONE), ANONYMOUS),
    # Split under way: present to the kernel though the hardware's bit is off.
    Case(22, Kind.SPURIOUS, inverted(HUGE, LEAF), HUGE_RW, ANONYMOUS, READ, 2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.kind.name.lower()}")
def test_each_row_of_the_table(case: Case) -> None:
    got = decided(case.old, case.new, case.traits, case.access, case.level, **dict(case.more))
    assert got == case.kind


def documented_rules() -> list[tuple[int, str]]:
    section = DOC.split("## How `kind` is decided")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \|.*\| `(\w+)` \|$|^\| (\d+) \|.*\| empty \|$", section, re.M)
    return [(int(one or two), kind or "unknown") for one, kind, two in rows]


def test_the_documented_table_is_the_tested_one() -> None:
    tested = sorted({(case.rule, case.kind.name.lower()) for case in CASES})
    assert documented_rules() == tested


def test_the_docs_list_every_kind_and_no_other() -> None:
    section = DOC.split("## How `kind` is decided")[1].split("\n## ")[0]
    listed = re.findall(r"^\* `(\w+)`: ", section, re.M)
    assert listed == [kind.name.lower() for kind in Kind if kind != Kind.UNKNOWN]


def test_every_kind_can_be_decided() -> None:
    assert {case.kind for case in CASES} == set(Kind)


# -- entries -------------------------------------------------------------------


def decoded(raw: int, level: int = 1, address: int = 0x7F03141A2000) -> dict[str, Any]:
    found = kinds.entries(
        np.array([raw], np.uint64),
        np.array([level], np.uint8),
        np.array([True]),
        np.array([address], np.uint64),
    )
    return {name: getattr(found, name)[0] for name in vars(found)}


def test_a_present_entry_has_its_frame() -> None:
    found = decoded(pte(F, PRESENT | WRITABLE | DIRTY | NX | 0x7 << 52))
    assert found["present"]
    assert found["writable"]
    assert found["dirty"]
    assert not any(found[name] for name in ("huge", "swap", "migration", "protnone"))
    assert found["frame"] == F


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_an_empty_entry_has_no_frame(level: int) -> None:
    found = decoded(0, level)
    assert found["known"]
    assert not any(found[name] for name in ("present", "swap", "migration", "huge"))
    assert found["frame"] == NO_FRAME


@pytest.mark.parametrize(("level", "size"), [(2, 1 << 21), (3, 1 << 30)], ids=["2 MiB", "1 GiB"])
def test_a_huge_leaf_gives_the_page_its_own_frame(level: int, size: int) -> None:
    """The page's place within the huge page is added, the attribute bits below are not."""
    base = 0x40 * size
    pat = 1 << 12  # _PAGE_PAT_LARGE
    address = 5 * size + size - 4096
    found = decoded(base | pat | PRESENT | LEAF, level, address)
    assert found["present"]
    assert found["huge"]
    assert found["frame"] == base + size - 4096


@pytest.mark.parametrize("level", [2, 3, 4, 5])
def test_a_table_is_no_page(level: int) -> None:
    found = decoded(F | PRESENT | WRITABLE | 0x4 | ACCESSED | DIRTY, level)
    assert not any(found[name] for name in ("present", "huge", "swap", "migration"))


def test_prot_none_frames_are_inverted() -> None:
    found = decoded(inverted(F, PROTNONE))
    assert found["present"]
    assert found["protnone"]
    assert found["frame"] == F


def test_prot_none_huge_frames_are_inverted() -> None:
    found = decoded(inverted(HUGE, PROTNONE | LEAF), 2, address=3 << 12)
    assert found["protnone"]
    assert found["huge"]
    assert found["frame"] == HUGE + 0x3000


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 21), st.integers(0, (1 << 40) - 1), st.integers(0, 7), st.booleans())
def test_swap_entries_are_swap(kind: int, offset: int, low: int, at_pmd: bool) -> None:
    """Whatever the offset, and the soft-dirty, uffd-wp and exclusive bits (1 to 3)."""
    raw = swap_entry(kind, offset) | low << 1
    if raw == 0:
        return
    found = decoded(raw, 2 if at_pmd else 1)
    assert found["swap"]
    assert not any(found[name] for name in ("present", "migration"))
    assert found["frame"] == NO_FRAME


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(23, 29), st.integers(16, (1 << 40) - 1))
def test_migration_and_its_like_are_not_swap(kind: int, offset: int) -> None:
    found = decoded(swap_entry(kind, offset))
    assert found["migration"]
    assert not any(found[name] for name in ("swap", "present"))


@pytest.mark.parametrize("offset", [1, 2, 4])
@pytest.mark.parametrize("kind", [30, 31])
def test_markers_are_as_good_as_empty(kind: int, offset: int) -> None:
    found = decoded(swap_entry(kind, offset))
    assert not any(found[name] for name in ("swap", "migration", "present"))


def test_the_guard_marker_is_as_good_as_empty() -> None:
    """MADV_GUARD_INSTALL: pagemap shows 0x9f, which is type 31 with offset 4."""
    raw = swap_entry(31, 4)
    assert raw >> 59 | 4 << 5 == 0x9F
    assert not any(decoded(raw)[name] for name in ("present", "swap", "migration"))


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, ALL), st.integers(0, 5), st.booleans(), st.integers(0, (1 << 47) - 1))
def test_any_bits_are_one_thing_at_most(raw: int, level: int, known: bool, address: int) -> None:
    found = kinds.entries(
        np.array([raw], np.uint64),
        np.array([level], np.uint8),
        np.array([known]),
        np.array([address], np.uint64),
    )
    states = [bool(getattr(found, name)[0]) for name in ("present", "swap", "migration")]
    assert sum(states) <= int(known)
    assert (found.frame[0] != NO_FRAME) == states[0]
    if not states[0]:
        traits = ("protnone", "writable", "huge", "dirty")
        assert not any(getattr(found, name)[0] for name in traits)


def test_what_is_not_known_is_nothing() -> None:
    made = faults(1, entry_before=RW, level_before=1, entry_after=RW, level_after=1)
    assert not kinds.before(made).present[0]
    assert kinds.after(made).frame[0] == NO_FRAME


# -- access, cause, major ----------------------------------------------------------


@pytest.mark.parametrize(
    ("marks", "flags", "access"),
    [
        (Mark.ENTRY, 0, Access.READ),
        (Mark.ENTRY, USER_FLAG, Access.READ),
        (Mark.ENTRY, WRITE_FLAG, Access.WRITE),
        (Mark.ENTRY, FETCH_FLAG, Access.EXEC),
        (Mark.ENTRY, WRITE_CODE | USER_CODE, Access.READ),  # fault_flag bits, not an error code
        (Mark.ENTRY | Mark.ERRORCODE, USER_CODE, Access.READ),
        (Mark.ENTRY | Mark.ERRORCODE, WRITE_CODE | USER_CODE, Access.WRITE),
        (Mark.ENTRY | Mark.ERRORCODE, FETCH_CODE, Access.EXEC),
        (Mark.ENTRY | Mark.ERRORCODE, 0x1, Access.READ),  # a protection fault is no write
        (Mark(0), 0, Access.UNKNOWN),
    ],
)
def test_access(marks: Mark, flags: int, access: Access) -> None:
    assert kinds.access(faults(1, marks=marks, flags=flags))[0] == access


OURS = {"mm": 1, "current_mm": 1, "tgid": 7, "ip": 0x401000}
KERNEL_IP = 0xFFFFFFFF81000000


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"marks": Mark.ENTRY, "flags": USER_FLAG}, Cause.USER),
        ({"marks": Mark.ENTRY, "flags": 0, "ip": KERNEL_IP}, Cause.KERNEL),
        ({"marks": Mark.ENTRY | Mark.ERRORCODE, "flags": USER_CODE}, Cause.USER),
        ({"marks": Mark.ENTRY | Mark.ERRORCODE, "ip": KERNEL_IP}, Cause.KERNEL),
        ({"marks": Mark.ENTRY, "flags": 0, "ip": 0}, Cause.POPULATE),
        ({"marks": Mark.ENTRY | Mark.FOREIGN, "ip": 0}, Cause.REMOTE),
        ({"marks": Mark.ENTRY, "current_mm": 2, "tgid": 8, "ip": 0}, Cause.REMOTE),
        # exec fills the new stack before it is current: the process's own doing.
        ({"marks": Mark.ENTRY, "current_mm": 2, "ip": 0}, Cause.POPULATE),
        ({"marks": Mark(0)}, Cause.USER),
        ({"marks": Mark(0), "ip": KERNEL_IP}, Cause.KERNEL),
    ],
)
def test_cause(fields: dict[str, Any], cause: Cause) -> None:
    made = faults(1, **{**OURS, **fields})
    assert kinds.cause(made, np.array([7], np.uint32))[0] == cause


def test_major() -> None:
    assert kinds.is_major(faults(3, result=[0, 0x4, 0x204])).tolist() == [False, True, True]


# -- traits ------------------------------------------------------------------------

TMPFS, HUGETLBFS, EXT4 = 0x01021994, 0x958458F6, 0xEF53


@pytest.mark.parametrize(
    ("fields", "by_region", "traits"),
    [
        ({}, NOWHERE, Trait.KNOWN),
        ({"inode": 9, "magic": EXT4}, NOWHERE, PRIVATE_FILE),
        ({"inode": 9, "magic": EXT4, "vm_flags": 0x8}, NOWHERE, SHARED_FILE),
        ({"inode": 9, "magic": TMPFS, "vm_flags": 0x8}, NOWHERE, SHMEM),
        ({"inode": 9, "magic": HUGETLBFS, "vm_flags": 0x8}, NOWHERE, HUGETLB),
        ({"vm_flags": 0x400000}, NOWHERE, Trait.KNOWN | Trait.HUGETLB),
        ({"vm_flags": 0x400}, NOWHERE, SPECIAL | Trait.UNSEEN),
        ({}, SPECIAL, SPECIAL),  # [vdso]: only its name says so
        ({}, SPECIAL | Trait.UNSEEN, SPECIAL),  # the record says what pagemap shows
        ({}, SHMEM, Trait.KNOWN),  # a stale name gives way to the record
    ],
)
def test_traits_of_a_record_that_knows_its_mapping(
    fields: dict[str, Any], by_region: Trait, traits: Trait
) -> None:
    made = faults(1, marks=Mark.MAPPING, **fields)
    assert kinds.traits(made, np.array([by_region], np.uint8))[0] == traits


def test_traits_of_a_record_that_does_not_are_the_region_s() -> None:
    """perf: no MAPPING mark, and nothing in vm_*."""
    made = faults(1, marks=Mark.ENTRY, vm_flags=0x8, inode=9)
    for traits in (NOWHERE, ANONYMOUS, SHMEM, SPECIAL):
        assert kinds.traits(made, np.array([traits], np.uint8))[0] == traits


def a_batch(count: int, **fields: Any) -> np.ndarray:
    """First writes to anonymous pages, each in a frame of its own."""
    number = np.arange(count, dtype=np.uint64)
    common = {
        "marks": Mark.ENTRY | Mark.BEFORE | Mark.AFTER,
        "flags": WRITE_FLAG | USER_FLAG,
        "address": 0x7F03_0000_0000 + number * np.uint64(4096),
        "entry_after": (np.uint64(F) + (number << np.uint64(12))) | np.uint64(PRESENT | WRITABLE),
        "ip": 0x401000,
    }
    return faults(count, **common | {"level_before": 1, "level_after": 1} | fields)


SWAPPED = np.where(np.arange(100) == 60, swap_entry(0, 77), 0).astype(np.uint64)
ONE_ZERO = a_batch(100)["entry_after"]
ONE_ZERO[60] = ZERO_FRAME | PRESENT
ONE_COPY = np.where(np.arange(100) == 60, F, G).astype(np.uint64) | np.uint64(PRESENT)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"entry_before": SWAPPED},
        {"entry_after": ONE_ZERO},
        {"entry_after": ZERO_FRAME | PRESENT},
        {"entry_before": G | PRESENT, "entry_after": ONE_COPY},
        {"entry_after": 0},
        {"entry_after": F | PROTNONE},
        {"level_after": 2, "entry_after": HUGE | PRESENT | LEAF},
        {"level_before": 2},
        {"marks": Mark.ENTRY | Mark.FAILED | Mark.BEFORE | Mark.AFTER},
        {"calls": np.arange(100) // 60},
        {"ip": np.where(np.arange(100) == 60, 0, 0x401000)},
        {"tgid": np.arange(100) // 60, "mm": 7},
    ],
)
def test_faults_that_are_alike_are_judged_as_each_alone(fields: dict[str, Any]) -> None:
    batch, owner = a_batch(100, **fields), np.zeros(100, np.uint32)
    traits = np.full(100, Trait.KNOWN, np.uint8)
    found = kinds.judge(batch, owner, traits, ZERO_FRAME)
    for at in range(100):
        part = slice(at, at + 1)
        one = kinds.judge(batch[part], owner[part], traits[part], ZERO_FRAME)
        for name in ("access", "cause", "major", "kind"):
            assert getattr(found, name)[at] == getattr(one, name)[0], (name, at)
        for name in ("old", "new"):
            for field, values in vars(getattr(found, name)).items():
                assert values[at] == vars(getattr(one, name))[field][0], (name, field, at)
