"""The order in which faults, and calls between them, are applied to the timeline."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind, Rows
from tracer.timeline.concurrent_unmaps import Suspected
from tracer.timeline.events import Events, Outcome
from tracer.timeline.schedule import Action, Schedule, TouchedPages, range_of, whole

P = 4096
Calls = list[tuple[int, int, int]]  # (space, page, row) of each call


class Heard:
    """A timeline that records the calls made to it."""

    latest_ns = 0

    def __init__(self) -> None:
        self.calls: list[Calls] = []
        self.faults = self.ledger = self  # all that is asked of either

    def suspected(self, spaces: np.ndarray, *_: object) -> Suspected:
        return Suspected.none(len(spaces))

    def changed_ns(self, spaces: np.ndarray, pages: np.ndarray) -> np.ndarray:
        return np.zeros(len(pages), np.int64)

    def apply(self, spaces: np.ndarray, events: Events) -> Outcome:
        columns = spaces.tolist(), events.page.tolist(), (events.number - 1).tolist()
        self.calls.append(list(zip(*columns, strict=True)))
        gained = np.ones(len(spaces), np.bool_)
        return Outcome(gained, np.zeros(len(spaces), np.bool_))


def schedule(heard: Heard, touched: Calls) -> Schedule:
    """Rows of these spaces, each with the pages touched: in order of rows."""
    space, page, row = (np.array(column) for column in zip(*touched, strict=True))
    count = int(row[-1]) + 1
    of_row = np.zeros(count, np.uint32)
    of_row[row] = space
    columns: dict[str, Any] = {
        "number": np.arange(1, count + 1, dtype=np.uint64),
        "time_ns": np.arange(count),
        "space": of_row,
        "kind": np.full(count, Kind.ANON, np.uint8),
        "region": np.ones(count, np.uint32),
    }
    around = np.append(False, row[1:] == row[:-1])
    none = np.full(len(row), NO_FRAME, np.uint64)
    frames = np.arange(len(row), dtype=np.uint64)
    parts = TouchedPages(row, page.astype(np.uint64), frames, none, ~around, around)
    nothing = np.zeros(count, np.bool_)
    timeline = cast(Any, heard)
    return Schedule(timeline, Rows.of(columns), columns, parts, np.arange(count), nothing)


def act(at: int, *ranges: tuple[int, int, int]) -> Action:
    where = tuple(range_of(space, first * P, last * P) for space, first, last in ranges)
    return Action(at, where, cast(Any, SimpleNamespace(at=at)))


def play(touched: Calls, actions: list[Action]) -> list[Calls | list[Action]]:
    """The timeline's calls, and the actions that came due between them, in order."""
    heard = Heard()
    done: list[Calls | list[Action]] = []
    for due in schedule(heard, touched).play(actions, [action.at for action in actions]):
        done += heard.calls
        heard.calls = []
        done.append(due)
    return [*done, *heard.calls]


def history(page: int, space: int, done: list[Any]) -> list[object]:
    """What one page saw of it: rows, and actions by identity."""
    seen: list[object] = []
    for step in done:
        for each in step:
            if isinstance(each, Action):
                covers = (s == space and a <= page < b for s, a, b in each.ranges)
                seen += [id(each)] if any(covers) else []
            elif each[:2] == (space, page):
                seen.append(each[2])
    return seen


def test_what_concerns_other_pages_is_not_waited_for() -> None:
    touched = [(1, page, page) for page in range(40)]
    # Each unmaps the page before the one that faults next.
    done = play(touched, [act(at, (1, at - 1, at)) for at in range(1, 40)])
    assert [len(step) for step in done] == [40, 39]


def test_a_page_that_is_unmapped_again_and_again_has_a_round_for_each() -> None:
    touched = [(1, 7, row) for row in range(5)]
    actions = [act(at, (1, 7, 8)) for at in range(1, 5)]
    done = play(touched, actions)
    assert history(7, 1, done) == [0, *(x for n in range(1, 5) for x in (id(actions[n - 1]), n))]


def test_another_space_s_page_is_another_page() -> None:
    first, second = act(1, (1, 7, 8)), act(1, (2, 7, 8))
    done = play([(1, 7, 0), (2, 7, 1)], [first, second])
    assert done == [[(1, 7, 0)], [first, second], [(2, 7, 1)]]


def test_a_fork_concerns_all_pages_of_both_spaces() -> None:
    fork = Action(2, (whole(1), whole(2)), cast(Any, None))
    done = play([(1, 7, 0), (3, 7, 1), (1, 9, 2), (2, 7, 3), (3, 9, 4)], [fork])
    assert done == [[(1, 7, 0), (3, 7, 1), (3, 9, 4)], [fork], [(1, 9, 2), (2, 7, 3)]]


def test_a_fault_and_what_came_along_are_applied_together() -> None:
    """Else one could not tell that a folio had left as a whole."""
    touched = [(1, 1, 0), (1, 4, 1), (1, 5, 1), (1, 9, 2)]
    unmap, other = act(1, (1, 5, 6)), act(2, (1, 20, 21))
    done = play(touched, [unmap, other])
    assert done == [[(1, 1, 0)], [unmap], [(1, 4, 1), (1, 5, 1), (1, 9, 2)], [other]]


def test_without_a_fault_there_is_only_what_was_done() -> None:
    heard = Heard()
    made = schedule(heard, [(1, 1, 0)])
    assert list(made.play([], [])) == []
    assert heard.calls == [[(1, 1, 0)]]


@pytest.mark.parametrize("seed", range(8))
def test_each_page_has_everything_in_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, pages = 120, 24
    touched = [
        (int(random.integers(1, 3)), int(random.integers(pages)), row) for row in range(rows)
    ]
    actions = []
    for at in sorted(random.integers(0, rows + 1, 25).tolist()):
        first = int(random.integers(pages))
        ranges = [(int(random.integers(1, 3)), first, first + int(random.integers(1, 6)))]
        if random.random() < 0.3:
            ranges.append((ranges[0][0], first + 9, first + 12))
        actions.append(act(at, *ranges))
    done = play(touched, actions)
    plain: list[Any] = []
    for row, each in enumerate(touched):
        plain += [[action] for action in actions if action.at == row]
        plain.append([each])
    plain += [[action] for action in actions if action.at == rows]
    for space in (1, 2):
        for page in range(pages + 16):
            assert history(page, space, done) == history(page, space, plain)
    for step in done:
        together = [each for action in step if isinstance(action, Action) for each in action.ranges]
        owners = [i for i, x in enumerate(step) if isinstance(x, Action) for _ in x.ranges]
        for one, mine in zip(together, owners, strict=True):
            for two, theirs in zip(together, owners, strict=True):
                apart = one[0] != two[0] or one[2] <= two[1] or two[2] <= one[1]
                assert apart or mine == theirs
