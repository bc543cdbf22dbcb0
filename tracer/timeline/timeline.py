"""Page states over time: which page gained which frame, when, by what, confirmed how.

State is kept in blocks of 64 pages inside a few flat arrays, so that a batch
of events is applied with array operations; blocks without a frame are put
away (shelf.py). Three things move it: faults (`apply`), what
a system call or an exit took away (`lose`), and snapshots (`observe`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tracer.common.fields import distinct
from tracer.common.pages import NO_FRAME, PAGE_SHIFT, PAGE_SIZE, page_range
from tracer.common.types import I64, U8, U32, U64, Bools, Ids
from tracer.model.rows import Confirmed, Kind
from tracer.model.sources import Loss, Source
from tracer.spaces.syscalls import Taking
from tracer.timeline.archive import WHOLE
from tracer.timeline.concurrent_unmaps import Suspected, Takings
from tracer.timeline.page_store import PageStore
from tracer.timeline.unexplained import Changes, Unseen

_NONE = np.uint64(NO_FRAME)
_NO_BLOCKS = np.empty(0, np.uint64)
_FEW_BYTES = 16 * PAGE_SIZE  # of pages that are done with one by one
_FEW = 64  # plain Python beats the cost of calling numpy
# Tables by value: looked up many times over for a page or two.
_ENDING = (Loss.MUNMAP.value, Loss.MOVE.value)
_ENDS = np.isin(np.arange(32), _ENDING)
_TOLD = np.isin(  # by a record of its own
    np.arange(32), [Source.FAULT.value, Source.AROUND.value, Source.MOVE.value, Source.UFFD.value]
)

_COLUMNS: dict[str, type] = {
    "frame": np.uint64,  # physical address, NO_FRAME while not present
    "changed_ns": np.int64,  # when it last gained or lost a frame
    "first_ns": np.int64,
    "first_frame": np.uint64,
    "first_fault": np.uint64,  # ROW.number
    "gains": np.uint32,
    "losses": np.uint32,
    "region": np.uint32,
    "first_source": np.uint8,
    "first_kind": np.uint8,
    "source": np.uint8,
    "last_loss": np.uint8,
    "confirmed": np.uint8,
    "doubt": np.uint8,  # a Loss: the call it names took the frame, or came just before it
    "assumed": np.bool_,  # inherited by fork as far as the parent's state tells; not yet seen
}


@dataclass
class Events:
    """Faults as the timeline takes them; arrays of one length, in order of completion."""

    page: U64  # virtual page number
    start_ns: I64  # when the fault began
    time_ns: I64
    absent_before: Bools  # the page-table entry held no frame when it began
    swapped_before: Bools  # … but told where in swap the page was
    frame_before: U64
    frame: U64  # after; NO_FRAME where none
    number: U64  # ROW.number
    kind: U8
    region: U32
    source: U8  # FAULT, or AROUND for a neighbour that came along
    suspected: Suspected | None = None  # calls that may have taken the page; None: not asked yet

    def take(self, at: I64 | Bools | slice) -> "Events":
        """Some of them."""
        arrays = {
            each.name: getattr(self, each.name)[at]
            for each in fields(self)
            if each.name != "suspected"
        }
        calls = self.suspected.take(at) if self.suspected is not None else None
        return Events(**arrays, suspected=calls)


@dataclass(slots=True)  # not frozen: making one would take three times as long
class Lost:
    """What `Timeline.lose` takes."""

    space: int
    start: int
    end: int
    time_ns: int
    cause: Loss
    begun_ns: int = 0


@dataclass
class Outcome:
    """What `apply` made of each event."""

    gained: Bools  # this event gave the page its frame
    raced: Bools  # another thread's fault had done so first


@dataclass
class Tally:
    """Pages gained and lost over the whole run: by source, by cause, and by region."""

    gained: I64 = field(default_factory=lambda: np.zeros(32, np.int64))
    lost: I64 = field(default_factory=lambda: np.zeros(32, np.int64))
    gained_in: dict[int, int] = field(default_factory=dict)  # region -> pages
    lost_in: dict[int, int] = field(default_factory=dict)

    @property
    def events(self) -> int:
        """Pages gained and lost so far: grows whenever something happens."""
        return int(self.gained.sum() + self.lost.sum())

    @property
    def mapped(self) -> int:
        """Pages with a frame now, by space: those there when tracing started included."""
        return int(self.gained.sum() - self.lost.sum())

    @staticmethod
    def count(into: dict[int, int], regions: U32, chosen: Bools | bool = True) -> None:
        """Add one for each of `regions`, as far as `chosen`."""
        if isinstance(chosen, np.ndarray) and not chosen.all():
            regions = regions[chosen]
        if len(regions) <= _FEW:
            for region in regions.tolist():
                into[region] = into.get(region, 0) + 1
        elif (regions == regions[0]).all():
            region = int(regions[0])
            into[region] = into.get(region, 0) + len(regions)
        else:
            for each, times in zip(*np.unique(regions, return_counts=True), strict=True):
                into[int(each)] = into.get(int(each), 0) + int(times)

    @staticmethod
    def uncount(of: dict[int, int], regions: U32) -> None:
        """Take one away for each of `regions`."""
        for region in regions.tolist():
            of[region] = of.get(region, 0) - 1


class Watcher(Protocol):
    """Hears of each page that gains or loses a frame: arrays of one length, or one for all."""

    def gained(
        self,
        spaces: Ids,
        pages: U64,
        times: I64 | int,
        frames: U64,
        kinds: U8 | int,
        sources: U8,
    ) -> None:
        """These pages (virtual page numbers) have frames now (physical addresses)."""

    def lost(self, spaces: Ids, pages: U64, times: I64 | int, causes: U8 | int) -> None:
        """These have none any more, for a cause each (Loss); NONE: they never had one."""

    def came_and_went(
        self,
        spaces: Ids,
        pages: U64,
        times: I64,
        frames: U64,
        kinds: U8,
        sources: U8,
        lost_ns: I64,
        causes: U8,
    ) -> None:
        """Each gained a frame and lost it again, one page perhaps many times in turn."""


class Timeline:
    """The pages of every address space of a run."""

    watcher: Watcher | None = None  # of the live view, where there is one

    def __init__(self) -> None:
        self._store = PageStore(_COLUMNS, {"frame": NO_FRAME})
        self._columns = self._store.columns
        self.shelf = self._store.shelf
        self.tally = Tally()
        self._unseen = Unseen()
        self._takings = Takings()
        self.latest_ns = 0  # no page changed after that, as far as has been told
        self._looked_at: dict[int, U64] = {}  # by space: blocks that `take_changed` told of

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self._columns[column]

    # -- faults ---------------------------------------------------------------

    def apply(self, space: int | Ids, events: Events) -> Outcome:
        """Apply faults of one address space, or of each its own, in order.

        Says which of them brought a frame.
        """
        count = len(events.page)
        spaces = np.broadcast_to(np.asarray(space, np.uint32), count)
        slots = self._slots(spaces, events.page)
        if events.suspected is None:
            suspected = self.suspected(spaces, events.page, events.time_ns)
            events = replace(events, suspected=suspected)
        turns = _turns(slots, events)
        if turns is None:
            return Outcome(*self._apply_turn(spaces, slots, events))
        outcome = Outcome(np.zeros(count, np.bool_), np.zeros(count, np.bool_))
        for turn in turns:
            gained, raced = self._apply_turn(spaces[turn], slots[turn], events.take(turn))
            outcome.gained[turn], outcome.raced[turn] = gained, raced
        return outcome

    def _slots(self, spaces: Ids, pages: U64) -> I64:
        distinct = _distinct(spaces)
        if len(distinct) == 1:
            return self._store.slots(distinct[0], pages)
        slots = np.empty(len(pages), np.int64)
        for space in distinct:
            mine = spaces == space
            slots[mine] = self._store.slots(space, pages[mine])
        return slots

    def _apply_turn(self, spaces: Ids, at: I64, events: Events) -> tuple[Bools, Bools]:
        """One event a page: everything here is distinct pages. Which gained a frame, which raced.

        Most batches have nothing of most of this: what none of their events needs is not looked at.
        """
        frame = self._columns["frame"]
        before, then, absent = events.frame_before, events.frame, events.absent_before
        own = events.source != Source.AROUND
        # Its own page, and nothing that this fault did to it: what it shows is another's doing.
        bystander = own & ((events.kind == Kind.SPURIOUS) | (before == then))
        self._settle_inherited(at, events)
        taken = self._settle_doubts(at, events)
        now = frame[at]
        had = now != _NONE
        gained = raced = meanwhile = np.zeros(len(at), np.bool_)
        if had.any():
            # The state we hold was reached while this fault was under way.
            meanwhile = had & (self._columns["changed_ns"][at] >= events.start_ns)
            gained, raced = self._races(spaces, at, events, now, meanwhile & ~bystander)
            self._find_vanished(spaces, at, events, now, meanwhile, taken)
            now = frame[at]
        # It had another frame by the fault's account, or one at all: gained in between, unseen.
        # Even if it ends with the frame we know: a freed one is soon used again.
        other = (now != before) & ((now != then) | (now != _NONE))
        appeared = own & (before != _NONE) & other & ~meanwhile
        if appeared.any():
            self._gain_unseen(spaces, at, events, before, appeared)
            now = frame[at]
        changes = (then != _NONE) & (now != then)
        self._gain_unseen(spaces, at, events, then, changes & bystander)
        # A neighbour that has a frame by our account was not brought along.
        gains = changes & ~bystander & (own | (now == _NONE) | (now == before))
        if gains.any():
            # Found absent and yet held: a call took the frame while this fault was on its way.
            cause = np.where((taken != 0) & absent, taken, np.uint8(Loss.REPLACED))
            self._gain_by(spaces, at, events, gains, cause)
        return gained | gains, raced

    def _races(
        self, spaces: Ids, at: I64, events: Events, now: U64, meanwhile: Bools
    ) -> tuple[Bools, Bools]:
        """Of what came to these pages while their faults were under way: what is these faults' own.

        Second, which of the faults were too late, and did nothing.
        """
        before, then = events.frame_before, events.frame
        stepped = events.absent_before | ((before != _NONE) & (before != then))
        race = (now == then) & stepped & meanwhile
        if not race.any():
            return race, race
        source = self._columns["source"][at]
        # The call that gave a page through userfaultfd may end before the fault that waited.
        waited = (events.kind == Kind.UFFD) & (source == Source.UFFD)
        takeover = race & (~_TOLD[source] | waited)
        for space in _distinct(spaces[takeover]):
            self._unseen.claim(space, at[takeover & (spaces == space)])
        self._take_over(at[takeover], events.take(takeover))
        return takeover, race & ~takeover & (events.source != Source.AROUND)

    def _find_vanished(
        self,
        spaces: Ids,
        at: I64,
        events: Events,
        now: U64,
        meanwhile: Bools,
        taken: U8,
    ) -> None:
        """What was there by our account and gone by the fault's: lost in between, unseen."""
        had, absent, then = now != _NONE, events.absent_before, events.frame
        own = events.source != Source.AROUND
        vanished = had & absent & ~meanwhile
        # A folio that left the page table as one, and came back so, in the same frames.
        again = events.number[vanished & own & (now == then)]
        if len(again):
            none = events.frame_before == _NONE
            untold = ~own & ~absent & none & np.isin(events.number, again)
            vanished |= untold & had & (now == then) & ~meanwhile
        if not vanished.any():
            return
        swapped = events.swapped_before
        cause = np.where(swapped, Loss.RECLAIM.value, Loss.UNKNOWN.value).astype(np.uint8)
        cause = np.where(taken != 0, taken, cause)
        open_ = vanished & (cause == Loss.UNKNOWN)
        self._open(spaces[open_], at[open_], now[open_], then[open_], lost=True)
        self._lose(at[vanished], events.start_ns[vanished], cause[vanished])

    def _gain_by(
        self,
        spaces: Ids,
        at: I64,
        events: Events,
        gains: Bools,
        cause: U8,
    ) -> None:
        """Each of the faults `gains` gave its page a frame, in place of another for `cause`."""
        if not gains.all():
            spaces, at, cause, events = spaces[gains], at[gains], cause[gains], events.take(gains)
        self._replace(at, events.time_ns, cause)
        self._gain(
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
            # It came before a call returned, and that call's end was told first.
            late = suspected.over != 0
            self._doubt(at[late], suspected.over[late], suspected.over_ns[late])

    def _settle_doubts(self, at: I64, events: Events) -> U8:
        """What took each page if it is gone: a call that is over (its doubt), or one under way.

        A fault that leaves a doubted page in its frame, after that call's end, shows that the
        frame came after the call had done its work.
        """
        doubt = self._columns["doubt"][at]
        if doubt.any():
            still = events.frame == self._columns["frame"][at]
            still &= events.time_ns > self._columns["changed_ns"][at]
            still &= ~events.absent_before
            self._columns["doubt"][at[still]] = 0
            doubt = np.where(still, np.uint8(0), doubt)
        if events.suspected is None:
            return doubt
        return np.where(doubt != 0, doubt, events.suspected.under_way)

    def _doubt(self, at: I64, loss: U8 | Loss, time_ns: I64 | int) -> None:
        """A call that returned at `time_ns` may have taken the frames of these slots' pages."""
        self._columns["doubt"][at] = loss
        self._columns["changed_ns"][at] = time_ns
        self._store.mark(at)
        self._note(time_ns)

    def _open(self, spaces: Ids, at: I64, old: U64, new: U64, *, lost: bool) -> None:
        """Of these slots' pages of these spaces nobody has named the change, yet."""
        for space in _distinct(spaces):
            mine = spaces == space
            self._unseen.add(space, at[mine], old[mine], new[mine], lost=lost)

    def _replace(self, at: I64, time: I64, cause: U8 | None = None) -> None:
        """Those of these slots' pages that have a frame lose it to another."""
        if not len(at):
            return
        had = self._columns["frame"][at] != _NONE
        if had.any():
            self._lose(at[had], time[had], Loss.REPLACED if cause is None else cause[had])

    def _gain_unseen(self, spaces: Ids, at: I64, events: Events, frame: U64, chosen: Bools) -> None:
        """The faults `chosen` found the pages in frames that no record brought."""
        if not chosen.any():
            return
        spaces, at, frame = spaces[chosen], at[chosen], frame[chosen]
        # Dated at their end: whoever put them there began before that, and may yet tell.
        time = events.time_ns[chosen]
        self._open(spaces, at, self._columns["frame"][at], frame, lost=False)
        self._replace(at, time)
        self._gain(at, time, frame, Source.UNKNOWN, events.region[chosen])

    def _settle_inherited(self, at: I64, events: Events) -> None:
        """A first look at a page the child may have inherited: now it shows whether it did."""
        assumed = self._columns["assumed"][at].astype(np.bool_)
        if not assumed.any():
            return
        same = self._columns["frame"][at] == events.frame_before
        true = assumed & ~events.absent_before & same
        self.confirm_inherited(at[true])
        self.forget(at[assumed & ~true])

    def confirm_inherited(self, at: I64) -> None:
        """These slots' pages did come by fork."""
        self._store.mark(at)
        self._columns["assumed"][at] = False
        self._columns["gains"][at] = 1
        self.tally.gained[Source.FORK] += len(at)
        self.tally.count(self.tally.gained_in, self._columns["region"][at])

    def forget(self, at: I64) -> None:
        """What was assumed of these slots' pages (inherited by fork) was not so."""
        self._store.mark(at)
        if self.watcher is not None and len(at):
            self.watcher.lost(*self._places(at), 0, Loss.NONE.value)
        self._columns["assumed"][at] = False
        self._columns["frame"][at] = _NONE
        self._columns["first_source"][at] = 0
        self._columns["source"][at] = 0

    def _take_over(self, at: I64, events: Events) -> None:
        """A snapshot, or the call that gave it, told of the frame before the fault's record."""
        if not len(at):
            return
        columns, source = self._columns, events.source
        # What was there when we came is no gain until a fault of ours claims it.
        before = columns["source"][at]
        initial = before == Source.INITIAL
        self.tally.count(self.tally.gained_in, columns["region"][at], initial)
        self._store.mark(at)
        np.subtract.at(self.tally.gained, before, 1)
        self.tally.gained += _counts(source)
        columns["source"][at] = source
        columns["changed_ns"][at] = events.time_ns
        self._note(events.time_ns)
        once = columns["gains"][at] == 1
        first = at[once]
        columns["first_source"][first] = source[once]
        columns["first_ns"][first] = events.time_ns[once]
        columns["first_fault"][first] = events.number[once]
        columns["first_kind"][first] = events.kind[once]
        seen = before[once] != Source.UFFD
        columns["confirmed"][first[seen]] = Confirmed.BOTH

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
        """`apply` of one fault that found its page absent, several times quicker.

        False where there is more to it than that: nothing was done.
        """
        if self.watcher is not None:
            return False
        at = self._store.slot(space, page)
        columns = self._columns
        if columns["frame"].item(at) != NO_FRAME:
            return False
        self._gain_one(at, time_ns, frame, source, region, number, kind)
        return True

    def _gain_one(
        self,
        at: int,
        time_ns: int,
        frame: int,
        source: int,
        region: int,
        number: int = 0,
        kind: int = Kind.UNKNOWN.value,
    ) -> None:
        """`_gain` of one page, which has no frame."""
        columns = self._columns
        gains = 0 if columns["last_loss"].item(at) in _ENDING else columns["gains"].item(at)
        if not gains:
            if columns["gains"].item(at):
                columns["losses"][at] = columns["last_loss"][at] = 0
            columns["first_ns"][at] = time_ns
            columns["first_frame"][at] = frame
            columns["first_source"][at] = source
            columns["first_fault"][at] = number
            columns["first_kind"][at] = kind
            columns["region"][at] = region
            columns["confirmed"][at] = Confirmed.FAULT
        else:
            region = columns["region"].item(at)
        self._store.mark_one(at)
        columns["frame"][at] = frame
        columns["changed_ns"][at] = time_ns
        columns["source"][at] = source
        columns["doubt"][at] = 0
        columns["gains"][at] = gains + 1
        columns["assumed"][at] = False
        self.latest_ns = max(self.latest_ns, time_ns)
        self.tally.gained[source] += 1
        if source != Source.INITIAL:
            self.tally.gained_in[region] = self.tally.gained_in.get(region, 0) + 1

    def _lose_one(self, at: int, time_ns: int, cause: int) -> None:
        """`_lose` of one page, which has a frame."""
        columns, tally = self._columns, self.tally
        self._store.mark_one(at)
        region = columns["region"].item(at)
        tally.lost_in[region] = tally.lost_in.get(region, 0) + 1
        tally.lost[cause] += 1
        columns["frame"][at] = _NONE
        columns["changed_ns"][at] = time_ns
        columns["doubt"][at] = 0
        columns["losses"][at] += 1
        columns["last_loss"][at] = cause
        self.latest_ns = max(self.latest_ns, time_ns)

    def _few(self, space: int, start: int, end: int) -> list[int] | None:
        """The slots of pages in [start, end) that have a frame, where these are few; else None.

        Few are done with one by one quicker than by arrays; a watcher wants arrays.
        """
        if end - start > _FEW_BYTES or self.watcher is not None:
            return None
        frame = self._columns["frame"]
        slots = self._store.known(space, *page_range(start, end))
        return [at for at in slots if frame.item(at) != NO_FRAME]

    def _lose_few(self, loss: Lost) -> int | None:
        """`lose_all` of one range of few pages; None where it is not."""
        slots = self._few(loss.space, loss.start, loss.end)
        if slots is None:
            return None
        columns, count = self._columns, 0
        for at in slots:
            changed = columns["changed_ns"].item(at)
            if changed > loss.time_ns:
                continue
            count += 1
            if columns["assumed"].item(at):
                self.forget(np.array([at]))
            elif loss.begun_ns and changed >= loss.begun_ns:
                self._doubt(np.array([at]), loss.cause, loss.time_ns)
            else:
                self._lose_one(at, loss.time_ns, loss.cause)
        return count

    def come_and_go(
        self,
        space: Ids,
        events: Events,
        lost_ns: I64,
        cause: U8,
    ) -> None:
        """Faults that each gave a page without a frame one, and lost it before its next fault.

        What `apply` and `lose` would make of them in turn, for any number of times a page.
        The events are in order; each frame was lost at `lost_ns`, for `cause` (a Loss).
        """
        slots = self._slots(space, events.page)
        order = np.argsort(slots, kind="stable")
        slots, events = slots[order], events.take(order)
        space, lost_ns, cause = space[order], lost_ns[order], cause[order]
        columns = self._columns
        fresh = np.r_[True, slots[1:] != slots[:-1]]  # the page's first here
        head, tail = np.flatnonzero(fresh), np.flatnonzero(np.r_[fresh[1:], True])
        at = slots[head]
        # After an unmapping the address belongs to a new mapping, as in _gain.
        ended = np.r_[False, _ENDS[cause[:-1]]]
        ended[head] = _ENDS[columns["last_loss"][at]]
        first = ended.copy()
        first[head] |= columns["gains"][at] == 0
        number = np.arange(len(slots))
        latest = np.maximum.accumulate(np.where(first | fresh, number, 0))
        known = first[latest]  # else the page was there before these events
        region = np.where(known, events.region[latest], columns["region"][slots])
        last = latest[tail]
        anew, new = first[last], last[first[last]]
        again = np.where(ended[last], 0, columns["gains"][at])
        losses = np.where(ended[last], 0, columns["losses"][at])
        times = (tail - last + 1).astype(np.uint32)
        self._store.mark(at)
        for name, value in (
            ("first_ns", events.time_ns),
            ("first_frame", events.frame),
            ("first_source", events.source),
            ("first_fault", events.number),
            ("first_kind", events.kind),
            ("region", events.region),
        ):
            columns[name][at[anew]] = value[new]
        columns["confirmed"][at[anew]] = Confirmed.FAULT
        columns["gains"][at] = again + times
        columns["losses"][at] = losses + times
        columns["last_loss"][at] = cause[tail]
        columns["source"][at] = events.source[tail]
        columns["changed_ns"][at] = lost_ns[tail]
        self._note(lost_ns)
        self.tally.gained += _counts(events.source)
        self.tally.lost += _counts(cause)
        self.tally.count(self.tally.gained_in, region)
        self.tally.count(self.tally.lost_in, region)
        if self.watcher is not None:
            self.watcher.came_and_went(
                *(space, events.page, events.time_ns, events.frame, events.kind, events.source),
                *(lost_ns, cause),
            )

    def _note(self, time: I64 | int) -> None:
        last = int(time.max(initial=0)) if isinstance(time, np.ndarray) else time
        self.latest_ns = max(self.latest_ns, last)

    def changed_ns(self, spaces: Ids, pages: U64) -> I64:
        """When each page last gained or lost a frame; 0 where it never had one."""
        slots = self._slots(spaces, pages)  # which may make the columns longer
        return np.asarray(self._columns["changed_ns"][slots])

    def _gain(
        self,
        at: I64,
        time: I64 | int,
        frame: U64,
        source: U8 | Source,
        region: U32 | int,
        number: U64 | int = 0,
        kind: U8 | int = Kind.UNKNOWN.value,
    ) -> None:
        count = len(at)
        if not count:
            return
        columns = self._columns
        sources = np.full(count, source, np.uint8) if isinstance(source, Source) else source
        # After an unmapping the address belongs to a new mapping: a new page.
        ended = _ENDS[columns["last_loss"][at]]
        if ended.any():
            for name in ("gains", "losses", "last_loss"):
                columns[name][at[ended]] = 0
        first = columns["gains"][at] == 0
        every = bool(first.all())
        self._store.mark(at)
        to = _run(at)
        new = to if every else at[first]
        for name, value in (
            ("first_ns", time),
            ("first_frame", frame),
            ("first_source", sources),
            ("first_fault", number),
            ("first_kind", kind),
            ("region", region),
        ):
            each = value if every or not isinstance(value, np.ndarray) else value[first]
            columns[name][new] = each
        columns["confirmed"][new] = Confirmed.FAULT
        columns["frame"][to] = frame
        columns["changed_ns"][to] = time
        self._note(time)
        columns["source"][to] = sources
        columns["doubt"][to] = 0
        columns["gains"][to] += np.uint32(1)
        columns["assumed"][to] = False
        self.tally.gained += _counts(sources)
        own = region if every and isinstance(region, np.ndarray) else columns["region"][at]
        self.tally.count(self.tally.gained_in, own, sources != Source.INITIAL)
        if self.watcher is not None:
            frames = np.asarray(columns["frame"][at])
            self.watcher.gained(*self._places(at), time, frames, kind, sources)

    def _lose(self, at: I64, time: I64 | int, cause: Loss | U8) -> None:
        count = len(at)
        if not count:
            return
        columns = self._columns
        self._store.mark(at)
        self.tally.count(self.tally.lost_in, columns["region"][at])
        columns["frame"][at] = _NONE
        columns["changed_ns"][at] = time
        self._note(time)
        columns["doubt"][at] = 0
        columns["losses"][at] += np.uint32(1)
        columns["last_loss"][at] = np.asarray(cause, np.uint8)
        if isinstance(cause, np.ndarray):
            self.tally.lost += _counts(cause)
        else:
            self.tally.lost[cause] += count
        if self.watcher is not None:
            self.watcher.lost(*self._places(at), time, np.asarray(cause, np.uint8))

    def _places(self, at: I64) -> tuple[Ids, U64]:
        """The spaces and the virtual page numbers of slots."""
        return self._store.spaces_at(at), self._store.pages_at(at)

    def gain_seen(
        self,
        at: I64,
        time_ns: int,
        frame: U64,
        source: U8,
        region: U32,
    ) -> None:
        """A snapshot showed these slots' pages with a frame that no fault's record brought."""
        self._gain(at, time_ns, frame, source, region)

    def lose_seen(self, at: I64, time_ns: int, cause: Loss | U8) -> None:
        """A snapshot showed these slots' pages without the frame they had."""
        self._lose(at, time_ns, cause)

    def has_unseen(self, space: int) -> bool:
        """Whether `unseen` would return any."""
        return space in self._unseen

    def unseen(self, space: int) -> Changes | None:
        """What faults found done that no record told of, since this was last asked."""
        return self._unseen.take(space)

    def explain(self, changes: Changes, words: U8) -> None:
        """Who it was: a Loss for each of `changes` that is a loss, else a Source."""
        tally, columns = self.tally, self._columns
        for lost, counts, unknown, names in (
            (True, tally.lost, Loss.UNKNOWN, ("last_loss",)),
            (False, tally.gained, Source.UNKNOWN, ("first_source", "source")),
        ):
            mine = changes.lost == lost
            at, said = changes.at[mine], words[mine]
            counts[unknown] -= len(at)
            np.add.at(counts, said, 1)
            if not lost:  # what was there when we came is no gain
                tally.uncount(tally.gained_in, columns["region"][at[said == Source.INITIAL]])
            for name in names:
                still = columns[name][at] == unknown
                columns[name][at[still]] = said[still]

    # -- what took pages away ---------------------------------------------------

    def holds(self, space: int, start: int, end: int) -> bool:
        """Whether any page of [start, end) (addresses) has a frame by our account."""
        few = self._few(space, start, end)
        if few is not None:
            return bool(few)
        at = self._store.range(space, start, end)
        return bool((self._columns["frame"][at] != _NONE).any())

    def suspected(
        self,
        spaces: Ids,
        pages: U64,
        times: I64,
        returns: Mapping[int, tuple[int, int]] | None = None,
    ) -> Suspected:
        """Which calls may have taken the pages of faults (Takings.suspected)."""
        return self._takings.suspected(spaces, pages, times, returns)

    def begin_taking(self, space: int, call: Taking) -> None:
        """A call has begun that may take pages of `space`."""
        self._takings.begin(space, call)

    def end_taking(self, call: Taking, time_ns: int = 0) -> None:
        """That call has returned at `time_ns`, and `lose` told what it took; 0: it took nothing."""
        self._takings.end(call, time_ns)

    def lose(
        self, space: int, start: int, end: int, time_ns: int, cause: Loss, begun_ns: int = 0
    ) -> int:
        """The pages of [start, end) lost their frames by `time_ns`; how many had one.

        One that came by a frame after that has it still. Where other threads may fault
        meanwhile, `begun_ns` is when the call that took them began: of a frame that came
        since, what is seen next tells whether the call took it or had done so before.
        """
        return self.lose_all([Lost(space, start, end, time_ns, cause, begun_ns)])

    def lose_all(self, losses: Sequence[Lost]) -> int:
        """`lose` of ranges that have no page in common."""
        if len(losses) == 1 and (count := self._lose_few(losses[0])) is not None:
            return count
        at, which = self._store.ranges([(each.space, each.start, each.end) for each in losses])
        if not len(at):
            return 0  # most calls: a new mapping lies where nothing was
        time = np.array([each.time_ns for each in losses])
        had = self._columns["frame"][at] != _NONE
        had &= self._columns["changed_ns"][at] <= time[which]
        if not had.any():
            return 0
        at, which = at[had], which[had]
        assumed = self._columns["assumed"][at].astype(np.bool_)
        if assumed.any():
            self.forget(at[assumed])
        lost = ~assumed
        cause = np.array([each.cause for each in losses], np.uint8)
        begun = np.array([each.begun_ns for each in losses])
        if begun.any():
            begun = begun[which]
            doubted = lost & (self._columns["changed_ns"][at] >= begun) & (begun > 0)
            call = which[doubted]
            self._doubt(at[doubted], cause[call], time[call])
            lost &= ~doubted
        call = which[lost]
        self._lose(at[lost], time[call], cause[call])
        return len(at)

    def move(
        self,
        space: int,
        old: int,
        new: int,
        length: int,
        time_ns: int,
        new_length: int = 0,
        regions_there: Callable[[Ids], Ids] = lambda regions: regions,
    ) -> None:
        """mremap took [old, old + length) to `new`, frames and all.

        `new_length`, where given, is the mapping's size from then on. What was at
        the new place before is gone, as is what did not fit. `regions_there` says
        what regions are called at the new place.
        """
        new_length = new_length or length
        few = self._few(space, old, old + max(length, new_length))
        if few is not None and not any(self._columns["assumed"].item(at) for at in few):
            self._move_few(few, space, (old, new, length, new_length), time_ns, regions_there)
            return
        at = self._store.range(space, old, old + min(length, new_length))
        at = at[self._columns["frame"][at] != _NONE]
        pages = self.pages_at(at) - np.uint64(old >> PAGE_SHIFT) + np.uint64(new >> PAGE_SHIFT)
        frames = self._columns["frame"][at]
        regions = regions_there(self._columns["region"][at])
        assumed = self._columns["assumed"][at]
        self.forget(at[assumed])
        self._lose(at[~assumed], time_ns, Loss.MOVE)
        self.lose(space, old, old + length, time_ns, Loss.MUNMAP)
        self.lose(space, new, new + new_length, time_ns, Loss.MUNMAP)
        to = self._store.slots(space, pages)
        self._gain(to[~assumed], time_ns, frames[~assumed], Source.MOVE, regions[~assumed])
        self._assume(to[assumed], time_ns, frames[assumed], regions[assumed])

    def _move_few(
        self,
        few: list[int],
        space: int,
        where: tuple[int, int, int, int],
        time_ns: int,
        regions_there: Callable[[Ids], Ids],
    ) -> None:
        """`move` of few pages: the slots `few` have frames, and none is assumed.

        `where`: from, to, the two lengths.
        """
        old, new, length, new_length = where
        columns, kept = self._columns, old + min(length, new_length)
        moved = []
        for at in few:
            page = self._store.page_at(at)
            if page << PAGE_SHIFT < kept:
                moved.append((page, columns["frame"].item(at), columns["region"].item(at)))
                self._lose_one(at, time_ns, Loss.MOVE)
        if kept < old + length:
            self.lose(space, kept, old + length, time_ns, Loss.MUNMAP)
        self.lose(space, new, new + new_length, time_ns, Loss.MUNMAP)
        if not moved:
            return
        regions = regions_there(np.array([region for *_, region in moved], np.uint32)).tolist()
        away = (new >> PAGE_SHIFT) - (old >> PAGE_SHIFT)
        for (page, frame, _), region in zip(moved, regions, strict=True):
            at = self._store.slot(space, page + away)
            if columns["frame"].item(at) == NO_FRAME:
                self._gain_one(at, time_ns, frame, Source.MOVE, region)
            else:  # it came there later than that
                self._gain(np.array([at]), time_ns, np.array([frame]), Source.MOVE, region)

    def hand_over(
        self,
        space: int,
        old: int,
        new: int,
        length: int,
        time_ns: int,
        regions_there: Callable[[Ids], Ids] = lambda regions: regions,
    ) -> None:
        """UFFDIO_MOVE took the frames of [old, old + length) to `new`.

        The fault that waited for one may have told already that it came.
        """
        columns = self._columns
        at = self._store.range(space, old, old + length)
        at = at[columns["frame"][at] != _NONE]
        assumed = columns["assumed"][at]
        self.forget(at[assumed])
        at = at[~assumed]
        pages = self.pages_at(at) - np.uint64(old >> PAGE_SHIFT) + np.uint64(new >> PAGE_SHIFT)
        frames, regions = columns["frame"][at], regions_there(columns["region"][at])
        self._lose(at, time_ns, Loss.MOVE)
        to = self._store.slots(space, pages)
        open_ = columns["frame"][to] != frames
        times = np.full(int(open_.sum()), time_ns)
        self._replace(to[open_], times)
        self._gain(to[open_], times, frames[open_], Source.UFFD, regions[open_])

    def fill(self, space: int, pages: U64, frames: U64, time_ns: int, regions: Ids) -> None:
        """A call that filled these pages in advance returned: they were in `frames` then.

        Those that are there by our account came before it.
        """
        at = self._store.slots(space, pages)
        columns = self._columns
        assumed = columns["assumed"][at].astype(np.bool_)
        same = columns["frame"][at] == frames
        if assumed.any():
            self.confirm_inherited(at[assumed & same])
            self.forget(at[assumed & ~same])
        new = ~same & (columns["changed_ns"][at] <= time_ns)
        at = at[new]
        self._replace(at, np.full(len(at), time_ns))
        self._gain(at, time_ns, frames[new], Source.POPULATE, regions[new])

    def inherit(self, parent: int, child: int, time_ns: int) -> None:
        """fork: the child may have every page its parent has; what it does have shows later."""
        at = self.resident(parent)
        to = self._store.slots(child, self.pages_at(at))
        self._assume(to, time_ns, self._columns["frame"][at], self._columns["region"][at])

    def _assume(
        self,
        at: I64,
        time_ns: int,
        frame: U64,
        region: U32,
    ) -> None:
        columns = self._columns
        self._store.mark(at)
        columns["frame"][at] = columns["first_frame"][at] = frame
        columns["region"][at] = region
        columns["changed_ns"][at] = columns["first_ns"][at] = time_ns
        self._note(time_ns)
        columns["first_source"][at] = columns["source"][at] = Source.FORK
        for name in ("gains", "losses", "last_loss", "first_fault", "first_kind", "confirmed"):
            columns[name][at] = 0
        columns["assumed"][at] = True
        if self.watcher is not None and len(at):
            sources = np.full(len(at), Source.FORK, np.uint8)
            self.watcher.gained(*self._places(at), time_ns, frame, Kind.UNKNOWN.value, sources)

    def drop_assumed(self, space: int) -> None:
        """The space has ended: what nobody saw there is not claimed."""
        at = self._store.all(space)
        self.forget(at[self._columns["assumed"][at].astype(np.bool_)])

    # -- looking at it -----------------------------------------------------------

    def state(self, space: int, pages: U64) -> I64:
        """The slots of `pages` (virtual page numbers), made where new: indices into columns."""
        return self._store.slots(space, pages)

    def resident(self, space: int) -> I64:
        """The slots of all pages of a space that have a frame, in address order."""
        at = self._store.all(space)
        return np.asarray(at[self._columns["frame"][at] != _NONE])

    def touched(self, space: int) -> I64:
        """The slots of all pages of a space that ever gained a frame, in address order."""
        at = self._store.all(space)
        return np.asarray(at[self._columns["gains"][at] > 0])

    def take_changed(self, space: int) -> U64:
        """The numbers of the blocks (64 pages) in which anything changed since this was asked."""
        numbers = self._store.marked(space, take=True)
        self._looked_at[space] = numbers
        return numbers

    def changed_since(self, space: int, time_ns: int) -> bool:
        """Whether a page that ever had a frame changed at `time_ns` or later.

        Asked of what changed since `take_changed` and was not settled (`keep_changed`) then.
        """
        _, at = self._store.blocks(space, self._store.marked(space))
        late = self._columns["changed_ns"][at] >= time_ns
        return bool((late & (self._columns["gains"][at] > 0)).any())

    def keep_changed(self, space: int, numbers: U64, time_ns: int) -> None:
        """Of these blocks, those that changed at `time_ns` or later are still to be looked at."""
        _, at = self._store.blocks(space, numbers)
        late = (self._columns["changed_ns"][at] >= time_ns).any(axis=1)
        self._store.mark(at[late])

    def mark(self, at: I64) -> None:
        """These slots' pages are to be looked at again."""
        self._store.mark(at)

    def resident_in(self, space: int, numbers: U64) -> I64:
        """As `resident`, but only in these blocks (64 pages each; ascending)."""
        at = self._store.blocks(space, numbers)[1].ravel()
        return np.asarray(at[self._columns["frame"][at] != _NONE])

    def pages_at(self, at: I64) -> U64:
        """The virtual page numbers behind slots."""
        return self._store.pages_at(at)

    def retire(self, space: int, time_ns: int) -> None:
        """The space ended then: keep what its pages came to, give the room to others."""
        watcher, self.watcher = self.watcher, None  # which knows of the end
        self._lose(self.resident(space), time_ns, Loss.EXIT)
        self.watcher = watcher
        self.shelf.put(space, WHOLE, self._store.rows(self.touched(space)))
        self._takings.forget(space)
        self._looked_at.pop(space, None)
        self._store.release(space)

    def tidy(self, space: int, before_ns: int) -> None:
        """Put away the parts of a space that have had no frame since `before_ns`.

        Of those that `take_changed` told of last: the others had their turn. What is to be
        looked at again stays until it was.
        """
        numbers, slots = self._store.blocks(space, self._looked_at.pop(space, _NO_BLOCKS))
        if space in self._unseen:
            self._store.mark(slots)  # it refers to pages by slot
            return
        idle = (self._columns["frame"][slots] == _NONE).all(axis=1)
        idle &= self._columns["changed_ns"][slots].max(axis=1, initial=0) < before_ns
        idle &= ~self._store.is_marked(slots[:, 0])
        for index in np.flatnonzero(idle).tolist():
            at = slots[index]
            self._store.put_away(space, numbers[index], at[self._columns["gains"][at] > 0])

    def story(self, space: int) -> dict[str, npt.NDArray[Any]]:
        """Every column, and `page` (virtual page numbers), of all pages that gained a frame."""
        rows = [self._store.rows(self.touched(space)), *self.shelf.of(space)]
        together = np.concatenate(rows)
        # A row put away for good may be of a page that came anew: the first of each is it.
        _, first = np.unique(together["page"], return_index=True)
        return {name: together[name][first] for name in together.dtype.names or ()}

    def take_story(self, space: int) -> dict[str, npt.NDArray[Any]]:
        """`story`, the last time: what was kept of the space is gone then."""
        told = self.story(space)
        self.shelf.drop(space)
        self._store.release(space)
        return told


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


def _run(at: I64) -> I64 | slice:
    """The same slots as a slice, where they follow each other: written several times quicker."""
    first, last = int(at[0]), int(at[-1])
    if last - first == len(at) - 1 and (at[1:] > at[:-1]).all():
        return slice(first, last + 1)
    return at


def _counts(values: U8) -> I64:
    """How often each source or cause comes, by value."""
    return np.bincount(values, minlength=32)


def _distinct(spaces: Ids) -> list[int]:
    if len(spaces) <= _FEW:
        return list(dict.fromkeys(spaces.tolist()))
    return distinct(spaces)


def _repeats(order: I64, events: Events) -> Bools:
    """Which events, in `order` by page, find and leave their page as the one before left it."""
    frame = events.frame[order]
    own = (events.source != Source.AROUND)[order]
    still = own & ~events.absent_before[order] & (events.frame_before[order] == frame)
    still[1:] &= own[:-1] & (frame[1:] == frame[:-1]) & (frame[1:] != _NONE)
    if events.suspected is not None:
        # What leaves its page in doubt, the next one settles.
        still[1:] &= events.suspected.over[order][:-1] == 0
    return np.asarray(still)
