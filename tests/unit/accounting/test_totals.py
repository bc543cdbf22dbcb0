"""The kernel's count, from sums, slots and /proc: each thread once, whenever it begins or ends."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from tracer.accounting.totals import KernelCount, Totals
from tracer.probes.answers import KernelTotals, Slot, Watch, Watched
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.procfs.stat import Life

PID = 100
NOTHING = KernelTotals(0, 0, 0, 0, 0)


@dataclass
class Kernel:
    """The maps of the programs, and /proc, as a test sets them."""

    sums: KernelTotals = NOTHING
    every: list[tuple[int, Slot]] = field(default_factory=list)
    left: dict[int, tuple[tuple[int, int], int]] = field(default_factory=dict)
    noted: dict[tuple[int, int], Watched] = field(default_factory=dict)
    lives: dict[tuple[int, int], Life] = field(default_factory=dict)  # /proc
    skipped: int = 0
    unlisted: int = 0
    said: list[str] = field(default_factory=list)  # in which order it was asked

    def watch(self, what: Watch) -> None:
        self.said.append(f"watch {what.name}")

    def watched(self) -> dict[tuple[int, int], Watched]:
        return self.noted

    def slots(self) -> list[tuple[int, Slot]]:
        return list(self.every)

    def leaving(self) -> dict[int, tuple[tuple[int, int], int]]:
        return self.left

    def totals(self) -> KernelTotals:
        return self.sums

    def targets(self) -> list[int]:
        return sorted({pid for pid, _ in self.lives})

    def clear_targets(self) -> None:
        self.said.append("clear")

    def wait_for_handlers(self) -> None:
        self.said.append("wait")

    def counters(self) -> dict[str, int]:
        return {"unlisted": self.unlisted}

    def missed_lifecycle_events(self) -> int:
        return self.skipped


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    it = Kernel()

    def life(pid: int, tid: int) -> Life:
        if (pid, tid) not in it.lives:
            raise ProcessGone(pid)
        return it.lives[pid, tid]

    def threads(pid: int) -> list[int]:
        return sorted(tid for each, tid in it.lives if each == pid)

    monkeypatch.setattr(stat, "life", life)
    monkeypatch.setattr(stat, "threads", threads)
    return it


def running(faults: int) -> Life:
    return Life(faults, exiting=False, dead=False)


def ending(faults: int) -> Life:
    return Life(faults, exiting=True, dead=False)


def dead(faults: int) -> Life:
    return Life(faults, exiting=True, dead=True)


def slot(seen: int, first: int = 0, task: int = 0, under_way: bool = False) -> Slot:
    return Slot(first, seen, under_way, task)


def attached(kernel: Kernel, blind: bool = False) -> Totals:
    """Totals of a trace that begins with what `kernel` has now."""
    made = Totals(cast(Any, kernel), blind)
    made.attach(PID, lambda: None)
    kernel.noted = {}
    return made


def ended(made: Totals) -> KernelCount:
    made.close()
    return made.settle(lambda: None)


# -- who lives all along ----------------------------------------------------------


def test_a_thread_counts_from_where_it_was(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.lives[PID, PID] = running(45)
    assert ended(made) == KernelCount(5, 0)


def test_what_its_slot_has_seen_counts_if_it_is_more(kernel: Kernel) -> None:
    """A fault that completed after its count was read, in which there is a record of it."""
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.lives[PID, PID] = running(45)
    kernel.every = [(PID, slot(46))]
    assert ended(made).faults == 6


def test_a_fault_between_the_start_and_the_first_read_is_ours(kernel: Kernel) -> None:
    """Its slot was begun at 40; /proc says 43 already."""
    kernel.lives[PID, PID] = running(43)
    kernel.every = [(PID, slot(43, first=40))]
    made = attached(kernel)
    assert ended(made).faults == 3


# -- who begins and ends ------------------------------------------------------------


def test_threads_that_ended_are_in_the_sums(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.sums = KernelTotals(begun=3, ended=2, faults=70, base=0, blind=0)
    kernel.lives[PID, PID] = running(41)
    kernel.lives[PID, 7] = running(9)
    assert ended(made) == KernelCount(1 + 70 + 9, 0)


def test_a_command_begins_at_its_exec(kernel: Kernel) -> None:
    made = Totals(cast(Any, kernel), blind=False)
    kernel.sums = KernelTotals(begun=1, ended=1, faults=130, base=90, blind=0)
    assert ended(made) == KernelCount(40, 0)


def test_one_that_begins_while_the_first_are_listed_is_not_there(kernel: Kernel) -> None:
    kernel.lives = {(PID, PID): running(40), (PID, 7): running(2)}
    kernel.noted[PID, 7] = Watched(begun=True, ended=False, base=0)
    made = attached(kernel)
    kernel.sums = KernelTotals(begun=1, ended=0, faults=0, base=0, blind=0)
    assert ended(made) == KernelCount(2, 0)


def test_one_that_ends_while_the_first_are_listed_had_counted(kernel: Kernel) -> None:
    """Found or not: the sums have all of it, of which 30 were before."""
    for known in ({(PID, 7): ending(31)}, {}):
        kernel.lives = {(PID, PID): running(40), **known}
        kernel.noted[PID, 7] = Watched(begun=False, ended=True, base=30)
        kernel.sums = NOTHING
        made = attached(kernel)
        kernel.sums = KernelTotals(begun=0, ended=1, faults=33, base=0, blind=0)
        kernel.lives = {(PID, PID): running(40)}
        assert ended(made) == KernelCount(3, 0)


def test_one_that_was_dead_before_is_nobody(kernel: Kernel) -> None:
    """A leader that has ended, whether or not it is gone when the trace ends."""
    for gone in (False, True):
        kernel.lives = {(PID, PID): dead(40), (PID, 7): running(5)}
        made = attached(kernel)
        kernel.lives[PID, 7] = running(6)
        if gone:
            del kernel.lives[PID, PID]
        assert ended(made) == KernelCount(1, 0)


def test_one_that_is_ending_when_the_trace_begins(kernel: Kernel) -> None:
    """Its end is yet to be reported."""
    kernel.lives = {(PID, PID): running(40), (PID, 7): ending(31)}
    made = attached(kernel)
    kernel.sums = KernelTotals(begun=0, ended=1, faults=33, base=0, blind=0)
    del kernel.lives[PID, 7]
    assert ended(made) == KernelCount(2, 0)


# -- the end -------------------------------------------------------------------------


def test_the_end_is_watched_until_no_handler_runs(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(1)
    made = attached(kernel)
    kernel.said = []
    made.close()
    assert kernel.said == ["watch ON", "clear", "wait", "watch OVER"]


def test_one_that_ends_while_the_last_are_listed_counts_once(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.lives[PID, 7] = running(9)
    kernel.noted[PID, 7] = Watched(begun=False, ended=True, base=9)
    kernel.sums = KernelTotals(begun=1, ended=1, faults=11, base=0, blind=0)
    assert ended(made) == KernelCount(11, 0)


def test_one_that_begins_meanwhile_has_what_its_slot_says(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.noted[PID, 7] = Watched(begun=True, ended=False, base=0)
    kernel.sums = KernelTotals(begun=1, ended=0, faults=0, base=0, blind=0)
    kernel.every = [(7, slot(3))]
    assert ended(made) == KernelCount(3, 0)


@pytest.mark.parametrize("reported", [False, True])
def test_one_that_is_ending_at_the_end_counts_once(kernel: Kernel, reported: bool) -> None:
    """Its memory is released before its end is reported, which takes a while."""
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.lives[PID, 7] = ending(9)
    kernel.sums = KernelTotals(
        begun=1, ended=int(reported), faults=9 if reported else 0, base=0, blind=0
    )
    if reported:
        kernel.left[0xABC] = ((PID, 7), 9)
    assert ended(made) == KernelCount(9, 0)


def test_what_a_thread_still_comes_to_once_its_end_is_reported(kernel: Kernel) -> None:
    """And its number is another's by now: its slot is known by its address."""
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.sums = KernelTotals(begun=2, ended=1, faults=9, base=0, blind=0)
    kernel.left[0xABC] = ((PID, 7), 9)
    kernel.lives[200, 7] = running(4)
    kernel.every = [(7, slot(11, task=0xABC)), (7, slot(5, task=0xDEF))]
    assert ended(made) == KernelCount(11 + 5, 0)


def test_it_reads_until_nothing_completes_any_more(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    made.close()
    reads = 0

    def read() -> None:
        nonlocal reads
        reads += 1
        kernel.every = [(PID, slot(40 + min(reads, 3)))]

    assert made.settle(read) == KernelCount(3, 0)
    assert reads == 4


def test_it_does_not_read_for_ever(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(0)
    made = attached(kernel)
    made.close()
    reads = 0

    def read() -> None:
        nonlocal reads
        reads += 1
        kernel.every = [(PID, slot(reads))]

    assert made.settle(read).at_least == "faults continued while the trace was ending"
    assert reads == 20


# -- blind -----------------------------------------------------------------------------


def test_growth_without_an_exception_is_blind(kernel: Kernel) -> None:
    """From a thread's very first on: of those that were there, what they had before is not ours."""
    kernel.lives = {(PID, PID): running(40), (PID, 7): running(5)}
    made = attached(kernel, blind=True)
    kernel.sums = KernelTotals(begun=0, ended=0, faults=0, base=0, blind=42)
    kernel.lives = {(PID, PID): running(50), (PID, 7): running(8)}
    kernel.every = [(PID, slot(47, task=1))]
    # Of the first 42 - 40 and 50 - 47; the second had no exception at all.
    assert ended(made) == KernelCount(13, 2 + 3 + 3)


def test_one_under_way_is_missed_not_blind(kernel: Kernel) -> None:
    """It may be the fault of the exception that never completed."""
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel, blind=True)
    kernel.sums = KernelTotals(begun=0, ended=0, faults=0, base=0, blind=40)
    kernel.lives[PID, PID] = running(43)
    kernel.every = [(PID, slot(40, under_way=True))]
    assert ended(made) == KernelCount(3, 2)


# -- what cannot be known ------------------------------------------------------------------


def bound(kernel: Kernel) -> str:
    kernel.lives.setdefault((PID, PID), running(40))
    return ended(attached(kernel)).at_least


def test_a_thread_that_is_nowhere_makes_it_a_bound(kernel: Kernel) -> None:
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.sums = KernelTotals(begun=1, ended=0, faults=0, base=0, blind=0)
    assert ended(made).at_least == "threads alive at the end were not found"


def test_a_full_map_makes_it_a_bound(kernel: Kernel) -> None:
    kernel.unlisted = 1
    assert bound(kernel) == "some threads or processes could not be recorded"


def test_unheard_handlers_make_it_a_bound(kernel: Kernel) -> None:
    kernel.skipped = 2
    assert bound(kernel) == "it skipped the handlers that follow threads 2 times"


def test_one_that_nobody_reported_does_not(kernel: Kernel) -> None:
    """No event reports the beginning of io_uring's workers; their end is in the sums."""
    kernel.lives[PID, PID] = running(40)
    made = attached(kernel)
    kernel.sums = KernelTotals(begun=0, ended=1, faults=6, base=0, blind=0)
    assert ended(made) == KernelCount(6, 0)
