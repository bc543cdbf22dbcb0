"""What the live view keeps: page states over time, rates, slowest faults, in bounded memory."""

from typing import Any

import numpy as np
import pytest

from tests.unit import live_tape, outputs_data
from tests.unit.timeline_data import CHILD, SPACE, Event, columns
from tracer.common.pages import NO_FRAME
from tracer.live.history import History
from tracer.live.model import Area, Facts, Model, areas_of
from tracer.live.pages import (
    CHANGE,
    Changes,
    State,
    Table,
    by_space,
    empty,
    gains,
    huge,
    losses,
    merge,
    newer,
    present,
    states,
)
from tracer.live.rates import GAINED, MAPPED, RELEASED, RESIDENT, Rates
from tracer.live.slowest import Slowest
from tracer.model.rows import Kind, Names
from tracer.model.sources import Loss, Source
from tracer.timeline.timeline import Timeline

SECOND = 1_000_000_000
START = outputs_data.START
FACTS = Facts("work", "host", "6.12.1", "perf", START)


def changes(*each: tuple[int, int, State], space: int = 1) -> Changes:
    """(page, time, state) of one space."""
    made = np.zeros(len(each), CHANGE)
    made["page"], made["time_ns"], made["state"] = zip(*each, strict=True)
    made["space"] = space
    return made


def pages(table: Table) -> dict[int, State]:
    return {int(row["page"]): State(row["state"]) for row in table}


def area(start: int, count: int, space: int = 1, name: str = "[anon]") -> Area:
    return Area(space, 4242, start << 12, (start + count) << 12, "rw-p", name)


# -- pages ---------------------------------------------------------------------------


def test_the_last_change_of_a_page_counts_and_tables_stay_sorted() -> None:
    table = merge(empty(), changes((9, 1, State.RESIDENT), (3, 2, State.ZERO)))
    table = merge(
        table, changes((5, 3, State.RESIDENT), (9, 4, State.RELEASED), (9, 5, State.RESIDENT))
    )
    assert pages(table) == {3: State.ZERO, 5: State.RESIDENT, 9: State.RESIDENT}
    assert table["page"].tolist() == [3, 5, 9]
    assert table["time_ns"].tolist() == [2, 3, 5]


def test_states_follow_frame_kind_and_cause() -> None:
    frames = np.array([0x1000, 0x2000, 0x3000], np.uint64)
    spaces = np.ones(3, np.uint32)
    at = np.array([1, 2, 3], np.uint64)
    kinds = np.array([Kind.ANON, Kind.ANON, Kind.ZERO], np.uint8)
    gained = gains(spaces, at, 7, frames, kinds, zero_frame=0x2000)
    assert gained["state"].tolist() == [State.RESIDENT, State.ZERO, State.ZERO]
    causes = np.array([Loss.MADVISE, Loss.RECLAIM, Loss.MUNMAP], np.uint8)
    released = losses(spaces, at, 8, causes)
    assert released["state"].tolist() == [State.RELEASED, State.SWAPPED, State.ABSENT]


def test_the_page_at_fault_may_come_before_its_neighbours() -> None:
    at = np.arange(512, 1024, dtype=np.uint64)
    mixed = np.roll(at, 37)
    frames = (mixed - np.uint64(512)) * np.uint64(4096) + np.uint64(1 << 21)
    made = gains(np.ones(512, np.uint32), mixed, 1, frames, int(Kind.HUGE))
    assert (made["state"] == State.HUGE).all()


def test_a_huge_page_is_recognised_by_its_frames() -> None:
    first, frame = 512 * 7, 1 << 21
    at = np.arange(first - 1, first + 600, dtype=np.uint64)
    frames = (at - np.uint64(first)) * np.uint64(4096) + np.uint64(frame)
    found = huge(at, frames)
    assert found.tolist() == [first <= page < first + 512 for page in at.tolist()]
    frames[300] += np.uint64(4096)  # not one folio
    assert not huge(at, frames).any()
    assert not huge(at, frames + np.uint64(4096)).any()  # not aligned


def test_newer_leaves_out_what_is_known() -> None:
    table = merge(empty(), changes((1, 5, State.RESIDENT), (2, 5, State.RESIDENT)))
    latest = changes((1, 5, State.RESIDENT), (2, 6, State.RELEASED), (3, 1, State.RESIDENT))
    assert newer(table, latest)["page"].tolist() == [2, 3]


def test_changes_are_parted_by_space() -> None:
    both = np.concatenate([changes((1, 1, State.ZERO)), changes((1, 2, State.RELEASED), space=2)])
    assert {space: each["time_ns"].tolist() for space, each in by_space(both).items()} == {
        1: [1],
        2: [2],
    }
    assert by_space(np.empty(0, CHANGE)) == {}


# -- the timeline's watcher ----------------------------------------------------------


class Watching:
    """What Live does with the changes that a timeline reports."""

    def __init__(self) -> None:
        self.history = History()

    def gained(self, spaces: Any, at: Any, times: Any, frames: Any, kinds: Any, _: Any) -> None:
        self.history.add(gains(spaces, at, times, frames, kinds))

    def released(self, spaces: Any, at: Any, times: Any, causes: Any) -> None:
        self.history.add(losses(spaces, at, times, causes))

    def came_and_went(self, *_: Any) -> None:
        raise AssertionError("no page here gains a frame and loses it in one batch")


@pytest.mark.parametrize("seed", range(8))
def test_a_watcher_knows_what_the_timeline_knows(seed: int) -> None:
    random = np.random.default_rng(seed)
    timeline, watcher = Timeline(), Watching()
    timeline.watch(watcher)
    now = 10
    for step in range(60):
        now += 10
        some = random.integers(0, 200, 20)
        events = [Event(int(page), now, now + 1, after=int(page + 1) << 12) for page in some]
        timeline.faults.apply(SPACE, columns(events))
        if step % 7 == 3:
            start = int(random.integers(0, 200)) << 12
            timeline.releases.release(SPACE, start, start + (40 << 12), now + 2, Loss.MADVISE)
        if step == 30:
            timeline.releases.inherit(SPACE, CHILD, now + 3)
        if step == 40:
            timeline.releases.move(SPACE, 0, 1 << 24, 50 << 12, now + 4)
    timeline.releases.drop_assumed(CHILD)
    at = timeline.ledger.resident(SPACE)
    table = watcher.history.now[SPACE]
    assert table["page"][present(table)].tolist() == timeline.ledger.pages_at(at).tolist()
    assert not present(watcher.history.now[CHILD]).any()
    # And who did not listen catches up to the same.
    slots = timeline.ledger.touched(SPACE)
    caught = states(
        SPACE,
        timeline.ledger.pages_at(slots),
        timeline.ledger["changed_ns"][slots],
        timeline.ledger["frame"][slots],
        timeline.ledger["first_kind"][slots],
        timeline.ledger["last_loss"][slots],
    )
    late = merge(empty(), caught)
    assert late["page"][present(late)].tolist() == timeline.ledger.pages_at(at).tolist()
    assert not len(newer(table, caught)) or (newer(table, caught)["state"] == State.ABSENT).all()


def test_what_was_there_before_is_reported_as_such() -> None:
    seen: list[Source] = []

    class Sources(Watching):
        def gained(self, *given: Any) -> None:
            seen.extend(Source(each) for each in np.atleast_1d(given[5]).tolist())

    timeline = Timeline()
    timeline.watch(Sources())
    one = np.ones(1, np.uint64)
    timeline.ledger.gain(
        timeline.ledger.state(SPACE, one),
        5,
        one << np.uint64(12),
        np.array([Source.INITIAL], np.uint8),
        np.zeros(1, np.uint32),
    )
    assert seen == [Source.INITIAL]


# -- history -------------------------------------------------------------------------


def test_the_past_can_be_shown_again() -> None:
    history = History()
    history.add(changes((1, 10, State.RESIDENT), (2, 20, State.ZERO)))
    history.add(changes((1, 30, State.RELEASED), (3, 40, State.RESIDENT)))
    assert pages(history.at(9, [1])[1]) == {}
    assert pages(history.at(20, [1])[1]) == {1: State.RESIDENT, 2: State.ZERO}
    assert pages(history.at(35, [1])[1]) == {1: State.RELEASED, 2: State.ZERO}
    assert pages(history.at(99, [1])[1]) == pages(history.now[1])
    assert pages(history.at(99, [2])[2]) == {}


def test_history_is_bounded_and_right_as_far_as_it_goes() -> None:
    bounded, whole = History(most=1000), History()
    random = np.random.default_rng(1)
    for time in range(0, 4000, 40):
        batch = changes(
            *(
                (int(page), time + number, State(int(state)))
                for number, (page, state) in enumerate(
                    zip(random.integers(0, 300, 40), random.integers(1, 6, 40), strict=True)
                )
            )
        )
        bounded.add(batch)
        whole.add(batch)
    assert len(bounded) <= 1000 < len(whole)
    assert 2000 <= bounded.start_ns < 4000
    for time in (bounded.start_ns, 3500, 3777, 4000):
        assert pages(bounded.at(time, [1])[1]) == pages(whole.at(time, [1])[1])
    # Earlier than that it shows the earliest it knows.
    assert pages(bounded.at(0, [1])[1]) == pages(whole.at(bounded.start_ns, [1])[1])


def test_a_batch_larger_than_the_bound_is_folded_at_once() -> None:
    history = History(most=100)
    history.add(changes(*((page, page, State.RESIDENT) for page in range(1000))))
    assert len(history) <= 100
    assert len(history.now[1]) == 1000
    assert len(history.at(1000, [1])[1]) == 1000


# -- rates -----------------------------------------------------------------------------


def test_rates_keep_their_sums_as_bins_grow() -> None:
    rates = Rates(START, width_ns=1000, most=64)
    times = START + np.arange(0, 100_000, 100)
    for part in np.split(times, 50):
        rates.faults(outputs_data.rows(len(part), time_ns=part))
    rates.frames(START + 100_000, mapped=30, gained=40, released=10)
    rates.resident(START + 60_000, 20)
    assert rates.width_ns == 2000
    totals = rates.totals(START + 100_000)
    assert totals[Kind.ANON] == 1000
    assert (totals[GAINED], totals[RELEASED], totals[MAPPED], totals[RESIDENT]) == (40, 10, 30, 20)
    bins, width = rates.spans(START + 100_000, 20, 1 << 60)
    assert width * 20 >= 100_000
    assert bins[:, Kind.ANON].sum() == 1000
    assert (bins[-1, MAPPED], bins[-1, RESIDENT]) == (30, 20)
    early, _ = rates.spans(START + 50_000, 20, 1 << 60)
    assert 500 <= early[:, Kind.ANON].sum() <= 520  # to the end of its bin
    assert rates.totals(START + 49_999)[Kind.ANON] == 500


def test_levels_stay_while_nothing_happens() -> None:
    rates = Rates(START)
    rates.frames(START + SECOND, 7, 7, 0)
    rates.resident(START + SECOND, 5)
    bins, _ = rates.spans(START + 10 * SECOND, 30, 1 << 60)
    assert (bins[-1, MAPPED], bins[-1, RESIDENT]) == (7, 5)
    rates.frames(START + 20 * SECOND, 8, 8, 0)
    totals = rates.totals(START + 15 * SECOND)
    assert (totals[MAPPED], totals[RESIDENT]) == (7, 5)
    rates.frames(START + 20 * SECOND, 7, 7, 0)
    assert rates.second(START + 10 * SECOND)[GAINED] == 0
    assert rates.second(START + SECOND)[GAINED] == 7


def test_an_empty_run_has_rates() -> None:
    rates = Rates(START)
    bins, _ = rates.spans(START, 10, SECOND)
    assert bins.sum() == 0
    assert rates.totals(START).sum() == 0
    assert rates.second(START).sum() == 0


# -- faults ------------------------------------------------------------------------------


def test_the_slowest_up_to_any_moment_are_exact() -> None:
    random = np.random.default_rng(2)
    slowest = Slowest()
    kinds = random.choice([Kind.ANON, Kind.COW], 5000).astype(np.uint8)
    latencies = random.integers(100, 1_000_000, 5000)
    rows = outputs_data.rows(5000, kind=kinds, latency_ns=latencies)
    for start in range(0, 5000, 100):
        slowest.add(rows[start : start + 100])
    for until in (10, 777, 5000):
        wanted = np.sort(latencies[:until])[::-1][:10]
        found = slowest.until(int(rows["time_ns"][until - 1]), 10)
        assert found["latency_ns"].tolist() == wanted.tolist()
        only = np.sort(latencies[:until][kinds[:until] == Kind.COW])[::-1][:10]
        found = slowest.until(
            int(rows["time_ns"][until - 1]), 10, lambda each: each[each["kind"] == Kind.COW]
        )
        assert found["latency_ns"].tolist() == only.tolist()


def test_faults_find_their_area_though_it_is_mapped_later() -> None:
    model = Model(FACTS, Names())
    rows = outputs_data.rows(10)
    model.write(rows[:4], model.names)
    model.set_areas(START, (area(0x7F03141A2, 10),))
    model.write(rows[4:], model.names)
    model.set_areas(START + SECOND, (area(0x7F03141A2, 10), area(0x10, 1)))
    assert model.faults_in == {(1, 0x7F03141A2000): 10}


def test_faults_in_what_was_mapped_there_before_are_not_counted() -> None:
    names = outputs_data.names(region="[anon]")
    model = Model(FACTS, names)
    model.write(outputs_data.rows(7, region=1), names)
    model.set_areas(START, (area(0x7F03141A2, 10, name="/usr/lib/libc.so.6"),))
    assert model.faults_in == {}


def test_areas_are_found_by_space_and_address() -> None:
    areas = [area(0x20, 4), area(0x10, 4), area(0x10, 4, space=2)]
    spaces = np.array([1, 1, 2, 2, 1], np.uint32)
    addresses = np.array([0x10, 0x23, 0x13, 0x20, 0x24], np.uint64) << np.uint64(12)
    assert areas_of(spaces, addresses, areas).tolist() == [1, 0, 2, -1, -1]


# -- the model -----------------------------------------------------------------------------


def test_layouts_are_thinned_and_ended_spaces_forgotten() -> None:
    model = Model(FACTS, Names())
    for number in range(3000):
        model.change(changes((5, START + number, State.RESIDENT), space=number + 1))
        model.settle()
        model.set_areas(START + number, (area(5, 1, space=number + 1),))
    assert len(model._layouts) <= 513
    assert len(model.history.now) <= 514
    moment = model.now()
    assert [each.space for each in moment.areas] == [3000]
    assert pages(moment.table(moment.areas[0])) == {5: State.RESIDENT}


def test_pages_there_before_do_not_glow() -> None:
    model = Model(FACTS, Names())
    model.change(changes((5, START, State.RESIDENT)), initial=True)
    assert model.now().tables[1]["time_ns"].tolist() == [0]


def test_lines_are_the_latest_by_then_and_bounded() -> None:
    model = Model(FACTS, Names())
    rows = outputs_data.rows(20_000)
    for start in range(0, 20_000, 40):
        model.write(rows[start : start + 40], model.names)
    assert model.lines(1 << 62, 3)["number"].tolist() == [19_998, 19_999, 20_000]
    early = model.lines(int(rows["time_ns"][18_000]), 3)
    assert early["number"].tolist() == [17_999, 18_000, 18_001]
    assert len(model.lines(int(rows["time_ns"][100]), 3)) == 0
    assert len(model.lines(1 << 62, 100_000)) < 5000
    assert model.counts.faults == 20_000


def test_the_recorded_trace_can_be_gone_through() -> None:
    """The picture of a moment is the same whether it was now then, or is gone back to."""
    tape = live_tape.load()
    whole = tape.play()
    for until in (SECOND, 2 * SECOND, 3_300_000_000):
        then = tape.play(until)
        now, again = then.now(), whole.at(whole.facts.started_ns + until)
        assert again.areas == now.areas
        for space, table in again.tables.items():
            assert (table == now.tables[space]).all()
    end = whole.at(whole.latest_ns)
    assert all((end.tables[space] == table).all() for space, table in whole.now().tables.items())


def test_a_frame_is_no_frame() -> None:
    """No page is gained without a frame: the timeline reports that it was released."""
    made = states(
        1,
        np.array([1, 2], np.uint64),
        np.array([5, 6]),
        np.array([NO_FRAME, 0x1000], np.uint64),
        np.array([Kind.ANON, Kind.ANON], np.uint8),
        np.array([Loss.RECLAIM, 0], np.uint8),
    )
    assert {int(row["page"]): State(row["state"]) for row in made} == {
        1: State.SWAPPED,
        2: State.RESIDENT,
    }
