"""The page timeline: rule by rule, and against a model of one page at a time in plain Python."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.common.pages import NO_FRAME
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.spaces.syscalls import Taking
from tracer.timeline.events import Events, Outcome
from tracer.timeline.releases import Released
from tracer.timeline.timeline import Timeline

P = 4096
SPACE, CHILD = 1, 2
A, B, C = 0x1000, 0x2000, 0x3000  # frames


@dataclass
class Event:
    """One fault; `before` None: the page was absent."""

    page: int
    start: int
    time: int
    before: int | None = None
    after: int = A
    absent: bool | None = None  # where it is not what `before` says
    swapped: bool = False
    kind: Kind = Kind.ANON
    source: Source = Source.FAULT
    number: int = 0
    region: int = 1

    @property
    def was_absent(self) -> bool:
        return self.before is None if self.absent is None else self.absent

    @property
    def frame_before(self) -> int:
        return NO_FRAME if self.before is None else self.before


def columns(events: list[Event]) -> Events:
    def of(name: str, dtype: type) -> Any:
        return np.array([getattr(event, name) for event in events], dtype)

    return Events(
        page=of("page", np.uint64),
        start_ns=of("start", np.int64),
        time_ns=of("time", np.int64),
        absent_before=of("was_absent", np.bool_),
        swapped_before=of("swapped", np.bool_),
        frame_before=of("frame_before", np.uint64),
        frame=of("after", np.uint64),
        number=of("number", np.uint64),
        kind=of("kind", np.uint8),
        region=of("region", np.uint32),
        source=of("source", np.uint8),
    )


def apply(line: Timeline, *events: Event, space: int = SPACE) -> Outcome:
    return line.faults.apply(space, columns(list(events)))


def page_of(line: Timeline, page: int, space: int = SPACE) -> dict[str, int]:
    at = line.ledger.state(space, np.array([page], np.uint64))
    names: tuple[str, ...] = ("frame", "changed_ns", "first_ns", "first_frame", "first_fault")
    names += ("gains", "losses")
    names += ("region", "first_source", "first_kind", "source", "last_loss", "confirmed", "assumed")
    names += ("doubt",)
    return {name: line.ledger[name][at[0]].item() for name in names}


def see(line: Timeline, page: int, frame: int, time: int, source: Source) -> None:
    """A snapshot shows the page."""
    at = line.ledger.state(SPACE, np.array([page], np.uint64))
    sources, regions = np.array([source], np.uint8), np.array([1], np.uint32)
    line.ledger.gain(at, time, np.array([frame], np.uint64), sources, regions)


def tallies(line: Timeline) -> tuple[dict[Source, int], dict[Loss, int]]:
    gained, lost = line.ledger.tally.gained, line.ledger.tally.lost
    return (
        {s: int(gained[s]) for s in Source if gained[s]},
        {loss: int(lost[loss]) for loss in Loss if lost[loss]},
    )


def check_books(line: Timeline, *spaces: int) -> None:
    """Gained less lost is what is resident; the regions' tallies add up to the same."""
    resident = 0
    for space in spaces:
        at = line.ledger.resident(space)
        resident += int((~line.ledger["assumed"][at]).sum())
    gained, lost = line.ledger.tally.gained, line.ledger.tally.lost
    assert (gained >= 0).all()
    assert int(gained.sum() - lost.sum()) == resident
    assert sum(line.ledger.tally.gained_in.values()) == int(gained.sum() - gained[Source.INITIAL])
    assert sum(line.ledger.tally.lost_in.values()) == int(lost.sum())


@pytest.fixture
def line() -> Timeline:
    return Timeline()


def test_userfaultfd_moves_a_frame_whose_fault_told_first(line: Timeline) -> None:
    """Page 7's fault is over before UFFDIO_MOVE, which woke it, returns; page 8 never faults."""
    apply(line, Event(70, 1, 2, after=A), Event(71, 1, 2, after=B))
    apply(line, Event(7, 10, 20, after=A, kind=Kind.UFFD, source=Source.UFFD))
    line.releases.hand_over(SPACE, 70 << 12, 7 << 12, 2 << 12, 30)
    assert tallies(line) == ({Source.FAULT: 2, Source.UFFD: 2}, {Loss.MOVE: 2})
    assert [page_of(line, n)["frame"] for n in (7, 8)] == [A, B]
    check_books(line, SPACE)


def test_userfaultfd_moves_a_frame_before_its_fault_tells(line: Timeline) -> None:
    apply(line, Event(70, 1, 2, after=A))
    line.releases.hand_over(SPACE, 70 << 12, 7 << 12, 1 << 12, 15)
    out = apply(line, Event(7, 10, 20, after=A, kind=Kind.UFFD, source=Source.UFFD))
    assert (out.gained.tolist(), out.raced.tolist()) == ([True], [False])
    assert tallies(line) == ({Source.FAULT: 1, Source.UFFD: 1}, {Loss.MOVE: 1})
    assert page_of(line, 7)["first_kind"] == Kind.UFFD
    assert page_of(line, 7)["confirmed"] == Confirmed.FAULT
    check_books(line, SPACE)


def test_a_freed_frame_used_again_by_the_page_that_had_it(line: Timeline) -> None:
    """Merged into B and copied out of it, into the very frame it had before."""
    apply(line, Event(7, 10, 20, after=A))
    apply(line, Event(7, 30, 40, B, A, kind=Kind.COW))
    assert tallies(line) == ({Source.FAULT: 2, Source.UNKNOWN: 1}, {Loss.REPLACED: 2})
    check_books(line, SPACE)


# -- one page ----------------------------------------------------------------------


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


def test_a_page_found_absent_had_been_lost_unseen(line: Timeline) -> None:
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


# -- races -------------------------------------------------------------------------


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


def test_the_first_snapshot_s_page_is_taken_over_by_the_fault_under_way(line: Timeline) -> None:
    see(line, 7, A, 15, Source.INITIAL)
    assert line.ledger.tally.gained_in == {}
    assert apply(line, Event(7, 10, 20)).gained.tolist() == [True]
    assert line.ledger.tally.gained_in == {1: 1}
    assert tallies(line) == ({Source.FAULT: 1}, {})


def test_after_a_take_over_the_next_has_lost_the_race(line: Timeline) -> None:
    see(line, 7, A, 15, Source.UNKNOWN)
    out = apply(line, Event(7, 10, 20), Event(7, 11, 21))
    assert (out.gained.tolist(), out.raced.tolist()) == ([True, False], [False, True])


def test_a_page_moved_here_meanwhile_is_not_taken_over(line: Timeline) -> None:
    apply(line, Event(7, 1, 2))
    line.releases.move(SPACE, 7 * P, 9 * P, P, 15)
    assert apply(line, Event(9, 10, 20)).raced.tolist() == [True]
    assert tallies(line)[0] == {Source.FAULT: 1, Source.MOVE: 1}


# -- neighbours --------------------------------------------------------------------


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


def test_a_neighbour_lost_unseen_came_back_along(line: Timeline) -> None:
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


# -- losing, moving, forking ---------------------------------------------------------


def test_unmapping_ends_a_page_s_story(line: Timeline) -> None:
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


def test_losses_in_places_apart_are_booked_together(line: Timeline) -> None:
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
    assert lost(line) == {"MUNMAP": 3, "MADVISE": 2, "EXIT": 1}
    assert line.releases.release_all(losses[:1]) == line.releases.release_all([]) == 0


def test_holds(line: Timeline) -> None:
    assert not line.releases.holds(SPACE, 0, 1 << 56)
    apply(line, Event(7, 10, 20))
    assert line.releases.holds(SPACE, 7 * P, 8 * P)
    assert line.releases.holds(SPACE, 0, 1 << 56)
    assert not line.releases.holds(SPACE, 8 * P, 9 * P)
    assert not line.releases.holds(SPACE, 7 * P, 7 * P)
    assert not line.releases.holds(CHILD, 0, 1 << 56)


def test_mremap_takes_frames_along(line: Timeline) -> None:
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


def test_what_a_space_had_at_its_end_is_lost_by_its_end(line: Timeline) -> None:
    apply(line, Event(1, 10, 20), Event(2, 30, 40, after=B))
    line.releases.release(SPACE, P, 2 * P, 50, Loss.MUNMAP)
    line.releases.retire(SPACE, 60)
    assert tallies(line) == ({Source.FAULT: 2}, {Loss.MUNMAP: 1, Loss.EXIT: 1})
    check_books(line, SPACE)
    (rows,) = line.ledger.archive.of(SPACE)
    assert rows["last_loss"].tolist() == [Loss.MUNMAP, Loss.EXIT]
    assert rows["frame"].tolist() == [NO_FRAME, NO_FRAME]
    assert rows["changed_ns"].tolist() == [50, 60]


def test_a_story_that_was_taken_is_kept_no_more(line: Timeline) -> None:
    """Of a space that ended, and of one that lives."""
    for space in (SPACE, SPACE + 1):
        apply(line, Event(1, 10, 20), Event(200, 30, 40, after=B), space=space)
    line.releases.retire(SPACE, 60)
    for space in (SPACE, SPACE + 1):
        told = line.ledger.history(space)
        taken = line.ledger.take_history(space)
        assert {name: column.tolist() for name, column in taken.items()} == {
            name: column.tolist() for name, column in told.items()
        }
        assert taken["page"].tolist() == [1, 200]
        assert not len(line.ledger.history(space)["page"])
        assert space not in line.ledger.archive


# -- against a model -----------------------------------------------------------------


@dataclass
class Page:
    """What the model knows of one page."""

    frame: int = NO_FRAME
    changed: int = 0
    source: int = 0
    gains: int = 0
    losses: int = 0
    last_loss: int = 0
    first: tuple[int, int, int] = (0, 0, 0)  # source, frame, fault number
    assumed: bool = False


@dataclass
class Model:
    """The timeline's rules, a page and an event at a time."""

    pages: dict[tuple[int, int], Page] = field(default_factory=dict)
    gained: Counter[int] = field(default_factory=Counter)
    lost: Counter[int] = field(default_factory=Counter)

    def page(self, space: int, number: int) -> Page:
        return self.pages.setdefault((space, number), Page())

    def gain(self, page: Page, time: int, frame: int, source: int, number: int = 0) -> None:
        if page.last_loss in (Loss.MUNMAP, Loss.MOVE):
            page.gains = page.losses = page.last_loss = 0
        if page.gains == 0:
            page.first = (source, frame, number)
        page.frame, page.changed, page.source, page.assumed = frame, time, source, False
        page.gains += 1
        self.gained[source] += 1

    def lose(self, page: Page, time: int, cause: int) -> None:
        page.frame, page.changed, page.last_loss = NO_FRAME, time, cause
        page.losses += 1
        self.lost[cause] += 1

    def forget(self, page: Page) -> None:
        page.frame, page.source, page.assumed = NO_FRAME, 0, False
        page.first = (0, *page.first[1:])

    def swap_frame(self, page: Page, time: int, frame: int, source: int, number: int = 0) -> None:
        if page.frame != NO_FRAME:
            self.lose(page, time, Loss.REPLACED)
        self.gain(page, time, frame, source, number)

    def event(self, space: int, event: Event) -> tuple[bool, bool]:
        page = self.page(space, event.page)
        before, after = event.frame_before, event.after
        if page.assumed:
            if not event.was_absent and page.frame == before:
                page.assumed, page.gains = False, 1
                self.gained[Source.FORK] += 1
            else:
                self.forget(page)
        own = event.source != Source.AROUND
        idle = own and (event.kind == Kind.SPURIOUS or before == after)
        meanwhile = page.frame != NO_FRAME and page.changed >= event.start
        stepped = event.was_absent or before not in (NO_FRAME, after)
        if page.frame == after != NO_FRAME and stepped and meanwhile and not idle:
            if page.source in (Source.FAULT, Source.AROUND, Source.MOVE):
                return False, own
            self.gained[page.source] -= 1
            self.gained[event.source] += 1
            page.source, page.changed = event.source, event.time
            if page.gains == 1:
                page.first = (event.source, page.first[1], event.number)
            return True, False
        if page.frame != NO_FRAME and event.was_absent and not meanwhile:
            self.lose(page, event.start, Loss.RECLAIM if event.swapped else Loss.UNKNOWN)
        nowhere = page.frame == after == NO_FRAME
        if own and page.frame != before != NO_FRAME and not nowhere and not meanwhile:
            self.swap_frame(page, event.time, before, Source.UNKNOWN)
        if after in (NO_FRAME, page.frame):
            return False, False
        if idle:
            self.swap_frame(page, event.time, after, Source.UNKNOWN)
            return False, False
        if not own and page.frame not in (NO_FRAME, before):
            return False, False
        self.swap_frame(page, event.time, after, event.source, event.number)
        return True, False

    def drop(self, space: int, first: int, last: int, time: int, cause: int) -> None:
        for (where, number), page in self.pages.items():
            if where == space and first <= number < last and page.frame != NO_FRAME:
                if page.assumed:
                    self.forget(page)
                else:
                    self.lose(page, time, cause)

    def move(self, space: int, old: int, new: int, length: int, time: int) -> None:
        taken = []
        for number in range(old, old + length):
            page = self.page(space, number)
            if page.frame != NO_FRAME:
                taken.append((number - old + new, page.frame, page.assumed))
        self.drop(space, old, old + length, time, Loss.MOVE)
        self.drop(space, new, new + length, time, Loss.MUNMAP)
        for number, frame, assumed in taken:
            page = self.page(space, number)
            if assumed:
                self.assume(page, frame, time)
            else:
                self.gain(page, time, frame, Source.MOVE)

    def assume(self, page: Page, frame: int, time: int) -> None:
        page.__init__()  # type: ignore[misc]
        page.frame, page.changed, page.source, page.assumed = frame, time, Source.FORK, True
        page.first = (Source.FORK, frame, 0)

    def inherit(self, parent: int, child: int, time: int) -> None:
        for (where, number), page in list(self.pages.items()):
            if where == parent and page.frame != NO_FRAME:
                self.assume(self.page(child, number), page.frame, time)


PAGES = st.sampled_from([509, 510, 511, 512, 513, 514, 2000])  # on both sides of a block's end
FRAMES = st.sampled_from([A, B, C, 0x4000])
KINDS = st.sampled_from([Kind.ANON, Kind.COW, Kind.SPURIOUS, Kind.REUSE, Kind.UNKNOWN])


@st.composite
def batches(draw: st.DrawFn) -> list[Event]:
    events = []
    for _ in range(draw(st.integers(1, 12))):
        absent = draw(st.booleans())
        before = None if absent else draw(st.one_of(st.none(), FRAMES))
        after = draw(st.one_of(FRAMES, st.just(NO_FRAME)))
        source = draw(st.sampled_from([Source.FAULT, Source.FAULT, Source.AROUND]))
        kind = draw(KINDS)
        swapped = absent and source == Source.FAULT and draw(st.booleans())
        events.append(Event(draw(PAGES), 0, 0, before, after, absent, swapped, kind, source))
    return events


SPACES = st.sampled_from([SPACE, CHILD])
OPERATIONS = st.one_of(
    st.tuples(st.just("apply"), SPACES, batches(), st.lists(st.integers(0, 30), min_size=12)),
    st.tuples(st.just("apply"), SPACES, batches(), st.lists(st.integers(0, 30), min_size=12)),
    st.tuples(
        st.just("lose"),
        SPACES,
        PAGES,
        st.integers(0, 6),
        st.sampled_from([Loss.MUNMAP, Loss.MADVISE]),
    ),
    st.tuples(st.just("move"), SPACES, PAGES, st.integers(1, 3)),
    st.tuples(st.just("see"), SPACES, PAGES, FRAMES, st.sampled_from([Source.INITIAL, Source.KSM])),
    st.tuples(st.just("unsee"), SPACES, PAGES),
    st.tuples(st.just("fork"), st.integers(0, 1)),
)


def run(line: Timeline, model: Model, operation: tuple[Any, ...], now: int, child: int) -> int:
    """One operation on both; the time after it."""
    name, space, *rest = operation
    if name == "apply":
        events, lags = rest
        for event, lag in zip(events, lags, strict=False):
            now += 3
            event.time, event.start, event.number = now, now - lag, now
        out = line.faults.apply(space, columns(events))
        expected = [model.event(space, event) for event in events]
        assert list(zip(out.gained.tolist(), out.raced.tolist(), strict=True)) == expected
    elif name == "lose":
        page, length, cause = rest
        line.releases.release(space, page * P, (page + length) * P, now, cause)
        model.drop(space, page, page + length, now, cause)
    elif name == "move":
        page, length = rest
        line.releases.move(space, page * P, (page + 3) * P, length * P, now)
        model.move(space, page, page + 3, length, now)
    elif name == "see":
        page, frame, source = rest
        at = line.ledger.state(space, np.array([page], np.uint64))
        if line.ledger["frame"][at[0]] == NO_FRAME:
            line.ledger.gain(
                at,
                now,
                np.array([frame], np.uint64),
                np.array([source], np.uint8),
                np.array([1], np.uint32),
            )
            model.gain(model.page(space, page), now, frame, source)
    elif name == "unsee":
        at = line.ledger.state(space, np.array(rest, np.uint64))
        if line.ledger["frame"][at[0]] != NO_FRAME and not line.ledger["assumed"][at[0]]:
            line.ledger.release(at, now, Loss.UNKNOWN)
            model.lose(model.page(space, rest[0]), now, Loss.UNKNOWN)
    elif name == "fork":
        parent = (SPACE, CHILD)[space]
        line.releases.inherit(parent, child, now)
        model.inherit(parent, child, now)
    return now + 1


@settings(max_examples=100, deadline=None)
@given(st.lists(OPERATIONS, max_size=12))
def test_the_timeline_follows_the_model(operations: list[tuple[Any, ...]]) -> None:
    line, model, now, forks = Timeline(), Model(), 100, 0
    for operation in operations:
        forks += operation[0] == "fork"
        now = run(line, model, operation, now, 10 + forks)
    for (space, number), page in model.pages.items():
        found = page_of(line, number, space)
        ours = (page.frame, page.source, page.gains, page.losses, page.last_loss, page.assumed)
        names = ("frame", "source", "gains", "losses", "last_loss", "assumed")
        assert tuple(found[name] for name in names) == ours, (space, number)
        if page.frame != NO_FRAME:
            assert found["changed_ns"] == page.changed
        if page.gains:
            first = (found["first_source"], found["first_frame"], found["first_fault"])
            assert first == page.first
    assert tallies(line) == (
        {Source(n): times for n, times in sorted(model.gained.items()) if times},
        {Loss(n): times for n, times in sorted(model.lost.items()) if times},
    )
    check_books(line, SPACE, CHILD, *range(11, 11 + forks))


# -- calls that take pages while other threads fault


def racing() -> tuple[Timeline, Taking]:
    """A page with frame A since 10, and a call on it that began at 20."""
    line, call = Timeline(), Taking(7 * P, 8 * P, 20, Loss.MADVISE)
    apply(line, Event(7, 5, 10))
    line.releases.begin_unmap(SPACE, call)
    return line, call


def returns(line: Timeline, call: Taking, time: int) -> None:
    line.releases.release(SPACE, call.start, call.end, time, call.loss, call.begun_ns)
    line.releases.end_unmap(call, time)


def frame_of(line: Timeline) -> int:
    return int(line.ledger["frame"][line.ledger.state(SPACE, np.array([7], np.uint64))][0])


def lost(line: Timeline) -> dict[str, int]:
    return {
        cause.name: int(line.ledger.tally.lost[cause])
        for cause in Loss
        if line.ledger.tally.lost[cause]
    }


def test_a_fault_behind_a_calls_work_keeps_its_frame() -> None:
    """The call took A; the fault of another thread came before it returned, and stays."""
    line, call = racing()
    apply(line, Event(7, 22, 25, after=B))
    assert lost(line) == {"MADVISE": 1}
    returns(line, call, 30)
    apply(line, Event(7, 40, 45, before=B, after=B, kind=Kind.SPURIOUS))
    assert (frame_of(line), lost(line)) == (B, {"MADVISE": 1})


def test_a_fault_before_a_calls_work_loses_its_frame() -> None:
    """It came while the call was under way, and the next fault finds the page absent."""
    line, call = racing()
    apply(line, Event(7, 22, 25, after=B))
    returns(line, call, 30)
    apply(line, Event(7, 40, 45, after=C))
    assert (frame_of(line), lost(line)) == (C, {"MADVISE": 2})


def test_what_was_there_before_a_call_is_gone_after_it() -> None:
    line, call = racing()
    returns(line, call, 30)
    assert (frame_of(line), lost(line)) == (NO_FRAME, {"MADVISE": 1})


def test_a_fault_told_after_the_return_it_came_before() -> None:
    """Its record is late: whether the call took its frame shows next."""
    for after, expected in ((B, {"MADVISE": 1}), (C, {"MADVISE": 2})):
        line, call = racing()
        returns(line, call, 30)
        apply(line, Event(7, 22, 25, after=B))
        before = B if after == B else None
        apply(line, Event(7, 40, 45, before=before, after=after, kind=Kind.ANON))
        assert (frame_of(line), lost(line)) == (after, expected)


def test_a_call_that_failed_takes_nothing() -> None:
    line, call = racing()
    line.releases.end_unmap(call)
    apply(line, Event(7, 40, 45, before=A, after=A, kind=Kind.SPURIOUS))
    assert (frame_of(line), lost(line)) == (A, {})
