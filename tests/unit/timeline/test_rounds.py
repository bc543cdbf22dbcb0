"""Faults and calls applied in rounds: the same result as one by one, at a bounded cost."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind, Rows
from tracer.model.sources import Loss
from tracer.spaces.syscalls import Effect, PendingRelease
from tracer.timeline.faults import FaultRules
from tracer.timeline.ledger import Ledger
from tracer.timeline.releases import Released, ReleaseRules
from tracer.timeline.schedule import Action, Schedule, TouchedPages, action_of, whole
from tracer.timeline.timeline import Timeline

P = 4096
LATE = 40  # how much later a record may come than one of a later moment, here


@dataclass
class Batch:
    """Rows and actions in the order in which they come; `at` counts the rows before an action."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)  # (rows before it, Effect or (parent, child))


def batches(seed: int, *, pages: int, count: int, threads: bool) -> Iterator[Batch]:
    """Faults and calls of two spaces on a few pages: what a program can do, and some nonsense."""
    random = np.random.default_rng(seed)
    now, frame = 1000, 1
    held: dict[tuple[int, int], int] = {}  # what is really there
    for _ in range(3):
        batch = Batch()
        for _ in range(count):
            now += int(random.integers(0, 3))
            space, page = int(random.integers(1, 3)), int(random.integers(0, pages))
            late = int(random.integers(0, LATE)) if random.random() < 0.1 else 0
            what = random.random()
            if what < 0.5:
                row = []
                wide = int(random.choice([1, 1, 1, 3]))
                for each in range(page, min(page + wide, pages)):
                    before = held.get((space, each), NO_FRAME)
                    odd = random.random() < 0.05
                    after = before if before != NO_FRAME and random.random() < 0.7 else frame * P
                    frame += 1
                    absent = before == NO_FRAME and not odd
                    row.append((each, before, after, absent))
                    held[space, each] = after
                kind = Kind.SPURIOUS if random.random() < 0.1 else Kind.ANON
                batch.rows.append(
                    {
                        "space": space,
                        "pages": row,
                        "kind": kind,
                        "start": now - late - int(random.integers(1, 6)),
                        "time": now - late,
                    }
                )
            elif what < 0.97:
                length = int(random.choice([1, 1, 2, pages]))
                start, end = page * P, min(page + length, pages) * P
                loss = Loss.MUNMAP if random.random() < 0.5 else Loss.MADVISE
                begun = now - late - int(random.integers(1, 8))
                call = (
                    PendingRelease(start, end, begun, loss)
                    if threads and random.random() < 0.7
                    else None
                )
                to = int(random.integers(0, pages)) * P if random.random() < 0.15 else None
                if to is not None and (to < end and start < to + end - start):
                    to = None
                size = end - start if to is not None else 0
                change = Effect(
                    space, start, end, now - late, loss, moved_to=to, moved_size=size, call=call
                )
                batch.actions.append((len(batch.rows), change))
                for each in range(start // P, end // P):
                    moved = held.pop((space, each), None)
                    if to is not None:
                        held.pop((space, each - start // P + to // P), None)
                        if moved is not None:
                            held[space, each - start // P + to // P] = moved
            elif not threads:
                batch.actions.append((len(batch.rows), (1, 2, now)))
        if batch.rows:
            yield batch


def rows_of(batch: Batch, first: int) -> tuple[Rows, dict[str, Any], TouchedPages, Any]:
    each = batch.rows
    columns: dict[str, Any] = {
        "number": np.arange(first, first + len(each), dtype=np.uint64),
        "time_ns": np.array([row["time"] for row in each], np.int64),
        "space": np.array([row["space"] for row in each], np.uint32),
        "kind": np.array([row["kind"] for row in each], np.uint8),
        "region": np.array([1 + row["pages"][0][0] % 3 for row in each], np.uint32),
    }
    flat = [(n, at, *part) for n, row in enumerate(each) for at, part in enumerate(row["pages"])]
    number, at, page, before, after, absent = zip(*flat, strict=True)
    parts = TouchedPages(
        row=np.array(number, np.int64),
        page=np.array(page, np.uint64),
        frame=np.array(after, np.uint64),
        before=np.array(before, np.uint64),
        absent=np.array(absent, np.bool_),
        around=np.array(at) > 0,
    )
    start = np.array([row["start"] for row in each], np.int64)
    return Rows.of(columns), columns, parts, start


def apply(line: Timeline, effects: list[Any]) -> None:
    released = []
    for what in effects:
        if not isinstance(what, Effect):
            line.releases.inherit(*what)
        elif what.moved_to is not None:
            line.releases.move(
                what.space, what.start, what.moved_to, what.end - what.start, what.time_ns
            )
        else:
            begun = what.call.begun_ns if what.call else 0
            released.append(
                Released(what.space, what.start, what.end, what.time_ns, what.loss, begun_ns=begun)
            )
    line.releases.release_all(released)
    for what in effects:
        over(line, what)


def over(line: Timeline, what: Any) -> None:
    if isinstance(what, Effect) and what.call is not None:
        line.releases.end_unmap(what.call, what.time_ns)


def begin_calls(line: Timeline, batch: Batch) -> None:
    for _, what in batch.actions:
        if isinstance(what, Effect) and what.call is not None:
            line.releases.begin_unmap(what.space, what.call)


def apply_each(schedule: Schedule, row: int, until: int) -> int:
    for each in range(row, until):
        schedule.apply_all(each + 1)
    return max(row, until)


def one_by_one(batches: list[Batch]) -> tuple[Timeline, list[Rows]]:
    line, applied, first = Timeline(), [], 1
    for batch in batches:
        begin_calls(line, batch)
        rows, columns, parts, start = rows_of(batch, first)
        first += len(rows)
        nothing = np.zeros(len(rows), np.bool_)
        schedule, applied_to = Schedule(line, rows, columns, parts, start, nothing), 0
        for at, what in batch.actions:
            applied_to = apply_each(schedule, applied_to, at)
            apply(line, [what])
        apply_each(schedule, applied_to, len(rows))
        applied.append(rows)
    return line, applied


def in_rounds(batches: list[Batch]) -> tuple[Timeline, list[Rows]]:
    line, applied, first = Timeline(), [], 1
    for batch in batches:
        begin_calls(line, batch)
        rows, columns, parts, start = rows_of(batch, first)
        first += len(rows)
        nothing = np.zeros(len(rows), np.bool_)
        schedule = Schedule(line, rows, columns, parts, start, nothing)
        actions = [
            action_of(at, what)
            if isinstance(what, Effect)
            else Action(at, (whole(what[0]), whole(what[1])), what)
            for at, what in batch.actions
        ]
        for due in schedule.play(actions, [action.at for action in actions]):
            apply(line, [action.what for action in due])
        for action in schedule.idle:
            over(line, action.what)
        applied.append(rows)
    return line, applied


def check_same(given: list[Batch]) -> None:
    """One by one, by arrays alone: the same as in rounds, and as in thin rounds, step by step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracer.timeline.ledger._FEW_BYTES", -1)
        expected, rows = one_by_one(given)
        patch.setattr("tracer.timeline.schedule._THIN", 0)
        check_alike(expected, rows, *in_rounds(given))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracer.timeline.schedule._are_thin", lambda rounds: True)
        check_alike(expected, rows, *in_rounds(given))


def check_alike(expected: Timeline, rows: list[Rows], line: Timeline, applied: list[Rows]) -> None:
    assert line.ledger.tally.gained.tolist() == expected.ledger.tally.gained.tolist()
    assert line.ledger.tally.released.tolist() == expected.ledger.tally.released.tolist()
    assert line.ledger.tally.gained_in == expected.ledger.tally.gained_in
    assert line.ledger.tally.released_in == expected.ledger.tally.released_in
    for space in (1, 2):
        found, wanted = line.ledger.history(space), expected.ledger.history(space)
        for name, column in wanted.items():
            assert found[name].tolist() == column.tolist(), (space, name)
    for one, other in zip(rows, applied, strict=True):
        assert other["pages"].tolist() == one["pages"].tolist()
        assert other["kind"].tolist() == one["kind"].tolist()


@pytest.mark.parametrize("threads", [False, True], ids=["alone", "threads"])
@pytest.mark.parametrize("seed", range(60))
def test_rounds_come_to_what_one_by_one_comes_to(seed: int, threads: bool) -> None:
    pages = (1, 3, 12)[seed % 3]
    check_same(list(batches(seed, pages=pages, count=120, threads=threads)))


def churn(times: int) -> Batch:
    """One page, filled and discarded over and over."""
    batch = Batch()
    for n in range(times):
        batch.rows.append(
            {
                "space": 1,
                "pages": [(7, NO_FRAME, (n % 5 + 1) * P, True)],
                "kind": Kind.ANON,
                "start": 10 * n + 1,
                "time": 10 * n + 2,
            }
        )
        batch.actions.append((n + 1, Effect(1, 7 * P, 8 * P, 10 * n + 5, Loss.MADVISE)))
    return batch


def calls_of(times: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the timeline is called while so much churn is applied."""
    count = 0

    def counted(method: Any) -> Any:

        def call(*args: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            return method(*args, **more)

        return call

    with monkeypatch.context() as patch:
        for part, names in (
            (FaultRules, ("apply", "_apply_turn")),
            (ReleaseRules, ("release_all",)),
            (Ledger, ("come_and_go", "gain", "release")),
        ):
            for name in names:
                patch.setattr(part, name, counted(getattr(part, name)))
        in_rounds([churn(times)])
    return count


def test_a_page_filled_and_discarded_over_and_over_is_applied_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_same([churn(50)])
    assert calls_of(4000, monkeypatch) == calls_of(1000, monkeypatch) < 20


def test_what_meets_too_much_at_once_goes_by_halves() -> None:
    """A call over all pages after each fault: not every pair of the two is compared."""
    batch = Batch()
    for n in range(600):
        batch.rows.append(
            {
                "space": 1,
                "pages": [(n, NO_FRAME, (n + 1) * P, True)],
                "kind": Kind.ANON,
                "start": 10 * n + 1,
                "time": 10 * n + 2,
            }
        )
        batch.actions.append((n + 1, Effect(1, 0, 600 * P, 10 * n + 5, Loss.MADVISE)))
    check_same([batch])
