"""What calls, exits and forks did to pages: unmapped, discarded, moved, filled, inherited."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.common.pages import NO_FRAME, PAGE_SHIFT
from tracer.common.types import U64, Ids
from tracer.model.sources import Loss, Source
from tracer.spaces.syscalls import PendingRelease
from tracer.timeline.concurrent_unmaps import ConcurrentUnmaps
from tracer.timeline.ledger import Ledger

_NONE = np.uint64(NO_FRAME)


@dataclass(slots=True)  # not frozen: making one would take three times as long
class Released:
    """A range whose pages' frames were released: arguments of `ReleaseRules.release`."""

    space: int
    start: int
    end: int
    time_ns: int
    cause: Loss
    begun_ns: int = 0


class ReleaseRules:
    """What system calls, exits and forks did, applied to a ledger."""

    def __init__(self, ledger: Ledger, unmaps: ConcurrentUnmaps) -> None:
        self._ledger, self._unmaps = ledger, unmaps
        # The same for the life of the ledger: accessed very often.
        self._columns, self._store = ledger.columns, ledger.store

    def begin_unmap(self, space: int, call: PendingRelease) -> None:
        """A call has begun that may release pages of `space`."""
        self._unmaps.begin(space, call)

    def end_unmap(self, call: PendingRelease, time_ns: int = 0) -> None:
        """That call has returned at `time_ns`, `release` gets what it released; 0: nothing."""
        self._unmaps.end(call, time_ns)

    def holds(self, space: int, start: int, end: int) -> bool:
        """Whether any page of [start, end) (addresses) has a frame in the ledger."""
        few = self._ledger.few(space, start, end)
        if few is not None:
            return bool(few)
        at = self._store.range(space, start, end)
        return bool((self._columns["frame"][at] != _NONE).any())

    def release(
        self, space: int, start: int, end: int, time_ns: int, cause: Loss, begun_ns: int = 0
    ) -> int:
        """Release the frames of pages in [start, end) by `time_ns`; return how many had one.

        A frame gained after that stays. Where other threads may fault meanwhile, `begun_ns`
        is when the releasing call began: of a frame gained since then, the next observation
        shows whether the call released it or had unmapped the page before.
        """
        return self.release_all([Released(space, start, end, time_ns, cause, begun_ns)])

    def release_all(self, losses: Sequence[Released]) -> int:
        """`release` of ranges that have no page in common."""
        if len(losses) == 1 and (count := self._release_few(losses[0])) is not None:
            return count
        at, which = self._store.ranges([(each.space, each.start, each.end) for each in losses])
        if not len(at):
            return 0  # most calls: a new mapping where nothing was mapped
        time = np.array([each.time_ns for each in losses])
        had = self._columns["frame"][at] != _NONE
        had &= self._columns["changed_ns"][at] <= time[which]
        if not had.any():
            return 0
        at, which = at[had], which[had]
        assumed = self._columns["assumed"][at].astype(np.bool_)
        if assumed.any():
            self._ledger.forget(at[assumed])
        released = ~assumed
        cause = np.array([each.cause for each in losses], np.uint8)
        begun = np.array([each.begun_ns for each in losses])
        if begun.any():
            begun = begun[which]
            doubted = released & (self._columns["changed_ns"][at] >= begun) & (begun > 0)
            call = which[doubted]
            self._ledger.doubt(at[doubted], cause[call], time[call])
            released &= ~doubted
        call = which[released]
        self._ledger.release(at[released], time[call], cause[call])
        return len(at)

    def _release_few(self, loss: Released) -> int | None:
        """`release_all` of one range of few pages; None where it has many."""
        slots = self._ledger.few(loss.space, loss.start, loss.end)
        if slots is None:
            return None
        columns, count = self._columns, 0
        for at in slots:
            changed = columns["changed_ns"].item(at)
            if changed > loss.time_ns:
                continue
            count += 1
            if columns["assumed"].item(at):
                self._ledger.forget(np.array([at]))
            elif loss.begun_ns and changed >= loss.begun_ns:
                self._ledger.doubt(np.array([at]), loss.cause, loss.time_ns)
            else:
                self._ledger.release_one(at, loss.time_ns, loss.cause)
        return count

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
        """mremap moved [old, old + length) to `new`, with its frames.

        `new_length`, where given, is the mapping's size from then on. What was mapped
        at the new address is unmapped, as is what did not fit. `regions_there` maps
        regions to those at the new address.
        """
        new_length = new_length or length
        few = self._ledger.few(space, old, old + max(length, new_length))
        if few is not None and not any(self._columns["assumed"].item(at) for at in few):
            self._move_few(few, space, (old, new, length, new_length), time_ns, regions_there)
            return
        at = self._store.range(space, old, old + min(length, new_length))
        at = at[self._columns["frame"][at] != _NONE]
        pages = _moved(self._ledger.pages_at(at), old, new)
        frames = self._columns["frame"][at]
        regions = regions_there(self._columns["region"][at])
        assumed = self._columns["assumed"][at]
        self._ledger.forget(at[assumed])
        self._ledger.release(at[~assumed], time_ns, Loss.MOVE)
        self.release(space, old, old + length, time_ns, Loss.MUNMAP)
        self.release(space, new, new + new_length, time_ns, Loss.MUNMAP)
        to = self._store.slots(space, pages)
        self._ledger.gain(to[~assumed], time_ns, frames[~assumed], Source.MOVE, regions[~assumed])
        self._ledger.assume(to[assumed], time_ns, frames[assumed], regions[assumed])

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
                self._ledger.release_one(at, time_ns, Loss.MOVE)
        if kept < old + length:
            self.release(space, kept, old + length, time_ns, Loss.MUNMAP)
        self.release(space, new, new + new_length, time_ns, Loss.MUNMAP)
        if not moved:
            return
        regions = regions_there(np.array([region for *_, region in moved], np.uint32)).tolist()
        away = (new >> PAGE_SHIFT) - (old >> PAGE_SHIFT)
        for (page, frame, _), region in zip(moved, regions, strict=True):
            at = self._store.slot(space, page + away)
            if columns["frame"].item(at) == NO_FRAME:
                self._ledger.gain_one(at, time_ns, frame, Source.MOVE, region)
            else:  # mapped there later than that
                self._ledger.gain(np.array([at]), time_ns, np.array([frame]), Source.MOVE, region)

    def hand_over(
        self,
        space: int,
        old: int,
        new: int,
        length: int,
        time_ns: int,
        regions_there: Callable[[Ids], Ids] = lambda regions: regions,
    ) -> None:
        """UFFDIO_MOVE moved the frames of [old, old + length) to `new`.

        The fault that waited for one may have been recorded first.
        """
        columns = self._columns
        at = self._store.range(space, old, old + length)
        at = at[columns["frame"][at] != _NONE]
        assumed = columns["assumed"][at]
        self._ledger.forget(at[assumed])
        at = at[~assumed]
        pages = _moved(self._ledger.pages_at(at), old, new)
        frames, regions = columns["frame"][at], regions_there(columns["region"][at])
        self._ledger.release(at, time_ns, Loss.MOVE)
        to = self._store.slots(space, pages)
        open_ = columns["frame"][to] != frames
        times = np.full(int(open_.sum()), time_ns)
        self._ledger.replace(to[open_], times)
        self._ledger.gain(to[open_], times, frames[open_], Source.UFFD, regions[open_])

    def fill(self, space: int, pages: U64, frames: U64, time_ns: int, regions: Ids) -> None:
        """A call that populated these pages returned: they were in `frames` then.

        Those already in the ledger were mapped before it.
        """
        at = self._store.slots(space, pages)
        columns = self._columns
        assumed = columns["assumed"][at].astype(np.bool_)
        same = columns["frame"][at] == frames
        if assumed.any():
            self._ledger.confirm_inherited(at[assumed & same])
            self._ledger.forget(at[assumed & ~same])
        new = ~same & (columns["changed_ns"][at] <= time_ns)
        at = at[new]
        self._ledger.replace(at, np.full(len(at), time_ns))
        self._ledger.gain(at, time_ns, frames[new], Source.POPULATE, regions[new])

    def inherit(self, parent: int, child: int, time_ns: int) -> None:
        """fork: assume that the child has every page of its parent, until it is seen or not."""
        at = self._ledger.resident(parent)
        to = self._store.slots(child, self._ledger.pages_at(at))
        self._ledger.assume(to, time_ns, self._columns["frame"][at], self._columns["region"][at])

    def drop_assumed(self, space: int) -> None:
        """The space has ended: forget the pages assumed there and never seen."""
        at = self._store.all(space)
        self._ledger.forget(at[self._columns["assumed"][at].astype(np.bool_)])

    def retire(self, space: int, time_ns: int) -> None:
        """The space ended then: its pages are released, its calls are over."""
        self._unmaps.forget(space)
        self._ledger.retire(space, time_ns)


def _moved(pages: U64, old: int, new: int) -> U64:
    """Page numbers after a move from address `old` to `new`."""
    return pages - np.uint64(old >> PAGE_SHIFT) + np.uint64(new >> PAGE_SHIFT)
