"""Pages that come with a fault's own: by windows, huge pages, and folios."""

from typing import Any

import numpy as np
import pytest

from tests.unit.faults_data import LEAF, PRESENT, WRITABLE, faults, pte, windows
from tests.unit.join_data import BASE, FILE, MM, PID, USER_CODE, F, P, Parts, fault
from tracer.common.pages import NO_FRAME
from tracer.join.neighbours import match_windows
from tracer.model.rows import Kind
from tracer.model.sources import Loss, Source

DIRTY = 0x40


def window(first: int, before: int, after: int, time: int = 2000, **fields: Any) -> np.ndarray:
    """A window at `first`: pages present before and after by bit; frames F, F + 4096 …"""
    entries = [pte(F + n * P) if after >> n & 1 else 0 for n in range(16)]
    common = {"mm": MM, "tgid": PID, "tid": PID, "time_ns": time, "address": first}
    return windows(1, **{**common, "entries": entries, "seen": before | after << 16, **fields})


# -- windows -------------------------------------------------------------------------


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
    assert parts.timeline.ledger.tally.released.sum() == copied


# -- huge pages ----------------------------------------------------------------------

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
    assert parts.timeline.ledger.tally.released[Loss.REPLACED] == 512


def test_two_threads_on_one_huge_page(parts: Parts) -> None:
    rows = parts.rows(np.concatenate([huge_fault(0, 2000), huge_fault(9 * P, 2001, tid=77)]))
    assert rows["pages"].tolist() == [512, 0]
    assert parts.gained() == {Source.FAULT: 1, Source.AROUND: 511}


def test_a_huge_page_made_writable_brings_nothing(parts: Parts) -> None:
    parts.rows(huge_fault(0, 2000))
    again = huge_fault(0, 4000, entry_before=HUGE | PRESENT | LEAF | DIRTY)
    rows = parts.rows(again)
    assert (rows["kind"][0], rows["pages"][0]) == (Kind.REUSE, 0)


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


# -- folios beyond the window --------------------------------------------------------


def contiguous(address: int, pages: int, frame: int, time: int = 2000, but: int = -1) -> np.ndarray:
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
            contiguous(FILE + 10 * P, 6, F - 6 * P),
            contiguous(FILE + 32 * P, 20, F + 16 * P),
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
    around = np.concatenate(
        [window(FILE, 0, 0xFFFF), contiguous(FILE + 16 * P, 8, F + 16 * P, but=5)]
    )
    rows = parts.rows(read_file(FILE + 3 * P), around)
    assert rows["pages"].tolist() == [16 + 7]
    assert [at for at, frame in enumerate(parts.frames(FILE, 24)) if frame == NO_FRAME] == [21]


def test_a_folio_that_was_there_in_part_brings_the_rest(parts: Parts) -> None:
    parts.rows(read_file(FILE + 20 * P, entry_after=pte(F + 20 * P)))
    around = np.concatenate(
        [window(FILE, 0, 0xFFFF, 4000), contiguous(FILE + 16 * P, 8, F + 16 * P, 4000)]
    )
    rows = parts.rows(read_file(FILE + 3 * P, 4000), around)
    assert rows["pages"].tolist() == [16 + 7]
    assert parts.gained() == {Source.FAULT: 2, Source.AROUND: 22}


def test_a_folio_that_was_unmapped_comes_back_whole(parts: Parts) -> None:
    """In the same frames: what is known of the fault's own page is true of all."""
    for time in (2000, 4000):
        around = [window(FILE, 0, 0xFFFF, time), contiguous(FILE + 16 * P, 8, F + 16 * P, time)]
        rows = parts.rows(read_file(FILE + 3 * P, time), np.concatenate(around))
        assert rows["pages"].tolist() == [24]
    assert parts.gained() == {Source.FAULT: 2, Source.AROUND: 46}
