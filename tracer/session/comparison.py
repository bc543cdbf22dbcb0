"""Snapshots compared with the timeline: of the right space, with unrecorded faults known."""

from collections.abc import Callable, Iterator

from tracer.common.types import U64
from tracer.session.gaps import Gaps
from tracer.session.parts import Parts
from tracer.snapshots.snapshots import Snapshot
from tracer.snapshots.unrecorded import Unrecorded


class Comparison:
    """Snapshots against the timeline; the ring must have been read to a snapshot's end."""

    def __init__(self, parts: Parts, gaps: Gaps) -> None:
        self._parts, self._gaps = parts, gaps

    def is_of(self, shot: Snapshot, number: int) -> bool:
        """Whether the process was in that space all along, and its exec over.

        After an exec it showed another; during one, pages that exec may still move. The ring
        must have been read to the snapshot's end.
        """
        space = self._parts.spaces.find(number)
        if space is None or space.ended_ns is not None or shot.pid not in space.members:
            return False
        if shot.before_ns < space.built_ns:
            return False
        # The record of that may have been dropped.
        return not space.building or self._parts.attached.program.counters()["lost_other"] > 0

    def observe(
        self,
        space: int,
        shot: Snapshot,
        unrecorded: Unrecorded,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compare a snapshot with the timeline; the ring must have been read to its end.

        `unrecorded`: from `Gaps.unrecorded`, called since. Raises Enough once `enough` returns
        true: then no snapshot of the space may follow.
        """
        owner = self._parts.spaces[space]
        shot.mappings = self._parts.spaces.settled(shot.pid, shot.mappings)
        if owner.ended_ns is None:
            self._parts.spaces.snapshot(shot.before_ns, shot.pid, shot.mappings)
            owner.history.advance(shot.before_ns)
        self._parts.reconciler.observe(
            space,
            shot,
            lambda pages: shot.regions(self._parts.names, pages, owner.history.arrays),
            unrecorded._replace(own=self._gaps.missed_in(owner)),
            enough,
        )

    def frames(self) -> Iterator[U64]:
        """The frames of every space that has not ended, each as of its last snapshot."""
        for space in self._parts.spaces.all():
            if not space.retired:
                yield from self._parts.reconciler.frames(space.number)
