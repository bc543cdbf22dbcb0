"""Snapshots against the timeline: what is confirmed, suspected, named, and contradicted."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.timeline.test_timeline import (
    CHILD,
    SPACE,
    A,
    B,
    C,
    Event,
    apply,
    check_books,
    page_of,
    tallies,
)
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.procfs.maps import Mapping
from tracer.snapshots import reconcile as observer
from tracer.snapshots.evidence import Hint, Machine
from tracer.snapshots.reconcile import Observer, Suspects
from tracer.snapshots.snapshots import Snapshot
from tracer.snapshots.unrecorded import Untold
from tracer.timeline.timeline import Timeline

P = 4096
ALL_PAGES = (0, 1 << 20)


def regions_4(pages: np.ndarray) -> np.ndarray:
    return np.full(len(pages), 4, np.uint32)


class World:
    """A timeline, its observer, and a kernel whose movement counters can be moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counters = {"migrate": 5, "collapse": 5, "ksm": 5, "reclaim": 5, "swapoff": 5}
        monkeypatch.setattr(
            "tracer.snapshots.reconcile.movement_counters", lambda: dict(self.counters)
        )
        self.line = Timeline()
        self.observer = Observer(self.line, Machine(flags=np.zeros_like))

    def fill(self, start: int, end: int) -> None:
        self.observer.hint(SPACE, Hint(start, end, Source.POPULATE))

    def look(
        self,
        time: int,
        present: dict[int, int],
        *,
        swapped: Iterable[int] = (),
        mapped: tuple[int, int] = ALL_PAGES,
        missed: int = 0,
        filtered: int = 0,
        dropped: int = 0,
        began: int | None = None,
        space: int = SPACE,
    ) -> None:
        """A snapshot at `time` showing these pages in these frames.

        `began`: so many faults were missed as it began; None: as many as at its end.
        """
        pages = sorted(present)
        shot = Snapshot(
            pid=1,
            before_ns=time,
            after_ns=time + 5,
            mappings=[Mapping(mapped[0] * P, mapped[1] * P, "rw-p", 0, 0, 0, "")],
            pages=np.array(pages, np.uint64),
            frames=np.array([present[page] for page in pages], np.uint64),
            swapped=np.array(sorted(swapped), np.uint64),
        )
        if began is not None:
            shot.untold = Untold(own=began, missed=began)
        untold = Untold(own=missed + filtered, missed=missed, filtered=filtered, dropped=dropped)
        self.observer.observe(space, shot, regions_4, untold)

    def born(self, source: Source, space: int = SPACE) -> None:
        self.observer.view(space, source)

    def page(self, page: int, space: int = SPACE) -> dict[str, int]:
        return page_of(self.line, page, space)

    def suspects(self, space: int = SPACE) -> list[int]:
        found: list[int] = self.observer.view(space).suspects.pages.tolist()
        return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


# -- the first look ------------------------------------------------------------------


def test_what_was_there_when_we_came_is_initial(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {7: A, 600: B})
    page = world.page(7)
    assert (page["frame"], page["source"], page["first_ns"]) == (A, Source.INITIAL, 105)
    assert page["region"] == 4
    assert tallies(world.line) == ({Source.INITIAL: 2}, {})
    assert not world.suspects()
    check_books(world.line, SPACE)


def test_what_exec_set_up(world: World) -> None:
    world.born(Source.EXEC)
    apply(world.line, Event(7, 10, 20, after=A))
    world.look(100, {7: A, 8: B})
    assert (world.page(7)["source"], world.page(8)["source"]) == (Source.FAULT, Source.EXEC)


def test_what_was_filled_before_the_first_look(world: World) -> None:
    world.born(Source.EXEC)
    world.fill(8 * P, 9 * P + 1)
    world.look(100, {7: A, 8: B, 9: C, 10: 0x9000})
    sources = [world.page(page)["source"] for page in (7, 8, 9, 10)]
    assert sources == [Source.EXEC, Source.POPULATE, Source.POPULATE, Source.EXEC]


def test_what_a_child_shows_of_what_it_may_have(world: World) -> None:
    apply(world.line, *(Event(n, 10, 20, after=n * P) for n in (7, 8, 9)))
    world.line.releases.inherit(SPACE, CHILD, 30)
    world.born(Source.FORK, CHILD)
    # 7 is as the parent's, 8 is another, 9 is not there.
    world.look(100, {7: 7 * P, 8: C}, space=CHILD)
    assert (world.page(7, CHILD)["source"], world.page(7, CHILD)["gains"]) == (Source.FORK, 1)
    assert world.page(8, CHILD)["source"] == Source.UNKNOWN
    assert world.page(9, CHILD)["frame"] == NO_FRAME
    assert tallies(world.line) == ({Source.FAULT: 3, Source.FORK: 1, Source.UNKNOWN: 1}, {})
    assert world.observer.conflicts == 0
    check_books(world.line, SPACE, CHILD)


# -- confirmation ----------------------------------------------------------------------


def test_a_fault_s_frame_is_confirmed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    world.look(100, {7: A, 8: C})
    assert world.page(7)["confirmed"] == Confirmed.BOTH
    assert world.page(8)["confirmed"] == Confirmed.FAULT


def test_only_the_first_frame_is_confirmed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(7, 30, 40, A, B, kind=Kind.COW))
    world.look(100, {7: B})
    assert world.page(7)["confirmed"] == Confirmed.FAULT


def test_a_fault_during_the_look_is_left_to_the_next(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(50, {})
    apply(world.line, Event(7, 95, 101, after=A), Event(8, 95, 102, after=B))
    world.look(100, {7: C})
    assert [world.page(n)["frame"] for n in (7, 8)] == [A, B]
    assert not world.suspects()
    assert world.page(7)["confirmed"] == Confirmed.FAULT


# -- suspects ------------------------------------------------------------------------


def test_a_page_no_record_brought_needs_two_looks(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {})
    world.look(200, {7: A})
    assert world.suspects() == [7]
    assert world.page(7)["gains"] == 0
    world.look(300, {7: A})
    assert not world.suspects()
    assert (world.page(7)["source"], world.page(7)["first_ns"]) == (Source.UNKNOWN, 305)


def test_a_record_that_was_on_its_way_clears_the_suspect(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {})
    world.look(200, {7: A})
    apply(world.line, Event(7, 150, 210, after=A))
    world.look(300, {7: A})
    assert tallies(world.line) == ({Source.FAULT: 1}, {})
    assert world.page(7)["confirmed"] == Confirmed.BOTH


def test_a_suspect_that_looks_different_is_one_anew(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {})
    world.look(200, {7: A, 8: B, 9: C})
    world.look(300, {7: B, 9: C})
    assert world.suspects() == [7]
    assert [world.page(n)["gains"] for n in (7, 8, 9)] == [0, 0, 1]
    world.look(400, {7: B, 9: C})
    assert world.page(7)["frame"] == B


def test_gains_moves_and_losses_are_suspected_together(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    world.look(100, {7: A, 8: B})
    world.look(200, {7: C, 6: A})
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
    """Arrays throughout: a Python loop over them would take seconds a look."""
    world.born(Source.INITIAL)
    world.look(100, {})
    pages = np.arange(1_000_000, dtype=np.uint64)
    for time in (200, 300):
        shot = Snapshot(1, time, time + 5, [], pages, pages << np.uint64(12), pages[:0])
        world.observer.observe(SPACE, shot, regions_4, Untold())
    assert tallies(world.line) == ({Source.UNKNOWN: 1_000_000}, {})


# -- evidence for gains ----------------------------------------------------------------


def test_pages_a_system_call_filled(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {})
    world.fill(7 * P, 8 * P)
    world.look(200, {7: A, 8: B})
    world.look(300, {7: A, 8: B})  # the range holds until nothing is open
    assert world.page(7)["source"] == Source.POPULATE
    assert world.page(8)["source"] == Source.UNKNOWN
    assert world.observer.view(SPACE).hints == []


def test_what_was_filled_and_gone_unseen(world: World) -> None:
    """Until a look that leaves nothing open; a space that ends takes all of it along."""
    world.born(Source.EXEC)
    world.observer.fill_unseen(SPACE, 7 * P, 9 * P, 50)
    world.look(100, {7: A, 8: B})
    world.observer.taken(SPACE, 9 * P, 10 * P)
    world.observer.taken(2, 7 * P, 9 * P)
    assert world.observer.unseen_fills == 0
    world.look(200, {7: A, 8: B})
    world.observer.taken(SPACE, 7 * P, 9 * P)
    assert world.observer.unseen_fills == 0
    world.observer.fill_unseen(SPACE, 20 * P, 30 * P, 250)
    world.observer.fill_unseen(SPACE, 40 * P, 50 * P, 350)
    world.observer.fill_unseen(SPACE, 60 * P, 60 * P, 350)  # of no size
    world.look(300, {7: A, 8: B})  # the second came after it
    world.observer.taken(SPACE, 20 * P, 21 * P)
    assert world.observer.unseen_fills == 0
    assert world.observer.left_unseen({SPACE}) == 0
    assert world.observer.left_unseen({2}) == 1
    world.observer.taken(SPACE, 49 * P, 51 * P)
    world.observer.taken(SPACE, 49 * P, 51 * P)
    assert world.observer.unseen_fills == 1
    world.observer.fill_unseen(SPACE, 40 * P, 50 * P, 350)
    world.observer.forget(SPACE)
    assert world.observer.unseen_fills == 2


def test_very_many_calls_that_filled_unseen_are_one_range(world: World) -> None:
    world.born(Source.EXEC)
    for page in range(0, 20000, 2):
        world.observer.fill_unseen(SPACE, page * P, (page + 1) * P, page)
    assert len(world.observer._unseen[SPACE]) <= 257
    assert world.observer.left_unseen(()) == 10000


def test_what_a_call_told_of_after_the_snapshot_is_the_next_ones(world: World) -> None:
    world.born(Source.INITIAL)
    world.observer.hint(SPACE, Hint(7 * P, 8 * P, Source.POPULATE, time_ns=150))
    world.look(100, {})
    world.look(200, {7: A})
    world.look(300, {7: A})
    assert world.page(7)["source"] == Source.POPULATE
    assert world.observer.view(SPACE).hints == []


def test_pages_that_came_by_faults_no_hook_saw(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {}, missed=2)
    world.look(200, {7: A}, missed=3)
    world.look(300, {7: A}, missed=3)
    assert world.page(7)["source"] == Source.MISSED
    # Nothing more was missed since: another has no such excuse.
    world.look(400, {7: A, 8: B}, missed=3)
    world.look(500, {7: A, 8: B}, missed=3)
    assert world.page(8)["source"] == Source.UNKNOWN


def test_a_fault_that_no_hook_saw_as_a_snapshot_was_read(world: World) -> None:
    """It is in the counts by then, and what it brought in the next snapshot only."""
    world.born(Source.INITIAL)
    world.look(100, {})
    world.look(200, {}, began=0, missed=1)
    for time in (300, 400):
        world.look(time, {7: A}, began=1, missed=1)
    assert world.page(7)["source"] == Source.MISSED


def test_pages_that_came_by_faults_a_filter_left_out(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {})
    world.look(200, {7: A}, filtered=1)
    world.look(300, {7: A}, filtered=1)
    assert world.page(7)["source"] == Source.FILTERED
    world.look(400, {7: A, 8: B}, filtered=1)  # no fault was filtered out since
    world.look(500, {7: A, 8: B}, filtered=1)
    assert world.page(8)["source"] == Source.UNKNOWN


def test_a_fault_that_was_missed_empties_no_page_table(world: World) -> None:
    """It may have brought a page; only a call or its record that was dropped took one."""
    world.born(Source.INITIAL)
    world.look(100, {7: A})
    world.look(200, {}, missed=1)
    world.look(300, {}, missed=1)
    assert world.page(7)["last_loss"] == Loss.UNKNOWN
    world.look(400, {7: A, 8: B}, missed=1, dropped=1)
    world.look(500, {7: A, 8: B}, missed=1, dropped=1)
    assert world.page(7)["source"] == Source.UNKNOWN
    world.look(600, {7: A}, missed=1, dropped=2)
    world.look(700, {7: A}, missed=1, dropped=2)
    assert world.page(8)["last_loss"] == Loss.MISSED


def test_what_others_missed_says_nothing_of_a_new_space(world: World) -> None:
    """Faults that the run missed before the space was made, in whosever memory."""
    for time in (100, 200):
        world.look(time, {}, missed=5)
    world.observer.view(2, Source.EXEC, own=5)
    for time in (300, 400, 500):
        world.look(time, {7: A} if time > 300 else {}, missed=5, space=2)
    assert world.page(7, space=2)["source"] == Source.UNKNOWN


def test_what_was_there_when_we_came_may_be_a_fault_s_to_find(world: World) -> None:
    """Before the first look: it is no gain, nor is its region's."""
    world.born(Source.INITIAL)
    apply(world.line, Event(7, 10, 20, before=A, after=B, kind=Kind.COW))
    world.look(100, {7: B, 8: C})
    gained, lost = tallies(world.line)
    assert gained == {Source.INITIAL: 2, Source.FAULT: 1}
    assert lost == {Loss.REPLACED: 1}
    assert sum(world.line.ledger.tally.gained_in.values()) == 1


def heir(world: World, *, looked: bool) -> None:
    """Space 2, made by fork from the first."""
    parent = world.observer.view(SPACE, Source.EXEC)
    if looked:
        world.look(100, {7: A})
    world.line.releases.inherit(SPACE, 2, 150)
    world.observer.view(2, Source.FORK).descend(SPACE, parent)


def test_a_child_of_what_had_not_been_looked_at_has_it_by_fork(world: World) -> None:
    heir(world, looked=False)
    world.look(200, {7: A}, space=2)
    assert world.page(7, space=2)["source"] == Source.FORK


def test_what_such_a_child_filled_itself_is_not_by_fork(world: World) -> None:
    heir(world, looked=False)
    world.observer.hint(2, Hint(7 * P, 8 * P, Source.POPULATE))
    for time in (200, 300):
        world.look(time, {7: A, 8: B}, missed=1, space=2)
    assert world.page(7, space=2)["source"] == Source.POPULATE
    assert world.page(8, space=2)["source"] == Source.FORK


def test_a_child_s_page_in_its_parent_s_frame_came_by_fork(world: World) -> None:
    """Filled in the parent where no hook saw it, since the last look; the other one was not."""
    heir(world, looked=True)
    world.look(200, {7: A, 8: B})
    for time in (210, 220):
        world.look(time, {7: A, 8: B, 9: C}, space=2)
    assert world.page(7, space=2)["source"] == Source.FORK
    assert world.page(8, space=2)["source"] == Source.FORK
    assert world.page(9, space=2)["source"] == Source.UNKNOWN


def test_mapped_pages_are_pagemaps(world: World) -> None:
    """Those it shows, and those that changed while it was read as the records have it."""
    world.born(Source.INITIAL)
    world.look(100, {7: A, 8: B})
    assert world.observer.view(SPACE).mapped == 2
    apply(world.line, Event(9, 201, 205, after=C))
    world.look(200, {7: A})
    assert world.observer.view(SPACE).mapped == 2


def test_the_frames_of_a_space_are_those_of_its_last_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our own account where there was none, without what it may have inherited."""

    def held(space: int) -> list[int]:
        return [int(frame) for part in world.observer.frames(space) for frame in part]

    world.born(Source.INITIAL)
    apply(world.line, Event(9, 101, 105, after=C))
    assert held(SPACE) == [C]
    world.line.releases.inherit(SPACE, SPACE + 1, 110)
    assert held(SPACE + 1) == []
    world.look(200, {7: A, 8: A, 9: C})
    apply(world.line, Event(10, 201, 205, after=B))
    assert held(SPACE) == [A, A, C]
    monkeypatch.setattr(observer, "_AT_ONCE", 1)
    world.look(300, {7: A, 1 << 20: B, 1 << 24: A})
    world.look(400, {7: A, 1 << 20: B, 1 << 24: A})
    assert held(SPACE) == [A, B, A]


def test_pages_swapoff_brought_back(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {})
    world.counters["swapoff"] += 1
    world.look(200, {7: A})
    world.look(300, {7: A})
    assert world.page(7)["source"] == Source.SWAPOFF


# -- evidence for another frame ----------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "source"),
    [("migrate", Source.MIGRATE), ("collapse", Source.COLLAPSE), ("ksm", Source.KSM)],
)
def test_a_page_the_kernel_moved(world: World, counter: str, source: Source) -> None:
    apply(world.line, Event(7, 10, 20, after=A))
    world.look(100, {7: A})
    world.counters[counter] += 1
    world.look(200, {7: B})
    world.look(300, {7: B})
    page = world.page(7)
    assert (page["frame"], page["source"], page["last_loss"]) == (B, source, Loss.REPLACED)
    assert page["confirmed"] == Confirmed.BOTH  # of the first frame
    assert world.observer.conflicts == 0
    check_books(world.line, SPACE)


def test_a_page_a_missed_fault_changed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A))
    world.look(100, {7: A})
    world.look(200, {7: B}, missed=1)
    world.look(300, {7: B}, missed=1)
    assert world.page(7)["source"] == Source.MISSED
    assert world.observer.conflicts == 0


def test_a_page_that_locking_copied(world: World) -> None:
    """mlock of a page shared with the parent, or of the zero page: its own copy, unseen by perf."""
    apply(world.line, Event(7, 10, 20, after=A, kind=Kind.ZERO))
    world.look(100, {7: A})
    world.fill(7 * P, 8 * P)
    world.look(200, {7: B})
    world.look(300, {7: B})
    assert world.page(7)["source"] == Source.POPULATE
    assert world.observer.conflicts == 0


def test_a_fault_contradicted_with_nothing_to_explain_it(world: World) -> None:
    world.born(Source.INITIAL)
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    world.look(100, {7: C, 8: B})
    assert world.observer.conflicts == 0  # not at the first sight
    world.look(200, {7: C, 8: B})
    assert world.observer.conflicts == 1
    assert world.page(7)["source"] == Source.UNKNOWN
    world.look(300, {7: C, 8: B})
    assert world.observer.conflicts == 1


def test_a_page_only_snapshots_knew_contradicts_no_fault(world: World) -> None:
    world.born(Source.INITIAL)
    world.look(100, {7: A})
    world.look(200, {7: B})
    world.look(300, {7: B})
    assert world.page(7)["source"] == Source.UNKNOWN
    assert world.observer.conflicts == 0


# -- evidence for losses -------------------------------------------------------------------


def test_pages_that_went(world: World) -> None:
    apply(world.line, *(Event(n, 10, 20, after=n * P) for n in (7, 8, 9)))
    world.look(100, {7: 7 * P, 8: 8 * P, 9: 9 * P})
    for time in (200, 300):
        world.look(time, {}, swapped=[7], mapped=(7, 9))
    losses = [world.page(n)["last_loss"] for n in (7, 8, 9)]
    assert losses == [Loss.RECLAIM, Loss.UNKNOWN, Loss.MUNMAP]
    assert all(world.page(n)["frame"] == NO_FRAME for n in (7, 8, 9))
    check_books(world.line, SPACE)


def test_a_page_that_went_while_the_kernel_reclaimed(world: World) -> None:
    apply(world.line, Event(7, 10, 20))
    world.look(100, {7: A})
    world.counters["reclaim"] += 1
    world.look(200, {})
    world.look(300, {})
    assert world.page(7)["last_loss"] == Loss.RECLAIM


def test_a_loss_needs_two_looks(world: World) -> None:
    apply(world.line, Event(7, 10, 20))
    world.look(100, {})
    assert world.page(7)["frame"] == A
    world.look(200, {7: A})
    world.look(300, {})
    assert world.page(7)["frame"] == A
    assert tallies(world.line)[1] == {}


def test_looks_with_nothing_in_them(world: World) -> None:
    world.look(100, {})
    world.look(200, {})
    assert tallies(world.line) == ({}, {})
    assert not world.suspects()


def test_what_faults_found_gone_is_named_at_the_next_look(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(7, 30, 40, after=B))
    assert tallies(world.line) == ({Source.FAULT: 2}, {Loss.UNKNOWN: 1})
    world.counters["reclaim"] += 1
    world.look(100, {7: B})
    assert world.page(7)["last_loss"] == Loss.RECLAIM
    assert tallies(world.line) == ({Source.FAULT: 2}, {Loss.RECLAIM: 1})
    check_books(world.line, SPACE)


def test_what_faults_found_moved_is_named_at_the_next_look(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(7, 30, 40, before=B, after=C))
    world.counters["migrate"] += 1
    world.look(100, {7: C})
    gained, lost = tallies(world.line)
    assert gained == {Source.FAULT: 2, Source.MIGRATE: 1}
    assert lost == {Loss.REPLACED: 2}


def test_counters_count_since_the_look_before_the_last(world: World) -> None:
    """What moved during a look shows in its counters, or only at the next."""
    world.counters["migrate"] += 1
    apply(world.line, Event(7, 10, 20, after=A))
    for time in (100, 200, 300):
        world.look(time, {7: A})
    for time in (400, 500):
        world.look(time, {7: B})
    assert world.page(7)["source"] == Source.UNKNOWN
    assert world.observer.conflicts == 1


def test_what_came_back_from_swap_was_reclaimed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A))
    world.look(100, {7: A})
    world.counters["swapoff"] += 1
    for time in (200, 300):
        world.look(time, {7: B})
    assert tallies(world.line) == ({Source.FAULT: 1, Source.SWAPOFF: 1}, {Loss.RECLAIM: 1})


def test_what_faults_found_is_named_at_the_space_s_end(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 20, after=A))
    world.look(100, {7: A, 8: A})
    world.counters["migrate"] += 1
    world.observer.hint(SPACE, Hint(8 * P, 9 * P, loss=Loss.MADVISE))
    apply(world.line, Event(7, 150, 160, B, C, kind=Kind.COW), Event(8, 150, 160, after=C))
    assert tallies(world.line)[0][Source.UNKNOWN] == 1
    world.observer.close(SPACE, Untold())
    gained, lost = tallies(world.line)
    assert gained == {Source.FAULT: 4, Source.MIGRATE: 1}
    assert lost == {Loss.REPLACED: 2, Loss.MADVISE: 1}


@pytest.mark.parametrize(
    ("born", "source"), [(Source.EXEC, Source.EXEC), (Source.FORK, Source.UNKNOWN)]
)
def test_what_a_fault_finds_in_a_new_program_is_exec_s(
    world: World, born: Source, source: Source
) -> None:
    """The stack exec has set up, write-protected; the program ends before anyone looks."""
    world.born(born)
    apply(world.line, Event(7, 10, 20, before=A, after=A, kind=Kind.REUSE))
    world.observer.close(SPACE, Untold())
    assert tallies(world.line) == ({source: 1}, {})


def test_what_a_fault_finds_after_the_first_look_is_not(world: World) -> None:
    world.born(Source.EXEC)
    world.look(5, {})
    apply(world.line, Event(7, 10, 20, before=A, after=A, kind=Kind.REUSE))
    world.observer.close(SPACE, Untold())
    assert tallies(world.line) == ({Source.UNKNOWN: 1}, {})
