"""The kernel's fault count, thread by thread: how many faults were missed, exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.accounting.fault_counts import Threads

TGID = 10


@pytest.fixture
def threads() -> Threads:
    return Threads()


def record(threads: Threads, *records: tuple[int, int]) -> None:
    """Counted faults: (tid, the thread's count after it)."""
    threads.record(
        np.array([tid for tid, _ in records], np.uint32),
        np.full(len(records), TGID, np.uint32),
        np.array([count for _, count in records], np.uint64),
    )


def books(threads: Threads) -> tuple[int, int]:
    """Counted by the kernel, and seen."""
    return threads.counted, threads.seen


def test_nothing_is_traced_at_first(threads: Threads) -> None:
    record(threads)
    assert books(threads) == (0, 0)


def test_steps_of_one_prove_that_nothing_was_missed(threads: Threads) -> None:
    threads.begin(11, TGID, 100)
    record(threads, (11, 101), (11, 102))
    record(threads, (11, 103))
    assert books(threads) == (3, 3)
    assert threads.live[11].missed == 0


def test_a_gap_says_how_much_was_missed(threads: Threads) -> None:
    threads.begin(11, TGID, 100)
    record(threads, (11, 101), (11, 105))
    assert books(threads) == (5, 2)
    assert threads.live[11].missed == 3


def test_a_gap_before_the_first_record_counts(threads: Threads) -> None:
    threads.begin(11, TGID, 100)
    record(threads, (11, 104))
    assert threads.live[11].missed == 3


def test_a_gap_after_the_last_record_shows_when_the_count_is_read(threads: Threads) -> None:
    threads.begin(11, TGID, 100)
    record(threads, (11, 101))
    threads.reach(11, 106)
    assert books(threads) == (6, 1)
    threads.reach(11, 104)  # an older reading that came late
    assert books(threads) == (6, 1)


def test_records_of_before_the_base_was_read_are_ours(threads: Threads) -> None:
    """The hooks are in place before the base is read from /proc: 101 and 102 were in both."""
    threads.begin(11, TGID, 102)
    record(threads, (11, 101), (11, 102), (11, 103))
    assert books(threads) == (3, 3)


def test_the_base_itself_may_be_the_first_record(threads: Threads) -> None:
    threads.begin(11, TGID, 101)
    record(threads, (11, 101))
    assert books(threads) == (1, 1)


def test_threads_are_kept_apart(threads: Threads) -> None:
    threads.begin(11, TGID, 100)
    threads.begin(12, TGID, 0)
    record(threads, (12, 1), (11, 101), (12, 2), (11, 103))
    assert threads.live[11].missed == 1
    assert threads.live[12].missed == 0
    assert books(threads) == (5, 4)


def test_a_thread_whose_start_was_not_recorded_began_at_zero(threads: Threads) -> None:
    """A worker of io_uring, or one whose record was lost: all its faults were under trace."""
    record(threads, (13, 4), (13, 5))
    assert books(threads) == (5, 2)
    assert threads.live[13].tgid == TGID


def test_a_thread_met_before_its_record_is_one_thread(threads: Threads) -> None:
    threads.meet(13, TGID)
    threads.reach(13, 2)
    threads.begin(13, TGID, 0)  # the FORK record, late
    record(threads, (13, 1), (13, 2), (13, 3))
    assert books(threads) == (3, 3)
    threads.end(13, 3)
    threads.meet(13, TGID)
    threads.begin(13, TGID, 0)  # its number, used again
    assert books(threads) == (3, 3)


def test_faults_on_the_way_out_still_count(threads: Threads) -> None:
    threads.begin(11, TGID, 0)
    record(threads, (11, 1))
    threads.end(11, 1)
    assert threads.live[11].ended
    record(threads, (11, 2))
    assert books(threads) == (2, 2)
    threads.reach(11, 3)  # the FREE record's final count
    assert books(threads) == (3, 2)


def test_a_thread_that_ends_unseen_leaves_a_gap(threads: Threads) -> None:
    threads.begin(11, TGID, 0)
    threads.end(11, 7)
    assert books(threads) == (7, 0)


def test_the_end_of_one_we_never_met(threads: Threads) -> None:
    threads.end(99, 5)
    threads.reach(99, 9)
    assert books(threads) == (0, 0)


def test_a_thread_id_used_again(threads: Threads) -> None:
    threads.begin(11, TGID, 0)
    record(threads, (11, 1), (11, 2), (11, 4))
    threads.end(11, 5)
    threads.begin(11, TGID + 1, 0)
    assert not threads.live[11].ended
    record(threads, (11, 1))
    assert threads.live[11].missed == 0
    assert books(threads) == (5 + 1, 3 + 1)


def test_exec_by_another_thread_than_the_leader(threads: Threads) -> None:
    """It takes the leader's id and keeps its own count; the leader is gone."""
    threads.begin(10, TGID, 0)
    threads.begin(14, TGID, 0)
    record(threads, (10, 1), (10, 2), (14, 1))
    threads.end(10, 2)
    threads.become_leader(14, 10)
    threads.restart(10, TGID, 1)
    record(threads, (10, 2), (10, 3))
    assert set(threads.live) == {10}
    assert threads.live[10].missed == 0
    assert books(threads) == (5, 5)


def test_exec_by_the_leader_changes_nothing(threads: Threads) -> None:
    threads.begin(10, TGID, 0)
    record(threads, (10, 1))
    threads.become_leader(10, 10)
    threads.restart(10, TGID, 1)
    record(threads, (10, 2))
    assert books(threads) == (2, 2)


def test_a_target_that_waited_begins_at_its_exec(threads: Threads) -> None:
    threads.restart(10, TGID, 180)
    record(threads, (10, 181))
    assert books(threads) == (1, 1)


LIVES = st.lists(
    st.tuples(
        st.integers(0, 1000),  # the count when it begins
        st.lists(st.booleans(), max_size=30),  # its faults: recorded or missed
        st.booleans(),  # whether its id is that of the one before
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(LIVES, st.integers(1, 7))
def test_what_was_missed_is_known_to_the_fault(
    lives: list[tuple[int, list[bool], bool]], batch: int
) -> None:
    """Threads come and go; each one's records arrive in batches of their own."""
    threads, tid, kernel, recorded = Threads(), 11, 0, 0
    for first, faults, reused in lives:
        tid += 0 if reused else 1
        threads.begin(tid, TGID, first)
        counts = [first + 1 + n for n, seen in enumerate(faults) if seen]
        for start in range(0, len(counts), batch):
            record(threads, *((tid, count) for count in counts[start : start + batch]))
        threads.end(tid, first + len(faults))
        kernel += len(faults)
        recorded += len(counts)
        assert books(threads) == (kernel, recorded)


def test_a_number_used_again_is_another_thread() -> None:
    """The old thread is freed late: its last count is not the new one's."""
    threads = Threads()
    threads.begin(11, TGID, 0)
    threads.end(11, 500, task=0xA)
    threads.begin(11, TGID, 0)
    threads.free(11, 501, task=0xA)
    threads.end(11, 3, task=0xB)
    threads.free(11, 501, task=0xA)
    threads.free(11, 4, task=0xB)
    assert threads.counted == 504


def test_the_thread_that_calls_exec_is_the_one_left() -> None:
    threads = Threads()
    for tid in (TGID, TGID + 1, TGID + 2):
        threads.begin(tid, TGID, 0)
    threads.end(TGID, 2)
    threads.end(TGID + 1, 3)
    threads.reach(TGID + 2, 4)
    threads.become_leader(0, TGID)
    threads.reach(TGID, 9)
    assert (threads.counted, set(threads.live)) == (2 + 3 + 9, {TGID, TGID + 1})


def test_faults_between_the_leaders_end_and_the_record_of_exec(threads: Threads) -> None:
    """exec gives another thread the leader's number before its record says so."""
    threads.begin(TGID, TGID, 283)
    threads.begin(11, TGID, 0)
    record(threads, (11, 1), (11, 2))
    threads.end(TGID, 283)
    record(threads, (TGID, 3), (TGID, 4))
    threads.become_leader(11, TGID)
    threads.reach(TGID, 4)
    assert books(threads) == (4, 4)


def test_what_each_process_missed(threads: Threads) -> None:
    threads.begin(11, TGID, 0)
    threads.begin(12, TGID, 0)
    threads.begin(21, 20, 0)
    record(threads, (11, 2), (12, 1))
    threads.reach(21, 7)
    assert (threads.missed_by(TGID), threads.missed_by(20), threads.missed_by(30)) == (1, 7, 0)
    threads.end(11, 5)
    threads.let_go(11)  # what it missed stays its process's
    assert threads.missed_by(TGID) == 4
    threads.forget(TGID)  # one thread lives
    assert threads.missed_by(TGID) == 4
    threads.let_go(12)
    threads.forget(TGID)
    assert threads.missed_by(TGID) == 0


def test_what_a_process_missed_goes_along_when_a_thread_becomes_the_leader(
    threads: Threads,
) -> None:
    threads.begin(TGID, TGID, 0)
    threads.begin(12, TGID, 0)
    threads.reach(TGID, 3)
    threads.reach(12, 2)
    threads.become_leader(12, TGID)
    assert threads.missed_by(TGID) == 5
