"""Fault and window records to rows, with real spaces and a real timeline."""

from typing import Any

import numpy as np
import pytest

from tests.unit.faults_data import LAYOUT, LEAF, PRESENT, WRITABLE, faults, pte, swap_entry, windows
from tracer.common.pages import NO_FRAME
from tracer.join.join import Join, region_traits
from tracer.join.kinds import Trait
from tracer.join.neighbours import match_windows
from tracer.model.rows import UNKNOWN_LATENCY, Access, Cause, Kind, Names, Region, Rows
from tracer.model.sources import Loss, Source
from tracer.procfs.maps import Mapping
from tracer.spaces.spaces import Spaces
from tracer.timeline.timeline import Timeline
from tracer.wire.records import Mark

P = 4096
PID, MM = 42, 0xFFFF_8880_0000_1000
BASE = 0x7F00_0000_0000  # aligned to 2 MiB, so to a window
ZERO = 0x1_2345_6000
F = 0x2866_4000_0
DIRTY = 0x40
KNOWN = Mark.ENTRY | Mark.BEFORE | Mark.AFTER
PERF = KNOWN | Mark.ERRORCODE
WRITE_CODE, USER_CODE = 0x2, 0x4
VDSO, VVAR = BASE + (1 << 30), BASE + (2 << 30)
MAPPINGS = [
    Mapping(BASE, BASE + (1 << 24), "rw-p", 0, 0, 0, ""),
    Mapping(BASE + (1 << 25), BASE + (1 << 25) + (1 << 24), "r--p", 0, 8, 9, "/lib/libc.so"),
    Mapping(VDSO, VDSO + 2 * P, "r-xp", 0, 0, 0, "[vdso]"),
    Mapping(VVAR, VVAR + 4 * P, "r--p", 0, 0, 0, "[vvar]"),
]
FILE = BASE + (1 << 25)


class Parts:
    """A join over one process's memory, and the timeline it tells."""

    def __init__(self, **options: Any) -> None:
        self.names = Names()
        self.spaces = Spaces(self.names)
        self.timeline = Timeline()
        self.spaces.attach(0, PID, MM, MAPPINGS)
        self.join = Join(self.names, self.spaces, self.timeline, ZERO, **options)

    def rows(self, records: np.ndarray, around: np.ndarray | None = None) -> Rows:
        batch = self.join.describe(
            self.join.place(records), windows(0) if around is None else around
        )
        batch.telling.tell_all()
        return batch.rows

    def frames(self, address: int, count: int = 16) -> list[int]:
        pages = np.arange(count, dtype=np.uint64) + np.uint64(address >> 12)
        ledger = self.timeline.ledger
        found: list[int] = ledger["frame"][ledger.state(1, pages)].tolist()
        return found

    def gained(self) -> dict[Source, int]:
        gained = self.timeline.ledger.tally.gained
        return {source: int(gained[source]) for source in Source if gained[source]}


@pytest.fixture
def parts() -> Parts:
    return Parts()


def fault(address: int, time: int = 2000, **fields: Any) -> np.ndarray:
    """A first write to an anonymous page, but for what `fields` says."""
    common = {
        "mm": MM,
        "current_mm": MM,
        "tgid": PID,
        "tid": PID,
        "ip": 0x401000,
        "marks": PERF,
        "flags": WRITE_CODE | USER_CODE,
        "start_ns": time - 900,
        "time_ns": time,
        "address": address,
        "level_before": 1,
        "level_after": 1,
        "entry_after": pte(F, PRESENT | WRITABLE),
        "count": 7,
        "calls": 1,
    }
    return faults(1, **{**common, **fields})


def window(first: int, before: int, after: int, time: int = 2000, **fields: Any) -> np.ndarray:
    """A window at `first`: pages present before and after by bit; frames F, F + 4096 …"""
    entries = [pte(F + n * P) if after >> n & 1 else 0 for n in range(16)]
    common = {"mm": MM, "tgid": PID, "tid": PID, "time_ns": time, "address": first}
    return windows(1, **{**common, "entries": entries, "seen": before | after << 16, **fields})


# -- a row -----------------------------------------------------------------------------


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
    assert parts.timeline.ledger.tally.lost[Loss.RECLAIM] == 1


def test_a_batch_can_be_told_in_pieces(parts: Parts) -> None:
    """With what a system call took in between."""
    records = np.concatenate([fault(BASE, 2000), fault(BASE, 4000)])
    batch = parts.join.describe(parts.join.place(records), windows(0))
    batch.telling.tell_all(1)
    parts.timeline.releases.release(1, BASE, BASE + P, 3000, Loss.MADVISE)
    batch.telling.tell_all()
    assert batch.rows["pages"].tolist() == [1, 1]
    assert parts.timeline.ledger.tally.lost[Loss.MADVISE] == 1
    assert parts.timeline.ledger.tally.lost.sum() == 1


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
def test_the_page_s_place_in_its_file(fold: bool) -> None:
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


# -- exceptions that were no page's fault -------------------------------------------------


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


# -- windows -----------------------------------------------------------------------------


def read_file(address: int, time: int = 2000, **fields: Any) -> np.ndarray:
    own = F + ((address >> 12) & 15) * P
    return fault(address, time, **{"flags": USER_CODE, "entry_after": pte(own), **fields})


def test_fault_around_brings_neighbours(parts: Parts) -> None:
    rows = parts.rows(read_file(FILE + 3 * P), window(FILE, 0b1, 0xFFFF))
    assert rows["kind"].tolist() == [Kind.FILE]
    assert rows["pages"].tolist() == [15]  # the first page was there before
    assert parts.frames(FILE) == [NO_FRAME, *(F + n * P for n in range(1, 16))]
    assert parts.gained() == {Source.FAULT: 1, Source.AROUND: 14}


def test_fault_around_may_reach_into_the_next_window(parts: Parts) -> None:
    second = window(FILE + 16 * P, 0, 0b111)
    rows = parts.rows(read_file(FILE + 3 * P), np.concatenate([window(FILE, 0, 0xFFF8), second]))
    assert rows["pages"].tolist() == [13 + 3]
    assert parts.frames(FILE + 16 * P, 4) == [F, F + P, F + 2 * P, NO_FRAME]


def test_a_second_window_alone(parts: Parts) -> None:
    rows = parts.rows(read_file(FILE + 15 * P), window(FILE + 16 * P, 0b1, 0b11))
    assert rows["pages"].tolist() == [2]


def test_a_window_s_fault_is_its_thread_s(parts: Parts) -> None:
    """Two faults in one nanosecond."""
    records = np.concatenate([read_file(FILE), read_file(FILE + 32 * P, tid=77)])
    rows = parts.rows(records, window(FILE + 32 * P, 0, 0b11, tid=77))
    assert sorted(zip(rows["tid"].tolist(), rows["pages"].tolist(), strict=True)) == [
        (PID, 1),
        (77, 2),
    ]


def test_windows_match_faults_in_any_order() -> None:
    records = faults(5, time_ns=[50, 10, 30, 30, 30], tid=[1, 1, 1, 2, 3])
    around = windows(5, time_ns=[30, 10, 30, 99, 50], tid=[3, 1, 2, 1, 2])
    assert match_windows(records, around).tolist() == [4, 1, 3, -1, -1]
    assert match_windows(records[:0], around).tolist() == [-1] * 5
    assert match_windows(records, around[:0]).tolist() == []


def test_a_window_without_its_fault_is_left_out(parts: Parts) -> None:
    rows = parts.rows(read_file(FILE), window(FILE, 0, 0xFFFF, time=1999))
    assert rows["pages"].tolist() == [1]


def test_anonymous_neighbours_are_other_threads_doing(parts: Parts) -> None:
    rows = parts.rows(fault(BASE), window(BASE, 0, 0b11))
    assert rows["pages"].tolist() == [1]
    assert parts.frames(BASE, 2) == [F, NO_FRAME]


def test_a_large_anonymous_folio_comes_whole() -> None:
    """Frames that follow each other as their pages do, on both sides; another's do not."""
    parts = Parts(large_anon=True)
    around = window(BASE, 0, 0b11111)
    around["entries"][0, 4] = pte(0x9_0000_0000)
    own = fault(BASE + 2 * P, entry_after=pte(F + 2 * P, PRESENT | WRITABLE))
    rows = parts.rows(own, around)
    assert rows["pages"].tolist() == [4]
    assert parts.frames(BASE, 5) == [F, F + P, F + 2 * P, F + 3 * P, NO_FRAME]


@pytest.mark.parametrize("copied", [True, False])
def test_a_window_after_a_huge_page_was_split_brings_nothing(copied: bool) -> None:
    """The mask of before is empty where a huge page was mapped: that is no absence."""
    parts = Parts(large_anon=True)
    huge = F & ~((1 << 21) - 1)
    own = 0x9_0000_0000 if copied else huge + P
    whole = fault(BASE, 2000, level_before=2, level_after=2, entry_after=huge | 0x80 | 0x43)
    assert parts.rows(whole)["pages"].tolist() == [512]
    write = fault(
        BASE + P,
        4000,
        level_before=2,
        entry_before=huge | LEAF | PRESENT | DIRTY,
        entry_after=pte(own, PRESENT | WRITABLE),
    )
    around = window(BASE, 0, 0xFFFF, 4000)
    around["entries"] = [pte(huge + n * P) for n in range(16)]
    around["entries"][0, 1] = pte(own)
    rows = parts.rows(write, around)
    assert rows["kind"][0] == (Kind.COW if copied else Kind.REUSE)
    assert rows["pages"][0] == copied
    assert parts.frames(BASE, 3) == [huge, own, huge + 2 * P]
    assert parts.timeline.ledger.tally.lost.sum() == copied


# -- huge pages ------------------------------------------------------------------------


HUGE = 0x8_4020_0000


def huge_fault(offset: int = 5 * P, time: int = 2000, **fields: Any) -> np.ndarray:
    entry = HUGE | PRESENT | LEAF | WRITABLE | DIRTY
    levels = {"level_before": 2, "level_after": 2, "entry_after": entry}
    return fault(BASE + offset, time, **{**levels, **fields})


def test_a_huge_page_brings_all_its_pages(parts: Parts) -> None:
    rows = parts.rows(huge_fault(5 * P + 0x123))
    assert (rows["kind"][0], rows["pages"][0]) == (Kind.HUGE, 512)
    assert rows["frame"].tolist() == [HUGE + 5 * P]
    assert parts.frames(BASE, 512) == [HUGE + n * P for n in range(512)]
    assert parts.gained() == {Source.FAULT: 1, Source.AROUND: 511}


def test_the_huge_zero_page_then_a_huge_page(parts: Parts) -> None:
    zero = HUGE + (1 << 21) | PRESENT | LEAF
    read = huge_fault(2 * P, 2000, flags=USER_CODE, entry_after=zero)
    write = huge_fault(5 * P, 4000, entry_before=zero)
    rows = parts.rows(np.concatenate([read, write]))
    assert rows["kind"].tolist() == [Kind.ZERO, Kind.COW]
    assert rows["pages"].tolist() == [512, 512]
    assert parts.frames(BASE, 512) == [HUGE + n * P for n in range(512)]
    assert parts.timeline.ledger.tally.lost[Loss.REPLACED] == 512


def test_two_threads_on_one_huge_page(parts: Parts) -> None:
    rows = parts.rows(np.concatenate([huge_fault(0, 2000), huge_fault(9 * P, 2001, tid=77)]))
    assert rows["pages"].tolist() == [512, 0]
    assert parts.gained() == {Source.FAULT: 1, Source.AROUND: 511}


def test_a_huge_page_made_writable_brings_nothing(parts: Parts) -> None:
    parts.rows(huge_fault(0, 2000))
    again = huge_fault(0, 4000, entry_before=HUGE | PRESENT | LEAF | DIRTY)
    rows = parts.rows(again)
    assert (rows["kind"][0], rows["pages"][0]) == (Kind.REUSE, 0)


# -- folios beyond the window ------------------------------------------------------------


def row_of(address: int, pages: int, frame: int, time: int = 2000, but: int = -1) -> np.ndarray:
    """The record of a folio that reaches beyond its fault's window; page `but` was not mapped."""
    table = address & ~((1 << 21) - 1)
    first = (address - table) // P
    mapped = np.zeros(512, np.uint8)
    mapped[[first + page for page in range(pages) if page != but]] = 1
    made = windows(address=table, time_ns=time, tid=PID, marks=0x01)
    made["entries"][0, 0] = frame - first * P
    made["entries"][0, 1:9] = np.packbits(mapped, bitorder="little").view(np.uint64)
    return made


def test_a_folio_reaches_beyond_the_window(parts: Parts) -> None:
    around = np.concatenate(
        [
            window(FILE + 16 * P, 0, 0xFFFF),
            row_of(FILE + 10 * P, 6, F - 6 * P),
            row_of(FILE + 32 * P, 20, F + 16 * P),
        ]
    )
    rows = parts.rows(read_file(FILE + 19 * P), around)
    assert rows["pages"].tolist() == [16 + 6 + 20]
    assert parts.frames(FILE + 9 * P, 44) == [
        NO_FRAME,
        *(F + n * P for n in range(-6, 36)),
        NO_FRAME,
    ]


def test_a_page_of_a_folio_that_is_not_mapped_does_not_come(parts: Parts) -> None:
    around = np.concatenate([window(FILE, 0, 0xFFFF), row_of(FILE + 16 * P, 8, F + 16 * P, but=5)])
    rows = parts.rows(read_file(FILE + 3 * P), around)
    assert rows["pages"].tolist() == [16 + 7]
    assert [at for at, frame in enumerate(parts.frames(FILE, 24)) if frame == NO_FRAME] == [21]


def test_a_folio_that_was_there_in_part_brings_the_rest(parts: Parts) -> None:
    parts.rows(read_file(FILE + 20 * P, entry_after=pte(F + 20 * P)))
    around = np.concatenate(
        [window(FILE, 0, 0xFFFF, 4000), row_of(FILE + 16 * P, 8, F + 16 * P, 4000)]
    )
    rows = parts.rows(read_file(FILE + 3 * P, 4000), around)
    assert rows["pages"].tolist() == [16 + 7]
    assert parts.gained() == {Source.FAULT: 2, Source.AROUND: 22}


def test_a_folio_that_was_unmapped_comes_back_whole(parts: Parts) -> None:
    """In the same frames: what is known of the fault's own page is true of all."""
    for time in (2000, 4000):
        around = [window(FILE, 0, 0xFFFF, time), row_of(FILE + 16 * P, 8, F + 16 * P, time)]
        rows = parts.rows(read_file(FILE + 3 * P, time), np.concatenate(around))
        assert rows["pages"].tolist() == [24]
    assert parts.gained() == {Source.FAULT: 2, Source.AROUND: 46}


@pytest.mark.parametrize("zero", [True, False])
def test_a_clean_huge_page_split_by_a_write(zero: bool) -> None:
    """The huge zero page makes way for the small one; of one's own the other pages stay."""
    parts = Parts(are_zero=lambda frames: np.full(len(frames), zero))
    huge = F & ~((1 << 21) - 1)
    bits = LEAF | PRESENT | (0 if zero else WRITABLE | DIRTY)
    came = fault(BASE, 2000, level_before=2, level_after=2, entry_after=huge | bits)
    assert parts.rows(came)["kind"].tolist() == [Kind.ZERO if zero else Kind.HUGE]
    copy = 0x9_0000_0000
    write = fault(
        BASE + P,
        4000,
        level_before=2,
        entry_before=huge | LEAF | PRESENT,
        entry_after=pte(copy, PRESENT | WRITABLE),
    )
    rows = parts.rows(write)
    assert (rows["kind"][0], rows["pages"][0]) == (Kind.COW, 512 if zero else 1)
    small = parts.join.zero_frame
    left = [small, copy, small, small] if zero else [huge, copy, huge + 2 * P, huge + 3 * P]
    assert parts.frames(BASE, 4) == left


# -- what a region's name tells ------------------------------------------------------------


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


def test_every_record_of_the_layout_can_be_described(parts: Parts) -> None:
    """All-zero and all-ones records: nothing to say, and nothing that stops the trace."""
    for value in (0, 0xFF):
        raw = np.full(3 * LAYOUT.size, value, np.uint8).view(LAYOUT.fault)
        raw["mm"] = MM
        around = np.full(2 * LAYOUT.size, value, np.uint8).view(LAYOUT.window)
        assert len(parts.rows(raw, around)) <= 3
