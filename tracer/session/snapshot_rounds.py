"""When snapshots are taken, and of which spaces: for at most a tenth of the time."""

import contextlib
import time
from collections.abc import Callable, Iterable

from tracer.common.deadline import Enough
from tracer.procfs.errors import ProcessGone
from tracer.session.delivery import Delivery
from tracer.session.ending import Ending
from tracer.session.plan import Outputs, Plan
from tracer.session.reading import Reading
from tracer.session.recorder import Recorder
from tracer.snapshots.snapshots import Snapshot, take_snapshot
from tracer.snapshots.unrecorded import Unrecorded

_SNAPSHOT_SHARE = 10  # a snapshot may take a tenth of the time at most


class SnapshotRounds:
    """Snapshots of the spaces in which something happened, compared with the timeline."""

    def __init__(
        self,
        plan: Plan,
        outputs: Outputs,
        recorder: Recorder,
        reading: Reading,
        delivery: Delivery,
        ending: Ending,
    ) -> None:
        self._plan, self._outputs, self._recorder = plan, outputs, recorder
        self._parts, self._gaps, self._reading = recorder.parts, recorder.gaps, reading
        self._comparison = recorder.comparison
        self._delivery, self._ending = delivery, ending
        self.count = 0
        self._due_ns = 0

    def needed(self) -> bool:
        """Whether a round of snapshots is needed and due."""
        if not self._parts.changed and not len(self._delivery.pending):
            return False
        return time.monotonic_ns() >= self._due_ns or self._delivery.crowded()

    def run(self) -> None:
        """Take a snapshot of every space that has changed; write the rows it confirms.

        A round ends early where the trace is to end: the last snapshots follow.
        """
        with contextlib.suppress(Enough):
            self._run()

    def _run(self) -> None:
        began = time.monotonic_ns()
        if any(self._parts.reconciler.view(number).suspects for number in self._parts.changed):
            # Changes without a record by now may have been missed: the threads' counts show.
            self._reading.reach(self._reading.counts())
        shots = self.snapshots_of(self._parts.changed, self._ending.over_or_late)
        read = time.monotonic_ns()
        self._reading.cycle()  # everything that happened before the snapshots' end
        began += time.monotonic_ns() - read  # that time is not the snapshots'
        if self._ending.over():
            return  # not all of it: the last snapshots follow
        now = time.monotonic_ns()
        shots = self.observe_all(shots)
        self._reading.mapped.add(now, self._parts.timeline.ledger.tally.mapped)
        self._parts.resident.count(self._comparison.frames, now)
        for number in list(self._parts.changed):
            shot = shots.get(number)
            # Suspects and later changes need another snapshot.
            open_ = bool(self._parts.reconciler.view(number).suspects)
            late = shot is not None and self._parts.timeline.ledger.changed_since(
                number, shot.before_ns
            )
            if shot is None or not (open_ or late):
                self._parts.changed.discard(number)
        self._delivery.release(shots)
        for number, shot in shots.items():
            self._parts.timeline.ledger.tidy(number, shot.before_ns)
        self._recorder.buffers.tend()
        took = time.monotonic_ns() - began
        pause = max(self._plan.snapshot_interval_ms * 1_000_000, took * _SNAPSHOT_SHARE)
        self._due_ns = time.monotonic_ns() + pause

    def snapshots_of(
        self, numbers: Iterable[int], enough: Callable[[], bool]
    ) -> dict[int, Snapshot]:
        """Return snapshots of these spaces. Raises Enough once `enough` returns true."""
        unrecorded = self._gaps.unrecorded()
        shots = {number: self._snapshot(number, unrecorded, enough) for number in sorted(numbers)}
        return {number: shot for number, shot in shots.items() if shot is not None}

    def observe_all(self, shots: dict[int, Snapshot]) -> dict[int, Snapshot]:
        """Compare snapshots with the timeline, once the ring has been read to their end.

        Returns those that were of the space they were meant for. Raises Enough where there
        is no time for it.
        """
        shots = {
            number: shot for number, shot in shots.items() if self._comparison.is_of(shot, number)
        }
        unrecorded = self._gaps.unrecorded()
        for number, shot in shots.items():
            self.observe_one(number, shot, unrecorded)
        self.count += bool(shots)
        return shots

    def observe_one(self, number: int, shot: Snapshot, unrecorded: Unrecorded) -> None:
        """Compare one space's snapshot with the timeline; update a screen."""
        self._comparison.observe(number, shot, unrecorded, self._ending.late)
        if self._outputs.screen is not None:
            self._outputs.screen.snapshot_taken(self._recorder, number, shot)

    def observe_last(self, number: int, shot: Snapshot) -> None:
        """Compare a snapshot of memory that no longer changes: suspects are certain."""
        unrecorded = self._gaps.unrecorded()
        self._comparison.observe(number, shot, unrecorded, self._ending.late)
        self.observe_one(number, shot, unrecorded)
        self.count += 1

    def _snapshot(
        self, number: int, unrecorded: Unrecorded, enough: Callable[[], bool]
    ) -> Snapshot | None:
        space = self._parts.spaces.find(number)
        if space is None or space.ended_ns is not None or not space.members:
            return None
        unrecorded = unrecorded._replace(own=self._gaps.missed_in(space))
        for pid in sorted(space.members):
            with contextlib.suppress(ProcessGone):
                shot = take_snapshot(pid, self._parts.reconciler.last_seen(number), enough)
                shot.unrecorded = unrecorded
                return shot
        return None
