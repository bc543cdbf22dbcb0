"""What system calls did to pages, derived from their numbers, arguments and results."""

from typing import Any

import numpy as np
import pytest

from tests.unit.faults_data import LAYOUT
from tracer.model.sources import Loss
from tracer.spaces.syscalls import (
    Consequences,
    Effect,
    Memory,
    PendingRelease,
    SystemCall,
    decode,
    interpret,
    pending_release,
    plain_releases,
)
from tracer.wire.records import RecordType

P = 4096
AT = 0x7F00_0000_0000
IOCTL = 16
MMAP, MPROTECT, MUNMAP, BRK, MREMAP, MADVISE = 9, 10, 11, 12, 25, 28
MLOCK, MLOCKALL, MUNLOCKALL, MLOCK2 = 149, 151, 152, 325
FIXED, ANONYMOUS, LOCKED, POPULATE, NOREPLACE = 0x10, 0x20, 0x2000, 0x8000, 0x100000
EINVAL = (1 << 64) - 22


def call(number: int, *args: int, result: int = 0, memory: Memory | None = None) -> Any:
    record = np.zeros(1, LAYOUT.syscall)
    record["type"], record["time_ns"] = RecordType.SYSCALL, 99
    record["number"], record["result"] = number, result
    record["args"][0, : len(args)] = args
    return interpret(decode(record)[0], 3, memory or Memory()).effect


def test_what_only_releases_has_the_effect_that_it_has_by_itself() -> None:
    random = np.random.default_rng(5)
    records = np.zeros(3000, LAYOUT.syscall)
    records["type"] = random.choice([RecordType.SYSCALL, RecordType.CALL], 3000, p=[0.9, 0.1])
    records["time_ns"] = np.arange(3000)
    records["mm"], records["tid"] = random.integers(1, 4, (2, 3000))
    records["number"] = random.choice([MUNMAP, MADVISE, MMAP, BRK, MREMAP, MLOCK], 3000)
    records["result"] = random.choice(np.array([0, AT, EINVAL, (1 << 64) - 12], np.uint64), 3000)
    records["args"][:, 0] = random.choice(np.array([0, AT, (1 << 64) - P], np.uint64), 3000)
    lengths = np.array([0, 1, P, P + 1, 1 << 40, (1 << 64) - P], np.uint64)
    records["args"][:, 1] = random.choice(lengths, 3000)
    records["args"][:, 2] = random.choice([4, 8, 9, 21, 22, 23, 24, 102], 3000)
    chosen, releases = plain_releases(records)
    each = iter(releases)
    calls = (records["type"] == RecordType.CALL).tolist()
    for made, plain, begins in zip(decode(records), chosen.tolist(), calls, strict=True):
        found = interpret(made, 3, Memory()).effect
        if plain:
            assert not begins
            it = next(each)
            assert (it.tgid, it.tid, it.time_ns, it.mm) == made[:4]
            loss = Loss.MUNMAP if it.unmaps else Loss.MADVISE
            assert found == Effect(3, it.start, it.end, it.time_ns, loss)
        elif begins:
            continue
        elif made.number in (MUNMAP, MADVISE) and found is not None and max(made.args) < 1 << 50:
            assert found.populates or found.gives_up
    assert next(each, None) is None
    assert chosen.sum() > 100


def test_munmap_releases_whole_pages() -> None:
    assert call(MUNMAP, AT, 2 * P) == Effect(3, AT, AT + 2 * P, 99, Loss.MUNMAP)
    assert call(MUNMAP, AT, P + 1) == Effect(3, AT, AT + 2 * P, 99, Loss.MUNMAP)


def test_madvise_goes_on_behind_a_hole() -> None:
    gone = Effect(3, AT, AT + 2 * P, 99, Loss.MADVISE)
    assert call(MADVISE, AT, 2 * P, 4, result=(1 << 64) - 12) == gone
    assert call(MADVISE, AT, 2 * P, 22, result=(1 << 64) - 12) is None
    assert call(MUNMAP, AT, 2 * P, result=(1 << 64) - 12) is None


@pytest.mark.parametrize(
    ("number", "args", "found"),
    [
        (MUNMAP, (AT, 2 * P), (AT, AT + 2 * P, Loss.MUNMAP)),
        (MADVISE, (AT, P, 4), (AT, AT + P, Loss.MADVISE)),
        (MADVISE, (AT, P, 22), None),
        (MREMAP, (AT, P, 2 * P, 3, AT + 8 * P), (AT, AT + P, Loss.MOVE)),
        (MMAP, (AT, P, 3, FIXED), (AT, AT + P, Loss.MUNMAP)),
        (BRK, (AT,), (AT, AT + 9 * P, Loss.MUNMAP)),
        (BRK, (AT + 10 * P,), None),
        (MLOCK, (AT, P), None),
    ],
)
def test_what_may_go_while_a_call_is_under_way(
    number: int, args: tuple[int, ...], found: tuple[int, int, Loss] | None
) -> None:
    record = np.zeros(1, LAYOUT.syscall)
    record["type"], record["time_ns"], record["number"] = RecordType.CALL, 77, number
    record["args"][0, : len(args)] = args
    pending = pending_release(decode(record)[0], AT + 9 * P)
    assert pending == (found and PendingRelease(found[0], found[1], 77, found[2]))


@pytest.mark.parametrize("errno", [1, 22, 4095])
@pytest.mark.parametrize("number", [MMAP, MUNMAP, BRK, MREMAP, MADVISE, MLOCK, MLOCKALL])
def test_a_call_that_failed_did_nothing(number: int, errno: int) -> None:
    args = (AT, P, 4, FIXED | POPULATE)
    assert call(number, *args, result=(1 << 64) - errno) is None


def test_mmap_over_a_mapping_unmaps_its_pages() -> None:
    assert call(MMAP, AT, P, 3, FIXED | ANONYMOUS, result=AT) == Effect(3, AT, AT + P, 99)
    assert call(MMAP, 0, P, 3, ANONYMOUS, result=AT) is None
    assert call(MMAP, AT, P, 3, NOREPLACE | ANONYMOUS, result=AT) is None


@pytest.mark.parametrize("flags", [POPULATE, LOCKED, POPULATE | FIXED])
def test_mmap_that_fills_in_advance(flags: int) -> None:
    fixed = flags & FIXED != 0
    wanted = Effect(3, AT, AT + 2 * P, 99, populates=True, recorded=True, replaces=fixed)
    assert call(MMAP, 0, P + 5, 3, flags | ANONYMOUS, result=AT) == wanted


def test_brk_releases_what_it_gives_back() -> None:
    memory = Memory()
    assert call(BRK, 0, result=AT + 10 * P, memory=memory) is None  # sbrk(0): where it is
    assert call(BRK, AT + 14 * P, result=AT + 14 * P, memory=memory) is None
    shrunk = call(BRK, AT + 12 * P + 1, result=AT + 12 * P + 1, memory=memory)
    assert shrunk == Effect(3, AT + 13 * P, AT + 14 * P, 99)
    # Refused: the break stays.
    assert call(BRK, AT + 9999 * P, result=AT + 12 * P + 1, memory=memory) is None
    assert memory.brk == {3: AT + 12 * P + 1}


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
def test_advice_that_discards_pages_at_once(advice: int) -> None:
    assert call(MADVISE, AT, P, advice) == Effect(3, AT, AT + P, 99, Loss.MADVISE)


@pytest.mark.parametrize("advice", [0, 1, 3, 14, 15, 20, 25])
def test_advice_that_does_not(advice: int) -> None:
    assert call(MADVISE, AT, P, advice) is None


@pytest.mark.parametrize(("advice", "loss"), [(8, Loss.MADVISE), (21, Loss.RECLAIM)])
def test_advice_that_gives_pages_up(advice: int, loss: Loss) -> None:
    """MADV_FREE and MADV_PAGEOUT release some pages, later: the next snapshot shows which."""
    wanted = Effect(3, AT, AT + P, 99, loss, gives_up=True)
    assert call(MADVISE, AT, P, advice) == wanted


def test_mlockall_fills_what_is_mapped_later() -> None:
    """MCL_FUTURE, until munlockall or an mlockall without it."""
    memory = Memory()
    wanted = Effect(3, AT, AT + P, 99, populates=True, recorded=True)
    for off in ((MUNLOCKALL,), (MLOCKALL, 1), (MLOCKALL, 6)):
        assert call(MMAP, 0, P, 3, 0x22, result=AT, memory=memory) is None
        assert call(MLOCKALL, 2, memory=memory) is None
        assert call(MMAP, 0, P, 3, 0x22, result=AT, memory=memory) == wanted
        call(*off, memory=memory)


def test_the_break_grows_locked() -> None:
    memory = Memory(brk={3: AT})
    call(MLOCKALL, 2, memory=memory)
    grown = call(BRK, AT + P, result=AT + P, memory=memory)
    assert grown == Effect(3, AT, AT + P, 99, populates=True)


@pytest.mark.parametrize("advice", [22, 23])
def test_advice_that_fills_in_advance(advice: int) -> None:
    assert call(MADVISE, AT, P, advice) == Effect(3, AT, AT + P, 99, populates=True, recorded=True)


def test_mlock_fills_in_advance() -> None:
    wanted = Effect(3, AT, AT + 2 * P, 99, populates=True, recorded=True)
    assert call(MLOCK, AT + 5, P) == wanted
    assert call(MLOCK2, AT + 5, P, 0) == wanted
    assert call(MLOCK2, AT + 5, P, 1) is None  # MLOCK_ONFAULT
    everything = call(MLOCKALL, 1)
    assert (everything.populates, everything.recorded) == (True, False)


@pytest.mark.parametrize("number", [0, MPROTECT, 30, 67, 329, 440])
def test_other_calls_change_no_page(number: int) -> None:
    assert call(number, AT, P, 4, FIXED) is None


@pytest.mark.parametrize("number", [MUNMAP, MADVISE, MREMAP])
def test_nothing_changes_in_an_empty_range(number: int) -> None:
    assert call(number, AT, 0, 4, result=AT if number == MREMAP else 0) is None


# -- userfaultfd -------------------------------------------------------------------------


@pytest.mark.parametrize("command", [3, 4, 7])
def test_userfaultfd_fills(command: int) -> None:
    wanted = Effect(3, AT, AT + 2 * P, 99, populates=True, userfault=True)
    assert call(IOCTL, command, AT, 2 * P, 0x5000) == wanted


def test_userfaultfd_moves() -> None:
    """UFFDIO_MOVE: from the address in the fourth argument."""
    wanted = Effect(3, AT, AT + P, 99, moved_to=AT + 9 * P, moved_size=P, userfault=True)
    assert call(IOCTL, 5, AT + 9 * P, P, AT) == wanted


@pytest.mark.parametrize(("command", "mode", "on"), [(0, 1, True), (0, 2, False), (1, 0, False)])
def test_ranges_registered_for_missing_pages(command: int, mode: int, on: bool) -> None:
    """Write protection alone lets missing pages fault as ever."""
    assert call(IOCTL, command, AT, P, mode) == Effect(3, AT, AT + P, 99, registers=on)


def test_other_ioctls_of_userfaultfd() -> None:
    assert call(IOCTL, 2, AT, P) is None  # UFFDIO_WAKE


@pytest.mark.parametrize(
    ("bytes_", "ranges"),
    [
        (3 * P + 8, [(AT, AT + P), (AT + 9 * P, AT + 11 * P), (8, 16)]),
        (P + 1, [(AT, AT + P), (AT + 9 * P, AT + 9 * P + 1)]),  # it stopped there
        (P, [(AT, AT + P)]),
    ],
)
def test_what_another_process_wrote(bytes_: int, ranges: list[tuple[int, int]]) -> None:
    args = [AT, P, AT + 9 * P, 2 * P, 8, 8]
    made = SystemCall(10, 0, 99, 0, 311, bytes_, args)
    done = interpret(made, 3, Memory())
    assert done == Consequences(written=tuple(ranges))
    assert not interpret(made._replace(number=MUNMAP), 3, Memory()).written
