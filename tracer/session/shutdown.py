"""The end of a trace: what is left in the ring, the last snapshots, the books."""

import contextlib
import time
from typing import TYPE_CHECKING

from tracer.accounting.totals import Totals
from tracer.common.deadline import Enough
from tracer.common.errors import TraceError
from tracer.model.result import PageTable
from tracer.procfs.errors import ProcessGone
from tracer.procfs.pagemap import PageMap
from tracer.session.delivery import Delivery
from tracer.session.ending import Ending
from tracer.session.held_memory import HeldMemory
from tracer.session.plan import Plan, Result
from tracer.session.reading import Reading
from tracer.session.recorder import Recorder
from tracer.session.result import books_of, pop_page_tables
from tracer.session.snapshot_rounds import SnapshotRounds
from tracer.snapshots.snapshots import Snapshot, take_pinned_snapshot
from tracer.target.command import NOT_ASKED_FOR, Command

if TYPE_CHECKING:
    from tracer.callstacks.naming import Naming

PAGES_LEFT_OUT = "the table of pages was left out: an immediate end was requested"


class Shutdown:
    """The end of a trace: the rest of the ring, the last snapshots, the books."""

    def __init__(
        self,
        plan: Plan,
        recorder: Recorder,
        reading: Reading,
        snapshots: SnapshotRounds,
        delivery: Delivery,
        ending: Ending,
        held: HeldMemory,
        totals: Totals,
        naming: "Naming | None",
        notes: list[str],
    ) -> None:
        self._plan, self._recorder, self._reading = plan, recorder, reading
        self._parts, self._gaps = recorder.parts, recorder.gaps
        self._snapshots, self._delivery, self._ending = snapshots, delivery, ending
        self._held, self._totals, self._naming, self._notes = held, totals, naming, notes
        self._program = recorder.parts.attached.program
        self._has_last = False  # there was time for the last snapshots

    def finish(self) -> Result:
        parts, command = self._parts, self._plan.command
        self._ending.drain.begin()
        self._ending.watch(None)
        if self._naming is not None:
            self._naming.again(last=True)
        status = None if command is None else command.poll()
        shots = self._read_the_rest(None if status is None else command)
        if self._naming is not None:
            self._naming.again(last=True)
        kernel = self._totals.settle(self._reading.read_or_skip)
        if command is not None and status is not None:
            self._held.release()
        ended_ns = time.monotonic_ns()
        self._delivery.release(shots)
        self._delivery.release({})  # what came after the last snapshots, too
        self._ending.say_nothing()
        self._note_drops()
        self._reading.mapped.add(ended_ns, parts.timeline.ledger.tally.mapped)
        if self._seen_last(status):
            parts.resident.finish(self._recorder.comparison.frames, ended_ns)
        books = books_of(self._recorder, kernel)
        return Result(
            books=books,
            pages=self._pages(),
            started_ns=self._ending.started_ns,
            ended_ns=ended_ns,
            snapshots=self._snapshots.count,
            exit_status=status,
            notes=[*parts.notes, *self._notes],
            stdout_closed=self._delivery.stdout_closed,
            stalled=self._delivery.stalled,
            mapped=self._reading.mapped.points,
            resident=parts.resident.series.points,
        )

    def _read_the_rest(self, ended: Command | None) -> dict[int, Snapshot]:
        """Read the rest of the ring and the last snapshots; also of the command that `ended`.

        As far as there is time: what is not read is counted, without a snapshot the records
        stand. Returns the snapshots that the timeline was compared with.
        """
        # A child forked since the last cycle needs a snapshot, too: it has pages without a fault.
        self._reading.cycle(self._ending.late)
        self._recorder.buffers.tend()  # a CPU that was offline explains missed faults
        # Two snapshots while faults are still recorded: what no record explains in both is not
        # just late. Then the target may run on; nothing after what the ring holds is read.
        alive = self._parts.living_spaces()
        rounds: list[dict[int, Snapshot]] = []
        with contextlib.suppress(Enough):
            rounds += [
                self._snapshots.snapshots_of(alive, self._ending.late),
                self._snapshots.snapshots_of(alive, self._ending.late),
            ]
        counts = self._reading.counts()
        self._totals.close()
        self._reading.settle(counts)
        self._reading.reach({tid: slot.seen for tid, slot in self._program.slots()})
        shots: dict[int, Snapshot] = {}
        try:
            self._ending.drain.check()
            for each in rounds:
                shots = self._snapshots.observe_all(each)
                self._parts.closed.update(shots)
            if ended is not None:
                shots |= self._snapshot_at_exit(ended)
                self._parts.closed.update(shots)
            self._has_last = True
        except Enough:
            self._notes.append("no last snapshot was taken: there was no time left")
        return shots

    def _seen_last(self, status: int | None) -> bool:
        """Whether all remaining memory had a last snapshot: the command's as it exited."""
        command, parts = self._plan.command, self._parts
        if command is None or not self._has_last:
            return self._has_last
        number = parts.last_space.get(command.pid)
        space = parts.spaces.find(number) if number is not None else None
        if status is None and (space is None or space.ended_ns is None):
            return True  # it runs on
        return number in parts.closed

    def _pages(self) -> list[PageTable] | None:
        if self._parts.timeline.ledger.archive.overflowed:
            return None
        try:
            with self._ending.drain.breakable():
                return pop_page_tables(self._parts)
        except Enough:
            self._notes.append(PAGES_LEFT_OUT)
            return None

    def _note_drops(self) -> None:
        program, unread = self._program, self._gaps.unread
        if others := program.counters()["lost_other"] + unread.other:
            self._notes.append(
                f"{others} records of threads, mappings and surrounding pages were dropped: "
                "regions and sources may be wrong"
            )
        learner = self._parts.learner
        if learner and (copies := program.counters()["copies_lost"] + learner.dropped):
            self._notes.append(
                f"{copies} copies of stacks, or parts of them, were dropped: these stacks end "
                "where an unwind rule was missing"
            )
        if unread.faults:
            why = (
                "an immediate end was requested"
                if self._ending.drain.hurried
                else "--drain allows more time"
            )
            self._notes.append(
                f"{unread.faults} faults were still in the ring when reading stopped, and "
                f"count as lost: {why}"
            )
        if skipped := program.skipped_tracepoints():
            self._notes.append(
                f"the kernel skipped {skipped} calls of the handlers that follow threads and "
                "system calls: what those did is known from page tables and snapshots only"
            )

    def _snapshot_at_exit(self, command: Command) -> dict[int, Snapshot]:
        """The command's own memory as it was when it exited, if it could be held."""
        number = self._parts.last_space.get(command.pid)
        space = self._parts.spaces.find(number) if number is not None else None
        if number is None or space is None or command.pin_reason == NOT_ASKED_FOR:
            return {}
        if command.pin is None or not command.pin.pinned:
            self._notes.append(
                "the command's memory could not be kept for the last snapshot: "
                f"{command.pin_reason}"
            )
            return {}
        if not self._held.is_held(space.mm or 0):
            # The pin holds the memory before its last exec, which was seen too late.
            self._notes.append("the command's memory was gone before the last snapshot")
            return {}
        try:
            with PageMap.held(command.pid, command.pin.pagemap_fd) as pagemap:
                shot = take_pinned_snapshot(
                    command.pid, command.pin.read_maps(), pagemap, self._ending.late
                )
        except (ProcessGone, TraceError, OSError):
            self._notes.append("the command's memory was gone before the last snapshot")
            return {}
        self._snapshots.observe_last(number, shot)
        return {number: shot}
