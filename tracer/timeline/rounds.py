"""Rounds in which a batch's faults and the actions on their pages are applied to the timeline.

Between two faults on a page it may have been unmapped or discarded; what happened to other
pages meanwhile does not matter to it. So whatever has no page in common goes in one round. A
page that a program touches, discards and touches again without pause would need a round for
each time: where a fault found the page absent after one call and the next call released its
frame, before anything else happened to it, their effects do not depend on the page's state.
Such faults *come and go*, any number of them at once.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.common.fields import runs
from tracer.common.types import I64, U64, Bools, Ids, Index

Ranges = Sequence[tuple[int, int, int]]

LAST_PAGE = 1 << 52  # beyond all page numbers
_PAGE_BITS = 45  # of a user-space page number, with five levels
_TIME_BITS = 44  # of nanoseconds between the first and the last of a batch: five hours
FAR_NS = 1 << 62  # of actions without a time of their own
_WIDE = 4  # meetings per unit and action that are examined at once; else by halves
_AT_LEAST = 4096


@dataclass(frozen=True)
class Faulted:
    """The pages of faults, in order; arrays of one length."""

    space: Ids
    page: U64
    time_ns: I64
    fresh: Bools  # gains a frame, if the page has none by then: no other thread is involved

    def select(self, at: I64) -> "Faulted":
        """Select some of them."""
        return Faulted(self.space[at], self.page[at], self.time_ns[at], self.fresh[at])


# Of pages of spaces: when each last gained or released a frame before all of these faults.
Changed = Callable[[Ids, U64], I64]


@dataclass(frozen=True)
class Done:
    """What was done to pages, in order."""

    at: I64  # after the first so many faults
    ranges: Sequence[Ranges]  # spaces, first pages, the ones after the last
    plain: Bools  # releases the frames of its one range, and no more
    time_ns: I64  # FAR_NS where it has none
    begun_ns: I64  # when the call began, where other threads may have faulted meanwhile; else 0


@dataclass(frozen=True)
class Rounds:
    """The round of each fault and action; in each, faults that come and go first, actions last."""

    faults: I64
    comes_and_goes: I64  # by fault: the action that released its frame again; -1: to be applied
    actions: I64  # -1: it found nothing to release


@dataclass(frozen=True)
class _Units:
    """Pages that all actions of a batch treat alike, by address; the faults on each.

    A page where faults may come and go is a unit by itself. For others it only matters
    which actions meet them: those between two bounds of actions are one unit.
    """

    unit: I64  # of each fault
    order: I64  # the faults by unit, in order in each
    single: Bools  # by unit: a page by itself
    low: I64  # of each range of an action: its first unit
    high: I64  # the one after its last
    of: I64  # the action it is of


@dataclass(frozen=True)
class _Met:
    """Which actions meet which units: sorted by unit, then in order."""

    unit: I64
    action: I64
    code: I64  # unit * stride + action
    stride: int

    def before(self, unit: I64, actions: I64) -> Index:
        """Of each unit, the index of its first entry that is not among the first `actions`."""
        return np.searchsorted(self.code, unit * self.stride + actions)

    def only(self, chosen: Bools) -> "_Met":
        return _Met(self.unit[chosen], self.action[chosen], self.code[chosen], self.stride)


def plan(faulted: Faulted, done: Done, latest_ns: int, changed_ns: Changed) -> Rounds | None:
    """The rounds of a batch; no page has changed after `latest_ns` before it.

    None where so many pages meet so many actions that two halves cost less than the whole.
    """
    units = _units(faulted, done)
    met = _meet(units, len(done.at))
    if met is None:
        return None
    passed = np.searchsorted(done.at, np.arange(len(units.unit)), side="right")  # actions before
    definite = np.zeros(len(met.code), np.bool_)
    goes = np.full(len(units.unit), -1)
    at = units.order[units.single[units.unit[units.order]]]
    if len(at):
        inner = units.single[met.unit]
        single, unit = met.only(inner), units.unit[at]
        few = faulted.select(at)
        definite[inner] = _definite(few, unit, passed[at], done, single, changed_ns)
        goes[at] = _comes_and_goes(few, unit, passed[at], done, single, definite[inner])
    stay = units.order[goes[units.order] < 0]
    idle = _idle(done, met, definite, units.unit[stay] * met.stride + passed[stay], latest_ns)
    depth = np.full(len(done.at), -1)
    depth[~idle] = depths_of([done.ranges[n] for n in np.flatnonzero(~idle).tolist()])
    rest = met.only(~idle[met.action])
    last = rest.before(units.unit, passed) - 1
    there = last >= 0
    there[there] = rest.unit[last[there]] == units.unit[there]
    faults = np.zeros(len(units.unit), np.int64)
    faults[there] = depth[rest.action[last[there]]] + 1
    return Rounds(faults, goes, depth)


def _units(faulted: Faulted, done: Done) -> _Units:
    flat = [each for ranges in done.ranges for each in ranges]
    lengths = [len(ranges) for ranges in done.ranges]
    of = np.repeat(np.arange(len(done.ranges)), lengths)
    number, first, last = np.array(flat, np.int64).reshape(-1, 3).T
    spaces = _sorted(number)
    home = np.searchsorted(spaces, number)
    limit = 1 << _PAGE_BITS
    begin = home << _PAGE_BITS | np.minimum(first, limit - 1)
    end = np.maximum((home << _PAGE_BITS) + np.minimum(last, limit), begin)
    bounds = _sorted(np.r_[begin, end])
    # How many actions that may release frames repeatedly cover each part between two bounds.
    plain = done.plain[of]
    by = np.zeros(len(bounds), np.int64)
    np.add.at(by, np.searchsorted(bounds, begin[plain]), 1)
    np.subtract.at(by, np.searchsorted(bounds, end[plain]), 1)
    alone = np.cumsum(by) >= 2
    place = np.searchsorted(spaces, faulted.space)
    known = place < len(spaces)
    known[known] = spaces[place[known]] == faulted.space[known]
    code = place << _PAGE_BITS | faulted.page.astype(np.int64)
    between = np.searchsorted(bounds, code, side="right") - 1
    met = known & (between >= 0)  # else no action concerns it
    code = np.where(met & alone[between], code, np.where(met, bounds[between], -1))
    order = np.argsort(code, kind="stable")
    ordered = code[order]
    heads = runs(ordered)
    unit = np.empty(len(code), np.int64)
    unit[order] = np.repeat(np.arange(len(heads)), np.diff(heads, append=len(code)))
    codes = ordered[heads]
    low, high = np.searchsorted(codes, begin), np.searchsorted(codes, end)
    head = order[heads]
    return _Units(unit, order, met[head] & alone[between[head]], low, high, of)


def _sorted(values: I64) -> I64:
    """The distinct values, ascending."""
    values = np.sort(values)
    return values[runs(values)]


def _meet(units: _Units, actions: int) -> _Met | None:
    """Which actions meet which units; None: too many to examine."""
    counts = units.high - units.low
    total = int(counts.sum())
    if actions > 1 and total > _WIDE * (len(units.single) + actions) + _AT_LEAST:
        return None
    action = np.repeat(units.of, counts)
    inside = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    stride = actions + 1
    # Two ranges of an action may be the same.
    code = _sorted((np.repeat(units.low, counts) + inside) * stride + action)
    return _Met(code // stride, code % stride, code, stride)


def _latest_so_far(page: I64, times: I64) -> I64:
    """Of entries sorted by page: the latest time of their page up to each, itself included."""
    if not len(page):
        return times
    start = int(times.min())
    away = np.minimum(times - start, (1 << _TIME_BITS) - 1)  # larger ones were ruled out before
    return np.asarray(
        (np.maximum.accumulate(away | page << _TIME_BITS) & (1 << _TIME_BITS) - 1) + start
    )


def _definite(
    faulted: Faulted, page: I64, passed: I64, done: Done, met: _Met, changed_ns: Changed
) -> Bools:
    """By meeting of an action and a page: whether the page has no frame after the action.

    It does have one if it was gained later than the action's end by the clocks of two CPUs, or
    while the call was under way, which may have been before or after its unmapping.

    The faults are sorted by page (a unit), then in order; `passed` are the actions before each.
    """
    times = np.r_[faulted.time_ns, done.time_ns[done.time_ns < FAR_NS]]
    if int(times.max(initial=0)) - int(times.min(initial=FAR_NS)) >= (1 << _TIME_BITS) - 1:
        return np.zeros(len(met.code), np.bool_)
    heads = runs(page)
    start = np.searchsorted(page[heads], met.unit)  # all units met have faults
    changed = changed_ns(faulted.space[heads], faulted.page[heads])[start]
    times = _latest_so_far(page, faulted.time_ns)
    # A fault after as many actions as the action's number comes before it.
    before = np.searchsorted(page * met.stride + passed, met.code, side="right") - 1
    mine = before >= heads[start]
    changed[mine] = np.maximum(changed[mine], times[before[mine]])
    ends = _latest_so_far(met.unit, done.time_ns[met.action])
    follows = np.r_[False, met.unit[1:] == met.unit[:-1]]
    changed[follows] = np.maximum(changed[follows], ends[np.flatnonzero(follows) - 1])
    time, begun = done.time_ns[met.action], done.begun_ns[met.action]
    return np.asarray(
        done.plain[met.action] & (changed <= time) & ((begun == 0) | (changed < begun))
    )


def _comes_and_goes(
    faulted: Faulted, page: I64, passed: I64, done: Done, met: _Met, definite: Bools
) -> I64:
    """By fault: the action that releases its frame, where it comes and goes; else -1."""
    goes = np.full(len(page), -1)
    after = met.before(page, passed)
    before = after - 1
    good = faulted.fresh & (before >= 0) & (after < len(met.code))
    at = np.flatnonzero(good)
    b, a = before[at], after[at]
    good = (met.unit[b] == page[at]) & (met.unit[a] == page[at]) & definite[b]
    releaser = met.action[a]
    begun = done.begun_ns[releaser]
    time = faulted.time_ns[at]
    good &= (
        done.plain[releaser] & (time <= done.time_ns[releaser]) & ((begun == 0) | (time < begun))
    )
    # Alone between the two: the page's other faults are before the one or after the other.
    between = np.bincount(after, minlength=len(met.code) + 1)
    foreign = after[met.unit[np.minimum(after, len(met.code) - 1)] != page]
    between -= np.bincount(foreign, minlength=len(between))  # of the page before, all applied
    good &= between[a] == 1
    goes[at[good]] = releaser[good]
    return goes


def _idle(done: Done, met: _Met, definite: Bools, codes: I64, latest_ns: int) -> Bools:
    """The actions that release nothing: one before released the same pages, none gained since.

    `codes`: of the first meeting after each fault that is to be applied, sorted.
    """
    count = len(done.at)
    idle = np.zeros(count, np.bool_)
    sure = np.ones(count, np.bool_)
    sure[met.action[~definite]] = False
    sure &= done.plain
    if not sure.any():
        return idle
    # How many faults on its pages are applied before each action.
    found = np.bincount(met.action, np.searchsorted(codes, met.code, side="right"), count).astype(
        np.int64
    )
    others = np.cumsum(~done.plain).tolist()
    before: dict[tuple[int, int, int], tuple[int, int]] = {}
    columns = done.plain, sure, done.time_ns, done.begun_ns, found
    for number, (plain, certain, time_ns, begun_ns, faults_applied) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        state = faults_applied, others[number]
        where = done.ranges[number][0] if plain else None
        if where is not None and before.get(where) == state:
            idle[number] = True
        elif where is not None and certain and latest_ns < (begun_ns or time_ns + 1):
            before[where] = state
        else:
            # Pages that it leaves in doubt, or that it moves, change at its time.
            latest_ns = max(latest_ns, time_ns)
    return idle


def depths_of(actions: Sequence[Ranges]) -> list[int]:
    """The round of each action, without faults: after earlier ones that share a page with it."""
    depths = []
    spaces: dict[int, _Latest] = {}
    for ranges in actions:
        homes = [spaces.setdefault(space, _Latest()) for space, _, _ in ranges]
        depth = 1 + max(
            home.highest(first, last) for home, (_, first, last) in zip(homes, ranges, strict=True)
        )
        for home, (_, first, last) in zip(homes, ranges, strict=True):
            home.put(first, last, depth)
        depths.append(depth)
    return depths


class _Latest:
    """A value for each page of a space: the one set last, at first -1."""

    def __init__(self) -> None:
        self._starts = [0]  # of ranges, each of which ends where the next begins
        self._values = [-1]

    def highest(self, first: int, last: int) -> int:
        """The highest value in [first, last)."""
        low = bisect.bisect_right(self._starts, first) - 1
        high = bisect.bisect_left(self._starts, last)
        return max(self._values[low:high], default=-1)

    def put(self, first: int, last: int, value: int) -> None:
        """Set the value of [first, last)."""
        if first >= last:
            return
        low = bisect.bisect_left(self._starts, first)
        high = bisect.bisect_left(self._starts, last)
        starts, values = [first], [value]
        if high == len(self._starts) or self._starts[high] != last:
            starts.append(last)  # the rest of the range that is split keeps its value
            values.append(self._values[high - 1])
        self._starts[low:high] = starts
        self._values[low:high] = values
