"""Snapshots against the timeline: confirm its faults, name every other source of a frame.

A page the two disagree on is first a suspect: the record that explains it may
still be on its way. If the next look finds the same, the page's change is
booked under the source that the evidence names; a fault contradicted by
pagemap with no evidence at all is a conflict.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tracer.procfs.system import movement_counters
from tracer.rows import NO_FRAME, Confirmed
from tracer.snapshots import Snapshot
from tracer.sources import Loss, Source
from tracer.timeline import Timeline

U64 = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int64]

_NONE = np.uint64(NO_FRAME)
_BY_FAULT = (Source.FAULT.value, Source.AROUND.value)


@dataclass(frozen=True)
class Suspects:
    """Pages on which one look and the timeline disagree, ascending, and the frames it showed."""

    pages: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    frames: U64 = field(default_factory=lambda: np.empty(0, np.uint64))

    def __len__(self) -> int:
        return len(self.pages)

    def hold(self, pages: U64, frames: U64) -> npt.NDArray[np.bool_]:
        """Whether each of `pages` is among them, with this frame."""
        if not len(self):
            return np.zeros(len(pages), np.bool_)
        at = np.minimum(np.searchsorted(self.pages, pages), len(self) - 1)
        return np.asarray((self.pages[at] == pages) & (self.frames[at] == frames))


@dataclass
class SpaceView:
    """What is known of one address space beside its pages."""

    born: Source  # INITIAL: there when we came; EXEC, FORK: made under trace
    looked: bool = False  # a snapshot was taken before
    # by system calls, since the last look that left nothing open
    populated: list[tuple[int, int]] = field(default_factory=list)
    missed: int = 0  # faults missed in the whole run, when the last look left nothing open
    filtered: int = 0  # … and filtered out
    resident: int = 0  # pages with a frame at the last look: pagemap's, and what changed during it
    suspects: Suspects = field(default_factory=Suspects)  # of the last look

    def in_populated(self, pages: U64) -> npt.NDArray[np.bool_]:
        """Whether a system call filled each of `pages`."""
        result = np.zeros(len(pages), np.bool_)
        for start, end in self.populated:
            result |= (pages >= np.uint64(start >> 12)) & (pages < np.uint64((end + 4095) >> 12))
        return result


class Observer:
    """Applies snapshots to a timeline. `vmstat` tells which movements the kernel made at all."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._views: dict[int, SpaceView] = {}
        self._counters = movement_counters()
        self.conflicts = 0
        self._missed = False  # since this space's last look: that explains what nothing else does
        self._filtered = False  # the same
        self._open: list[tuple[U64, U64]] = []  # the suspects of the look under way

    def view(self, space: int, born: Source = Source.FORK) -> SpaceView:
        """The space's view, made with `born` when new."""
        return self._views.setdefault(space, SpaceView(born))

    def populate(self, space: int, start: int, end: int) -> None:
        """A system call filled [start, end) in advance."""
        self.view(space).populated.append((start, end))

    def observe(
        self,
        space: int,
        shot: Snapshot,
        regions: npt.NDArray[np.uint32],
        missed: int,
        filtered: int = 0,
    ) -> None:
        """Bring the timeline of `space` to what `shot` shows.

        All records up to the end of the snapshot must have been applied.
        `regions` holds the region of each of the snapshot's present pages,
        `missed` how many faults of the run no record tells of so far, `filtered`
        how many a filter left out.
        """
        line, view = self._timeline, self.view(space)
        self._missed = missed > view.missed
        self._filtered = filtered > view.filtered
        first = not view.looked
        at = line.state(space, shot.pages)
        settled = line["changed_ns"][at] < shot.before_ns
        view.resident = int(settled.sum()) + self._changed_since(space, shot.before_ns)
        self._confirm(at, shot.frames, settled)
        # Of what it may have inherited, a child has another frame: it did not inherit that.
        guessed = settled & line["assumed"][at] & (line["frame"][at] != shot.frames)
        line.forget(at[guessed])

        self._open = []
        ours = line["frame"][at]
        new = settled & (ours == _NONE)
        self._book_gains(view, shot, at, new, regions, first)
        moved = settled & (ours != _NONE) & (ours != shot.frames)
        self._book_moves(view, shot, at, moved, regions)
        self._book_losses(space, view, shot)
        view.suspects = _suspects(self._open)
        view.looked = True
        if not view.suspects:
            view.populated.clear()
            view.missed = missed
            view.filtered = filtered

    def _changed_since(self, space: int, time_ns: int) -> int:
        """Pages with a frame, by our account, that changed at `time_ns` or later."""
        line = self._timeline
        at = line.resident(space)
        return int(((line["changed_ns"][at] >= time_ns) & ~line["assumed"][at]).sum())

    def _confirm(self, at: Slots, frames: U64, settled: npt.NDArray[np.bool_]) -> None:
        line = self._timeline
        same = settled & (line["frame"][at] == frames)
        inherited = same & line["assumed"][at].astype(np.bool_)
        line.confirm_inherited(at[inherited])
        same &= (line["gains"][at] == 1) & (line["first_frame"][at] == frames)
        line["confirmed"][at[same]] = Confirmed.BOTH

    def _book_gains(
        self,
        view: SpaceView,
        shot: Snapshot,
        at: Slots,
        new: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.uint32],
        first: bool,
    ) -> None:
        """Pages present that no record brought."""
        index = np.flatnonzero(new)
        if not len(index):
            return
        if not first:
            index = self._known(view, shot.pages, shot.frames, index)
        source = self._sources(view, shot.pages[index], first)
        self._timeline.gain_seen(
            at[index], shot.after_ns, shot.frames[index], source, regions[index]
        )

    def _sources(self, view: SpaceView, pages: U64, first: bool) -> npt.NDArray[np.uint8]:
        if first and view.born == Source.INITIAL:
            return np.full(len(pages), Source.INITIAL, np.uint8)
        rest = self._unseen() or Source.UNKNOWN
        if first and view.born == Source.EXEC:
            rest = Source.EXEC
        elif self._moved("swapoff"):
            rest = Source.SWAPOFF
        source = np.full(len(pages), rest, np.uint8)
        source[view.in_populated(pages)] = Source.POPULATE
        return source

    def _book_moves(
        self,
        view: SpaceView,
        shot: Snapshot,
        at: Slots,
        moved: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.uint32],
    ) -> None:
        """Pages present in another frame than the one we know."""
        line = self._timeline
        index = self._known(view, shot.pages, shot.frames, np.flatnonzero(moved))
        if not len(index):
            return
        mover = self._mover()
        # Locked or filled in advance: mapped anew, or copied where they were shared.
        filled = view.in_populated(shot.pages[index])
        if mover is None:
            by_fault = np.isin(line["source"][at[index]], _BY_FAULT)
            self.conflicts += int((by_fault & ~filled).sum())
        rest = Source.UNKNOWN if mover is None else mover
        source = np.where(filled, Source.POPULATE.value, rest.value).astype(np.uint8)
        line.lose_seen(at[index], shot.after_ns, Loss.REPLACED)
        line.gain_seen(at[index], shot.after_ns, shot.frames[index], source, regions[index])

    def _mover(self) -> Source | None:
        """Who may have given pages another frame since tracing began, by the kernel's counters."""
        if self._moved("collapse"):
            return Source.COLLAPSE
        if self._moved("ksm"):
            return Source.KSM
        if self._moved("migrate"):
            return Source.MIGRATE
        return self._unseen()

    def _unseen(self) -> Source | None:
        """Faults without a record since the last look explain what nothing else does."""
        if self._missed:
            return Source.MISSED
        return Source.FILTERED if self._filtered else None

    def _moved(self, what: str) -> bool:
        return movement_counters().get(what, 0) > self._counters.get(what, 0)

    def _book_losses(self, space: int, view: SpaceView, shot: Snapshot) -> None:
        """Pages we hold that the snapshot does not show."""
        line = self._timeline
        at = line.resident(space)
        pages = line.pages_at(at)
        gone = (shot.frame_of(pages) == _NONE) & (line["changed_ns"][at] < shot.before_ns)
        at, pages = at[gone], pages[gone]
        guessed = line["assumed"][at].astype(np.bool_)
        line.forget(at[guessed])
        at, pages = at[~guessed], pages[~guessed]
        if not len(at):
            return
        nowhere = np.full(len(pages), _NONE)
        known = self._known(view, pages, nowhere, np.arange(len(pages)))
        at, pages = at[known], pages[known]
        away = np.isin(pages, shot.swapped)
        unmapped = ~shot.mapped(pages)
        dropped = np.full(len(pages), self._moved("reclaim"))
        cause = np.select(
            [away, unmapped, dropped],
            [Loss.RECLAIM.value, Loss.MUNMAP.value, Loss.RECLAIM.value],
            Loss.UNKNOWN.value,
        ).astype(np.uint8)
        line.lose_seen(at, shot.after_ns, cause)

    def _known(
        self, view: SpaceView, pages: U64, frames: U64, index: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """Those of `index` that looked the same last time; the others become suspects."""
        pages, frames = pages[index], frames[index]
        same = view.suspects.hold(pages, frames)
        self._open.append((pages[~same], frames[~same]))
        return index[same]


def _suspects(found: list[tuple[U64, U64]]) -> Suspects:
    """One sorted set of the parts `found`."""
    if not found:
        return Suspects()
    pages = np.concatenate([pages for pages, _ in found])
    frames = np.concatenate([frames for _, frames in found])
    order = np.argsort(pages)
    return Suspects(pages[order], frames[order])
