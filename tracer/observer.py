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


@dataclass
class SpaceView:
    """What is known of one address space beside its pages."""

    born: Source  # INITIAL: there when we came; EXEC, FORK: made under trace
    looked: bool = False  # a snapshot was taken before
    populated: list[tuple[int, int]] = field(
        default_factory=list
    )  # by system calls, since the last look
    missed: int = 0  # faults missed in the whole run, when the last look left nothing open
    suspects: dict[int, int] = field(default_factory=dict)  # page -> frame the last look showed


class Observer:
    """Applies snapshots to a timeline. `vmstat` tells which movements the kernel made at all."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._views: dict[int, SpaceView] = {}
        self._counters = movement_counters()
        self.conflicts = 0
        self._missed = False  # since this space's last look: that explains what nothing else does

    def view(self, space: int, born: Source = Source.FORK) -> SpaceView:
        """The space's view, made with `born` when new."""
        return self._views.setdefault(space, SpaceView(born))

    def populate(self, space: int, start: int, end: int) -> None:
        """A system call filled [start, end) in advance."""
        self.view(space).populated.append((start, end))

    def observe(
        self, space: int, shot: Snapshot, regions: npt.NDArray[np.uint32], missed: int
    ) -> None:
        """Bring the timeline of `space` to what `shot` shows.

        All records up to the end of the snapshot must have been applied.
        `regions` holds the region of each of the snapshot's present pages,
        `missed` how many faults of the run no record tells of so far.
        """
        line, view = self._timeline, self.view(space)
        self._missed = missed > view.missed
        first = not view.looked
        at = line.state(space, shot.pages)
        settled = line["changed_ns"][at] < shot.before_ns
        ours = line["frame"][at].astype(np.uint64)
        self._confirm(at, shot.frames, settled)

        suspects: dict[int, int] = {}
        new = settled & (ours == _NONE)
        self._book_gains(space, view, shot, at, new, regions, suspects, first)
        moved = settled & (ours != _NONE) & (ours != shot.frames)
        self._book_moves(view, shot, at, moved, regions, suspects)
        self._book_losses(space, view, shot, suspects)
        view.suspects = suspects
        view.looked = True
        if not suspects:
            view.populated.clear()
            view.missed = missed

    def _confirm(self, at: Slots, frames: U64, settled: npt.NDArray[np.bool_]) -> None:
        line = self._timeline
        same = settled & (line["frame"][at] == frames)
        inherited = same & line["assumed"][at].astype(np.bool_)
        line.confirm_inherited(at[inherited])
        same &= (line["gains"][at] == 1) & (line["first_frame"][at] == frames)
        line["confirmed"][at[same]] = Confirmed.BOTH

    def _book_gains(
        self,
        space: int,
        view: SpaceView,
        shot: Snapshot,
        at: Slots,
        new: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.uint32],
        suspects: dict[int, int],
        first: bool,
    ) -> None:
        """Pages present that no record brought."""
        index = np.flatnonzero(new)
        if not len(index):
            return
        if not first:
            index = self._known(view, shot.pages, shot.frames, index, suspects)
        source = self._sources(view, shot.pages[index], first)
        self._timeline.gain_seen(
            at[index], shot.after_ns, shot.frames[index], source, regions[index]
        )

    def _sources(self, view: SpaceView, pages: U64, first: bool) -> npt.NDArray[np.uint8]:
        if first and view.born == Source.INITIAL:
            return np.full(len(pages), Source.INITIAL, np.uint8)
        rest = Source.MISSED if self._missed else Source.UNKNOWN
        if first and view.born == Source.EXEC:
            rest = Source.EXEC
        elif self._moved("swapoff"):
            rest = Source.SWAPOFF
        source = np.full(len(pages), rest, np.uint8)
        for start, end in view.populated:
            inside = (pages >= np.uint64(start >> 12)) & (pages < np.uint64((end + 4095) >> 12))
            source[inside] = Source.POPULATE
        return source

    def _book_moves(
        self,
        view: SpaceView,
        shot: Snapshot,
        at: Slots,
        moved: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.uint32],
        suspects: dict[int, int],
    ) -> None:
        """Pages present in another frame than the one we know."""
        line = self._timeline
        index = np.flatnonzero(moved)
        guessed = line["assumed"][at[index]].astype(np.bool_)
        line.forget(at[index[guessed]])
        index = self._known(view, shot.pages, shot.frames, index[~guessed], suspects)
        if not len(index):
            return
        source = self._mover()
        if source is None:
            by_fault = np.isin(line["source"][at[index]], _BY_FAULT)
            self.conflicts += int(by_fault.sum())
        line.lose_seen(at[index], shot.after_ns, Loss.REPLACED)
        line.gain_seen(
            at[index],
            shot.after_ns,
            shot.frames[index],
            np.full(len(index), source or Source.UNKNOWN, np.uint8),
            regions[index],
        )

    def _mover(self) -> Source | None:
        """Who may have given pages another frame since tracing began, by the kernel's counters."""
        if self._moved("collapse"):
            return Source.COLLAPSE
        if self._moved("ksm"):
            return Source.KSM
        if self._moved("migrate"):
            return Source.MIGRATE
        return Source.MISSED if self._missed else None

    def _moved(self, what: str) -> bool:
        return movement_counters().get(what, 0) > self._counters.get(what, 0)

    def _book_losses(
        self, space: int, view: SpaceView, shot: Snapshot, suspects: dict[int, int]
    ) -> None:
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
        known = self._known(view, pages, nowhere, np.arange(len(pages)), suspects)
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
        self,
        view: SpaceView,
        pages: U64,
        frames: U64,
        index: npt.NDArray[np.intp],
        suspects: dict[int, int],
    ) -> npt.NDArray[np.intp]:
        """Those of `index` that looked the same last time; the others become suspects."""
        keep = np.zeros(len(index), np.bool_)
        chosen = zip(pages[index].tolist(), frames[index].tolist(), strict=True)
        for number, (page, frame) in enumerate(chosen):
            if view.suspects.get(page) == frame:
                keep[number] = True
            else:
                suspects[page] = frame
        return index[keep]
