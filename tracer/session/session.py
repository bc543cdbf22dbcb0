"""One trace from start to end: the loop that drives recorder, snapshots and outputs.

Owns when things happen: the start, the cycle, snapshots and the rows that wait
for one, the end, signals. What they mean is the recorder's business.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tracer.accounting.totals import Totals
from tracer.common.deadline import DRAIN_S, Drain, Enough, Stalled
from tracer.common.errors import TraceError
from tracer.model.result import Books, PageTable
from tracer.model.rows import ROW, Names, Rows
from tracer.outputs.base import Output
from tracer.outputs.filters import Picks
from tracer.probes.choose import Attached
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.procfs.pagemap import PageMap
from tracer.session.pending_rows import Waiting
from tracer.session.recorder import Recorder
from tracer.session.result import books_of, take_pages
from tracer.snapshots.resident import Series
from tracer.snapshots.snapshots import Snapshot, take, take_pinned
from tracer.snapshots.unrecorded import Untold
from tracer.target.command import NOT_ASKED_FOR, Command
from tracer.timeline.timeline import Watcher

if TYPE_CHECKING:
    from tracer.callstacks.naming import Naming
    from tracer.callstacks.stacks import Stacks

_CYCLE_S = 0.05  # lines are at most 0.2 s late
_FORK_S = 0.002  # how long a fork may take to be told
_CHAIN_S = 0.004  # after an exec, how often to ask whether another has come
_CHAIN_NS = 500_000_000  # and for how long
_MOST_WAITING = 1 << 17  # rows kept for a snapshot; then one is taken early
_SNAPSHOT_SHARE = 10  # a snapshot may take a tenth of the time at most
_MOST_SHELVED = 4096  # rows of pages without a frame, where nobody asked for all
_SETTLE_S = 0.25  # how long the last records may take to arrive
_MOST_WAITING_AT_END = 1 << 19  # then they are written without one
_NO_ROWS = Rows.from_records(np.empty(0, ROW))
_COUNTS_S = 0.5  # for the threads' counts, where the trace is to end at once
PAGES_LEFT_OUT = "the table of pages was left out: the trace was to end at once"


@dataclass
class Plan:
    """What to trace and how."""

    pids: list[int] = field(default_factory=list)
    command: Command | None = None
    children: bool = True
    duration_s: float | None = None
    drain_s: float = DRAIN_S  # processor time that what is left at the end may take
    snapshot_interval_ms: int = 1000
    range: tuple[int, int] | None = None
    min_latency_ns: int = 0
    symbols: bool = False
    stacks: bool = False
    picks: Picks = field(default_factory=Picks)
    every_page: bool = True  # keep a row of each page that ever had a frame, not of the first few


class Screen(Protocol):
    """A picture of the trace while it runs."""

    @property
    def fds(self) -> Sequence[int]:
        """What wakes the trace when it can be read: a keyboard."""

    def show(self, recorder: Recorder) -> None:
        """The ring has just been read: there may be time for a picture."""

    def looked(self, recorder: Recorder, space: int, shot: Snapshot) -> None:
        """A snapshot of a space was taken."""


class Meanwhile(Protocol):
    """A line that says how much is left, once the trace is to end."""

    def show(self, records: int) -> None:
        """So many records have not been read; called often."""

    def erase(self) -> None:
        """Something else is to be printed."""


@dataclass
class Outputs:
    """Where rows go: `live` at once, as picked; `log` all, once a snapshot could confirm them.

    `count` gets all at once. `failed` hears of an output that takes no more, and then gets
    nothing; without it the trace breaks off. `screen` sees what the recorder has come to know,
    `meanwhile` what is left of it at the end.
    """

    live: list[Output] = field(default_factory=list)
    log: list[Output] = field(default_factory=list)
    count: list[Output] = field(default_factory=list)
    failed: Callable[[Output, TraceError], None] | None = None
    screen: Screen | None = None
    meanwhile: Meanwhile | None = None


@dataclass
class Result:
    """What a trace comes to."""

    books: Books
    # By space and address, in several tables; None: more than could be kept, or no time: a note
    # says which.
    pages: list[PageTable] | None
    started_ns: int
    ended_ns: int
    snapshots: int
    exit_status: int | None  # of the command; None while it runs, and without one
    notes: list[str]
    stdout_closed: bool  # the reader of the lines went away
    stalled: bool  # the reader of an output took nothing, and lacks what a note says
    mapped: list[tuple[int, int]]  # CLOCK_MONOTONIC, pages with a frame in each space
    resident: list[tuple[int, int]]  # CLOCK_MONOTONIC, distinct frames


class Session:
    """Runs one `Plan` on an attached probe. `run` may be called once."""

    def __init__(self, attached: Attached, plan: Plan, outputs: Outputs | None = None) -> None:
        self.plan = plan
        self.names = Names(fold=not plan.every_page)
        self.outputs = outputs or Outputs()
        self._attached = attached
        self._recorder = Recorder(attached, self.names)
        self._totals = Totals(attached.program, blind=attached.probe.name == "perf")
        self._recorder.join.symbols = plan.symbols
        self._recorder.timeline.shelf.most = None if plan.every_page else _MOST_SHELVED
        # Of `symbols` and `stacks`.
        self.naming = self._name_code() if plan.symbols or plan.stacks else None
        self._waiting = Waiting()
        self._snapshots = 0
        self._snapshot_due_ns = 0
        self._drain = Drain(plan.drain_s)
        self._stdout_closed = False
        self._stalled = False
        # The command's memory, each a struct mm_struct *: what its pin is known to hold, if
        # anything, and what was last to be held.
        self._held = self._wanted = 0
        self._exec_ns = 0  # when its last exec was noticed
        self._started_ns = 0
        self._looping = False  # from the first look to the last
        self._poller: _Poller | None = None  # meanwhile
        self._notes: list[str] = []
        self._mapped = Series()
        self._looked_last = False  # there was time for the last look
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def _name_code(self) -> "Naming":
        from tracer.callstacks.naming import Naming
        from tracer.callstacks.stacks import Stacks

        regions = self.names.regions
        naming = Naming(regions)
        naming.start()
        self._recorder.spaces.code = naming.files
        if self.plan.stacks:
            names = naming.frames
            naming.stacks = self._recorder.join.stacks = Stacks(
                self._recorder.spaces, regions, names.kernel_names, names, names.found
            )
        return naming

    @property
    def stacks(self) -> "Stacks | None":
        """The call stacks seen so far, where they are wanted."""
        return self._recorder.join.stacks

    def watch(self, screen: Screen, watcher: Watcher) -> None:
        """Let a screen show the trace, and its watcher hear of every page; before `run`."""
        self.outputs.screen = screen
        self._recorder.timeline.watcher = watcher

    @property
    def ending(self) -> bool:
        """Whether the trace is to end, for whatever reason."""
        return self._drain.begun

    @property
    def at_once(self) -> bool:
        """Whether what is left is not read, and what takes long is left out."""
        return self._drain.hurried

    def stop(self) -> None:
        """End the trace at the next cycle; safe in a signal handler."""
        self._drain.begin()
        if self._woken >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._woken, b"!")

    def hurry(self) -> None:
        """End it without reading what is left; safe in a signal handler.

        Raises Enough where that comes while something `breakable` is done.
        """
        self.stop()
        self._drain.hurry()

    def breakable(self) -> contextlib.AbstractContextManager[None]:
        """What is done inside raises Enough where the trace is to end at once."""
        return self._drain.breakable()

    def run(self, started: Callable[[], None] = lambda: None) -> Result:
        """Trace until the targets end, the duration is over, or `stop`.

        `started` is called once tracing is on, after the first snapshot of processes that
        run already, before a command begins.
        """
        attached, plan = self._attached, self.plan
        start, end = plan.range or (0, 0)
        attached.program.set_filters(start, end, plan.min_latency_ns)
        self._started_ns = time.monotonic_ns()
        try:
            self._begin(started)
            self._loop()
            return self._finish()
        finally:
            self._say_nothing()
            attached.program.reset_targets()
            self._recorder.close()
            woken, self._woken = self._woken, -1  # a signal may come still
            os.close(self._wake)
            os.close(woken)

    # -- the beginning --------------------------------------------------------------

    def _begin(self, started: Callable[[], None]) -> None:
        plan, recorder = self.plan, self._recorder
        if self.naming is not None:
            self.naming.prepare()
        for pid in dict.fromkeys(plan.pids):
            self._attach(pid)
        known = {*plan.pids, os.getpid()}  # a shell's child is the tracer, too
        known |= self.naming.pids if self.naming is not None else set()
        while plan.children and (found := self._children(known)):
            for pid in found:
                with contextlib.suppress(ProcessGone):  # a child may end when it likes
                    self._attach(pid)
            known.update(found)
        if plan.command is not None:
            recorder.expect(plan.command.pid, children=plan.children)
        if plan.pids:
            self._look()
            if self._snapshots:  # else nobody knows what was there
                recorder.resident.begin(recorder.frames, time.monotonic_ns())
        else:
            recorder.resident.begin(list, time.monotonic_ns())  # the command has no memory yet
        started()
        if plan.command is not None:
            plan.command.start(at_exec=self._look_at_exec)
            self._cycle()

    def _look_at_exec(self) -> None:
        """What exec itself put into the new memory, seen before the first instruction."""
        command = self.plan.command
        self._wanted, self._exec_ns = self._attached.program.command_memory(), time.monotonic_ns()
        if command is not None and command.pin is not None:
            self._hold(self._wanted)
        self._cycle()
        self._look()

    def _hold(self, memory: int) -> None:
        """The command's pin holds this memory (struct mm_struct *); 0: none, or who knows which."""
        self._held = memory
        self._attached.program.set_held(memory)

    def _attach(self, pid: int) -> None:
        """Trace a process that runs already, and the children it makes. Raises ProcessGone."""
        add = partial(self._recorder.attach, pid, children=self.plan.children)
        self._totals.attach(pid, add)

    def _children(self, known: set[int]) -> list[int]:
        """Descendants of the targets named that were made before their parents were targets."""
        listed: list[int] = []
        for pid in self.plan.pids:
            with contextlib.suppress(ProcessGone):
                listed += [child for child in stat.children(pid) if child not in known]
        if listed:
            # /proc shows a child a moment before the kernel tells of the fork.
            time.sleep(_FORK_S)
        told = set(self._attached.program.targets())
        return [pid for pid in dict.fromkeys(listed) if pid not in told]

    # -- the loop -------------------------------------------------------------------

    def _loop(self) -> None:
        self._looping = True
        with _Poller(self) as poller:
            self._poller = poller
            while not self._over():
                self._rest(poller)
                # What waits too long is not to be joined by all that the ring holds.
                self._cycle(lambda: self._over() or self._crowded())
                if self._ended(poller):
                    return
                if self._snapshot_needed():
                    self._look()

    def _rest(self, poller: "_Poller") -> None:
        """Wait for what there is to do next.

        One exec is often followed by another (env(1), sh -c), and the program may be short.
        """
        idle = 0.0 if self._crowded() else min(_CYCLE_S, self._time_left())
        began = time.monotonic_ns()
        while began < self._exec_ns + _CHAIN_NS and idle > _CHAIN_S and not self._unheld():
            if poller.wait(_CHAIN_S):
                return
            idle -= _CHAIN_S
        poller.wait(max(0.0, idle) if not self._unheld() else 0.0)

    def _over(self) -> bool:
        """Whether the trace is to end: then what is under way is broken off."""
        if self._looping and (self._time_left() <= 0 or self._nobody_left()):
            self._drain.begin()
        return self._looping and self._drain.begun

    def _nobody_left(self) -> bool:
        """Whether the command has ended, or all that was named, by now."""
        if self._poller is None:
            return False
        self._poller.wait(0)
        return self._ended(self._poller)

    def _time_left(self) -> float:
        if self.plan.duration_s is None:
            return _CYCLE_S
        return self.plan.duration_s - self._elapsed_s()

    def _elapsed_s(self) -> float:
        return (time.monotonic_ns() - self._started_ns) / 1e9

    def _ended(self, poller: "_Poller") -> bool:
        if self.plan.command is not None:
            return self.plan.command.poll() is not None
        return not poller.living()

    def _cycle(self, enough: Callable[[], bool] | None = None) -> None:
        """Take what the ring holds now, or until it is `enough`: by default, the trace's end."""
        if self._recorder.cpus_changed():
            self._recorder.tend()
        now, tally = time.monotonic_ns(), self._recorder.timeline.tally
        before = tally.events
        # What ended is let go of at once: what the ring holds may be thousands of processes.
        for rows in self._recorder.cycle(enough or self._over, self._retire):
            if len(rows):
                now = max(now, int(rows["time_ns"][-1]))
            self._take(rows)
            self._hold_command()  # what execs may have ended by the next cycle
            self._show()
            if len(self._waiting) > _MOST_WAITING_AT_END:
                self._release({})
        self._show()
        if self.naming is not None:
            self.naming.again()
            if self._looping:
                self._log(_NO_ROWS)  # some may have waited for names
        self._retire()
        if tally.events != before:
            self._mapped.add(now, tally.mapped)
        self._hold_command()

    def _show(self) -> None:
        if self.outputs.screen is not None:
            self.outputs.screen.show(self._recorder)

    def _retire(self) -> None:
        """Let go of the spaces that ended, but for the command's, which is looked at once more."""
        command, recorder = self.plan.command, self._recorder
        recorder.retire(recorder.last_space.get(command.pid) if command is not None else None)

    def _unheld(self) -> bool:
        """Whether the command has memory, by an exec, that nobody has tried to hold yet."""
        if self.plan.command is None or not self.plan.command.started:
            return False
        return self._attached.program.command_memory() != self._wanted

    def _hold_command(self) -> None:
        """Keep the pin on the memory the command has now, after an exec, too."""
        command = self.plan.command
        if command is not None and self._unheld():
            self._repin(command)
        elif command is not None and command.pin is not None:
            command.pin.tend()

    def _repin(self, command: Command) -> None:
        """Hold the memory of an exec; which memory that is, is known unless another came."""
        program = self._attached.program
        self._hold(0)
        self._wanted, self._exec_ns = program.command_memory(), time.monotonic_ns()
        command.repin()
        if command.pin is not None and program.command_memory() == self._wanted:
            self._hold(self._wanted)

    def _take(self, rows: Rows) -> None:
        if not len(rows):
            return
        for output in self.outputs.count:
            output.write(rows, self.names)
        picked = self.plan.picks.choose(rows, self.names)
        self._say_nothing()
        try:
            self._write(self.outputs.live, picked)
        except BrokenPipeError:
            self._reader_gone()
        self._waiting.add(rows)

    def _write(self, outputs: list[Output], rows: Rows) -> None:
        for output in list(outputs):
            try:
                output.write(rows, self.names)
            except Stalled as error:
                outputs.remove(output)
                self._stalled = True
                self._notes.append(
                    f"{error} ends early: its reader took nothing, and the trace was to end at once"
                )
            except TraceError as error:
                if self.outputs.failed is None:
                    raise
                outputs.remove(output)
                self.outputs.failed(output, error)
                if self.plan.command is None:  # which runs on, and so do the other outputs
                    self._drain.begin()

    def _reader_gone(self) -> None:
        """Nobody reads the lines any more: go on only if there is something else to write."""
        self._stdout_closed = True
        self.outputs.live.clear()
        if self.plan.command is None and not self.outputs.log:
            self._drain.begin()

    def _log_reader_gone(self) -> None:
        """Nobody reads the CSV any more; a command runs on, and so do the lines."""
        self.outputs.log.clear()
        if self.plan.command is None:
            self._drain.begin()

    # -- snapshots -------------------------------------------------------------------

    def _snapshot_needed(self) -> bool:
        if not self._recorder.changed and not len(self._waiting):
            return False
        return time.monotonic_ns() >= self._snapshot_due_ns or self._crowded()

    def _crowded(self) -> bool:
        return len(self._waiting) > _MOST_WAITING

    def _look(self) -> None:
        """A snapshot of every space in which something happened, and the rows it can confirm.

        It is broken off where the trace is to end: the last look follows.
        """
        with contextlib.suppress(Enough):
            self._look_at_all()

    def _look_at_all(self) -> None:
        began = time.monotonic_ns()
        recorder = self._recorder
        if any(recorder.observer.view(number).suspects for number in recorder.changed):
            # What has no record by now may have been missed: let the threads' counts tell.
            self._reach(self._counts())
        shots = self._take_shots(recorder.changed, self._over_or_late)
        read = time.monotonic_ns()
        self._cycle()  # everything that happened before the snapshots' end
        began += time.monotonic_ns() - read  # that time is not the snapshots'
        if self._over():
            return  # not all of it: the last look follows
        now = time.monotonic_ns()
        shots = self._observe(shots)
        self._mapped.add(now, recorder.timeline.tally.mapped)
        recorder.resident.count(recorder.frames, now)
        for number in list(recorder.changed):
            shot = shots.get(number)
            # Suspects and later changes want another look.
            open_ = bool(recorder.observer.view(number).suspects)
            late = shot is not None and recorder.timeline.changed_since(number, shot.before_ns)
            if shot is None or not (open_ or late):
                recorder.changed.discard(number)
        self._release(shots)
        for number, shot in shots.items():
            recorder.timeline.tidy(number, shot.before_ns)
        recorder.tend()
        took = time.monotonic_ns() - began
        pause = max(self.plan.snapshot_interval_ms * 1_000_000, took * _SNAPSHOT_SHARE)
        self._snapshot_due_ns = time.monotonic_ns() + pause

    def _take_shots(
        self, numbers: Iterable[int], enough: Callable[[], bool]
    ) -> dict[int, Snapshot]:
        """Snapshots of these spaces. Raises Enough where it is `enough` meanwhile."""
        untold = self._recorder.untold()
        shots = {number: self._snapshot(number, untold, enough) for number in sorted(numbers)}
        return {number: shot for number, shot in shots.items() if shot is not None}

    def _observe(self, shots: dict[int, Snapshot]) -> dict[int, Snapshot]:
        """Hold snapshots against the timeline, once the ring has been read to their end.

        Returns those that were of the space they were meant for. Raises Enough where there
        is no time for it.
        """
        shots = {
            number: shot for number, shot in shots.items() if self._recorder.is_of(shot, number)
        }
        untold = self._recorder.untold()
        for number, shot in shots.items():
            self._observe_one(number, shot, untold)
        self._snapshots += bool(shots)
        return shots

    def _observe_one(self, number: int, shot: Snapshot, untold: Untold) -> None:
        self._recorder.observe(number, shot, untold, self._late)
        if self.outputs.screen is not None:
            self.outputs.screen.looked(self._recorder, number, shot)

    def _snapshot(self, number: int, untold: Untold, enough: Callable[[], bool]) -> Snapshot | None:
        space = self._recorder.spaces.find(number)
        if space is None or space.ended_ns is not None or not space.members:
            return None
        untold = untold._replace(own=self._recorder.missed_in(space))
        for pid in sorted(space.members):
            with contextlib.suppress(ProcessGone):
                shot = take(pid, self._recorder.observer.last_seen(number), enough)
                shot.untold = untold
                return shot
        return None

    def _release(self, shots: dict[int, Snapshot]) -> None:
        """Write the rows that this round of snapshots could decide on."""
        for rows in self._waiting.release(shots):
            self._log(rows)

    def _log(self, rows: Rows) -> None:
        try:
            self._write(self.outputs.log, rows)
        except BrokenPipeError:
            self._log_reader_gone()

    # -- the end -----------------------------------------------------------------------

    def _late(self) -> bool:
        """Whether the end has taken all the time it may; says meanwhile what is left."""
        meanwhile = self.outputs.meanwhile
        if meanwhile is not None and self._drain.begun and not self._looping:
            meanwhile.show(self._recorder.ring.pending())
        return self._drain.over()

    def _over_or_late(self) -> bool:
        return self._over() or self._late()

    def _say_nothing(self) -> None:
        if self.outputs.meanwhile is not None:
            self.outputs.meanwhile.erase()

    def _finish(self) -> Result:
        recorder, command = self._recorder, self.plan.command
        self._drain.begin()
        self._looping, self._poller = False, None
        if self.naming is not None:
            self.naming.again(last=True)
        status = None if command is None else command.poll()
        shots = self._read_the_rest(None if status is None else command)
        if self.naming is not None:
            self.naming.again(last=True)
        kernel = self._totals.settle(self._read_or_skip)
        if command is not None and status is not None:
            self._hold(0)
            command.release_pin()
        ended_ns = time.monotonic_ns()
        self._release(shots)
        self._release({})  # what came after the last look, too
        self._say_nothing()
        self._note_losses()
        self._mapped.add(ended_ns, recorder.timeline.tally.mapped)
        if self._seen_last(status):
            recorder.resident.finish(recorder.frames, ended_ns)
        books = books_of(recorder, self._attached, kernel)
        return Result(
            books=books,
            pages=self._pages(),
            started_ns=self._started_ns,
            ended_ns=ended_ns,
            snapshots=self._snapshots,
            exit_status=status,
            notes=[*recorder.notes, *self._notes],
            stdout_closed=self._stdout_closed,
            stalled=self._stalled,
            mapped=self._mapped.points,
            resident=recorder.resident.series.points,
        )

    def _read_the_rest(self, ended: Command | None) -> dict[int, Snapshot]:
        """What is left in the ring, and the last look at each space; of the command that `ended`.

        As far as there is time: what is not read is counted, what is not looked at stays as
        the records tell. Returns the snapshots that all was held against.
        """
        recorder, program = self._recorder, self._attached.program
        # A child made since the last cycle is to be looked at, too: it has pages without a fault.
        self._cycle(self._late)
        recorder.tend()  # a CPU that was gone is why faults were missed
        # Looked at while faults are still recorded, twice: what no record explains in
        # both was not on its way. Then the target may run on; what is in the ring is all.
        alive = [space.number for space in recorder.spaces.alive() if space.members]
        looks: list[dict[int, Snapshot]] = []
        with contextlib.suppress(Enough):
            looks += [self._take_shots(alive, self._late), self._take_shots(alive, self._late)]
        counts = self._counts()
        self._totals.close()
        self._settle(counts)
        self._reach({tid: place.seen for tid, place in program.places()})
        shots: dict[int, Snapshot] = {}
        try:
            self._drain.check()
            for each in looks:
                shots = self._observe(each)
                recorder.closed.update(shots)
            if ended is not None:
                shots |= self._look_at_exit(ended)
                recorder.closed.update(shots)
            self._looked_last = True
        except Enough:
            self._notes.append("memory was not looked at once more: there was no time for it")
        return shots

    def _seen_last(self, status: int | None) -> bool:
        """Whether all memory that is left was looked at in the end: the command's as it exited."""
        command, recorder = self.plan.command, self._recorder
        if command is None or not self._looked_last:
            return self._looked_last
        number = recorder.last_space.get(command.pid)
        space = recorder.spaces.find(number) if number is not None else None
        if status is None and (space is None or space.ended_ns is None):
            return True  # it runs on
        return number in recorder.closed

    def _pages(self) -> list[PageTable] | None:
        if self._recorder.timeline.shelf.overflowed:
            return None
        try:
            with self.breakable():
                return take_pages(self._recorder)
        except Enough:
            self._notes.append(PAGES_LEFT_OUT)
            return None

    def _note_losses(self) -> None:
        program, unread = self._attached.program, self._recorder.unread
        if others := program.counters()["lost_other"] + self._recorder.unread_other:
            self._notes.append(
                f"{others} records of threads, mappings and neighbours were lost: regions and "
                "sources may be off"
            )
        if unread:
            why = "it was to end at once" if self._drain.hurried else "--drain gives them more time"
            self._notes.append(
                f"{unread} faults were still in the ring when the trace was to end, and are "
                f"among the lost: {why}"
            )
        if skipped := program.skipped_tracepoints():
            self._notes.append(
                f"the kernel skipped {skipped} calls of the handlers that follow threads and "
                "system calls: what those did is known from page tables and snapshots only"
            )

    def _look_at_exit(self, command: Command) -> dict[int, Snapshot]:
        """The command's own memory as it was when it exited, if it could be held."""
        number = self._recorder.last_space.get(command.pid)
        space = self._recorder.spaces.find(number) if number is not None else None
        if number is None or space is None or command.pin_reason == NOT_ASKED_FOR:
            return {}
        if command.pin is None or not command.pin.pinned:
            self._notes.append(
                f"the command's memory could not be held for a last look: {command.pin_reason}"
            )
            return {}
        memory = self._attached.program.command_memory()
        if not self._held or not self._held == memory == space.mm:
            # What is held is the memory before its last exec, which was seen too late.
            self._notes.append("the command's memory was gone before a last look")
            return {}
        try:
            with PageMap.held(command.pid, command.pin.pagemap_fd) as pagemap:
                shot = take_pinned(command.pid, command.pin.read_maps(), pagemap, self._late)
        except (ProcessGone, TraceError, OSError):
            self._notes.append("the command's memory was gone before a last look")
            return {}
        untold = self._recorder.untold()
        self._recorder.observe(number, shot, untold, self._late)
        self._observe_one(number, shot, untold)  # nothing moves any more: suspects are sure
        self._snapshots += 1
        return {number: shot}

    def _settle(self, counts: dict[int, int]) -> None:
        """Read all there is, and wait for the records of faults that `counts` says are counted.

        Where there is no time for it, the rest is only counted.
        """
        threads, ring = self._recorder.threads, self._recorder.ring
        deadline = time.monotonic() + _SETTLE_S
        while True:
            self._read_or_skip()
            if self._drain.over() and not ring.pending():
                break
            late = [tid for tid in counts if tid in threads.live]
            if all(threads.live[tid].last >= counts[tid] for tid in late):
                break
            if time.monotonic() > deadline and (self._drain.over() or not ring.pending()):
                break
            time.sleep(0.005)
        self._reach(counts)

    def _read_or_skip(self) -> None:
        """Take what the ring holds; where there is no time for it, its counts alone."""
        self._cycle(self._late)
        if self._drain.over():
            self._recorder.skip()
            self._retire()

    def _reach(self, counts: dict[int, int]) -> None:
        for tid, count in counts.items():
            self._recorder.threads.reach(tid, count)

    def _counts(self) -> dict[int, int]:
        """The kernel's count now, of each thread that lives.

        Where there is haste, of as many as there is time for: there may be very many.
        """
        counts: dict[int, int] = {}
        self._recorder.meet_threads()
        deadline = None
        for tid, thread in self._recorder.threads.live.items():
            if thread.ended:
                continue
            if self._drain.hurried:
                deadline = deadline or time.monotonic() + _COUNTS_S
                if time.monotonic() > deadline:
                    break
            with contextlib.suppress(ProcessGone):
                counts[tid] = stat.fault_count(thread.tgid, tid)
        return counts


class _Poller:
    """Wakes the loop for a signal or a process's end; else after the cycle's time."""

    def __init__(self, session: Session) -> None:
        self._poll = select.poll()
        self._session = session
        self._pidfds: list[int] = []
        self._ended: set[int] = set()
        self._poll.register(session._wake, select.POLLIN)
        command = session.plan.command
        if command is not None:
            self._poll.register(command.pidfd, select.POLLIN)
        for fd in session.outputs.screen.fds if session.outputs.screen is not None else ():
            self._poll.register(fd, select.POLLIN)
        for pid in session.plan.pids:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds.append(os.pidfd_open(pid))
                self._poll.register(self._pidfds[-1], select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Whether something woke it."""
        events = self._poll.poll(seconds * 1000)
        for fd, _ in events:
            if fd == self._session._wake:
                os.read(fd, 512)
            elif fd in self._pidfds:
                self._poll.unregister(fd)
                self._ended.add(fd)
        return bool(events)

    def living(self) -> bool:
        """Whether a process named by --pid still runs: with any of its threads."""
        return len(self._ended) < len(self._pidfds)

    def __enter__(self) -> "_Poller":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._pidfds:
            os.close(fd)
