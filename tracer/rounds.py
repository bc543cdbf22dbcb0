"""In which rounds the timeline may hear of a batch's faults and of what was done to their pages.

Between two faults on a page it may have been unmapped or discarded; what happened to other
pages meanwhile does not matter to it. So whatever has no page in common goes in one round. A
page that a program takes, gives back and takes again without pause would have a round for each
time: where a fault found the page absent after one call and the next call took its frame away,
before anything else happened to it, nothing needs to be known of the page to say what they
did. Such faults *come and go*, any number of them at once.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]
Ranges = Sequence[tuple[int, int, int]]

LAST_PAGE = 1 << 52  # beyond all page numbers
_PAGE_BITS = 45  # of a user-space page number, with five levels
_TIME_BITS = 44  # of nanoseconds between the first and the last of a batch: five hours
FAR_NS = 1 << 62  # of what is done at no time of its own
_WIDE = 4  # so many pages for each fault and action may be looked at; else by halves
_FEW = 4096


@dataclass(frozen=True)
class Faulted:
    """The pages of faults, in order; arrays of one length."""

    space: Ids
    page: U64
    time_ns: I64
    changed_ns: I64  # by page: when it last gained or lost a frame before all of these
    fresh: Bools  # came where nothing was, if nothing was there: no other thread had a part in it


@dataclass(frozen=True)
class Done:
    """What was done to pages, in order."""

    at: I64  # after the first so many faults
    ranges: Sequence[Ranges]  # spaces, first pages, the ones after the last
    plain: Bools  # takes the frames of its one range, and no more
    time_ns: I64  # FAR_NS where it has none
    begun_ns: I64  # when the call began, where other threads may have faulted meanwhile; else 0


@dataclass(frozen=True)
class Rounds:
    """The round of each fault and action; in each, faults that come and go first, actions last."""

    faults: I64
    comes_and_goes: I64  # by fault: the action that took its frame again; -1: to be told of
    actions: I64  # -1: it found nothing to take


@dataclass(frozen=True)
class _Met:
    """Which actions meet which pages: sorted by page, then in order."""

    page: I64  # index of a distinct page
    action: I64
    code: I64  # page * stride + action
    stride: int

    def before(self, page: I64, actions: I64) -> npt.NDArray[np.intp]:
        """Of each page, where its first entry is that is not among the first so many actions."""
        return np.searchsorted(self.code, page * self.stride + actions)

    def only(self, chosen: Bools) -> "_Met":
        return _Met(self.page[chosen], self.action[chosen], self.code[chosen], self.stride)


def is_wide(faulted: Faulted, done: Done) -> bool:
    """Whether so many pages meet so many actions that halves cost less than the whole."""
    if len(done.at) < 2:
        return False
    codes, low, high = _ranges_of(faulted, done)[1:4]
    return int((high - low).sum()) > _WIDE * (len(codes) + len(done.at)) + _FEW


def plan(faulted: Faulted, done: Done, latest_ns: int) -> Rounds:
    """The rounds of a batch; no page has changed after `latest_ns` before it."""
    page, _, low, high, of = _ranges_of(faulted, done)
    met = _meet(low, high, of, len(done.at))
    passed = np.searchsorted(done.at, np.arange(len(page)), side="right")  # actions before each
    order = np.argsort(page, kind="stable")
    definite = _definite(faulted, done, met, page, order)
    goes = _comes_and_goes(faulted, done, met, definite, page, order, passed)
    idle = _idle(
        done, met, definite, page[order[goes[order] < 0]], order[goes[order] < 0], latest_ns
    )
    depth = np.full(len(done.at), -1)
    depth[~idle] = depths_of([done.ranges[n] for n in np.flatnonzero(~idle).tolist()])
    rest = met.only(~idle[met.action])
    last = rest.before(page, passed) - 1
    there = last >= 0
    there[there] = rest.page[last[there]] == page[there]
    faults = np.zeros(len(page), np.int64)
    faults[there] = depth[rest.action[last[there]]] + 1
    return Rounds(faults, goes, depth)


def _ranges_of(faulted: Faulted, done: Done) -> tuple[I64, I64, I64, I64, I64]:
    """By fault the index of its page, the distinct pages' codes; of each range where in these
    it begins and ends, and whose it is."""
    spaces, index = np.unique(faulted.space, return_inverse=True)
    code = index.astype(np.int64) << _PAGE_BITS | faulted.page.astype(np.int64)
    codes, page = np.unique(code, return_inverse=True)
    flat = [each for ranges in done.ranges for each in ranges]
    of = np.repeat(np.arange(len(done.ranges)), [len(ranges) for ranges in done.ranges])
    number, first, last = np.array(flat, np.int64).reshape(-1, 3).T
    home = np.searchsorted(spaces, number)
    known = home < len(spaces)
    known[known] = spaces[home[known]] == number[known]
    limit = 1 << _PAGE_BITS
    low = np.searchsorted(codes, home << _PAGE_BITS | np.minimum(first, limit - 1))
    high = np.searchsorted(codes, (home << _PAGE_BITS) + np.minimum(last, limit))
    high = np.where(known, np.maximum(high, low), low)
    return page, codes, low, high, of


def _meet(low: I64, high: I64, of: I64, actions: int) -> _Met:
    counts = high - low
    action = np.repeat(of, counts)
    inside = np.arange(len(action)) - np.repeat(np.cumsum(counts) - counts, counts)
    page = np.repeat(low, counts) + inside
    stride = actions + 1
    code = np.unique(page * stride + action)  # two ranges of an action may be the same
    return _Met(code // stride, code % stride, code, stride)


def _latest_so_far(page: I64, times: I64) -> I64:
    """Of entries sorted by page: the latest time of their page up to each, itself included."""
    if not len(page):
        return times
    start = int(times.min())
    away = np.minimum(times - start, (1 << _TIME_BITS) - 1)  # what is beyond was sorted out before
    return np.asarray(
        (np.maximum.accumulate(away | page << _TIME_BITS) & (1 << _TIME_BITS) - 1) + start
    )


def _definite(faulted: Faulted, done: Done, met: _Met, page: I64, order: I64) -> Bools:
    """By meeting of an action and a page: whether the page has no frame after the action.

    It does have one where it came by it later than the action's end by the clocks of two CPUs, or
    where it came while the call was under way, which may have been before or after its work.
    """
    if not len(met.code):
        return np.zeros(0, np.bool_)
    times = np.r_[faulted.time_ns, done.time_ns[done.time_ns < FAR_NS]]
    if int(times.max(initial=0)) - int(times.min(initial=FAR_NS)) >= (1 << _TIME_BITS) - 1:
        return np.zeros(len(met.code), np.bool_)
    faults = page[order] * met.stride + np.searchsorted(done.at, order, side="right")
    times = _latest_so_far(page[order], faulted.time_ns[order])
    before = np.searchsorted(faults, met.code, side="right") - 1
    # A fault after as many actions as the action's number comes before it.
    mine = before >= 0
    mine[mine] = page[order][before[mine]] == met.page[mine]
    changed = np.zeros(len(met.code), np.int64)
    first = np.full(int(page.max(initial=-1)) + 1, -1)
    first[page[::-1]] = np.arange(len(page))[::-1]
    changed[:] = faulted.changed_ns[first[met.page]]
    changed[mine] = np.maximum(changed[mine], times[before[mine]])
    ends = _latest_so_far(met.page, done.time_ns[met.action])
    follows = np.r_[False, met.page[1:] == met.page[:-1]]
    changed[follows] = np.maximum(changed[follows], ends[np.flatnonzero(follows) - 1])
    time, begun = done.time_ns[met.action], done.begun_ns[met.action]
    return np.asarray(
        done.plain[met.action] & (changed <= time) & ((begun == 0) | (changed < begun))
    )


def _comes_and_goes(
    faulted: Faulted,
    done: Done,
    met: _Met,
    definite: Bools,
    page: I64,
    order: I64,
    passed: npt.NDArray[np.intp],
) -> I64:
    """By fault: the action that takes its frame, where it comes and goes; else -1."""
    goes = np.full(len(page), -1)
    if not len(met.code):
        return goes
    after = met.before(page, passed)
    before = after - 1
    good = faulted.fresh & (before >= 0) & (after < len(met.code))
    at = np.flatnonzero(good)
    b, a = before[at], after[at]
    good = (met.page[b] == page[at]) & (met.page[a] == page[at]) & definite[b]
    taker = met.action[a]
    begun = done.begun_ns[taker]
    time = faulted.time_ns[at]
    good &= done.plain[taker] & (time <= done.time_ns[taker]) & ((begun == 0) | (time < begun))
    # Alone between the two: the page's other faults are before the one or after the other.
    between = np.bincount(after, minlength=len(met.code) + 1)
    foreign = after[met.page[np.minimum(after, len(met.code) - 1)] != page]
    between -= np.bincount(foreign, minlength=len(between))  # of the page before, all told of
    good &= between[a] == 1
    at, taker = at[good], taker[good]
    goes[at] = taker
    return goes


def _idle(done: Done, met: _Met, definite: Bools, page: I64, order: I64, latest_ns: int) -> Bools:
    """The actions that take nothing: one before took the same pages, and none came to stay.

    `page` and `order` are those of the faults to be told of, by page, and then in order.
    """
    count = len(done.at)
    idle = np.zeros(count, np.bool_)
    sure = np.ones(count, np.bool_)
    np.logical_and.at(sure, met.action, definite)
    sure &= done.plain
    if not sure.any():
        return idle
    # How many faults on its pages are told of before each action.
    faults = page * met.stride + np.searchsorted(done.at, order, side="right")
    told = np.zeros(count, np.int64)
    np.add.at(told, met.action, np.searchsorted(faults, met.code, side="right"))
    others = np.cumsum(~done.plain).tolist()
    before: dict[tuple[int, int, int], tuple[int, int]] = {}
    columns = done.plain, sure, done.time_ns, done.begun_ns, told
    for number, (plain, certain, time_ns, begun_ns, faults_told) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        state = faults_told, others[number]
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
    """The round of each action by itself: after those before it on some of its pages."""
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
    """A value for each page of a space, -1 at first: what was put there last."""

    def __init__(self) -> None:
        self._starts = [0]  # of stretches, each of which ends where the next begins
        self._values = [-1]

    def highest(self, first: int, last: int) -> int:
        """The highest value in [first, last)."""
        low = bisect.bisect_right(self._starts, first) - 1
        high = bisect.bisect_left(self._starts, last)
        return max(self._values[low:high], default=-1)

    def put(self, first: int, last: int, value: int) -> None:
        """Put a value in [first, last)."""
        if first >= last:
            return
        low = bisect.bisect_left(self._starts, first)
        high = bisect.bisect_left(self._starts, last)
        starts, values = [first], [value]
        if high == len(self._starts) or self._starts[high] != last:
            starts.append(last)  # the stretch that is cut goes on as it was
            values.append(self._values[high - 1])
        self._starts[low:high] = starts
        self._values[low:high] = values
