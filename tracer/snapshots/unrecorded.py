"""Faults and other events without a record, by the kernel's counts."""

from typing import NamedTuple

from tracer.model.sources import Source


class Unrecorded(NamedTuple):
    """Counts of what has no record, from the run's beginning to some moment."""

    own: int = 0  # faults counted for the threads of the processes in the space
    missed: int = 0  # faults of the run not filtered out, the dropped ones among them
    filtered: int = 0  # … and those filtered out
    lost: int = 0  # faults of the run dropped from the ring
    dropped: int = 0  # other records of the run, and handler calls the kernel skipped

    def source(self, before: "Unrecorded") -> Source | None:
        """Why faults in the memory went unrecorded since `before`; None if none did."""
        if self.own <= before.own:
            return None
        filters = self.filtered > before.filtered and self.missed <= before.missed
        return Source.FILTERED if filters else Source.MISSED
