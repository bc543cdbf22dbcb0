"""Gains and moves that snapshots find: whose doing they are, and what contradicts a fault."""

import pytest

from tests.unit.reconcile_data import P, World
from tests.unit.timeline_data import SPACE, A, B, C, Event, apply, check_books
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.snapshots.evidence import Hint

# -- gains ---------------------------------------------------------------------------


def test_pages_a_system_call_filled(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    world.fill(7 * P, 8 * P)
    world.snapshot(200, {7: A, 8: B})
    world.snapshot(300, {7: A, 8: B})  # the range holds until nothing is open
    assert world.page(7)["source"] == Source.POPULATE
    assert world.page(8)["source"] == Source.UNKNOWN
    assert world.reconciler.view(SPACE).hints == []


def test_what_was_filled_and_gone_unseen(world: World) -> None:
    """Until a snapshot that leaves nothing open; a space that ends releases all that is left."""
    world.born(Source.EXEC)
    world.reconciler.fill_unrecorded(SPACE, 7 * P, 9 * P, 50)
    world.snapshot(100, {7: A, 8: B})
    world.reconciler.note_release(SPACE, 9 * P, 10 * P)
    world.reconciler.note_release(2, 7 * P, 9 * P)
    assert world.reconciler.unseen_fills == 0
    world.snapshot(200, {7: A, 8: B})
    world.reconciler.note_release(SPACE, 7 * P, 9 * P)
    assert world.reconciler.unseen_fills == 0
    world.reconciler.fill_unrecorded(SPACE, 20 * P, 30 * P, 250)
    world.reconciler.fill_unrecorded(SPACE, 40 * P, 50 * P, 350)
    world.reconciler.fill_unrecorded(SPACE, 60 * P, 60 * P, 350)  # of no size
    world.snapshot(300, {7: A, 8: B})  # the second came after it
    world.reconciler.note_release(SPACE, 20 * P, 21 * P)
    assert world.reconciler.unseen_fills == 0
    assert world.reconciler.unsettled_fills({SPACE}) == 0
    assert world.reconciler.unsettled_fills({2}) == 1
    world.reconciler.note_release(SPACE, 49 * P, 51 * P)
    world.reconciler.note_release(SPACE, 49 * P, 51 * P)
    assert world.reconciler.unseen_fills == 1
    world.reconciler.fill_unrecorded(SPACE, 40 * P, 50 * P, 350)
    world.reconciler.forget(SPACE)
    assert world.reconciler.unseen_fills == 2


def test_very_many_calls_that_filled_unseen_are_one_range(world: World) -> None:
    world.born(Source.EXEC)
    for page in range(0, 20000, 2):
        world.reconciler.fill_unrecorded(SPACE, page * P, (page + 1) * P, page)
    assert len(world.reconciler._fills[SPACE]) <= 257
    assert world.reconciler.unsettled_fills(()) == 10000


def test_what_a_call_reported_after_the_snapshot_is_the_next_ones(world: World) -> None:
    world.born(Source.INITIAL)
    world.reconciler.hint(SPACE, Hint(7 * P, 8 * P, Source.POPULATE, time_ns=150))
    world.snapshot(100, {})
    world.snapshot(200, {7: A})
    world.snapshot(300, {7: A})
    assert world.page(7)["source"] == Source.POPULATE
    assert world.reconciler.view(SPACE).hints == []


def test_pages_that_came_by_faults_no_hook_saw(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {}, missed=2)
    world.snapshot(200, {7: A}, missed=3)
    world.snapshot(300, {7: A}, missed=3)
    assert world.page(7)["source"] == Source.MISSED
    # Nothing more was missed since: another has no such excuse.
    world.snapshot(400, {7: A, 8: B}, missed=3)
    world.snapshot(500, {7: A, 8: B}, missed=3)
    assert world.page(8)["source"] == Source.UNKNOWN


def test_a_fault_that_no_hook_saw_as_a_snapshot_was_read(world: World) -> None:
    """It is in the counts by then, and what it brought in the next snapshot only."""
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    world.snapshot(200, {}, began=0, missed=1)
    for time in (300, 400):
        world.snapshot(time, {7: A}, began=1, missed=1)
    assert world.page(7)["source"] == Source.MISSED


def test_pages_that_came_by_faults_a_filter_left_out(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    world.snapshot(200, {7: A}, filtered=1)
    world.snapshot(300, {7: A}, filtered=1)
    assert world.page(7)["source"] == Source.FILTERED
    world.snapshot(400, {7: A, 8: B}, filtered=1)  # no fault was filtered out since
    world.snapshot(500, {7: A, 8: B}, filtered=1)
    assert world.page(8)["source"] == Source.UNKNOWN


def test_a_fault_that_was_missed_empties_no_page_table(world: World) -> None:
    """It may have brought a page; what released one is a call, or a record that was dropped."""
    world.born(Source.INITIAL)
    world.snapshot(100, {7: A})
    world.snapshot(200, {}, missed=1)
    world.snapshot(300, {}, missed=1)
    assert world.page(7)["last_loss"] == Loss.UNKNOWN
    world.snapshot(400, {7: A, 8: B}, missed=1, dropped=1)
    world.snapshot(500, {7: A, 8: B}, missed=1, dropped=1)
    assert world.page(7)["source"] == Source.UNKNOWN
    world.snapshot(600, {7: A}, missed=1, dropped=2)
    world.snapshot(700, {7: A}, missed=1, dropped=2)
    assert world.page(8)["last_loss"] == Loss.MISSED


def test_what_others_missed_says_nothing_of_a_new_space(world: World) -> None:
    """Faults that the run missed before the space was made, in whosever memory."""
    for time in (100, 200):
        world.snapshot(time, {}, missed=5)
    world.reconciler.view(2, Source.EXEC, own=5)
    for time in (300, 400, 500):
        world.snapshot(time, {7: A} if time > 300 else {}, missed=5, space=2)
    assert world.page(7, space=2)["source"] == Source.UNKNOWN


def heir(world: World, *, seen: bool) -> None:
    """Space 2, made by fork from the first."""
    parent = world.reconciler.view(SPACE, Source.EXEC)
    if seen:
        world.snapshot(100, {7: A})
    world.line.releases.inherit(SPACE, 2, 150)
    world.reconciler.view(2, Source.FORK).descend(SPACE, parent)


def test_a_child_of_what_had_no_snapshot_has_it_by_fork(world: World) -> None:
    heir(world, seen=False)
    world.snapshot(200, {7: A}, space=2)
    assert world.page(7, space=2)["source"] == Source.FORK


def test_what_such_a_child_filled_itself_is_not_by_fork(world: World) -> None:
    heir(world, seen=False)
    world.reconciler.hint(2, Hint(7 * P, 8 * P, Source.POPULATE))
    for time in (200, 300):
        world.snapshot(time, {7: A, 8: B}, missed=1, space=2)
    assert world.page(7, space=2)["source"] == Source.POPULATE
    assert world.page(8, space=2)["source"] == Source.FORK


def test_a_child_s_page_in_its_parent_s_frame_came_by_fork(world: World) -> None:
    """Filled in the parent where no hook saw it, since the last snapshot; the other one was not."""
    heir(world, seen=True)
    world.snapshot(200, {7: A, 8: B})
    for time in (210, 220):
        world.snapshot(time, {7: A, 8: B, 9: C}, space=2)
    assert world.page(7, space=2)["source"] == Source.FORK
    assert world.page(8, space=2)["source"] == Source.FORK
    assert world.page(9, space=2)["source"] == Source.UNKNOWN


def test_pages_swapoff_brought_back(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {})
    world.counters["swapoff"] += 1
    world.snapshot(200, {7: A})
    world.snapshot(300, {7: A})
    assert world.page(7)["source"] == Source.SWAPOFF


# -- another frame -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "source"),
    [("migrate", Source.MIGRATE), ("collapse", Source.COLLAPSE), ("ksm", Source.KSM)],
)
def test_a_page_the_kernel_moved(world: World, counter: str, source: Source) -> None:
    apply(world.line, Event(7, 10, 20, after=A))
    world.snapshot(100, {7: A})
    world.counters[counter] += 1
    world.snapshot(200, {7: B})
    world.snapshot(300, {7: B})
    page = world.page(7)
    assert (page["frame"], page["source"], page["last_loss"]) == (B, source, Loss.REPLACED)
    assert page["confirmed"] == Confirmed.BOTH  # of the first frame
    assert world.reconciler.conflicts == 0
    check_books(world.line, SPACE)


def test_a_page_a_missed_fault_changed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A))
    world.snapshot(100, {7: A})
    world.snapshot(200, {7: B}, missed=1)
    world.snapshot(300, {7: B}, missed=1)
    assert world.page(7)["source"] == Source.MISSED
    assert world.reconciler.conflicts == 0


def test_a_page_that_locking_copied(world: World) -> None:
    """mlock of a page shared with the parent, or of the zero page: its own copy, unseen by perf."""
    apply(world.line, Event(7, 10, 20, after=A, kind=Kind.ZERO))
    world.snapshot(100, {7: A})
    world.fill(7 * P, 8 * P)
    world.snapshot(200, {7: B})
    world.snapshot(300, {7: B})
    assert world.page(7)["source"] == Source.POPULATE
    assert world.reconciler.conflicts == 0


def test_a_fault_contradicted_with_nothing_to_explain_it(world: World) -> None:
    world.born(Source.INITIAL)
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 21, after=B))
    world.snapshot(100, {7: C, 8: B})
    assert world.reconciler.conflicts == 0  # not at the first sight
    world.snapshot(200, {7: C, 8: B})
    assert world.reconciler.conflicts == 1
    assert world.page(7)["source"] == Source.UNKNOWN
    world.snapshot(300, {7: C, 8: B})
    assert world.reconciler.conflicts == 1


def test_a_page_only_snapshots_knew_contradicts_no_fault(world: World) -> None:
    world.born(Source.INITIAL)
    world.snapshot(100, {7: A})
    world.snapshot(200, {7: B})
    world.snapshot(300, {7: B})
    assert world.page(7)["source"] == Source.UNKNOWN
    assert world.reconciler.conflicts == 0
