"""Snapshots against the timeline: confirm its faults, name every other source of a frame.

A page the two disagree on is first a suspect: the record that explains it may
still be on its way. If the next snapshot shows the same, the page's change is
booked under the source that the evidence names; a fault contradicted by
pagemap with no evidence at all is a conflict.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracer.common.deadline import go_on
from tracer.common.pages import NO_FRAME
from tracer.common.types import I64, U8, U32, U64, Bools, Index
from tracer.model.sources import Loss, Source
from tracer.procfs.maps import Mapping
from tracer.procfs.pagemap import frames as frames_in
from tracer.procfs.pagemap import present
from tracer.procfs.system import SwapAreas, movement_counters
from tracer.snapshots.evidence import Evidence, Hint, Machine
from tracer.snapshots.image import Image
from tracer.snapshots.snapshots import Snapshot
from tracer.snapshots.unrecorded import Unrecorded
from tracer.timeline.timeline import Timeline
from tracer.timeline.unexplained import Changes

Slots = I64
Regions = Callable[[U64], U32]

_NONE = np.uint64(NO_FRAME)
_MOST_UNSEEN = 256  # ranges kept apart
_NO_PAGES = np.empty(0, np.uint64)
# What is known of a space that has ended: its pages were mapped.
_NOTHING = Snapshot(
    pid=0,
    before_ns=0,
    after_ns=0,
    mappings=[Mapping(0, 1 << 57, "", 0, 0, 0, "")],
    pages=np.empty(0, np.uint64),
    frames=np.empty(0, np.uint64),
    swapped=np.empty(0, np.uint64),
)
_AT_ONCE = 1 << 11  # blocks whose frames are yielded together
_NO_WITNESS = (Source.UNKNOWN.value, Source.MISSED.value, Source.FILTERED.value)
_BY_FAULT = (Source.FAULT.value, Source.AROUND.value)


@dataclass(frozen=True)
class Suspects:
    """Pages on which a snapshot and the timeline disagree, ascending, and the snapshot's frames."""

    pages: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    frames: U64 = field(default_factory=lambda: np.empty(0, np.uint64))

    def __len__(self) -> int:
        return len(self.pages)

    def hold(self, pages: U64, frames: U64) -> Bools:
        """Whether each of `pages` is among them, with this frame."""
        if not len(self):
            return np.zeros(len(pages), np.bool_)
        at = np.minimum(np.searchsorted(self.pages, pages), len(self) - 1)
        return np.asarray((self.pages[at] == pages) & (self.frames[at] == frames))


_Fill = tuple[int, int, int, int]  # start and end, when, and how many calls


def _calls(here: Sequence[_Fill]) -> int:
    return sum(count for *_, count in here)


@dataclass
class SpaceView:
    """The state of one address space besides its pages."""

    born: Source  # INITIAL: there before the trace; EXEC, FORK: made under trace
    has_snapshot: bool = False  # a snapshot was taken before
    parent: int = 0  # FORK: the space it is a copy of
    parent_known: bool = True  # … and whether its pages at the fork were known
    hints: list[Hint] = field(default_factory=list)  # since the last snapshot without suspects
    # As the last snapshot without suspects began.
    unrecorded: Unrecorded = field(default_factory=Unrecorded)
    mapped: int = 0  # pages with a frame: the last snapshot's, and what changed during it
    suspects: Suspects = field(default_factory=Suspects)  # of the last snapshot
    image: Image = field(default_factory=Image.nothing)  # of the last snapshot
    # movement_counters() at the last two snapshots without suspects, the older one first
    counters: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))

    def known(self) -> bool:
        """Whether the timeline has all pages from before the trace."""
        return (
            self.has_snapshot or self.born == Source.EXEC or (self.parent > 0 and self.parent_known)
        )

    def descend(self, space: int, parent: "SpaceView") -> None:
        """Record that fork made this one a copy of `space`."""
        self.parent, self.parent_known = space, parent.has_snapshot


class Reconciler:
    """Applies snapshots to a timeline; `machine` says what else can be known."""

    def __init__(self, timeline: Timeline, machine: Machine | None = None) -> None:
        self._timeline = timeline
        self._machine = machine or Machine()
        self._views: dict[int, SpaceView] = {}
        self._swap_areas = SwapAreas()
        counters = movement_counters()
        self._counters = counters, counters  # at the last two snapshots of any space
        self._unrecorded = Unrecorded(), Unrecorded()  # … and what was unrecorded in the run
        self.conflicts = 0
        # By space: ranges that calls may have populated, without records, since the last snapshot
        # that left no suspects; and how many of these calls had part of it released by then.
        self._fills: dict[int, list[_Fill]] = {}
        self.unseen_fills = 0
        self._evidence = Evidence(frozenset(), None)  # for the snapshot under way
        self._open: list[tuple[U64, U64]] = []  # the suspects of the snapshot under way
        self._released = _NO_PAGES, _NO_PAGES  # pages released lately, and their frames

    def view(self, space: int, born: Source = Source.FORK, own: int = 0) -> SpaceView:
        """The space's view, made with `born` when new.

        `own`: its processes' unrecorded faults (Unrecorded.own) when it was made.
        """
        view = self._views.get(space)
        if view is None:
            # As of the last snapshot but one: what is newer may be of this space.
            unrecorded = self._unrecorded[0]._replace(own=own)
            view = self._views[space] = SpaceView(
                born, unrecorded=unrecorded, counters=self._counters
            )
        return view

    def last_seen(self, space: int) -> Image | None:
        """The image of a space's last snapshot; None where there was none."""
        view = self._views.get(space)
        return view.image if view is not None else None

    def frames(self, space: int) -> Iterator[U64]:
        """The frames of a space's pages by its last snapshot; by the timeline where there was none.

        Physical addresses, some pages' at a time; a frame may come several times.
        """
        view = self._views.get(space)
        if view is not None and view.has_snapshot:
            for first in range(0, len(view.image.words), _AT_ONCE):
                words = view.image.words[first : first + _AT_ONCE]
                yield frames_in(words[present(words)])
            return
        # Pages it may have inherited are not known to be there.
        line, at = self._timeline, self._timeline.ledger.resident(space)
        yield line.ledger["frame"][at[line.ledger["gains"][at] > 0]]

    def forget(self, space: int) -> None:
        """The space has ended, and gets no more snapshots."""
        self._views.pop(space, None)
        self.unseen_fills += _calls(self._fills.pop(space, ()))

    def fill_unrecorded(self, space: int, start: int, end: int, time_ns: int) -> None:
        """A system call populated [start, end), without records of the pages."""
        if start >= end:
            return
        here = self._fills.setdefault(space, [])
        here.append((start, end, time_ns, 1))
        if len(here) > _MOST_UNSEEN:
            starts, ends, times, counts = zip(*here, strict=True)
            self._fills[space] = [(min(starts), max(ends), max(times), sum(counts))]

    def note_release(self, space: int, start: int, end: int) -> None:
        """A system call released [start, end)."""
        if not self._fills or space not in self._fills:
            return
        here = self._fills[space]
        there = [each for each in here if each[1] <= start or end <= each[0]]
        if len(there) < len(here):
            self.unseen_fills += _calls(here) - _calls(there)
            self._fills[space] = there

    def unsettled_fills(self, seen: Container[int]) -> int:
        """How many calls populated memory no snapshot has shown, except in the spaces `seen`."""
        left = (here for space, here in self._fills.items() if space not in seen)
        return sum(map(_calls, left))

    def hint(self, space: int, hint: Hint) -> None:
        """A system call populated a range, or gave it up for reclaim."""
        self.view(space).hints.append(hint)

    def observe(
        self,
        space: int,
        shot: Snapshot,
        regions: Regions,
        unrecorded: Unrecorded,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Update the timeline of `space` to what `shot` shows.

        All records up to the end of the snapshot must have been applied.
        `regions` returns the region of each of some pages of the snapshot.
        Raises Enough once `enough` returns true: what is booked by then is complete, but
        no snapshot of the space may follow.
        """
        line, view = self._timeline, self.view(space)
        self._evidence, counters = self._gather(view, unrecorded)
        # In all other blocks the last snapshot and the timeline agreed, and nothing has changed.
        numbers = np.union1d(line.ledger.pop_changed(space), shot.image.differing(view.image))
        seen = shot.image.part(numbers)
        go_on(enough)
        at = line.ledger.state(space, seen.pages)
        settled = line.ledger["changed_ns"][at] < shot.before_ns
        view.mapped = shot.image.resident - int((~settled).sum())
        view.mapped += self._changed_since(space, numbers, shot.before_ns)
        line.ledger.confirm(at[settled & (line.ledger["frame"][at] == seen.frames)])
        # Where a child has another frame than assumed, it did not inherit the page.
        guessed = settled & line.ledger["assumed"][at] & (line.ledger["frame"][at] != seen.frames)
        line.ledger.forget(at[guessed])

        go_on(enough)
        changes = line.ledger.pop_unexplained(space)
        gone = self._gone(space, numbers, shot)
        self._released = self._lately_released(gone, changes)
        self._open = []
        ours = line.ledger["frame"][at]
        new = settled & (ours == _NONE)
        self._book_gains(view, shot, seen, at, new, regions)
        go_on(enough)
        moved = settled & (ours != _NONE) & (ours != seen.frames)
        self._book_moves(view, shot, seen, at, moved, regions)
        go_on(enough)
        self._book_releases(view, shot, gone)
        if changes is not None:
            self._name_unexplained(view, changes, shot)
        view.suspects = _suspects(self._open)
        go_on(enough)
        line.ledger.keep_changed(space, numbers, shot.before_ns)
        line.ledger.mark(line.ledger.state(space, view.suspects.pages))
        view.image = shot.image
        view.has_snapshot = True
        if not view.suspects:
            # What happened during or after the snapshot is left to the next one.
            view.hints = [hint for hint in view.hints if hint.time_ns >= shot.before_ns]
            here = self._fills.pop(space, [])
            if late := [each for each in here if each[2] >= shot.before_ns]:
                self._fills[space] = late
            # What happened between a snapshot and reading the counts is left to the next one.
            view.unrecorded = unrecorded if shot.unrecorded is None else shot.unrecorded
            # What happened between a snapshot and reading its counters counts for the next, too.
            view.counters = view.counters[1], counters

    def _gather(self, view: SpaceView, unrecorded: Unrecorded) -> tuple[Evidence, dict[str, int]]:
        """The evidence since the space's last snapshot without suspects; the counters now."""
        now = dict(movement_counters())
        now["swapoff"] = now.get("swapoff", 0) + self._swap_areas.swapoffs()
        before = view.counters[0]
        moved = frozenset(what for what, times in now.items() if times != before.get(what, 0))
        self._counters = self._counters[1], now
        self._unrecorded = self._unrecorded[1], unrecorded
        evidence = Evidence(
            moved,
            unrecorded.source(view.unrecorded),
            self._machine,
            tuple(view.hints),
            dropped_faults=min(
                unrecorded.lost - view.unrecorded.lost, unrecorded.own - view.unrecorded.own
            ),
            dropped=unrecorded.dropped > view.unrecorded.dropped,
        )
        return evidence, now

    def close(self, space: int, unrecorded: Unrecorded) -> None:
        """The space has ended: name the changes its faults found, by the evidence there is."""
        changes = self._timeline.ledger.pop_unexplained(space)
        if changes is not None:
            view = self.view(space)
            self._evidence, _ = self._gather(view, unrecorded)
            self._released = _NO_PAGES, _NO_PAGES
            self._name_unexplained(view, changes, _NOTHING)

    def _changed_since(self, space: int, numbers: U64, time_ns: int) -> int:
        """Pages of these blocks with a frame in the timeline that changed since `time_ns`."""
        line = self._timeline
        at = line.ledger.resident_in(space, numbers)
        return int(((line.ledger["changed_ns"][at] >= time_ns) & ~line.ledger["assumed"][at]).sum())

    def _book_gains(
        self,
        view: SpaceView,
        shot: Snapshot,
        seen: Image,
        at: Slots,
        new: Bools,
        regions: Regions,
    ) -> None:
        """Book pages present without a record; `at`: the slots of those `seen`."""
        index = np.flatnonzero(new)
        if not len(index):
            return
        if view.has_snapshot:
            index = self._known(view, seen.pages, seen.frames, index)
        pages, frames = seen.pages[index], seen.frames[index]
        source = self._gain_sources(view, shot, pages, frames)
        if not view.has_snapshot and view.parent:
            sure = source == Source.FORK
            self._open.append((pages[~sure], frames[~sure]))
            index, source = index[sure], source[sure]
            pages, frames = pages[sure], frames[sure]
        self._timeline.ledger.gain(at[index], shot.after_ns, frames, source, regions(pages))

    def _gain_sources(self, view: SpaceView, shot: Snapshot, pages: U64, frames: U64) -> U8:
        """The source of each of `pages`' frame, where it had none and no record explains it."""
        if not view.has_snapshot and view.born == Source.INITIAL:
            return np.full(len(pages), Source.INITIAL, np.uint8)
        if not view.has_snapshot and view.born == Source.EXEC:
            return self._evidence.exec_sources(pages)
        source = self._evidence.gain_sources(shot, pages, Source.UNKNOWN)
        if not view.has_snapshot and view.parent:
            open_ = np.isin(source, _NO_WITNESS)
            source[self._inherited(view, shot, pages, frames, open_)] = Source.FORK
        return source

    def _inherited(
        self, view: SpaceView, shot: Snapshot, pages: U64, frames: U64, open_: Bools
    ) -> Bools:
        """Which of `pages` of a forked space were inherited, unknown to the timeline.

        Those the parent has in the same frames; but fork does not copy file pages. Of those that
        nothing else explains (`open_`) all, where the parent had no snapshot before the fork.
        """
        parent = self._views.get(view.parent)
        image = parent.image if parent is not None else Image.nothing()
        theirs = (frames_in(image.words_of(pages)) == frames) & ~shot.of_file(pages)
        if not view.parent_known:
            theirs |= open_
        return np.asarray(theirs)

    def _book_moves(
        self,
        view: SpaceView,
        shot: Snapshot,
        seen: Image,
        at: Slots,
        moved: Bools,
        regions: Regions,
    ) -> None:
        """Book pages present in another frame than the timeline's."""
        line = self._timeline
        index = self._known(view, seen.pages, seen.frames, np.flatnonzero(moved))
        if not len(index):
            return
        pages, frames = seen.pages[index], seen.frames[index]
        mover = self._evidence.move_sources(shot, pages, line.ledger["frame"][at[index]], frames)
        by_fault = np.isin(line.ledger["source"][at[index]], _BY_FAULT)
        self.conflicts += int((by_fault & (mover == Source.NONE)).sum())
        source = np.where(mover == Source.NONE, Source.UNKNOWN, mover).astype(np.uint8)
        # Swapped in by swapoff: it was reclaimed before.
        cause = np.where(source == Source.SWAPOFF, Loss.RECLAIM.value, Loss.REPLACED.value)
        line.ledger.release(at[index], shot.after_ns, cause.astype(np.uint8))
        line.ledger.gain(at[index], shot.after_ns, frames, source, regions(pages))

    def _gone(self, space: int, numbers: U64, shot: Snapshot) -> Slots:
        """The slots of pages of these blocks resident in the timeline and not in the snapshot."""
        at = self._timeline.ledger.resident_in(space, numbers)
        return np.asarray(at[shot.frame_of(self._timeline.ledger.pages_at(at)) == _NONE])

    def _book_releases(self, view: SpaceView, shot: Snapshot, gone: Slots) -> None:
        """Book pages released before the snapshot, unless they become suspects."""
        line = self._timeline
        at = gone[line.ledger["changed_ns"][gone] < shot.before_ns]
        guessed = line.ledger["assumed"][at].astype(np.bool_)
        line.ledger.forget(at[guessed])
        at = at[~guessed]
        if not len(at):
            return
        doubted = line.ledger["doubt"][at] != 0
        line.ledger.release(
            at[doubted], shot.after_ns, line.ledger["doubt"][at[doubted]].astype(np.uint8)
        )
        at = at[~doubted]
        pages = line.ledger.pages_at(at)
        nowhere = np.full(len(pages), _NONE)
        known = self._known(view, pages, nowhere, np.arange(len(pages)))
        at, pages = at[known], pages[known]
        cause = self._evidence.release_causes(shot, pages, line.ledger["frame"][at], self._released)
        line.ledger.release(at, shot.after_ns, cause)

    def _lately_released(self, gone: Slots, changes: Changes | None) -> tuple[U64, U64]:
        """The pages that this snapshot, or faults before it, found gone, and their frames."""
        at, frames = gone, self._timeline.ledger["frame"][gone]
        if changes is not None:
            at = np.concatenate([at, changes.at[changes.released]])
            frames = np.concatenate([frames, changes.old[changes.released]])
        return self._timeline.ledger.pages_at(at), frames

    def _name_unexplained(self, view: SpaceView, changes: Changes, shot: Snapshot) -> None:
        """Book the causes of changes that faults found, as far as there is evidence."""
        line = self._timeline
        pages = line.ledger.pages_at(changes.at)
        sources = self._evidence.move_sources(shot, pages, changes.old, changes.new)
        sources[sources == Source.NONE] = Source.UNKNOWN
        # Before the first snapshot a fault may be the first to find what was mapped by exec, by
        # fork or before the trace: Linux 5.10's exec leaves the stack's pages read-only.
        fresh = changes.old == _NONE
        sources[fresh] = self._gain_sources(view, shot, pages[fresh], changes.new[fresh])
        causes = self._evidence.release_causes(shot, pages, changes.old, self._released)
        line.ledger.explain(changes, np.where(changes.released, causes, sources).astype(np.uint8))

    def _known(self, view: SpaceView, pages: U64, frames: U64, index: Index) -> Index:
        """Those of `index` that the last snapshot showed the same; the others become suspects."""
        pages, frames = pages[index], frames[index]
        same = view.suspects.hold(pages, frames)
        self._open.append((pages[~same], frames[~same]))
        return index[same]


def _suspects(found: list[tuple[U64, U64]]) -> Suspects:
    """The parts `found`, merged and sorted."""
    if not found:
        return Suspects()
    pages = np.concatenate([pages for pages, _ in found])
    frames = np.concatenate([frames for _, frames in found])
    order = np.argsort(pages)
    return Suspects(pages[order], frames[order])
