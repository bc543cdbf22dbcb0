"""Snapshots against the timeline: what is confirmed, what suspected, what is there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.reconcile_data import P, World, regions_4
from tests.unit.timeline_data import CHILD, SPACE, A, B, C, Event, apply, check_books, tallies
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.snapshots import reconcile as reconciler
from tracer.snapshots.reconcile import Suspects
from tracer.snapshots.snapshots import Snapshot
from tracer.snapshots.unrecorded import Unrecorded

# -- the first snapshot --------------------------------------------------------------


def test_what_was_there_when_we_came_is_initial(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {7: A, 600: B})
    page = world.page(7)
    assert (page["frame"], page["source"], page["first_ns"]) == (A, Source.INITIAL, 105)
    assert page["region"] == 4
    assert tallies(world.line) == ({Source.INITIAL: 2}, {})
    assert not world.suspects()
    check_books(world.line, SPACE)


def test_what_exec_set_up(world: World) -> None:
    world.born(Source.EXEC)
    apply(world.line, Event(7, 10, 20, after=A))
    world.snapshot(100, {7: A, 8: B})
    assert (world.page(7)["source"], world.page(8)["source"]) == (Source.FAULT, Source.EXEC)


def test_what_was_filled_before_the_first_snapshot(world: World) -> None:
    world.born(Source.EXEC)
    world.fill(8 * P, 9 * P + 1)
    world.snapshot(100, {7: A, 8: B, 9: C, 10: 0x9000})
    sources = [world.page(page)["source"] for page in (7, 8, 9, 10)]
    assert sources == [Source.EXEC, Source.POPULATE, Source.POPULATE, Source.EXEC]


def test_what_a_child_shows_of_what_it_may_have(world: World) -> None:
    apply(world.line, *(Event(n, 10, 20, after=n * P) for n in (7, 8, 9)))
    world.line.releases.inherit(SPACE, CHILD, 30)
    world.born(Source.FORK, CHILD)
    # 7 is as the parent's, 8 is another, 9 is not there.
    world.snapshot(100, {7: 7 * P, 8: C}, space=CHILD)
    assert (world.page(7, CHILD)["source"], world.page(7, CHILD)["gains"]) == (Source.FORK, 1)
    assert world.page(8, CHILD)["source"] == Source.UNKNOWN
    assert world.page(9, CHILD)["frame"] == NO_FRAME
    assert tallies(world.line) == ({Source.FAULT: 3, Source.FORK: 1, Source.UNKNOWN: 1}, {})
    assert world.reconciler.conflicts == 0
    check_books(world.line, SPACE, CHILD)


def test_what_was_there_when_we_came_may_be_a_fault_s_to_find(world: World) -> None:
    """Before the first snapshot: it is no gain, nor is its region's."""
    world.born(Source.INITIAL)
    apply(world.line, Event(7, 10, 20, before=A, after=B, kind=Kind.COW))
    world.snapshot(100, {7: B, 8: C})
    gained, released = tallies(world.line)
    assert gained == {Source.INITIAL: 2, Source.FAULT: 1}
    assert released == {Loss.REPLACED: 1}
    assert sum(world.line.ledger.tally.gained_in.values()) == 1


# -- confirmation --------------------------------------------------------------------


def test_a_fault_s_frame_is_confirmed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    world.snapshot(100, {7: A, 8: C})
    assert world.page(7)["confirmed"] == Confirmed.BOTH
    assert world.page(8)["confirmed"] == Confirmed.FAULT


def test_only_the_first_frame_is_confirmed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(7, 30, 40, A, B, kind=Kind.COW))
    world.snapshot(100, {7: B})
    assert world.page(7)["confirmed"] == Confirmed.FAULT


def test_a_fault_during_the_snapshot_is_left_to_the_next(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(50, {})
    apply(world.line, Event(7, 95, 101, after=A), Event(8, 95, 102, after=B))
    world.snapshot(100, {7: C})
    assert [world.page(n)["frame"] for n in (7, 8)] == [A, B]
    assert not world.suspects()
    assert world.page(7)["confirmed"] == Confirmed.FAULT


# -- suspects ------------------------------------------------------------------------


def test_a_page_no_record_brought_needs_two_snapshots(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    world.snapshot(200, {7: A})
    assert world.suspects() == [7]
    assert world.page(7)["gains"] == 0
    world.snapshot(300, {7: A})
    assert not world.suspects()
    assert (world.page(7)["source"], world.page(7)["first_ns"]) == (Source.UNKNOWN, 305)


def test_a_record_that_was_on_its_way_clears_the_suspect(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    world.snapshot(200, {7: A})
    apply(world.line, Event(7, 150, 210, after=A))
    world.snapshot(300, {7: A})
    assert tallies(world.line) == ({Source.FAULT: 1}, {})
    assert world.page(7)["confirmed"] == Confirmed.BOTH


def test_a_suspect_that_looks_different_is_one_anew(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    world.snapshot(200, {7: A, 8: B, 9: C})
    world.snapshot(300, {7: B, 9: C})
    assert world.suspects() == [7]
    assert [world.page(n)["gains"] for n in (7, 8, 9)] == [0, 0, 1]
    world.snapshot(400, {7: B, 9: C})
    assert world.page(7)["frame"] == B


def test_gains_moves_and_releases_are_suspected_together(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    world.snapshot(100, {7: A, 8: B})
    world.snapshot(200, {7: C, 6: A})
    assert world.suspects() == [6, 7, 8]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.integers(0, 20), st.integers(0, 3), max_size=10),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=20),
)
def test_suspects_hold_as_a_dictionary_would(
    known: dict[int, int], asked: list[tuple[int, int]]
) -> None:
    pages = np.array(sorted(known), np.uint64)
    suspects = Suspects(pages, np.array([known[page] for page in sorted(known)], np.uint64))
    got = suspects.hold(
        np.array([page for page, _ in asked], np.uint64),
        np.array([frame for _, frame in asked], np.uint64),
    )
    assert got.tolist() == [known.get(page) == frame for page, frame in asked]
    assert bool(suspects) == bool(known)


def test_millions_of_suspects_are_quick(world: World) -> None:
    """Arrays throughout: a Python loop over them would take seconds a snapshot."""
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    pages = np.arange(1_000_000, dtype=np.uint64)
    for time in (200, 300):
        shot = Snapshot(1, time, time + 5, [], pages, pages << np.uint64(12), pages[:0])
        world.reconciler.observe(SPACE, shot, regions_4, Unrecorded())
    assert tallies(world.line) == ({Source.UNKNOWN: 1_000_000}, {})


# -- what is there -------------------------------------------------------------------


def test_mapped_pages_are_pagemaps(world: World) -> None:
    """Those it shows, and those that changed while it was read as the records have it."""
    world.born(Source.INITIAL)
    world.snapshot(100, {7: A, 8: B})
    assert world.reconciler.view(SPACE).mapped == 2
    apply(world.line, Event(9, 201, 205, after=C))
    world.snapshot(200, {7: A})
    assert world.reconciler.view(SPACE).mapped == 2


def test_the_frames_of_a_space_are_those_of_its_last_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our own account where there was none, without what it may have inherited."""

    def held(space: int) -> list[int]:
        return [int(frame) for part in world.reconciler.frames(space) for frame in part]

    world.born(Source.INITIAL)
    apply(world.line, Event(9, 101, 105, after=C))
    assert held(SPACE) == [C]
    world.line.releases.inherit(SPACE, SPACE + 1, 110)
    assert held(SPACE + 1) == []
    world.snapshot(200, {7: A, 8: A, 9: C})
    apply(world.line, Event(10, 201, 205, after=B))
    assert held(SPACE) == [A, A, C]
    monkeypatch.setattr(reconciler, "_AT_ONCE", 1)
    world.snapshot(300, {7: A, 1 << 20: B, 1 << 24: A})
    world.snapshot(400, {7: A, 1 << 20: B, 1 << 24: A})
    assert held(SPACE) == [A, B, A]
