"""Faults without a record: missed, dropped, filtered out, or not read."""

from dataclasses import dataclass

from tracer.session.parts import Parts
from tracer.snapshots.unrecorded import Unrecorded
from tracer.spaces.spaces import Space


@dataclass
class Unread:
    """Records that were only counted, since there was no time for more."""

    faults: int = 0  # counted by the kernel
    failed: int = 0  # faults that it does not count
    foreign: int = 0  # likewise: of threads that are no targets
    other: int = 0  # calls, windows, stacks, lifecycle records


class Gaps:
    """Faults that the kernel counted and no record has."""

    def __init__(self, parts: Parts) -> None:
        self._attached = parts.attached
        self._threads = parts.threads
        self.unread = Unread()

    def missed(self) -> int:
        """Faults the kernel counted for the targets that are in no record and no counter."""
        return self._missed(self._attached.program.counters())

    def _missed(self, counters: dict[str, int]) -> int:
        gaps = self._threads.counted - self._threads.seen
        return gaps - counters["lost"] - counters["filtered"]

    def unrecorded(self) -> Unrecorded:
        """What the run has no record of so far, in any address space."""
        program = self._attached.program
        counters = program.counters()
        lost = counters["lost"] + self.unread.faults
        return Unrecorded(
            missed=max(0, self._missed(counters)) + lost,
            filtered=counters["filtered"],
            lost=lost,
            dropped=counters["lost_other"] + self.unread.other + program.skipped_calls(),
        )

    def missed_in(self, space: Space) -> int:
        """Faults without a record of the processes in this space, or of the last one there.

        Those not read may be of any process.
        """
        members = space.members or {space.owner}
        return sum(self._threads.missed_by(tgid) for tgid in members) + self.unread.faults

    def dropped_lives(self) -> int:
        """How many records were dropped, EXIT and FREE among them, or had no handler run."""
        program = self._attached.program
        return program.counters()["lost_other"] + program.missed_lifecycle_events()
