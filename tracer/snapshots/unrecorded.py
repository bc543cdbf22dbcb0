"""What happened that no record tells of, as far as the kernel's counts say."""

from typing import NamedTuple

from tracer.model.sources import Source


class Unrecorded(NamedTuple):
    """What no record tells of, from the run's beginning until some moment."""

    own: int = 0  # faults counted for the threads of the processes whose memory it is
    missed: int = 0  # faults of the run that no filter left out, the lost ones among them
    filtered: int = 0  # … and those that one did
    lost: int = 0  # faults of the run that the ring had no room for
    dropped: int = 0  # other records of the run, and calls of handlers that the kernel skipped

    def unseen(self, before: "Unrecorded") -> Source | None:
        """Whether faults in the memory went unrecorded since `before`, and why."""
        if self.own <= before.own:
            return None
        filters = self.filtered > before.filtered and self.missed <= before.missed
        return Source.FILTERED if filters else Source.MISSED
