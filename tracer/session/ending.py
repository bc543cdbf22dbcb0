"""When a trace ends, and how much time what follows may use."""

import time

from tracer.common.deadline import Drain
from tracer.session.plan import Outputs, Plan
from tracer.session.poller import Poller
from tracer.wire.ring import SpillingRing

_CYCLE_S = 0.05  # lines are at most 0.2 s late


class Ending:
    """Whether a trace is to end, and whether the time for what follows is used up."""

    def __init__(self, plan: Plan, outputs: Outputs, ring: SpillingRing) -> None:
        self._plan, self._outputs, self._ring = plan, outputs, ring
        self.drain = Drain(plan.drain_s)
        self.looping = False  # from the first snapshot to the last
        self.started_ns = 0
        self._poller: Poller | None = None  # while it loops

    def watch(self, poller: Poller | None) -> None:
        """Poll this for the end of the targets; None: no longer."""
        self._poller = poller
        self.looping = poller is not None

    def over(self) -> bool:
        """Whether the trace is to end: then what is under way is cut short."""
        if self.looping and (self.time_left() <= 0 or self._nobody_left()):
            self.drain.begin()
        return self.looping and self.drain.begun

    def _nobody_left(self) -> bool:
        """Whether the command, or every process named by --pid, has ended."""
        if self._poller is None:
            return False
        self._poller.wait(0)
        return self.ended(self._poller)

    def time_left(self) -> float:
        if self._plan.duration_s is None:
            return _CYCLE_S
        return self._plan.duration_s - self._elapsed_s()

    def _elapsed_s(self) -> float:
        return (time.monotonic_ns() - self.started_ns) / 1e9

    def ended(self, poller: Poller) -> bool:
        if self._plan.command is not None:
            return self._plan.command.poll() is not None
        return not poller.living()

    def late(self) -> bool:
        """Whether the time for the end is used up; shows meanwhile how many records are left."""
        meanwhile = self._outputs.meanwhile
        if meanwhile is not None and self.drain.begun and not self.looping:
            meanwhile.show(self._ring.pending())
        return self.drain.over()

    def over_or_late(self) -> bool:
        return self.over() or self.late()

    def say_nothing(self) -> None:
        if self._outputs.meanwhile is not None:
            self._outputs.meanwhile.erase()
