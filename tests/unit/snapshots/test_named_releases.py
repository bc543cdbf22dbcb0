"""Releases that snapshots and faults find: their causes."""

import pytest

from tests.unit.reconcile_data import P, World
from tests.unit.timeline_data import SPACE, A, B, C, Event, apply, check_books, tallies
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.model.sources import Loss, Source
from tracer.snapshots.evidence import Hint
from tracer.snapshots.unrecorded import Unrecorded


def test_pages_that_went(world: World) -> None:
    apply(world.line, *(Event(n, 10, 20, after=n * P) for n in (7, 8, 9)))
    world.snapshot(100, {7: 7 * P, 8: 8 * P, 9: 9 * P})
    for time in (200, 300):
        world.snapshot(time, {}, swapped=[7], mapped=(7, 9))
    losses = [world.page(n)["last_loss"] for n in (7, 8, 9)]
    assert losses == [Loss.RECLAIM, Loss.UNKNOWN, Loss.MUNMAP]
    assert all(world.page(n)["frame"] == NO_FRAME for n in (7, 8, 9))
    check_books(world.line, SPACE)


def test_a_page_that_went_while_the_kernel_reclaimed(world: World) -> None:
    apply(world.line, Event(7, 10, 20))
    world.snapshot(100, {7: A})
    world.counters["reclaim"] += 1
    world.snapshot(200, {})
    world.snapshot(300, {})
    assert world.page(7)["last_loss"] == Loss.RECLAIM


def test_a_release_needs_two_snapshots(world: World) -> None:
    apply(world.line, Event(7, 10, 20))
    world.snapshot(100, {})
    assert world.page(7)["frame"] == A
    world.snapshot(200, {7: A})
    world.snapshot(300, {})
    assert world.page(7)["frame"] == A
    assert tallies(world.line)[1] == {}


def test_snapshots_with_nothing_in_them(world: World) -> None:
    world.snapshot(100, {})
    world.snapshot(200, {})
    assert tallies(world.line) == ({}, {})
    assert not world.suspects()


def test_what_faults_found_gone_is_named_at_the_next_snapshot(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(7, 30, 40, after=B))
    assert tallies(world.line) == ({Source.FAULT: 2}, {Loss.UNKNOWN: 1})
    world.counters["reclaim"] += 1
    world.snapshot(100, {7: B})
    assert world.page(7)["last_loss"] == Loss.RECLAIM
    assert tallies(world.line) == ({Source.FAULT: 2}, {Loss.RECLAIM: 1})
    check_books(world.line, SPACE)


def test_what_faults_found_moved_is_named_at_the_next_snapshot(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(7, 30, 40, before=B, after=C))
    world.counters["migrate"] += 1
    world.snapshot(100, {7: C})
    gained, released = tallies(world.line)
    assert gained == {Source.FAULT: 2, Source.MIGRATE: 1}
    assert released == {Loss.REPLACED: 2}


def test_counters_count_since_the_snapshot_before_the_last(world: World) -> None:
    """What moved during a snapshot shows in its counters, or only at the next."""
    world.counters["migrate"] += 1
    apply(world.line, Event(7, 10, 20, after=A))
    for time in (100, 200, 300):
        world.snapshot(time, {7: A})
    for time in (400, 500):
        world.snapshot(time, {7: B})
    assert world.page(7)["source"] == Source.UNKNOWN
    assert world.reconciler.conflicts == 1


def test_what_came_back_from_swap_was_reclaimed(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A))
    world.snapshot(100, {7: A})
    world.counters["swapoff"] += 1
    for time in (200, 300):
        world.snapshot(time, {7: B})
    assert tallies(world.line) == ({Source.FAULT: 1, Source.SWAPOFF: 1}, {Loss.RECLAIM: 1})


def test_what_faults_found_is_named_at_the_space_s_end(world: World) -> None:
    apply(world.line, Event(7, 10, 20, after=A), Event(8, 10, 20, after=A))
    world.snapshot(100, {7: A, 8: A})
    world.counters["migrate"] += 1
    world.reconciler.hint(SPACE, Hint(8 * P, 9 * P, loss=Loss.MADVISE))
    apply(world.line, Event(7, 150, 160, B, C, kind=Kind.COW), Event(8, 150, 160, after=C))
    assert tallies(world.line)[0][Source.UNKNOWN] == 1
    world.reconciler.close(SPACE, Unrecorded())
    gained, released = tallies(world.line)
    assert gained == {Source.FAULT: 4, Source.MIGRATE: 1}
    assert released == {Loss.REPLACED: 2, Loss.MADVISE: 1}


@pytest.mark.parametrize(
    ("born", "source"), [(Source.EXEC, Source.EXEC), (Source.FORK, Source.UNKNOWN)]
)
def test_what_a_fault_finds_in_a_new_program_is_exec_s(
    world: World, born: Source, source: Source
) -> None:
    """The stack exec has set up, write-protected; the program ends before a snapshot."""
    world.born(born)
    apply(world.line, Event(7, 10, 20, before=A, after=A, kind=Kind.REUSE))
    world.reconciler.close(SPACE, Unrecorded())
    assert tallies(world.line) == ({source: 1}, {})


def test_what_a_fault_finds_after_the_first_snapshot_is_not(world: World) -> None:
    world.born(Source.EXEC)
    world.snapshot(5, {})
    apply(world.line, Event(7, 10, 20, before=A, after=A, kind=Kind.REUSE))
    world.reconciler.close(SPACE, Unrecorded())
    assert tallies(world.line) == ({Source.UNKNOWN: 1}, {})
