"""One trace from start to end: the start, the loop and its snapshots, the end.

Decides when things happen. What records mean is the recorder's part (recorder.py), what comes after
the end shutdown.py's.
"""

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tracer.accounting.totals import Totals
from tracer.model.rows import Names
from tracer.probes.choose import Attached
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.procfs.priority import preferred
from tracer.session.delivery import Delivery
from tracer.session.ending import Ending
from tracer.session.held_memory import HeldMemory
from tracer.session.parts import open_parts
from tracer.session.plan import Outputs, Plan, Result, Screen
from tracer.session.poller import Poller
from tracer.session.reading import Reading
from tracer.session.recorder import Recorder
from tracer.session.shutdown import Shutdown
from tracer.session.snapshot_rounds import SnapshotRounds
from tracer.target.jvm import JvmPerfMaps
from tracer.timeline.tally import Watcher

if TYPE_CHECKING:
    from tracer.callstacks.naming import Naming
    from tracer.callstacks.stacks import Stacks

_CYCLE_S = 0.05  # lines are at most 0.2 s late
_FORK_S = 0.002  # how long a FORK record may take
_ANSWERED_S = 0.01  # unwind rules are waited for so long while there is nothing else to do
_CHAIN_S = 0.004  # after an exec, how often to check for another
_CHAIN_NS = 500_000_000  # and for how long
_MOST_ARCHIVED = 4096  # rows of pages without a frame, where not all are requested


class Session:
    """Runs one `Plan` on an attached probe. `run` may be called once."""

    def __init__(self, attached: Attached, plan: Plan, outputs: Outputs | None = None) -> None:
        self.plan = plan
        self.names = Names(fold=not plan.every_page)
        self.outputs = outputs = outputs or Outputs()
        self._attached = attached
        self.naming = naming = _naming(plan, self.names)
        self.parts = open_parts(
            attached,
            self.names,
            most_archived=None if plan.every_page else _MOST_ARCHIVED,
            symbols=plan.symbols,
            code=naming.files if naming is not None else None,
            stacks=naming.stacks_of if naming is not None and plan.stacks else None,
        )
        self._notes: list[str] = []
        self._recorder = recorder = Recorder(self.parts)
        self._totals = Totals(attached.program, blind=self.parts.blind_to_others)
        self._preferred = contextlib.ExitStack()
        self._ending = ending = Ending(plan, outputs, self.parts.ring)
        self._delivery = delivery = Delivery(plan, outputs, self.names, ending, self._notes)
        self._held = HeldMemory(plan, attached.program)
        self._reading = reading = Reading(
            plan, outputs, recorder, delivery, ending, self._held, self.naming
        )
        self._snapshots = SnapshotRounds(plan, outputs, recorder, reading, delivery, ending)
        self._jvms = JvmPerfMaps(plan.jcmd) if plan.jcmd else None
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @property
    def stacks(self) -> "Stacks | None":
        """The call stacks seen so far, where requested."""
        return self.parts.join.stacks

    def watch(self, screen: Screen, watcher: Watcher) -> None:
        """Show the trace on a screen, whose watcher gets every page; before `run`."""
        self.outputs.screen = screen
        self.parts.timeline.watch(watcher)

    @property
    def ending(self) -> bool:
        """Whether the trace is to end, for any reason."""
        return self._ending.drain.begun

    @property
    def at_once(self) -> bool:
        """Whether what is left is not read, and what takes long is left out."""
        return self._ending.drain.hurried

    def stop(self) -> None:
        """End the trace at the next cycle; safe in a signal handler."""
        self._ending.drain.begin()
        if self._woken >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._woken, b"!")

    def hurry(self) -> None:
        """End it without reading what is left; safe in a signal handler.

        Raises Enough in what is `breakable` at that time.
        """
        self.stop()
        self._ending.drain.hurry()

    def learn(self) -> None:
        """Learn unwind rules, where that is due: copies of stacks wait for whatever takes long."""
        if self.parts.learner is not None:
            self.parts.learner.tend()

    def close_naming(self) -> None:
        """Store unwind rules for later runs, and end the process that reads files; the last."""
        if self.naming is not None:
            if self.parts.learner is not None:
                self.naming.store(self.parts.learner.files, lambda: self.at_once)
            self.naming.close()

    def breakable(self) -> contextlib.AbstractContextManager[None]:
        """Context in which Enough is raised where the trace is to end at once."""
        return self._ending.drain.breakable()

    def run(self, started: Callable[[], None] = lambda: None) -> Result:
        """Trace until the targets end, the duration is over, or `stop`.

        `started` is called once tracing is on, after the first snapshot of processes that
        run already, before a command begins.
        """
        attached, plan = self._attached, self.plan
        start, end = plan.range or (0, 0)
        attached.program.set_filters(start, end, plan.min_latency_ns)
        self._ending.started_ns = time.monotonic_ns()
        try:
            self._begin(started)
            self._loop()
            self._finish_jvms()
            return self._shutdown().finish()
        finally:
            if self._jvms is not None:
                self._jvms.close()
            self._preferred.close()
            self._ending.say_nothing()
            attached.program.reset_targets()
            self.parts.close()
            woken, self._woken = self._woken, -1  # a signal may still come
            os.close(self._wake)
            os.close(woken)

    # -- the beginning --------------------------------------------------------------

    def _begin(self, started: Callable[[], None]) -> None:
        plan, parts = self.plan, self.parts
        if self.naming is not None:
            self.naming.prepare()
            self.naming.watch([*plan.pids, *([plan.command.pid] if plan.command else [])])
            if parts.learner is not None:
                self._preferred.enter_context(preferred(self._ours))
                self.naming.lookup.meanwhile = parts.learner.tend
                if plan.rules is not None:
                    self.naming.begin_with_stored(plan.rules, parts.learner.files)
        for pid in dict.fromkeys(plan.pids):
            self._attach(pid)
        known = {*plan.pids, os.getpid()}  # the tracer, too, is a shell's child
        known |= self.naming.pids if self.naming is not None else set()
        while plan.children and (found := self._children(known)):
            for pid in found:
                with contextlib.suppress(ProcessGone):  # a child may end at any time
                    self._attach(pid)
            known.update(found)
        if plan.command is not None:
            self._recorder.life.expect(plan.command.pid, children=plan.children)
        if plan.pids:
            self._snapshots.run()
            if self._snapshots.count:  # else it is not known what was there
                parts.resident.begin(self._recorder.comparison.frames, time.monotonic_ns())
        else:
            parts.resident.begin(list, time.monotonic_ns())  # the command has no memory yet
        started()
        if plan.command is not None:
            plan.command.start(at_exec=self._snapshot_at_exec)
            self._reading.cycle()

    def _snapshot_at_exec(self) -> None:
        """Take a snapshot of what exec itself mapped, before the first instruction."""
        self._held.at_exec()
        self._reading.cycle()
        if self.parts.learner is not None:
            self.parts.learner.prepare()
        self._snapshots.run()

    def _ours(self) -> list[int]:
        """Our own processes."""
        return [os.getpid(), *(self.naming.pids if self.naming is not None else ())]

    def _attach(self, pid: int) -> None:
        """Trace a running process, and the children it makes. Raises ProcessGone."""
        add = partial(self._recorder.life.attach, pid, children=self.plan.children)
        self._totals.attach(pid, add)

    def _children(self, known: set[int]) -> list[int]:
        """Descendants of the named targets, forked before their parents were targets."""
        listed: list[int] = []
        for pid in self.plan.pids:
            with contextlib.suppress(ProcessGone):
                listed += [child for child in stat.children(pid) if child not in known]
        if listed:
            # /proc shows a child a moment before the fork is recorded.
            time.sleep(_FORK_S)
        targets = set(self._attached.program.targets())
        return [pid for pid in dict.fromkeys(listed) if pid not in targets]

    # -- the loop -------------------------------------------------------------------

    def _loop(self) -> None:
        screen = self.outputs.screen
        with Poller(self.plan, self._wake, screen.fds if screen is not None else ()) as poller:
            self._ending.watch(poller)
            learner = self.parts.learner
            if learner is not None:
                poller.serve(learner.fd, partial(learner.turn, _ANSWERED_S))
            while not self._ending.over():
                self._rest(poller)
                # Too many waiting rows are not to be joined by all that the ring holds.
                self._reading.cycle(lambda: self._ending.over() or self._delivery.crowded())
                self._ask_jvms()
                if self._ending.ended(poller):
                    return
                if self._snapshots.needed():
                    self._snapshots.run()

    def _ask_jvms(self) -> None:
        if self._jvms is not None:
            each = (space.members for space in self.parts.spaces.alive())
            self._jvms.turn(pid for members in each for pid in members)

    def _finish_jvms(self) -> None:
        if self._jvms is not None and not self.at_once:
            self._jvms.finish()
            self._notes += self._jvms.notes()

    def _rest(self, poller: Poller) -> None:
        """Wait for what there is to do next.

        One exec is often followed by another (env(1), sh -c), and the program may be short.
        """
        idle = 0.0 if self._delivery.crowded() else min(_CYCLE_S, self._ending.time_left())
        began, held = time.monotonic_ns(), self._held
        while began < held.exec_ns + _CHAIN_NS and idle > _CHAIN_S and not held.unheld():
            if poller.wait(_CHAIN_S):
                return
            idle -= _CHAIN_S
        poller.wait(max(0.0, idle) if not held.unheld() else 0.0)

    def _shutdown(self) -> Shutdown:
        return Shutdown(
            self.plan,
            self._recorder,
            self._reading,
            self._snapshots,
            self._delivery,
            self._ending,
            self._held,
            self._totals,
            self.naming,
            self._notes,
        )


def _naming(plan: Plan, names: Names) -> "Naming | None":
    """The symbolizer, where requested: started early, to be ready when needed."""
    if not (plan.symbols or plan.stacks):
        return None
    from tracer.callstacks.naming import Naming

    naming = Naming(names.regions)
    naming.frames.native = plan.native
    naming.start()
    return naming
