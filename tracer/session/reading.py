"""The read cycle: drain the ring, and hand the resulting rows on."""

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.session.delivery import Delivery
from tracer.session.ending import Ending
from tracer.session.held_memory import HeldMemory
from tracer.session.plan import Outputs, Plan
from tracer.session.recorder import Recorder
from tracer.snapshots.resident import Series

if TYPE_CHECKING:
    from tracer.callstacks.naming import Naming

_SETTLE_S = 0.25  # how long the last records may take to arrive
_COUNTS_S = 0.5  # for the threads' counts, where the trace is to end at once


class Reading:
    """Drains the ring again and again, and hands the resulting rows on."""

    def __init__(
        self,
        plan: Plan,
        outputs: Outputs,
        recorder: Recorder,
        delivery: Delivery,
        ending: Ending,
        held: HeldMemory,
        naming: "Naming | None",
    ) -> None:
        self._plan, self._outputs, self._recorder = plan, outputs, recorder
        self._parts, self._delivery, self._ending = recorder.parts, delivery, ending
        self._held, self._naming = held, naming
        self.mapped = Series()

    def cycle(self, enough: Callable[[], bool] | None = None) -> None:
        """Read what the ring holds now, or until `enough`: by default, the end of the trace."""
        if self._recorder.buffers.cpus_changed():
            self._recorder.buffers.tend()
        now, tally = time.monotonic_ns(), self._parts.timeline.ledger.tally
        before = tally.events
        # The state of what ended is freed at once: the ring may hold thousands of processes.
        for rows in self._recorder.cycle(enough or self._ending.over, self._retire):
            if len(rows):
                now = max(now, int(rows["time_ns"][-1]))
            self._delivery.deliver(rows)
            self._held.follow()  # what execs may have ended by the next cycle
            self._show()
            self._delivery.make_room()
        self._show()
        if self._naming is not None:
            self._naming.again()
            if self._ending.looping:
                self._delivery.log_named()
        self._retire()
        if tally.events != before:
            self.mapped.add(now, tally.mapped)
        self._held.follow()

    def _show(self) -> None:
        if self._outputs.screen is not None:
            self._outputs.screen.show(self._recorder)

    def _retire(self) -> None:
        """Retire the spaces that ended, but for the command's, which gets a last snapshot."""
        command, life = self._plan.command, self._recorder.life
        life.retire(self._parts.last_space.get(command.pid) if command is not None else None)

    def read_or_skip(self) -> None:
        """Read what the ring holds; where there is no time for it, its counts alone."""
        self.cycle(self._ending.late)
        if self._ending.drain.over():
            self._recorder.skipping.skip()
            self._retire()

    def settle(self, counts: dict[int, int]) -> None:
        """Read all there is, and wait for the records of faults that are in `counts`.

        Where there is no time for it, the rest is only counted.
        """
        threads, ring = self._parts.threads, self._parts.ring
        deadline = time.monotonic() + _SETTLE_S
        while True:
            self.read_or_skip()
            if self._ending.drain.over() and not ring.pending():
                break
            late = [tid for tid in counts if tid in threads.live]
            if all(threads.live[tid].last >= counts[tid] for tid in late):
                break
            if time.monotonic() > deadline and (self._ending.drain.over() or not ring.pending()):
                break
            time.sleep(0.005)
        self.reach(counts)

    def reach(self, counts: dict[int, int]) -> None:
        for tid, count in counts.items():
            self._parts.threads.reach(tid, count)

    def counts(self) -> dict[int, int]:
        """The kernel's count now, of each living thread.

        Where the trace is to end at once, of as many as there is time for.
        """
        counts: dict[int, int] = {}
        self._recorder.life.meet_threads()
        deadline = None
        for tid, thread in self._parts.threads.live.items():
            if thread.ended:
                continue
            if self._ending.drain.hurried:
                deadline = deadline or time.monotonic() + _COUNTS_S
                if time.monotonic() > deadline:
                    break
            with contextlib.suppress(ProcessGone):
                counts[tid] = stat.fault_count(thread.tgid, tid)
        return counts
