"""Page states over time: which page gained which frame, when, by what, confirmed how.

State is kept for every page that ever had a frame, in blocks of 512 pages
(one page table's worth) inside a few flat arrays, so that a batch of events is
applied with array operations. Three things move it: faults (`apply`), what
a system call or an exit took away (`lose`), and snapshots (`observe`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.pagestore import PageStore
from tracer.rows import NO_FRAME, Confirmed, Kind
from tracer.sources import Loss, Source

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_NONE = np.uint64(NO_FRAME)
# Tables by value: looked up many times over for a page or two.
_ENDS = np.isin(np.arange(32), [Loss.MUNMAP.value, Loss.MOVE.value])
_TOLD = np.isin(  # by a record of its own
    np.arange(32), [Source.FAULT.value, Source.AROUND.value, Source.MOVE.value]
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
    kind: npt.NDArray[np.uint8]
    region: npt.NDArray[np.uint32]
    source: npt.NDArray[np.uint8]  # FAULT, or AROUND for a neighbour that came along


@dataclass
class Outcome:
    """What `apply` made of each event."""

    gained: Bools  # this event gave the page its frame
    raced: Bools  # another thread's fault had done so first


@dataclass
class Tally:
    """Pages gained and lost over the whole run: by source, by cause, and by region."""

    gained: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(32, np.int64))
    lost: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(32, np.int64))
    gained_in: dict[int, int] = field(default_factory=dict)  # region -> pages
    lost_in: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def count(
        into: dict[int, int], regions: npt.NDArray[np.uint32], chosen: Bools | bool = True
    ) -> None:
        """Add one for each of `regions`, as far as `chosen`."""
        if chosen is not True:
            regions = regions[chosen]
        if len(regions) and (regions == regions[0]).all():
            region = int(regions[0])
            into[region] = into.get(region, 0) + len(regions)
            return
        for each, times in zip(*np.unique(regions, return_counts=True), strict=True):
            into[int(each)] = into.get(int(each), 0) + int(times)


class Timeline:
    """The pages of every address space of a run."""

    def __init__(self) -> None:
        self._store = PageStore(_COLUMNS, {"frame": NO_FRAME})
        self._columns = self._store.columns
        self._retired: dict[int, dict[str, npt.NDArray[Any]]] = {}
        self.tally = Tally()

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self._columns[column]

    # -- faults ---------------------------------------------------------------

    def apply(self, space: int, events: Events) -> Outcome:
        """Apply faults of one address space, in order; says which of them brought a frame."""
        count = len(events.page)
        outcome = Outcome(np.zeros(count, np.bool_), np.zeros(count, np.bool_))
        slots = self._store.slots(space, events.page)
        for turn in _turns(slots, events):
            self._apply_turn(slots[turn], events, turn, outcome)
        return outcome

    def _apply_turn(
        self, at: npt.NDArray[np.int64], events: Events, turn: npt.NDArray[np.int64], out: Outcome
    ) -> None:
        """One event a page: everything here is distinct pages."""
        frame = self._columns["frame"]
        before, then = events.frame_before[turn], events.frame[turn]
        own = events.source[turn] != Source.AROUND
        # Its own page, and nothing that this fault did to it: what it shows is another's doing.
        bystander = own & ((events.kind[turn] == Kind.SPURIOUS) | (before == then))
        absent = events.absent_before[turn]
        self._settle_inherited(at, turn, events)
        now = frame[at]
        had = now != _NONE
        # The state we hold was reached while this fault was under way.
        meanwhile = had & (self._columns["changed_ns"][at] >= events.start_ns[turn])
        stepped = absent | ((before != _NONE) & (before != then))
        race = had & (now == then) & stepped & meanwhile & ~bystander
        takeover = race & ~_TOLD[self._columns["source"][at]]
        out.raced[turn] = race & ~takeover & own
        self._take_over(at[takeover], turn[takeover], events)
        out.gained[turn[takeover]] = True

        # It was there by our account and gone by the fault's: lost in between, unseen.
        vanished = had & absent & ~meanwhile
        swapped = events.swapped_before[turn][vanished]
        cause = np.where(swapped, Loss.RECLAIM.value, Loss.UNKNOWN.value).astype(np.uint8)
        self._lose(at[vanished], events.start_ns[turn][vanished], cause)
        now = frame[at]
        # It had another frame by the fault's account, or one at all: gained in between, unseen.
        appeared = own & (before != _NONE) & (now != before) & (now != then) & ~meanwhile
        self._gain_unseen(at[appeared], turn[appeared], events, before[appeared])
        now = frame[at]
        changes = (then != _NONE) & (now != then)
        other = changes & bystander
        self._gain_unseen(at[other], turn[other], events, then[other])
        # A neighbour that has a frame by our account was not brought along.
        gains = changes & ~bystander & (own | (now == _NONE) | (now == before))
        self._replace(at[gains], events.time_ns[turn[gains]])
        won = turn[gains]
        self._gain(
            at[gains],
            events.time_ns[won],
            events.frame[won],
            events.source[won],
            events.region[won],
            events.number[won],
            events.kind[won],
        )
        out.gained[won] = True

    def _replace(self, at: npt.NDArray[np.int64], time: I64) -> None:
        """Those of these slots' pages that have a frame lose it to another."""
        had = self._columns["frame"][at] != _NONE
        self._lose(at[had], time[had], Loss.REPLACED)

    def _gain_unseen(
        self, at: npt.NDArray[np.int64], turn: npt.NDArray[np.int64], events: Events, frame: U64
    ) -> None:
        """These faults found the pages in frames that no record brought."""
        # Dated at their end: whoever put them there began before that, and may yet tell.
        time = events.time_ns[turn]
        self._replace(at, time)
        self._gain(at, time, frame, Source.UNKNOWN, events.region[turn])

    def _settle_inherited(
        self, at: npt.NDArray[np.int64], turn: npt.NDArray[np.int64], events: Events
    ) -> None:
        """A first look at a page the child may have inherited: now it shows whether it did."""
        assumed = self._columns["assumed"][at].astype(np.bool_)
        if not assumed.any():
            return
        same = self._columns["frame"][at] == events.frame_before[turn]
        true = assumed & ~events.absent_before[turn] & same
        self.confirm_inherited(at[true])
        self.forget(at[assumed & ~true])

    def confirm_inherited(self, at: npt.NDArray[np.int64]) -> None:
        """These slots' pages did come by fork."""
        self._columns["assumed"][at] = False
        self._columns["gains"][at] = 1
        self.tally.gained[Source.FORK] += len(at)
        self.tally.count(self.tally.gained_in, self._columns["region"][at])

    def forget(self, at: npt.NDArray[np.int64]) -> None:
        """What was assumed of these slots' pages (inherited by fork) was not so."""
        self._columns["assumed"][at] = False
        self._columns["frame"][at] = _NONE
        self._columns["first_source"][at] = 0
        self._columns["source"][at] = 0

    def _take_over(
        self, at: npt.NDArray[np.int64], turn: npt.NDArray[np.int64], events: Events
    ) -> None:
        """A snapshot saw the frame before the fault that brought it had its record out."""
        if not len(at):
            return
        columns, source = self._columns, events.source[turn]
        # What was there when we came is no gain until a fault of ours claims it.
        initial = columns["source"][at] == Source.INITIAL
        self.tally.count(self.tally.gained_in, columns["region"][at], initial)
        np.subtract.at(self.tally.gained, columns["source"][at], 1)
        np.add.at(self.tally.gained, source, 1)
        columns["source"][at] = source
        columns["changed_ns"][at] = events.time_ns[turn]
        once = columns["gains"][at] == 1
        first, chosen = at[once], turn[once]
        columns["first_source"][first] = source[once]
        columns["first_ns"][first] = events.time_ns[chosen]
        columns["first_fault"][first] = events.number[chosen]
        columns["first_kind"][first] = events.kind[chosen]
        columns["confirmed"][first] = Confirmed.BOTH

    def _gain(
        self,
        at: npt.NDArray[np.int64],
        time: I64 | int,
        frame: U64,
        source: npt.NDArray[np.uint8] | Source,
        region: npt.NDArray[np.uint32] | int,
        number: U64 | int = 0,
        kind: npt.NDArray[np.uint8] | int = Kind.UNKNOWN.value,
    ) -> None:
        count = len(at)
        if not count:
            return
        columns = self._columns
        sources = np.full(count, source, np.uint8) if isinstance(source, Source) else source
        # After an unmapping the address belongs to a new mapping: a new page.
        renewed = at[_ENDS[columns["last_loss"][at]]]
        for name in ("gains", "losses", "last_loss"):
            columns[name][renewed] = 0
        first = columns["gains"][at] == 0
        for name, value in (
            ("first_ns", time),
            ("first_frame", frame),
            ("first_source", sources),
            ("first_fault", number),
            ("first_kind", kind),
            ("region", region),
        ):
            columns[name][at[first]] = value[first] if isinstance(value, np.ndarray) else value
        columns["confirmed"][at[first]] = Confirmed.FAULT
        columns["frame"][at] = frame
        columns["changed_ns"][at] = time
        columns["source"][at] = sources
        columns["gains"][at] += np.uint32(1)
        columns["assumed"][at] = False
        np.add.at(self.tally.gained, sources, 1)
        self.tally.count(self.tally.gained_in, columns["region"][at], sources != Source.INITIAL)

    def _lose(
        self, at: npt.NDArray[np.int64], time: I64 | int, cause: Loss | npt.NDArray[np.uint8]
    ) -> None:
        count = len(at)
        if not count:
            return
        columns = self._columns
        self.tally.count(self.tally.lost_in, columns["region"][at])
        columns["frame"][at] = _NONE
        columns["changed_ns"][at] = time
        columns["losses"][at] += np.uint32(1)
        columns["last_loss"][at] = np.asarray(cause, np.uint8)
        np.add.at(self.tally.lost, cause, 1 if isinstance(cause, np.ndarray) else count)

    def gain_seen(
        self,
        at: npt.NDArray[np.int64],
        time_ns: int,
        frame: U64,
        source: npt.NDArray[np.uint8],
        region: npt.NDArray[np.uint32],
    ) -> None:
        """A snapshot showed these slots' pages with a frame that no fault's record brought."""
        self._gain(at, time_ns, frame, source, region)

    def lose_seen(
        self, at: npt.NDArray[np.int64], time_ns: int, cause: Loss | npt.NDArray[np.uint8]
    ) -> None:
        """A snapshot showed these slots' pages without the frame they had."""
        self._lose(at, time_ns, cause)

    # -- what took pages away ---------------------------------------------------

    def holds(self, space: int, start: int, end: int) -> bool:
        """Whether any page of [start, end) (addresses) has a frame by our account."""
        at = self._store.range(space, start, end)
        return bool((self._columns["frame"][at] != _NONE).any())

    def lose(self, space: int, start: int, end: int, time_ns: int, cause: Loss) -> int:
        """The pages of [start, end) lost their frames by `time_ns`; how many had one.

        One that came by a frame after that has it still.
        """
        at = self._store.range(space, start, end)
        at = at[self._columns["frame"][at] != _NONE]
        at = at[self._columns["changed_ns"][at] <= time_ns]
        assumed = self._columns["assumed"][at].astype(np.bool_)
        self.forget(at[assumed])
        self._lose(at[~assumed], time_ns, cause)
        return len(at)

    def move(
        self, space: int, old: int, new: int, length: int, time_ns: int, new_length: int = 0
    ) -> None:
        """mremap took [old, old + length) to `new`, frames and all.

        `new_length`, where given, is the mapping's size from then on. What was at
        the new place before is gone, as is what did not fit.
        """
        new_length = new_length or length
        at = self._store.range(space, old, old + min(length, new_length))
        at = at[self._columns["frame"][at] != _NONE]
        pages = self.pages_at(at) - np.uint64(old >> 12) + np.uint64(new >> 12)
        frames, regions = self._columns["frame"][at], self._columns["region"][at]
        assumed = self._columns["assumed"][at]
        self.forget(at[assumed])
        self._lose(at[~assumed], time_ns, Loss.MOVE)
        self.lose(space, old, old + length, time_ns, Loss.MUNMAP)
        self.lose(space, new, new + new_length, time_ns, Loss.MUNMAP)
        to = self._store.slots(space, pages)
        self._gain(to[~assumed], time_ns, frames[~assumed], Source.MOVE, regions[~assumed])
        self._assume(to[assumed], time_ns, frames[assumed], regions[assumed])

    def inherit(self, parent: int, child: int, time_ns: int) -> None:
        """fork: the child may have every page its parent has; what it does have shows later."""
        at = self.resident(parent)
        to = self._store.slots(child, self.pages_at(at))
        self._assume(to, time_ns, self._columns["frame"][at], self._columns["region"][at])

    def _assume(
        self,
        at: npt.NDArray[np.int64],
        time_ns: int,
        frame: U64,
        region: npt.NDArray[np.uint32],
    ) -> None:
        columns = self._columns
        columns["frame"][at] = columns["first_frame"][at] = frame
        columns["region"][at] = region
        columns["changed_ns"][at] = columns["first_ns"][at] = time_ns
        columns["first_source"][at] = columns["source"][at] = Source.FORK
        for name in ("gains", "losses", "last_loss", "first_fault", "first_kind", "confirmed"):
            columns[name][at] = 0
        columns["assumed"][at] = True

    def drop_assumed(self, space: int) -> None:
        """The space has ended: what nobody saw there is not claimed."""
        at = self._store.all(space)
        self.forget(at[self._columns["assumed"][at].astype(np.bool_)])

    # -- looking at it -----------------------------------------------------------

    def state(self, space: int, pages: U64) -> npt.NDArray[np.int64]:
        """The slots of `pages` (virtual page numbers), made where new: indices into columns."""
        return self._store.slots(space, pages)

    def resident(self, space: int) -> npt.NDArray[np.int64]:
        """The slots of all pages of a space that have a frame, in address order."""
        at = self._store.all(space)
        return np.asarray(at[self._columns["frame"][at] != _NONE])

    def touched(self, space: int) -> npt.NDArray[np.int64]:
        """The slots of all pages of a space that ever gained a frame, in address order."""
        at = self._store.all(space)
        return np.asarray(at[self._columns["gains"][at] > 0])

    def pages_at(self, at: npt.NDArray[np.int64]) -> U64:
        """The virtual page numbers behind slots."""
        return self._store.pages_at(at)

    def retire(self, space: int) -> None:
        """The space has ended: keep what its pages came to, give the room to others."""
        self._retired[space] = self.story(space)
        self._store.release(space)

    def blame_missed(self) -> None:
        """Faults, calls or records were missed: that is where the unknown came from and went."""
        for tally, unknown, missed in (
            (self.tally.gained, Source.UNKNOWN, Source.MISSED),
            (self.tally.lost, Loss.UNKNOWN, Loss.MISSED),
        ):
            tally[missed] += tally[unknown]
            tally[unknown] = 0
        for columns in (self._columns, *self._retired.values()):
            for name, unknown, missed in (
                ("first_source", Source.UNKNOWN, Source.MISSED),
                ("source", Source.UNKNOWN, Source.MISSED),
                ("last_loss", Loss.UNKNOWN, Loss.MISSED),
            ):
                columns[name][columns[name] == unknown] = missed

    def story(self, space: int) -> dict[str, npt.NDArray[Any]]:
        """Every column, and `page` (virtual page numbers), of all pages that gained a frame."""
        if space in self._retired:
            return self._retired[space]
        at = self.touched(space)
        return {"page": self.pages_at(at)} | {
            name: column[at] for name, column in self._columns.items()
        }


def _turns(slots: npt.NDArray[np.int64], events: Events) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the events to apply together: each page's first event, then each second, …"""
    if len(slots) == 1:
        yield np.zeros(1, np.int64)
        return
    order = np.argsort(slots, kind="stable")
    ranked = slots[order]
    fresh = np.r_[True, ranked[1:] != ranked[:-1]] if len(ranked) else np.empty(0, np.bool_)
    keep = fresh | ~_repeats(order, events)
    order, ranked, fresh = order[keep], ranked[keep], fresh[keep]
    starts = np.flatnonzero(fresh)
    rank = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.r_[starts, len(ranked)]))
    by_rank = order[np.lexsort((order, rank))]
    yield from np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]) if len(rank) else ()


def _repeats(order: npt.NDArray[np.int64], events: Events) -> Bools:
    """Which events, in `order` by page, find and leave their page as the one before left it."""
    frame = events.frame[order]
    own = (events.source != Source.AROUND)[order]
    still = own & ~events.absent_before[order] & (events.frame_before[order] == frame)
    still[1:] &= own[:-1] & (frame[1:] == frame[:-1]) & (frame[1:] != _NONE)
    return np.asarray(still)
