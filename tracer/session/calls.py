"""What system calls did to pages: recorded as they return, applied in order with the faults."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from tracer.common.types import PAGE_BITS, U8, U32
from tracer.join.fills import Fill, Filled
from tracer.model.sources import Loss, Source
from tracer.session.buffers import Buffers
from tracer.session.parts import Parts
from tracer.session.script import Script
from tracer.snapshots.evidence import Hint
from tracer.spaces.changes import Question, Unmap
from tracer.spaces.syscalls import (
    Effect,
    Memory,
    PendingRelease,
    PlainRelease,
    SystemCall,
    interpret,
    pending_release,
)
from tracer.timeline.releases import Released
from tracer.timeline.schedule import Action


class Calls:
    """System calls of the targets, from their records."""

    def __init__(self, parts: Parts, buffers: Buffers) -> None:
        self._names = parts.names
        self._spaces = parts.spaces
        self._timeline = parts.timeline
        self._reconciler = parts.reconciler
        self._join = parts.join
        self._changed = parts.changed
        self._parts = parts
        self._direct_map = parts.attached.direct_map
        self._window = parts.layout.window
        self._rescue = buffers.rescue
        self.memory = Memory()
        self._calls: dict[int, PendingRelease] = {}  # by thread: what its call may release

    # -- as they begin and return, in the order of records --------------------------

    def begin(self, begun: SystemCall) -> None:
        """A call begins; recorded only where other threads may fault before it returns."""
        space = self._spaces.at(begun.mm) or self._spaces.of(begun.tgid)
        self.close(begun.tid)
        if space is None:
            return
        found = pending_release(begun, self.memory.brk.get(space.number, 0))
        if found is not None:
            self._calls[begun.tid] = found
            self._timeline.releases.begin_unmap(space.number, found)

    def close(self, tid: int) -> None:
        """The thread has left its call, though no return was recorded."""
        before = self._calls.pop(tid, None)
        if before is not None:
            self._timeline.releases.end_unmap(before)

    def release(self, made: PlainRelease, script: Script) -> None:
        """What `complete` does, for calls that only release pages."""
        tgid, tid, time_ns, mm, start, end, unmaps = made
        space = self._spaces.at(mm) or self._spaces.of(tgid)
        if space is None:
            return
        number = space.number
        self._changed.add(number)
        self._reconciler.note_release(number, start, end)
        call = self._calls.pop(tid, None) if self._calls else None
        if unmaps:
            space.history.add(time_ns, Unmap(start, end))
            self._join.userfaults.end(number, start, end, time_ns)
            change = Effect(number, start, end, time_ns, call=call)
        else:
            change = Effect(number, start, end, time_ns, Loss.MADVISE, call=call)
        script.effects.append(change)

    def complete(self, made: SystemCall) -> Effect | None:
        """Return the effect on pages of a call that returned, to be applied in order."""
        space = self._spaces.at(made.mm) or self._spaces.of(made.tgid)
        if space is None:
            return None
        self._changed.add(space.number)
        call = self._calls.pop(made.tid, None)
        doubtful = self._spaces.doubtful
        done = interpret(made, space.number, self.memory, call, claims=doubtful)
        for start, end in done.written:
            remote = Hint(start, end, source=Source.REMOTE, time_ns=made.time_ns)
            self._reconciler.hint(space.number, remote)
        if done.change is not None:
            space.history.add(made.time_ns, done.change)
        change = done.effect
        unrecorded = self._parts.blind_to_others and change is not None and change.replaces
        filled_only = change is not None and change.populates and not unrecorded
        if call is not None and (change is None or filled_only or change.gives_up):
            self._timeline.releases.end_unmap(call)
        if change is None:
            return None
        self._follow_userfaults(change)
        if not (change.populates or change.gives_up or change.registers is not None):
            self._reconciler.note_release(space.number, change.start, change.end)
            return change
        if change.populates:
            source = Source.UFFD if change.userfault else Source.POPULATE
            hint = Hint(change.start, change.end, source=source, time_ns=made.time_ns)
            self._reconciler.hint(space.number, hint)
            if self._parts.blind_to_others and not change.userfault:
                return self._filled_unrecorded(change)
        elif change.gives_up:
            hint = Hint(change.start, change.end, loss=change.loss, time_ns=made.time_ns)
            self._reconciler.hint(space.number, hint)
        return None

    def _filled_unrecorded(self, change: Effect) -> Effect | None:
        """A call filled a range without recorded faults; return what it unmapped first, if any."""
        where = change.space, change.start, change.end
        if change.replaces:
            self._reconciler.note_release(*where)
        known = self._direct_map.base and self._reconciler.view(change.space).known()
        if not (change.recorded and known):  # else FILLED records come
            self._reconciler.fill_unrecorded(*where, change.time_ns)
        return Effect(*where, change.time_ns, call=change.call) if change.replaces else None

    def _follow_userfaults(self, change: Effect) -> None:
        """Update the ranges registered with userfaultfd; unmapping ends a registration."""
        where = change.space, change.start, change.end, change.time_ns
        unmapped = change.loss == Loss.MUNMAP and not (change.userfault or change.populates)
        if change.registers:
            self._join.userfaults.register(*where)
        elif change.registers is False or unmapped:
            self._join.userfaults.end(*where)

    def filled_by(self, records: U8) -> Filled:
        """FILLED records, decoded together."""
        return Filled.by(records, self._window, self._direct_map.zero_frame)

    def fill(self, filled: Filled, since: int, until: int, script: Script) -> None:
        """FILLED records, one after another, most often of one call."""
        tids = filled.records["tid"][since:until]
        for tid in dict.fromkeys(tids.tolist()):
            mine = filled.of(since, until, None if (tids == tid).all() else tid)
            first = filled.records[mine.start]
            space = self._spaces.at(int(first["mm"])) or self._spaces.of(int(first["tgid"]))
            # Pages may have been there before the call: the first snapshot shows.
            if space is None or not self._reconciler.view(space.number).known():
                continue
            if len(mine.pages):
                question, at = Question(mine.pages << PAGE_BITS), np.arange(len(mine.pages))
                space.history.add(int(mine.times.min()), question)
                columns = mine.pages, mine.frames, mine.times
                where = space.number, int(first["mm"])
                script.effects.append(Fill(*where, *columns, space.history, question, at))
                script.fills = True
            for start, end, reached, time_ns in mine.ends:
                self._reconciler.fill_unrecorded(space.number, max(start, reached), end, time_ns)

    # -- what they did to pages, once the faults before them have been applied ------

    def apply(self, actions: Sequence[Action]) -> None:
        """Apply actions to the timeline's pages; they have no page in common."""
        releases = []
        for action in actions:
            self._rescue()
            change = action.what
            if not isinstance(change, Effect):
                change()
            elif change.moved_to is None:
                releases.append(change)
            else:
                self._move(change, change.moved_to)
        self._timeline.releases.release_all([_released(change) for change in releases])
        for change in releases:
            self.over(change)

    def populate(self, fill: Fill) -> None:
        if fill.question.regions is None:  # no fault came after it
            fill.history.advance(fill.time_ns)
        assert fill.question.regions is not None
        regions = fill.question.regions[fill.at]
        self._timeline.releases.fill(fill.space, fill.pages, fill.frames, fill.time_ns, regions)

    def _move(self, change: Effect, to: int) -> None:
        place = change.space, change.start, to, change.end - change.start, change.time_ns
        shifted = partial(self._shifted, bytes_=to - change.start)
        if not self._touches(change, to):
            pass
        elif change.userfault:
            self._timeline.releases.hand_over(*place, shifted)
        else:
            self._timeline.releases.move(*place, change.moved_size, shifted)
        self.over(change)

    def _touches(self, change: Effect, to: int) -> bool:
        """Whether what moves to `to` concerns a page with a frame."""
        ranges = (change.start, change.end), (to, to + change.moved_size)
        return any(self._timeline.releases.holds(change.space, *each) for each in ranges)

    def over(self, change: Effect) -> None:
        """The call behind a change has returned: it releases nothing more."""
        if change.call is not None:
            self._timeline.releases.end_unmap(change.call, change.time_ns)

    def _shifted(self, regions: U32, bytes_: int) -> U32:
        """The regions (indices into names.regions) once moved by `bytes_`."""
        there: dict[int, int] = {}
        numbers = regions.tolist()
        for number in dict.fromkeys(numbers):
            at = self._names.regions[number]
            moved = at._replace(start=at.start + bytes_, end=at.end + bytes_)
            array = self._names.array_of.get(number, 0)
            there[number] = self._names.region(moved, array) if at.end else number
        return np.array([there[number] for number in numbers], np.uint32)


def _released(change: Effect) -> Released:
    begun_ns = change.call.begun_ns if change.call else 0
    return Released(
        change.space, change.start, change.end, change.time_ns, change.loss, begun_ns=begun_ns
    )
