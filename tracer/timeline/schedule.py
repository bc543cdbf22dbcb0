"""Applies a batch of faults to the timeline, as many at a time as possible.

What forks and system calls did to pages comes between the faults on these pages; what
happened to other pages meanwhile does not matter to them. So a batch is applied in rounds: in
each the next faults of any pages, then the actions on pages after them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.common.pages import NO_FRAME, page_range
from tracer.common.types import I64, U8, U64, Bools, Index
from tracer.model.rows import Kind, Rows
from tracer.model.sources import Source
from tracer.spaces.syscalls import Effect
from tracer.timeline.events import Events
from tracer.timeline.rounds import FAR_NS, LAST_PAGE, Done, Faulted, Rounds, depths_of, plan
from tracer.timeline.timeline import Timeline

_NONE = np.empty(0, np.int64)
_THIN = 16  # faults and actions in a round

Range = tuple[int, int, int]  # of an address space: its number, first page, the one after the last


def range_of(space: int, start: int, end: int) -> Range:
    """The pages of [start, end) (addresses) in a space."""
    first, last = page_range(start, end)
    return space, first, min(last, LAST_PAGE)


def whole(space: int) -> Range:
    """All pages of a space."""
    return space, 0, LAST_PAGE


class Action(NamedTuple):
    """Something done to pages in `ranges` after the first `at` faults of a batch.

    Of an effect (`action_of`) `plain` says that it releases the frames of one range and no more,
    `time_ns` when; `begun_ns` when its call began, where others may have faulted since (else 0).
    """

    at: int
    ranges: tuple[Range, ...]
    what: Effect | Callable[[], object]
    plain: bool = False
    time_ns: int = FAR_NS
    begun_ns: int = 0


def action_of(at: int, effect: Effect) -> Action:
    """A system call's effect on all pages it concerns, or might have when it began."""
    space, start, end, time_ns = effect[:4]
    mine = range_of(space, start, end)
    to, call = effect.moved_to, effect.call
    if to is None and call is None:
        return Action(at, (mine,), effect, True, time_ns)
    ranges = [mine]
    if to is not None:
        ranges.append(range_of(space, to, to + max(effect.moved_size, end - start)))
    if call is None:
        return Action(at, tuple(dict.fromkeys(ranges)), effect, False, time_ns)
    ranges.append(range_of(space, call.start, call.end))
    distinct = tuple(dict.fromkeys(ranges))
    return Action(at, distinct, effect, to is None and len(distinct) == 1, time_ns, call.begun_ns)


@dataclass
class TouchedPages:
    """Pages that faults touched: their own, and neighbours mapped with them."""

    row: I64
    page: U64
    frame: U64
    before: U64  # NO_FRAME where absent or not known
    absent: Bools  # had no frame when the fault began
    around: Bools  # a neighbour, mapped with the fault's own

    def select(self, at: I64 | slice) -> "TouchedPages":
        return TouchedPages(*(getattr(self, each.name)[at] for each in fields(self)))


def concatenate(several: list[TouchedPages]) -> TouchedPages:
    """One after another."""
    if not any(len(part.row) for part in several[1:]):
        return several[0]
    return TouchedPages(
        *(
            np.concatenate([getattr(part, each.name) for part in several])
            for each in fields(TouchedPages)
        )
    )


class Schedule:
    """The pages of some rows, and the order in which they are applied to the timeline.

    `columns` are those of the rows as they were made; `touched` is in order of rows;
    `start_ns` and `swapped` (the entry before the fault was a swap entry) are the rows'.
    """

    def __init__(
        self,
        timeline: Timeline,
        rows: Rows,
        columns: Mapping[str, npt.NDArray[Any]],
        touched: TouchedPages,
        start_ns: I64,
        swapped: Bools,
    ) -> None:
        self._timeline = timeline
        self._rows = rows
        self._applied = 0  # pages, by `apply_all`
        self._fresh = np.empty(0, np.bool_)  # by page touched: rounds.Faulted.fresh
        self.idle: list[Action] = []  # what `play` need not yield
        self._row = touched.row
        around = touched.around
        # One page per row, as nearly always: the rows' fields are the pages', unchanged.
        plain = len(touched.row) == len(rows) and not around.any()
        row = slice(None) if plain else touched.row
        self._space = columns["space"][row]
        kind = columns["kind"][row]
        self._events = Events(
            page=touched.page,
            start_ns=start_ns[row],
            time_ns=columns["time_ns"][row],
            absent_before=touched.absent,
            swapped_before=swapped[row] & ~around,
            frame_before=touched.before,
            frame=touched.frame,
            number=columns["number"][row],
            kind=kind,
            region=columns["region"][row],
            source=_sources(kind, around),
        )

    def play(self, actions: Sequence[Action], rows: Sequence[int]) -> Iterator[list[Action]]:
        """Apply all rows; yield the actions when they are to be applied.

        Those yielded together have no page in common. An action comes after the first so
        many `rows`, which do not decrease; of each page everything comes in order. Actions
        that find nothing to release are not yielded, but are in `idle` afterwards.
        """
        if not actions:
            self.apply_all()
            return
        events = self._events
        starts = np.searchsorted(self._row, np.array(rows))
        returns = {
            id(action.what.call): (start, action.what.time_ns)
            for action, start in zip(actions, starts.tolist(), strict=True)
            if action.begun_ns and isinstance(action.what, Effect) and action.what.call
        }
        events.suspected = self._timeline.faults.suspected(
            self._space, events.page, events.time_ns, returns
        )
        none, own = np.uint64(NO_FRAME), events.source != Source.AROUND
        self._fresh = (events.frame != none) & (events.frame_before == none)
        self._fresh &= (~own | (events.kind != Kind.SPURIOUS)) & (events.suspected.over == 0)
        # What is too much at once is halved: a stack of spans still to be applied, the next last.
        spans = [(0, len(actions), 0, len(self._row))]
        while spans:
            first, last, begin, end = spans.pop()
            chosen = starts[first:last]
            rounds = self._plan(actions[first:last], chosen - begin, begin, end)
            if rounds is None:
                middle = self._cut(chosen, first, begin)
                cut = int(starts[middle - 1]) if middle > first else begin
                spans += [(middle, last, cut, end), (first, middle, begin, cut)]
            elif _are_thin(rounds):
                yield from self._in_turn(actions[first:last], chosen.tolist(), begin, end)
            else:
                yield from self._play(actions[first:last], rounds, begin, end)

    def _cut(self, starts: Index, first: int, begin: int) -> int:
        """How many actions go into the first of two halves: one at least, and not all of them."""
        return first + max(1, len(starts) // 2)

    def _plan(
        self, actions: Sequence[Action], starts: Index, begin: int, end: int
    ) -> Rounds | None:
        """The rounds of some pages and the actions between them; None: split them."""
        part = slice(begin, end)
        if not actions:
            return Rounds(np.zeros(end - begin, np.int64), np.full(end - begin, -1), _NONE)
        events = self._events
        faulted = Faulted(
            self._space[part], events.page[part], events.time_ns[part], self._fresh[part]
        )
        ledger = self._timeline.ledger
        rounds = plan(faulted, _done(actions, starts), ledger.latest_ns, ledger.changed_ns)
        return None if rounds is None or self._mixes(rounds, begin, end) else rounds

    def _mixes(self, rounds: Rounds, begin: int, end: int) -> bool:
        """Whether a row has pages in several rounds, though they depend on each other."""
        stay = rounds.comes_and_goes < 0
        row, number = self._row[begin:end][stay], rounds.faults[stay]
        return bool(((row[1:] == row[:-1]) & (number[1:] != number[:-1])).any())

    def _play(
        self, actions: Sequence[Action], rounds: Rounds, begin: int, end: int
    ) -> Iterator[list[Action]]:
        last = int(max(rounds.faults.max(initial=0), rounds.actions.max(initial=0)))
        order = np.argsort(rounds.faults, kind="stable")
        ends = np.searchsorted(rounds.faults[order], np.arange(last + 1), side="right").tolist()
        due: list[list[Action]] = [[] for _ in range(last + 1)]
        for action, depth in zip(actions, rounds.actions.tolist(), strict=True):
            (due[depth] if depth >= 0 else self.idle).append(action)
        for low, high, then in zip([0, *ends], ends, due, strict=False):
            if low < high:
                self._apply_round(actions, rounds, order[low:high], begin)
            if then:
                yield then

    def _in_turn(
        self, actions: Sequence[Action], starts: list[int], begin: int, end: int
    ) -> Iterator[list[Action]]:
        """As `_play`, one by one: where rounds would have a page or two each."""
        events, row = self._events, self._row
        fresh = self._fresh[begin:end].copy()
        rows = row[begin:end]
        several = rows[1:] == rows[:-1]
        fresh[1:] &= ~several
        fresh[:-1] &= ~several
        ends = np.searchsorted(row, rows, side="right").tolist()
        part = slice(begin, end)
        columns: list[npt.NDArray[Any]] = [fresh, self._space[part]]
        names = ("page", "time_ns", "frame", "source", "region", "number", "kind")
        columns += [getattr(events, name)[part] for name in names]
        singles = list(zip(*(each.tolist() for each in columns), strict=True))
        gained, at = [], begin
        for action, start in zip([*actions, None], [*starts, end], strict=True):
            while at < start:
                simple, *single = singles[at - begin]
                if simple and self._timeline.faults.gain_one(*single):
                    gained.append(at)
                    at += 1
                else:
                    self.apply(slice(at, ends[at - begin]))
                    at = ends[at - begin]
            if action is not None:
                yield [action]
        self._gained(row[gained])

    def _apply_round(
        self, actions: Sequence[Action], rounds: Rounds, due: Index, begin: int
    ) -> None:
        releaser = rounds.comes_and_goes[due]
        passing = releaser >= 0
        if passing.any():
            at, releasers = (
                due[passing] + begin,
                [actions[n].what for n in releaser[passing].tolist()],
            )
            effects = [what for what in releasers if isinstance(what, Effect)]  # all are
            self._timeline.ledger.come_and_go(
                self._space[at],
                self._events.select(at),
                np.array([effect.time_ns for effect in effects]),
                np.array([effect.loss for effect in effects], np.uint8),
            )
            self._gained(self._row[at])
            due = due[~passing]
        if len(due):
            self.apply(due + begin if begin or len(due) < len(self._row) else slice(None))

    def apply_all(self, until: int | None = None) -> None:
        """Apply the rows before `until`; by default all that are left."""
        end = len(self._row) if until is None else int(np.searchsorted(self._row, until))
        if end > self._applied:
            self.apply(slice(self._applied, end))
            self._applied = end

    def apply(self, due: Index | slice) -> None:
        """Apply some pages to the timeline, in order, and the outcome to their rows."""
        outcome = self._timeline.faults.apply(self._space[due], self._events.select(due))
        row = self._row[due]
        self._gained(row[outcome.gained])
        if outcome.raced.any():
            self._rows["kind"][row[outcome.raced]] = Kind.SPURIOUS

    def _gained(self, row: I64) -> None:
        """Add a page to each of these rows, as often as it occurs."""
        if len(row):
            # For many, bincount is faster than np.add.at.
            first = int(row[0])
            gained = np.bincount(row - first)
            self._rows["pages"][first : first + len(gained)] += gained.astype(np.uint32)


def _are_thin(rounds: Rounds) -> bool:
    """Whether many rounds have so little in each that arrays do not pay."""
    depth = int(max(rounds.faults.max(initial=0), rounds.actions.max(initial=0)))
    left = int((rounds.comes_and_goes < 0).sum()) + int((rounds.actions >= 0).sum())
    return depth > _THIN and left < _THIN * depth


def together(actions: Sequence[Action]) -> Iterator[list[Action]]:
    """Group actions with no faults between them: those that have no page in common."""
    depths = depths_of([action.ranges for action in actions])
    due: dict[int, list[Action]] = {}
    for action, depth in zip(actions, depths, strict=True):
        due.setdefault(depth, []).append(action)
    for depth in sorted(due):
        yield due[depth]


def _done(actions: Sequence[Action], starts: Index) -> Done:
    """The actions that come after the first `starts` of some pages."""
    _, ranges, _, plain, times, begun = zip(*actions, strict=True)
    return Done(
        np.asarray(starts, np.int64),
        ranges,
        np.array(plain),
        np.array(times, np.int64),
        np.array(begun, np.int64),
    )


def _sources(kind: U8, around: Bools) -> U8:
    """The source of the frame that each fault shows."""
    source = np.full(len(kind), Source.FAULT, np.uint8)
    source[kind == Kind.UFFD] = Source.UFFD
    source[around] = Source.AROUND
    return source
