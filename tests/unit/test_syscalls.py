"""What system calls did to pages, told from their numbers, arguments and results."""

from typing import Any

import numpy as np
import pytest
from faults_data import LAYOUT

from tracer.records import RecordType
from tracer.sources import Loss
from tracer.syscalls import Effect, effect

P = 4096
AT = 0x7F00_0000_0000
MMAP, MPROTECT, MUNMAP, BRK, MREMAP, MADVISE = 9, 10, 11, 12, 25, 28
MLOCK, MLOCKALL, MLOCK2 = 149, 151, 325
FIXED, ANONYMOUS, LOCKED, POPULATE, NOREPLACE = 0x10, 0x20, 0x2000, 0x8000, 0x100000
EINVAL = (1 << 64) - 22


def call(number: int, *args: int, result: int = 0, brk: dict[int, int] | None = None) -> Any:
    record = np.zeros(1, LAYOUT.syscall)
    record["type"], record["time_ns"] = RecordType.SYSCALL, 99
    record["number"], record["result"] = number, result
    record["args"][0, : len(args)] = args
    return effect(record[0], 3, {} if brk is None else brk)


def test_munmap_takes_whole_pages() -> None:
    assert call(MUNMAP, AT, 2 * P) == Effect(3, AT, AT + 2 * P, 99, Loss.MUNMAP)
    assert call(MUNMAP, AT, P + 1) == Effect(3, AT, AT + 2 * P, 99, Loss.MUNMAP)


@pytest.mark.parametrize("errno", [1, 22, 4095])
@pytest.mark.parametrize("number", [MMAP, MUNMAP, BRK, MREMAP, MADVISE, MLOCK, MLOCKALL])
def test_a_call_that_failed_did_nothing(number: int, errno: int) -> None:
    args = (AT, P, 4, FIXED | POPULATE)
    assert call(number, *args, result=(1 << 64) - errno) is None


def test_mmap_over_a_mapping_takes_its_pages() -> None:
    assert call(MMAP, AT, P, 3, FIXED | ANONYMOUS, result=AT) == Effect(3, AT, AT + P, 99)
    assert call(MMAP, 0, P, 3, ANONYMOUS, result=AT) is None
    assert call(MMAP, AT, P, 3, NOREPLACE | ANONYMOUS, result=AT) is None


@pytest.mark.parametrize("flags", [POPULATE, LOCKED, POPULATE | FIXED])
def test_mmap_that_fills_in_advance(flags: int) -> None:
    wanted = Effect(3, AT, AT + 2 * P, 99, populates=True)
    assert call(MMAP, 0, P + 5, 3, flags | ANONYMOUS, result=AT) == wanted


def test_brk_takes_what_it_gives_back() -> None:
    brk: dict[int, int] = {}
    assert call(BRK, 0, result=AT + 10 * P, brk=brk) is None  # sbrk(0): where it is
    assert call(BRK, AT + 14 * P, result=AT + 14 * P, brk=brk) is None
    shrunk = call(BRK, AT + 12 * P + 1, result=AT + 12 * P + 1, brk=brk)
    assert shrunk == Effect(3, AT + 13 * P, AT + 14 * P, 99)
    # Refused: the break stays.
    assert call(BRK, AT + 9999 * P, result=AT + 12 * P + 1, brk=brk) is None
    assert brk == {3: AT + 12 * P + 1}


def test_mremap_that_moves() -> None:
    to = AT + 100 * P
    moved = call(MREMAP, AT, 4 * P, 6 * P, 1, result=to)
    assert moved == Effect(3, AT, AT + 4 * P, 99, moved_to=to, moved_size=6 * P)
    moved = call(MREMAP, AT, 4 * P, 2 * P - 1, 3, to, result=to)
    assert moved == Effect(3, AT, AT + 4 * P, 99, moved_to=to, moved_size=2 * P)


def test_mremap_in_place() -> None:
    assert call(MREMAP, AT, 4 * P, P, result=AT) == Effect(3, AT + P, AT + 4 * P, 99)
    assert call(MREMAP, AT, 4 * P, 8 * P, result=AT) is None


def test_mremap_of_nothing_makes_a_second_mapping() -> None:
    """old_size 0: a shared mapping is mapped once more, nothing moves."""
    assert call(MREMAP, AT, 0, P, 1, result=AT + 9 * P) is None


@pytest.mark.parametrize("advice", [4, 9, 24, 102])
def test_advice_that_takes_pages_at_once(advice: int) -> None:
    assert call(MADVISE, AT, P, advice) == Effect(3, AT, AT + P, 99, Loss.MADVISE)


@pytest.mark.parametrize("advice", [0, 1, 3, 8, 14, 15, 20, 21, 25])
def test_advice_that_does_not(advice: int) -> None:
    """MADV_FREE and MADV_PAGEOUT take some pages, later: the next snapshot shows which."""
    assert call(MADVISE, AT, P, advice) is None


@pytest.mark.parametrize("advice", [22, 23])
def test_advice_that_fills_in_advance(advice: int) -> None:
    assert call(MADVISE, AT, P, advice) == Effect(3, AT, AT + P, 99, populates=True)


def test_mlock_fills_in_advance() -> None:
    wanted = Effect(3, AT, AT + 2 * P, 99, populates=True)
    assert call(MLOCK, AT + 5, P) == wanted
    assert call(MLOCK2, AT + 5, P, 0) == wanted
    assert call(MLOCK2, AT + 5, P, 1) is None  # MLOCK_ONFAULT
    assert call(MLOCKALL, 1).populates


@pytest.mark.parametrize("number", [0, MPROTECT, 30, 67, 329, 440])
def test_other_calls_change_no_page(number: int) -> None:
    assert call(number, AT, P, 4, FIXED) is None


@pytest.mark.parametrize("number", [MUNMAP, MADVISE, MREMAP])
def test_nothing_changes_in_an_empty_range(number: int) -> None:
    assert call(number, AT, 0, 4, result=AT if number == MREMAP else 0) is None
