"""What faults do to pages, rule by rule."""

from tests.unit.timeline_data import (
    CHILD,
    SPACE,
    A,
    B,
    C,
    Event,
    P,
    apply,
    check_books,
    page_of,
    see,
    tallies,
)
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.timeline.timeline import Timeline

# -- one page ------------------------------------------------------------------------


def test_a_first_fault_gives_a_page_its_frame(line: Timeline) -> None:
    out = apply(line, Event(7, 10, 20, after=A, number=3, region=5, kind=Kind.FILE))
    assert (out.gained.tolist(), out.raced.tolist()) == ([True], [False])
    page = page_of(line, 7)
    assert (page["frame"], page["gains"], page["losses"]) == (A, 1, 0)
    assert (page["first_fault"], page["first_kind"], page["region"]) == (3, Kind.FILE, 5)
    assert page["first_source"] == page["source"] == Source.FAULT
    assert page["changed_ns"] == page["first_ns"] == 20
    assert tallies(line) == ({Source.FAULT: 1}, {})
    check_books(line, SPACE)


def test_spaces_do_not_share_pages(line: Timeline) -> None:
    apply(line, Event(7, 10, 20))
    assert page_of(line, 7, CHILD)["frame"] == NO_FRAME
    assert page_of(line, 7 + 512)["frame"] == NO_FRAME


def test_copy_on_write_replaces_a_frame(line: Timeline) -> None:
    apply(line, Event(7, 10, 20, after=A, kind=Kind.ZERO))
    out = apply(line, Event(7, 30, 40, A, B, kind=Kind.COW))
    assert out.gained.tolist() == [True]
    page = page_of(line, 7)
    assert (page["frame"], page["gains"], page["losses"]) == (B, 2, 1)
    assert (page["last_loss"], page["first_kind"]) == (Loss.REPLACED, Kind.ZERO)
    assert tallies(line) == ({Source.FAULT: 2}, {Loss.REPLACED: 1})


def test_reuse_gains_nothing(line: Timeline) -> None:
    apply(line, Event(7, 10, 20, after=A))
    out = apply(line, Event(7, 30, 40, A, A, kind=Kind.REUSE))
    assert (out.gained.tolist(), out.raced.tolist()) == ([False], [False])
    assert page_of(line, 7)["changed_ns"] == 20


def test_many_events_on_one_page_in_one_batch_are_followed_in_order(line: Timeline) -> None:
    out = apply(
        line,
        Event(7, 10, 20, after=A, kind=Kind.ZERO),
        Event(8, 10, 21, after=C),
        Event(7, 30, 40, A, B, kind=Kind.COW),
        Event(7, 50, 60, B, B, kind=Kind.REUSE),
        Event(7, 70, 80, B, C, kind=Kind.COW),
    )
    assert out.gained.tolist() == [True, True, True, False, True]
    assert (page_of(line, 7)["frame"], page_of(line, 7)["gains"]) == (C, 3)
    assert page_of(line, 8)["frame"] == C
    check_books(line, SPACE)


def test_events_that_leave_a_page_as_it_is_are_cheap(line: Timeline) -> None:
    """A loop of mprotect and write: one page, a whole batch long."""
    again = [Event(7, 10 * n, 10 * n + 5, A, A, kind=Kind.REUSE) for n in range(1, 20_000)]
    out = apply(line, Event(7, 0, 5, after=A), *again)
    assert out.gained.sum() == 1
    assert page_of(line, 7)["frame"] == A


def test_a_page_found_in_an_unknown_frame_had_gained_it_unseen(line: Timeline) -> None:
    out = apply(line, Event(7, 10, 20, A, B, kind=Kind.COW))
    assert out.gained.tolist() == [True]
    page = page_of(line, 7)
    assert (page["frame"], page["gains"], page["losses"]) == (B, 2, 1)
    assert (page["first_source"], page["first_frame"], page["source"]) == (
        Source.UNKNOWN,
        A,
        Source.FAULT,
    )
    assert tallies(line) == ({Source.FAULT: 1, Source.UNKNOWN: 1}, {Loss.REPLACED: 1})


def test_a_fault_that_changed_nothing_claims_no_frame(line: Timeline) -> None:
    """The page moved to B unseen; a spurious fault there did not bring it."""
    apply(line, Event(7, 10, 20, after=A))
    out = apply(line, Event(7, 30, 40, B, B, kind=Kind.SPURIOUS))
    assert out.gained.tolist() == [False]
    assert (page_of(line, 7)["frame"], page_of(line, 7)["source"]) == (B, Source.UNKNOWN)
    assert tallies(line)[0] == {Source.FAULT: 1, Source.UNKNOWN: 1}
    check_books(line, SPACE)


def test_a_page_found_absent_had_been_released_unseen(line: Timeline) -> None:
    apply(line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    apply(line, Event(7, 30, 40, after=A), Event(8, 30, 41, after=C, swapped=True))
    assert tallies(line) == ({Source.FAULT: 4}, {Loss.UNKNOWN: 1, Loss.RECLAIM: 1})
    assert page_of(line, 7)["last_loss"] == Loss.UNKNOWN
    assert page_of(line, 8)["last_loss"] == Loss.RECLAIM


def test_what_was_there_before_is_not_known_claims_nothing(line: Timeline) -> None:
    """perf, under way when tracing began: neither absent nor with a frame."""
    out = apply(line, Event(7, 20, 20, None, A, absent=False, kind=Kind.UNKNOWN))
    assert out.gained.tolist() == [True]
    out = apply(line, Event(7, 30, 30, None, A, absent=False, kind=Kind.UNKNOWN))
    assert (out.gained.tolist(), out.raced.tolist()) == ([False], [False])
    assert tallies(line) == ({Source.FAULT: 1}, {})


def test_a_fault_that_left_no_frame_changes_nothing(line: Timeline) -> None:
    out = apply(line, Event(7, 10, 20, after=NO_FRAME, kind=Kind.SPURIOUS))
    assert out.gained.tolist() == [False]
    assert page_of(line, 7)["frame"] == NO_FRAME
    check_books(line, SPACE)


def test_a_freed_frame_used_again_by_the_page_that_had_it(line: Timeline) -> None:
    """Merged into B and copied out of it, into the very frame it had before."""
    apply(line, Event(7, 10, 20, after=A))
    apply(line, Event(7, 30, 40, B, A, kind=Kind.COW))
    assert tallies(line) == ({Source.FAULT: 2, Source.UNKNOWN: 1}, {Loss.REPLACED: 2})
    check_books(line, SPACE)


# -- races ---------------------------------------------------------------------------


def test_two_threads_on_one_absent_page(line: Timeline) -> None:
    out = apply(line, Event(7, 10, 20, number=1), Event(7, 12, 21, number=2))
    assert out.gained.tolist() == [True, False]
    assert out.raced.tolist() == [False, True]
    assert page_of(line, 7)["first_fault"] == 1
    assert tallies(line) == ({Source.FAULT: 1}, {})


def test_two_threads_in_two_batches(line: Timeline) -> None:
    apply(line, Event(7, 10, 20))
    assert apply(line, Event(7, 12, 21)).raced.tolist() == [True]
    assert apply(line, Event(7, 20, 30)).raced.tolist() == [True]  # began as the other ended


def test_two_threads_copying_one_page(line: Timeline) -> None:
    apply(line, Event(7, 1, 2, after=A, kind=Kind.ZERO))
    out = apply(line, Event(7, 10, 20, A, B, kind=Kind.COW), Event(7, 12, 21, A, B, kind=Kind.COW))
    assert out.gained.tolist() == [True, False]
    assert out.raced.tolist() == [False, True]
    assert page_of(line, 7)["gains"] == 2


def test_a_reader_that_is_done_before_the_writer_leaves_it_the_gain(line: Timeline) -> None:
    """It saw the copy in place, and had no part in it."""
    apply(line, Event(7, 1, 2, after=A, kind=Kind.ZERO))
    out = apply(
        line,
        Event(7, 10, 20, A, B, kind=Kind.SPURIOUS),
        Event(7, 9, 21, A, B, kind=Kind.COW, number=5),
    )
    assert out.gained.tolist() == [False, True]
    assert out.raced.tolist() == [False, False]
    assert tallies(line) == ({Source.FAULT: 2}, {Loss.REPLACED: 1})


def test_a_snapshot_that_saw_the_frame_before_the_record(line: Timeline) -> None:
    see(line, 7, A, 15, Source.UNKNOWN)
    out = apply(line, Event(7, 10, 20, number=9, kind=Kind.ANON))
    assert (out.gained.tolist(), out.raced.tolist()) == ([True], [False])
    page = page_of(line, 7)
    assert (page["first_source"], page["first_fault"], page["first_ns"]) == (Source.FAULT, 9, 20)
    assert (page["gains"], page["confirmed"]) == (1, Confirmed.BOTH)
    assert tallies(line) == ({Source.FAULT: 1}, {})
    check_books(line, SPACE)


def test_the_first_snapshot_s_page_is_credited_to_the_fault_under_way(line: Timeline) -> None:
    see(line, 7, A, 15, Source.INITIAL)
    assert line.ledger.tally.gained_in == {}
    assert apply(line, Event(7, 10, 20)).gained.tolist() == [True]
    assert line.ledger.tally.gained_in == {1: 1}
    assert tallies(line) == ({Source.FAULT: 1}, {})


def test_after_such_a_credit_the_next_has_lost_the_race(line: Timeline) -> None:
    see(line, 7, A, 15, Source.UNKNOWN)
    out = apply(line, Event(7, 10, 20), Event(7, 11, 21))
    assert (out.gained.tolist(), out.raced.tolist()) == ([True, False], [False, True])


def test_a_page_moved_here_meanwhile_is_not_credited(line: Timeline) -> None:
    apply(line, Event(7, 1, 2))
    line.releases.move(SPACE, 7 * P, 9 * P, P, 15)
    assert apply(line, Event(9, 10, 20)).raced.tolist() == [True]
    assert tallies(line)[0] == {Source.FAULT: 1, Source.MOVE: 1}


# -- neighbours ----------------------------------------------------------------------


def around(page: int, start: int, time: int, after: int, before: int | None = None) -> Event:
    return Event(page, start, time, before, after, kind=Kind.FILE, source=Source.AROUND)


def test_neighbours_come_along(line: Timeline) -> None:
    out = apply(line, Event(7, 10, 20, after=A), around(8, 10, 20, B), around(9, 10, 20, C))
    assert out.gained.tolist() == [True, True, True]
    assert page_of(line, 8)["first_source"] == Source.AROUND
    assert tallies(line) == ({Source.FAULT: 1, Source.AROUND: 2}, {})


def test_a_neighbour_another_thread_put_there_meanwhile(line: Timeline) -> None:
    apply(line, Event(8, 11, 19, after=B))
    out = apply(line, Event(7, 10, 20, after=A), around(8, 10, 20, B))
    assert (out.gained.tolist(), out.raced.tolist()) == ([True, False], [False, False])
    assert page_of(line, 8)["first_source"] == Source.FAULT


def test_a_neighbour_released_unseen_came_back_along(line: Timeline) -> None:
    """Reclaimed, and mapped again elsewhere by fault-around: no contradiction."""
    apply(line, Event(8, 1, 2, after=A))
    out = apply(line, Event(7, 10, 20, after=C), around(8, 10, 20, B))
    assert out.gained.tolist() == [True, True]
    assert page_of(line, 8)["frame"] == B
    assert tallies(line) == ({Source.FAULT: 2, Source.AROUND: 1}, {Loss.UNKNOWN: 1})


def test_neighbours_seen_by_a_snapshot_first(line: Timeline) -> None:
    see(line, 8, B, 15, Source.UNKNOWN)
    out = apply(line, Event(7, 10, 20, after=A), around(8, 10, 20, B))
    assert out.gained.tolist() == [True, True]
    assert tallies(line)[0] == {Source.FAULT: 1, Source.AROUND: 1}


def test_a_huge_page_replaces_the_huge_zero_page_whole(line: Timeline) -> None:
    apply(line, Event(7, 1, 2, after=A), around(8, 1, 2, A + P))
    out = apply(
        line, Event(7, 10, 20, A, 0x9000, kind=Kind.COW), around(8, 10, 20, 0xA000, before=A + P)
    )
    assert out.gained.tolist() == [True, True]
    assert page_of(line, 8)["frame"] == 0xA000
    check_books(line, SPACE)


def test_a_neighbour_in_a_frame_of_its_own_stays(line: Timeline) -> None:
    apply(line, Event(8, 1, 2, after=B))
    event = around(8, 10, 20, C)
    event.absent = False
    assert apply(line, event).gained.tolist() == [False]
    assert page_of(line, 8)["frame"] == B
