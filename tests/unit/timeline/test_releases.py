"""Pages released, moved and inherited: munmap, madvise, mremap, UFFDIO_MOVE, fork, exit."""

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
    released,
    tallies,
)
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.timeline.releases import Released
from tracer.timeline.timeline import Timeline


def test_unmapping_ends_a_page_s_history(line: Timeline) -> None:
    apply(line, *(Event(page, 10, 20, number=page) for page in (510, 511, 512, 513)))
    assert line.releases.release(SPACE, 511 * P, 513 * P, 30, Loss.MUNMAP) == 2
    assert [page_of(line, n)["frame"] == NO_FRAME for n in range(510, 514)] == [
        False,
        True,
        True,
        False,
    ]
    assert page_of(line, 511)["losses"] == 1
    apply(line, Event(511, 40, 50, number=77, region=8))
    page = page_of(line, 511)
    assert (page["gains"], page["losses"], page["first_fault"], page["region"]) == (1, 0, 77, 8)
    check_books(line, SPACE)


def test_dontneed_does_not(line: Timeline) -> None:
    apply(line, Event(7, 10, 20, number=1))
    line.releases.release(SPACE, 0, 1 << 56, 30, Loss.MADVISE)
    apply(line, Event(7, 40, 50, after=B, number=2))
    page = page_of(line, 7)
    assert (page["gains"], page["losses"], page["first_fault"]) == (2, 1, 1)
    assert page["last_loss"] == Loss.MADVISE
    assert tallies(line) == ({Source.FAULT: 2}, {Loss.MADVISE: 1})


def test_what_came_after_a_system_call_s_return_stays(line: Timeline) -> None:
    """Another thread's fault, whose record came first."""
    apply(line, Event(7, 10, 20), Event(8, 25, 40, after=B))
    assert line.releases.release(SPACE, 0, 1 << 56, 30, Loss.MADVISE) == 1
    assert [page_of(line, n)["frame"] for n in (7, 8)] == [NO_FRAME, B]


def test_releases_in_ranges_apart_are_booked_together(line: Timeline) -> None:
    """Each as if it were alone: its time, its cause, what came during the call or after it."""
    apply(line, *(Event(page, 10, 20 + page, after=A + page * P) for page in range(12)))
    apply(line, Event(3, 10, 20, after=B), space=CHILD)
    losses = [
        Released(SPACE, 0, 3 * P, 40, Loss.MUNMAP),
        Released(SPACE, 3 * P, 5 * P, 23, Loss.MADVISE),
        Released(CHILD, 0, 1 << 56, 50, Loss.EXIT),
        Released(SPACE, 8 * P, 11 * P, 40, Loss.MADVISE, begun_ns=29),
        Released(SPACE, 64 * P, 99 * P, 40, Loss.MUNMAP),
    ]
    assert line.releases.release_all(losses) == 3 + 1 + 1 + 3
    gone = {page for page in range(12) if page_of(line, page)["frame"] == NO_FRAME}
    assert gone == {0, 1, 2, 3, 8}
    assert [page_of(line, page)["doubt"] for page in (8, 9, 10, 11)] == [
        *(0, Loss.MADVISE, Loss.MADVISE, 0)
    ]
    assert page_of(line, 3)["changed_ns"] == 23
    assert released(line) == {"MUNMAP": 3, "MADVISE": 2, "EXIT": 1}
    assert line.releases.release_all(losses[:1]) == line.releases.release_all([]) == 0


def test_holds(line: Timeline) -> None:
    assert not line.releases.holds(SPACE, 0, 1 << 56)
    apply(line, Event(7, 10, 20))
    assert line.releases.holds(SPACE, 7 * P, 8 * P)
    assert line.releases.holds(SPACE, 0, 1 << 56)
    assert not line.releases.holds(SPACE, 8 * P, 9 * P)
    assert not line.releases.holds(SPACE, 7 * P, 7 * P)
    assert not line.releases.holds(CHILD, 0, 1 << 56)


def test_mremap_moves_frames_along(line: Timeline) -> None:
    apply(line, Event(7, 10, 20, after=A, region=5), Event(9, 10, 21, after=B))
    line.releases.move(SPACE, 7 * P, 1000 * P, 3 * P, 30)
    assert [page_of(line, n)["frame"] for n in (7, 9, 1000, 1001, 1002)] == [
        NO_FRAME,
        NO_FRAME,
        A,
        NO_FRAME,
        B,
    ]
    page = page_of(line, 1000)
    assert (page["source"], page["first_source"], page["region"]) == (Source.MOVE, Source.MOVE, 5)
    assert tallies(line) == ({Source.FAULT: 2, Source.MOVE: 2}, {Loss.MOVE: 2})
    check_books(line, SPACE)


def test_mremap_clears_where_it_goes(line: Timeline) -> None:
    """MREMAP_FIXED over a mapping: also where the old one had no page, and where it grew."""
    apply(line, *(Event(n, 10, 20, after=n * P) for n in (7, 20, 21, 22, 23)))
    line.releases.move(SPACE, 7 * P, 20 * P, 2 * P, 30, 3 * P)
    assert [page_of(line, n)["frame"] for n in (20, 21, 22, 23)] == [
        7 * P,
        NO_FRAME,
        NO_FRAME,
        23 * P,
    ]
    assert tallies(line)[1] == {Loss.MOVE: 1, Loss.MUNMAP: 3}
    check_books(line, SPACE)


def test_mremap_leaves_behind_what_does_not_fit(line: Timeline) -> None:
    apply(line, *(Event(n, 10, 20, after=n * P) for n in (7, 8, 9)))
    line.releases.move(SPACE, 7 * P, 20 * P, 3 * P, 30, P)
    assert [page_of(line, n)["frame"] == NO_FRAME for n in (7, 8, 9, 20, 21)] == [
        True,
        True,
        True,
        False,
        True,
    ]
    assert tallies(line)[1] == {Loss.MOVE: 1, Loss.MUNMAP: 2}


def test_userfaultfd_moves_a_frame_whose_fault_was_recorded_first(line: Timeline) -> None:
    """Page 7's fault is over before UFFDIO_MOVE, which woke it, returns; page 8 never faults."""
    apply(line, Event(70, 1, 2, after=A), Event(71, 1, 2, after=B))
    apply(line, Event(7, 10, 20, after=A, kind=Kind.UFFD, source=Source.UFFD))
    line.releases.hand_over(SPACE, 70 << 12, 7 << 12, 2 << 12, 30)
    assert tallies(line) == ({Source.FAULT: 2, Source.UFFD: 2}, {Loss.MOVE: 2})
    assert [page_of(line, n)["frame"] for n in (7, 8)] == [A, B]
    check_books(line, SPACE)


def test_userfaultfd_moves_a_frame_before_its_fault_is_recorded(line: Timeline) -> None:
    apply(line, Event(70, 1, 2, after=A))
    line.releases.hand_over(SPACE, 70 << 12, 7 << 12, 1 << 12, 15)
    out = apply(line, Event(7, 10, 20, after=A, kind=Kind.UFFD, source=Source.UFFD))
    assert (out.gained.tolist(), out.raced.tolist()) == ([True], [False])
    assert tallies(line) == ({Source.FAULT: 1, Source.UFFD: 1}, {Loss.MOVE: 1})
    assert page_of(line, 7)["first_kind"] == Kind.UFFD
    assert page_of(line, 7)["confirmed"] == Confirmed.FAULT
    check_books(line, SPACE)


def test_what_a_child_may_have_is_no_gain_until_it_shows(line: Timeline) -> None:
    apply(line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B), Event(9, 10, 22, after=C))
    line.releases.inherit(SPACE, CHILD, 30)
    assert tallies(line)[0] == {Source.FAULT: 3}
    assert page_of(line, 7, CHILD)["assumed"]
    # The child copies one, finds one absent, and never touches the third.
    apply(line, Event(7, 40, 50, A, 0x9000, kind=Kind.COW), Event(8, 40, 51), space=CHILD)
    assert tallies(line) == ({Source.FAULT: 5, Source.FORK: 1}, {Loss.REPLACED: 1})
    page = page_of(line, 7, CHILD)
    assert (page["first_source"], page["gains"]) == (Source.FORK, 2)
    assert page_of(line, 8, CHILD)["first_source"] == Source.FAULT
    line.releases.drop_assumed(CHILD)
    assert page_of(line, 9, CHILD)["frame"] == NO_FRAME
    assert [int(n) for n in line.ledger.pages_at(line.ledger.touched(CHILD))] == [7, 8]
    check_books(line, SPACE, CHILD)


def test_what_a_child_may_have_can_move_and_go(line: Timeline) -> None:
    apply(line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    line.releases.inherit(SPACE, CHILD, 30)
    line.releases.move(CHILD, 7 * P, 20 * P, P, 40)
    assert page_of(line, 20, CHILD)["assumed"]
    assert line.releases.release(CHILD, 8 * P, 9 * P, 50, Loss.MUNMAP) == 1
    assert tallies(line) == ({Source.FAULT: 2}, {})
    apply(line, Event(20, 60, 70, A, A, kind=Kind.REUSE), space=CHILD)
    assert tallies(line)[0] == {Source.FAULT: 2, Source.FORK: 1}
    check_books(line, SPACE, CHILD)


def test_many_sparse_pages_far_apart(line: Timeline) -> None:
    pages = [n * 1_000_003 % (1 << 35) for n in range(500)]
    apply(line, *(Event(page, 10, 20 + n, after=n * P) for n, page in enumerate(pages)))
    assert line.ledger.pages_at(line.ledger.resident(SPACE)).tolist() == sorted(pages)
    assert all(page_of(line, page)["frame"] == n * P for n, page in enumerate(pages))
    assert line.releases.release(SPACE, 0, 1 << 56, 9999, Loss.EXIT) == 500
    check_books(line, SPACE)


def test_what_a_space_had_at_its_end_is_released_by_its_end(line: Timeline) -> None:
    apply(line, Event(1, 10, 20), Event(2, 30, 40, after=B))
    line.releases.release(SPACE, P, 2 * P, 50, Loss.MUNMAP)
    line.releases.retire(SPACE, 60)
    assert tallies(line) == ({Source.FAULT: 2}, {Loss.MUNMAP: 1, Loss.EXIT: 1})
    check_books(line, SPACE)
    (rows,) = line.ledger.archive.of(SPACE)
    assert rows["last_loss"].tolist() == [Loss.MUNMAP, Loss.EXIT]
    assert rows["frame"].tolist() == [NO_FRAME, NO_FRAME]
    assert rows["changed_ns"].tolist() == [50, 60]


def test_a_history_that_was_popped_is_kept_no_more(line: Timeline) -> None:
    """Of a space that ended, and of one that lives."""
    for space in (SPACE, SPACE + 1):
        apply(line, Event(1, 10, 20), Event(200, 30, 40, after=B), space=space)
    line.releases.retire(SPACE, 60)
    for space in (SPACE, SPACE + 1):
        kept = line.ledger.history(space)
        popped = line.ledger.pop_history(space)
        assert {name: column.tolist() for name, column in popped.items()} == {
            name: column.tolist() for name, column in kept.items()
        }
        assert popped["page"].tolist() == [1, 200]
        assert not len(line.ledger.history(space)["page"])
        assert space not in line.ledger.archive
