"""What faults did to pages: the rules by which a batch of them updates the ledger.

Two threads may fault on one page at once, other threads' calls may release the frame a fault
mapped, and a fault may find a change that has no record.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tracer.common.pages import NO_FRAME
from tracer.common.types import I64, U8, U64, Bools, Ids
from tracer.model.rows import Kind
from tracer.model.sources import Loss, Source
from tracer.timeline.concurrent_unmaps import ConcurrentUnmaps, Suspected
from tracer.timeline.events import Events, Outcome
from tracer.timeline.ledger import Ledger
from tracer.timeline.page_store import distinct_spaces

_NONE = np.uint64(NO_FRAME)
# A table by value: looked up very often, for a page or two.
_RECORDED = np.isin(  # by a record of its own
    np.arange(32), [Source.FAULT.value, Source.AROUND.value, Source.MOVE.value, Source.UFFD.value]
)


class FaultRules:
    """Faults, applied to a ledger."""

    def __init__(self, ledger: Ledger, unmaps: ConcurrentUnmaps) -> None:
        self._ledger, self._unmaps = ledger, unmaps
        # The same for the life of the ledger: accessed very often.
        self._columns, self._store = ledger.columns, ledger.store

    def apply(self, space: int | Ids, events: Events) -> Outcome:
        """Apply faults of one address space, or of each its own, in order.

        Returns which of them mapped a frame.
        """
        count = len(events.page)
        spaces = np.broadcast_to(np.asarray(space, np.uint32), count)
        slots = self._ledger.slots(spaces, events.page)
        if events.suspected is None:
            suspected = self.suspected(spaces, events.page, events.time_ns)
            events = replace(events, suspected=suspected)
        turns = _turns(slots, events)
        if turns is None:
            return Outcome(*self._apply_turn(spaces, slots, events))
        outcome = Outcome(np.zeros(count, np.bool_), np.zeros(count, np.bool_))
        for turn in turns:
            gained, raced = self._apply_turn(spaces[turn], slots[turn], events.select(turn))
            outcome.gained[turn], outcome.raced[turn] = gained, raced
        return outcome

    def gain_one(
        self,
        space: int,
        page: int,
        time_ns: int,
        frame: int,
        source: int,
        region: int,
        number: int,
        kind: int,
    ) -> bool:
        """`apply` of one fault that found its page absent, several times faster.

        False where it is not that simple: nothing was done.
        """
        if self._ledger.watcher is not None:
            return False
        at = self._store.slot(space, page)
        columns = self._columns
        if columns["frame"].item(at) != NO_FRAME:
            return False
        self._ledger.gain_one(at, time_ns, frame, source, region, number, kind)
        return True

    def suspected(
        self,
        spaces: Ids,
        pages: U64,
        times: I64,
        returns: Mapping[int, tuple[int, int]] | None = None,
    ) -> Suspected:
        """Which calls may have released the pages of faults (ConcurrentUnmaps.suspected)."""
        return self._unmaps.suspected(spaces, pages, times, returns)

    def _apply_turn(self, spaces: Ids, at: I64, events: Events) -> tuple[Bools, Bools]:
        """Apply one event per page; return which gained a frame, and which lost a race.

        Most batches need little of this: what none of their events needs is skipped.
        """
        frame = self._columns["frame"]
        before, then, absent = events.frame_before, events.frame, events.absent_before
        own = events.source != Source.AROUND
        # Its own page, unchanged by this fault: what it shows is another's change.
        bystander = own & ((events.kind == Kind.SPURIOUS) | (before == then))
        self._settle_inherited(at, events)
        causes = self._settle_doubts(at, events)
        now = frame[at]
        had = now != _NONE
        gained = raced = meanwhile = np.zeros(len(at), np.bool_)
        if had.any():
            # The known state was reached while this fault was under way.
            meanwhile = had & (self._columns["changed_ns"][at] >= events.start_ns)
            gained, raced = self._races(spaces, at, events, now, meanwhile & ~bystander)
            self._find_vanished(spaces, at, events, now, meanwhile, causes)
            now = frame[at]
        # The fault found another frame, or one at all: gained in between, without a record.
        # Even if it ends in the known frame: a freed one is soon used again.
        other = (now != before) & ((now != then) | (now != _NONE))
        appeared = own & (before != _NONE) & other & ~meanwhile
        if appeared.any():
            self._gain_unexplained(spaces, at, events, before, appeared)
            now = frame[at]
        changes = (then != _NONE) & (now != then)
        self._gain_unexplained(spaces, at, events, then, changes & bystander)
        # A neighbour that has a frame in the ledger was not mapped by this fault.
        gains = changes & ~bystander & (own | (now == _NONE) | (now == before))
        if gains.any():
            # Found absent, but mapped in the ledger: a call released the frame during this fault.
            cause = np.where((causes != 0) & absent, causes, np.uint8(Loss.REPLACED))
            self._gain_by(spaces, at, events, gains, cause)
        return gained | gains, raced

    def _races(
        self, spaces: Ids, at: I64, events: Events, now: U64, meanwhile: Bools
    ) -> tuple[Bools, Bools]:
        """Of frames gained during these faults, which ones the faults themselves mapped.

        Second, which of the faults were spurious: another thread was first.
        """
        before, then = events.frame_before, events.frame
        stepped = events.absent_before | ((before != _NONE) & (before != then))
        race = (now == then) & stepped & meanwhile
        if not race.any():
            return race, race
        source = self._columns["source"][at]
        # The userfaultfd ioctl that resolves a fault may return before the fault ends.
        waited = (events.kind == Kind.UFFD) & (source == Source.UFFD)
        takeover = race & (~_RECORDED[source] | waited)
        for space in distinct_spaces(spaces[takeover]):
            self._ledger.claim(space, at[takeover & (spaces == space)])
        self._ledger.take_over(at[takeover], events.select(takeover))
        return takeover, race & ~takeover & (events.source != Source.AROUND)

    def _find_vanished(
        self,
        spaces: Ids,
        at: I64,
        events: Events,
        now: U64,
        meanwhile: Bools,
        causes: U8,
    ) -> None:
        """Release what the ledger has and the fault found absent: gone in between, unrecorded."""
        had, absent, then = now != _NONE, events.absent_before, events.frame
        own = events.source != Source.AROUND
        vanished = had & absent & ~meanwhile
        # A folio that was unmapped as a whole, and mapped again in the same frames.
        again = events.number[vanished & own & (now == then)]
        if len(again):
            none = events.frame_before == _NONE
            unrecorded = ~own & ~absent & none & np.isin(events.number, again)
            vanished |= unrecorded & had & (now == then) & ~meanwhile
        if not vanished.any():
            return
        swapped = events.swapped_before
        cause = np.where(swapped, Loss.RECLAIM.value, Loss.UNKNOWN.value).astype(np.uint8)
        cause = np.where(causes != 0, causes, cause)
        open_ = vanished & (cause == Loss.UNKNOWN)
        self._ledger.leave_unexplained(
            spaces[open_], at[open_], now[open_], then[open_], released=True
        )
        self._ledger.release(at[vanished], events.start_ns[vanished], cause[vanished])

    def _gain_by(
        self,
        spaces: Ids,
        at: I64,
        events: Events,
        gains: Bools,
        cause: U8,
    ) -> None:
        """Book that the faults `gains` mapped a frame, replacing another for `cause`."""
        if not gains.all():
            spaces, at, cause, events = spaces[gains], at[gains], cause[gains], events.select(gains)
        self._ledger.replace(at, events.time_ns, cause)
        self._ledger.gain(
            at,
            events.time_ns,
            events.frame,
            events.source,
            events.region,
            events.number,
            events.kind,
        )
        suspected = events.suspected
        if suspected is not None and suspected.over.any():
            # Mapped before a call returned, whose return is applied first.
            late = suspected.over != 0
            self._ledger.doubt(at[late], suspected.over[late], suspected.over_ns[late])

    def _settle_doubts(self, at: I64, events: Events) -> U8:
        """What released each page if it is gone: a call that is over (its doubt), or one under way.

        A fault that leaves a doubted page in its frame, after that call's end, shows that the
        frame was mapped after the call's unmapping.
        """
        doubt = self._columns["doubt"][at]
        if doubt.any():
            still = events.frame == self._columns["frame"][at]
            still &= events.time_ns > self._columns["changed_ns"][at]
            still &= ~events.absent_before
            self._ledger.settle(at[still])
            doubt = np.where(still, np.uint8(0), doubt)
        if events.suspected is None:
            return doubt
        return np.where(doubt != 0, doubt, events.suspected.under_way)

    def _gain_unexplained(
        self, spaces: Ids, at: I64, events: Events, frame: U64, chosen: Bools
    ) -> None:
        """The faults `chosen` found the pages in frames that no record explains."""
        if not chosen.any():
            return
        spaces, at, frame = spaces[chosen], at[chosen], frame[chosen]
        # Dated at their end: what mapped them began before that, and may still be recorded.
        time = events.time_ns[chosen]
        self._ledger.leave_unexplained(
            spaces, at, self._columns["frame"][at], frame, released=False
        )
        self._ledger.replace(at, time)
        self._ledger.gain(at, time, frame, Source.UNKNOWN, events.region[chosen])

    def _settle_inherited(self, at: I64, events: Events) -> None:
        """The first fault on a page the child may have inherited shows whether it did."""
        assumed = self._columns["assumed"][at].astype(np.bool_)
        if not assumed.any():
            return
        same = self._columns["frame"][at] == events.frame_before
        true = assumed & ~events.absent_before & same
        self._ledger.confirm_inherited(at[true])
        self._ledger.forget(at[assumed & ~true])


def _turns(slots: I64, events: Events) -> list[I64] | None:
    """Indices of the events to apply together: each page's first event, then each second, …

    None: every page has one event only.
    """
    if (slots[1:] > slots[:-1]).all():
        return None
    order = np.argsort(slots, kind="stable")
    ranked = slots[order]
    fresh = np.ones(len(ranked), np.bool_)
    np.not_equal(ranked[1:], ranked[:-1], out=fresh[1:])
    if fresh.all():
        return None
    keep = fresh | ~_repeats(order, events)
    order, ranked, fresh = order[keep], ranked[keep], fresh[keep]
    starts = np.flatnonzero(fresh)
    rank = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.r_[starts, len(ranked)]))
    by_rank = order[np.lexsort((order, rank))]
    return np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]) if len(rank) else []


def _repeats(order: I64, events: Events) -> Bools:
    """Which events, in `order` by page, find and leave their page as the previous one left it."""
    frame = events.frame[order]
    own = (events.source != Source.AROUND)[order]
    still = own & ~events.absent_before[order] & (events.frame_before[order] == frame)
    still[1:] &= own[:-1] & (frame[1:] == frame[:-1]) & (frame[1:] != _NONE)
    if events.suspected is not None:
        # What leaves its page in doubt, the next one settles.
        still[1:] &= events.suspected.over[order][:-1] == 0
    return np.asarray(still)
