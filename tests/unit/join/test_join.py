"""Fault records to rows, with real spaces and a real timeline."""

import numpy as np
import pytest

from tests.unit.faults_data import LAYOUT, pte, swap_entry, windows
from tests.unit.join_data import (
    BASE,
    FILE,
    MM,
    PID,
    USER_CODE,
    VDSO,
    VVAR,
    WRITE_CODE,
    ZERO,
    F,
    P,
    Parts,
    fault,
)
from tracer.common.pages import NO_FRAME
from tracer.join.join import region_traits
from tracer.join.kinds import Trait
from tracer.model.rows import UNKNOWN_LATENCY, Access, Cause, Kind, Region
from tracer.model.sources import Loss, Source
from tracer.procfs.maps import Mapping
from tracer.wire.records import Mark

# -- a row ---------------------------------------------------------------------------


def test_a_row_says_what_the_record_says(parts: Parts) -> None:
    parts.join.comms[77] = parts.names.comm("worker")
    row = parts.rows(fault(BASE + 0x1234, tid=77, cpu=3))[0]
    assert (row["number"], row["time_ns"], row["pid"], row["space"]) == (1, 2000, PID, 1)
    assert (row["tid"], parts.names.comms[row["comm"]], row["cpu"]) == (77, "worker", 3)
    assert (row["address"], row["ip"], row["count"]) == (BASE + 0x1234, 0x401000, 7)
    assert (row["access"], row["cause"], row["kind"]) == (Access.WRITE, Cause.USER, Kind.ANON)
    assert (row["latency_ns"], row["major"]) == (900, False)
    assert (row["frame"], row["frame_before"], row["pages"]) == (F, NO_FRAME, 1)
    assert parts.names.regions[row["region"]].name == "[anon]"
    assert parts.gained() == {Source.FAULT: 1}


def test_rows_come_in_order_of_time_and_are_numbered_on(parts: Parts) -> None:
    records = np.concatenate([fault(BASE + P, 3000), fault(BASE, 2000)])
    rows = parts.rows(records)
    assert rows["time_ns"].tolist() == [2000, 3000]
    assert rows["number"].tolist() == [1, 2]
    assert parts.rows(fault(BASE + 2 * P, 4000))["number"].tolist() == [3]
    assert len(parts.rows(fault(BASE)[:0])) == 0


def test_latency_is_not_known_without_the_entry(parts: Parts) -> None:
    record = fault(BASE, marks=Mark.AFTER, start_ns=0, flags=0)
    row = parts.rows(record)[0]
    assert (row["latency_ns"], row["access"]) == (UNKNOWN_LATENCY, Access.UNKNOWN)
    assert (row["kind"], row["cause"], row["pages"]) == (Kind.UNKNOWN, Cause.USER, 1)


def test_latency_of_a_failed_exception_is_not_known(parts: Parts) -> None:
    """perf: it has no completion of its own, and carries its entry's time."""
    record = fault(BASE, marks=Mark.FAILED | Mark.ERRORCODE | Mark.ENTRY, start_ns=2000)
    row = parts.rows(record)[0]
    assert (row["kind"], row["latency_ns"], row["pages"]) == (Kind.FAILED, UNKNOWN_LATENCY, 0)
    assert parts.gained() == {}


def test_the_zero_page_then_a_copy(parts: Parts) -> None:
    read = fault(BASE, 2000, flags=USER_CODE, entry_after=pte(ZERO))
    write = fault(BASE, 3000, entry_before=pte(ZERO))
    rows = parts.rows(np.concatenate([read, write]))
    assert rows["kind"].tolist() == [Kind.ZERO, Kind.COW]
    assert rows["frame_before"].tolist() == [NO_FRAME, ZERO]
    assert rows["pages"].tolist() == [1, 1]


def test_a_lost_race_is_spurious(parts: Parts) -> None:
    rows = parts.rows(np.concatenate([fault(BASE, 2000), fault(BASE, 2001, tid=77)]))
    assert rows["kind"].tolist() == [Kind.ANON, Kind.SPURIOUS]
    assert rows["pages"].tolist() == [1, 0]


def test_back_from_swap(parts: Parts) -> None:
    parts.rows(fault(BASE, 2000))
    back = fault(BASE, 9000, entry_before=swap_entry(0, 77), entry_after=pte(F + P), result=4)
    row = parts.rows(back)[0]
    assert (row["kind"], row["major"], row["pages"]) == (Kind.SWAP, True, 1)
    assert parts.timeline.ledger.tally.released[Loss.RECLAIM] == 1


def test_a_batch_can_be_applied_in_pieces(parts: Parts) -> None:
    """With what a system call discarded in between."""
    records = np.concatenate([fault(BASE, 2000), fault(BASE, 4000)])
    batch = parts.join.describe(parts.join.place(records), windows(0))
    batch.schedule.apply_all(1)
    parts.timeline.releases.release(1, BASE, BASE + P, 3000, Loss.MADVISE)
    batch.schedule.apply_all()
    assert batch.rows["pages"].tolist() == [1, 1]
    assert parts.timeline.ledger.tally.released[Loss.MADVISE] == 1
    assert parts.timeline.ledger.tally.released.sum() == 1


def test_pages_pagemap_leaves_out_are_not_followed(parts: Parts) -> None:
    vdso, vvar = fault(VDSO, 2000, flags=USER_CODE), fault(VVAR, 2001, flags=USER_CODE)
    rows = parts.rows(np.concatenate([vdso, vvar]))
    assert rows["kind"].tolist() == [Kind.SPECIAL, Kind.SPECIAL]
    assert rows["pages"].tolist() == [1, 0]
    assert parts.frames(VVAR, 1) == [NO_FRAME]


def test_the_instruction_s_mapping(parts: Parts) -> None:
    plain, wanted = Parts(), Parts(symbols=True)
    assert plain.rows(fault(BASE, ip=FILE + 5))["ip_region"].tolist() == [0]
    row = wanted.rows(fault(BASE, ip=FILE + 5))[0]
    assert wanted.names.regions[row["ip_region"]].name == "/lib/libc.so"
    assert row["ip_offset"] == 5


@pytest.mark.parametrize("fold", [False, True])
def test_the_page_s_offset_in_its_file(fold: bool) -> None:
    many = Parts()
    many.names.fold = fold
    other = BASE + (8 << 30)
    mappings = [Mapping(other, other + (1 << 24), "r--p", 7 * P, 8, 9, "/lib/libc.so")]
    many.spaces.attach(0, PID + 1, MM + 1, mappings)
    first, second = fault(FILE + 3 * P + 5), fault(other + 3 * P + 5)
    second["mm"] = second["current_mm"] = MM + 1
    second["tgid"] = second["tid"] = second["owner"] = PID + 1
    for copies in (1, 100):  # few are looked up one by one, many at once
        rows = many.rows(np.concatenate([*[first] * copies, *[second] * copies]))
        assert rows["offset"].tolist() == [3 * P] * copies + [10 * P] * copies
        assert rows["space"].tolist() == [1] * copies + [2] * copies
        assert len(set(rows["region"].tolist())) == (1 if fold else 2)


def test_every_record_of_the_layout_can_be_described(parts: Parts) -> None:
    """All-zero and all-ones records: nothing to say, and nothing that stops the trace."""
    for value in (0, 0xFF):
        raw = np.full(3 * LAYOUT.size, value, np.uint8).view(LAYOUT.fault)
        raw["mm"] = MM
        around = np.full(2 * LAYOUT.size, value, np.uint8).view(LAYOUT.window)
        assert len(parts.rows(raw, around)) <= 3


# -- exceptions that were no page's fault --------------------------------------------

FAILED = Mark.ENTRY | Mark.ERRORCODE | Mark.FAILED


@pytest.mark.parametrize(
    ("address", "flags", "stray"),
    [
        (0x10, WRITE_CODE, True),  # no mapping: SIGSEGV
        (FILE, WRITE_CODE, True),  # a read-only mapping
        (FILE, 0x10, True),  # … and not to be executed
        (BASE, 0x10, True),
        (FILE, 0, False),  # allowed, and failed all the same: SIGBUS
        (BASE, WRITE_CODE, False),
        (VDSO, 0x10, False),
    ],
)
def test_strays_are_left_out(parts: Parts, address: int, flags: int, stray: bool) -> None:
    rows = parts.rows(
        np.concatenate([fault(BASE), fault(address, 3000, marks=FAILED, flags=flags)])
    )
    assert len(rows) == 2 - stray
    assert parts.join.stray == stray
    assert rows["number"].tolist() == [1, 2][: len(rows)]


def test_a_failed_handle_mm_fault_is_always_a_fault(parts: Parts) -> None:
    """fentry and kprobe see faults only."""
    rows = parts.rows(fault(0x10, marks=Mark.ENTRY | Mark.FAILED))
    assert rows["kind"].tolist() == [Kind.FAILED]


# -- what a region's name says -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "perms", "traits"),
    [
        ("[anon]", "rw-p", Trait.KNOWN),
        ("[heap]", "rw-p", Trait.KNOWN),
        ("[stack]", "rw-p", Trait.KNOWN),
        ("/usr/lib/libc.so.6", "r-xp", Trait.KNOWN | Trait.FILE),
        ("/usr/lib/libc.so.6 (deleted)", "r-xp", Trait.KNOWN | Trait.FILE),
        ("/data/x", "rw-s", Trait.KNOWN | Trait.FILE | Trait.SHARED),
        ("[inode 12 of 8:1]", "r--p", Trait.KNOWN | Trait.FILE),
        ("/memfd:x (deleted)", "rw-s", Trait.KNOWN | Trait.FILE | Trait.SHMEM | Trait.SHARED),
        ("/dev/zero (deleted)", "rw-s", Trait.KNOWN | Trait.FILE | Trait.SHMEM | Trait.SHARED),
        ("/SYSV00000000 (deleted)", "rw-s", Trait.KNOWN | Trait.FILE | Trait.SHMEM | Trait.SHARED),
        ("[anon]", "rw-s", Trait.KNOWN | Trait.FILE | Trait.SHMEM | Trait.SHARED),
        ("/dev/shm/x", "rw-p", Trait.KNOWN | Trait.FILE | Trait.SHMEM),
        ("/anon_hugepage (deleted)", "rw-p", Trait.KNOWN | Trait.FILE | Trait.HUGETLB),
        ("/dev/hugepages/x", "rw-s", Trait.KNOWN | Trait.FILE | Trait.HUGETLB | Trait.SHARED),
        ("[vdso]", "r-xp", Trait.KNOWN | Trait.SPECIAL),
        ("[vvar]", "r--p", Trait.KNOWN | Trait.SPECIAL | Trait.UNSEEN),
        ("", "", Trait(0)),
    ],
)
def test_traits_by_name(name: str, perms: str, traits: Trait) -> None:
    assert region_traits(Region(0, P, perms, 0, name)) == traits


@pytest.mark.parametrize(
    ("name", "file_system", "trait"),
    [
        ("/run/x", "tmpfs", Trait.SHMEM),
        ("/dev/x", "devtmpfs", Trait.SHMEM),
        ("/data/x", "ext4", Trait(0)),
        ("/mnt/pages", "hugetlbfs", Trait.HUGETLB),
        ("/memfd:x (deleted)", "hugetlbfs", Trait.HUGETLB),
        ("/SYSV00000000 (deleted)", "hugetlbfs", Trait.HUGETLB),
    ],
)
def test_traits_by_file_system(name: str, file_system: str, trait: Trait) -> None:
    traits = region_traits(Region(0, P, "rw-p", 0, name), file_system)
    assert traits == Trait.KNOWN | Trait.FILE | trait
