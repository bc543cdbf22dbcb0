"""Threads, processes and address spaces: attach, fork, exec, exit, and the state freed after."""

import contextlib
import time
from functools import partial

import numpy as np

from tracer.accounting.missed_exits import MissedExits
from tracer.common.text import decode as text_of
from tracer.common.types import U8
from tracer.model.sources import Source
from tracer.procfs import stat, userfaultfd
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import Mapping, read_maps
from tracer.session.calls import Calls
from tracer.session.gaps import Gaps
from tracer.session.parts import Parts
from tracer.session.script import Script
from tracer.snapshots.unrecorded import Unrecorded
from tracer.spaces.changes import ThreadStack
from tracer.timeline.schedule import Action, whole
from tracer.wire.records import RecordType


class Lifecycle:
    """Threads, processes and their memory, as they begin, change and end."""

    def __init__(self, parts: Parts, gaps: Gaps, calls: Calls) -> None:
        self._attached = parts.attached
        self._names = parts.names
        self._layout = parts.layout
        self._spaces = parts.spaces
        self._timeline = parts.timeline
        self._threads = parts.threads
        self._reconciler = parts.reconciler
        self._join = parts.join
        self._tgids = parts.tgids
        self._last_space = parts.last_space
        self._changed = parts.changed
        self._parts = parts
        self._gaps, self._calls = gaps, calls
        self._ended: list[int] = []  # spaces not retired yet
        self._retired: list[int] = []  # spaces whose pages still have rows
        self._missed_exits = MissedExits(gaps.dropped_lives)
        self._command = 0  # the process of the last snapshot, after its exit

    # -- targets ------------------------------------------------------------------

    def attach(self, pid: int, *, children: bool) -> None:
        """Trace a running process, all its threads, from now. Raises ProcessGone."""
        self._tgids.add(pid)
        before = self._spaces.settled(pid, _maps_of(pid))
        since = time.monotonic_ns()
        self._attached.program.add_target(pid, children=children)
        now = time.monotonic_ns()  # an exec under way then has its record to come
        space = self._spaces.attach(now, pid, None, _maps_of(pid), since, before)
        self._last_space[pid] = space.number
        self._reconciler.view(space.number, Source.INITIAL)
        self._changed.add(space.number)
        self._attach_userfaults(pid, space.number)
        for tid in stat.threads(pid):
            try:
                self._threads.begin(tid, pid, stat.fault_count(pid, tid))
                self._join.comms[tid] = self._names.comm(stat.comm(pid, tid))
                if tid != pid and (pointer := stat.stack_pointer(pid, tid)):
                    space.history.add(now, ThreadStack(pointer))
            except ProcessGone:
                continue  # a thread that ended meanwhile; it has records

    def _attach_userfaults(self, pid: int, space: int) -> None:
        ranges = userfaultfd.registered(pid)
        if ranges is not None:
            self._attached.program.expect_userfaults()
            for start, end in ranges:
                self._join.userfaults.register(space, start, end, 0)

    def expect(self, pid: int, *, children: bool) -> None:
        """Trace a process from the first instruction after its next exec."""
        self._tgids.add(pid)
        self._command = pid
        self._spaces.expect(pid)
        self._attached.program.expect_command(pid)
        self._attached.program.add_target(pid, children=children, waits=True)

    def meet_threads(self) -> None:
        """Find the threads of living targets that have no FORK record: io_uring's workers."""
        for tgid in {t.tgid for t in self._threads.live.values() if not t.ended}:
            with contextlib.suppress(ProcessGone):
                for tid in stat.threads(tgid):
                    self._threads.meet(tid, tgid)

    def learn_children(self, forks: U8) -> None:
        for record in forks.view(self._layout.task).ravel():
            self._tgids.add(int(record["child_tgid"]))

    # -- records -------------------------------------------------------------------

    def follow(self, kind: int, record: np.void, script: Script) -> None:
        tgid, tid, count = int(record["tgid"]), int(record["tid"]), int(record["count"])
        if kind == RecordType.FORK:
            self._fork(record, script)
        elif kind == RecordType.EXEC:
            old = self._last_space.get(tgid)
            left = self._spaces.find(old) if old is not None else None
            # What exec wrote into the new memory is in the thread's count from here on; with
            # perf it has no record.
            before = self._gaps.missed_in(left) if left is not None else 0
            self._threads.become_leader(int(record["child_tid"]), tid)
            self._threads.restart(tid, tgid, count)
            self._threads.reach(tid, count)
            missed = (
                before
                if self._parts.blind_to_others or left is None
                else self._gaps.missed_in(left)
            )
            self._name(tid, record)
            self._spaces.lifecycle(record)
            new = self._spaces.of(tgid)
            if new is not None:
                self._last_space[tgid] = new.number
                view = self._reconciler.view(new.number, own=self._gaps.missed_in(new))
                if new.number != old:  # else it was in exec at the attach
                    view.born = Source.EXEC
                self._changed.add(new.number)
            if left is not None and left.ended_ns is not None:
                self.space_ended(left.number, missed, script)
        elif kind == RecordType.EXIT:
            self._threads.meet(tid, tgid)
            self._threads.end(tid, count, int(record["task"]))
            self._calls.close(tid)
            space = self._spaces.of(tgid)
            missed = self._gaps.missed_in(space) if space is not None else 0
            self._spaces.lifecycle(record)
            if space is not None and space.ended_ns is not None:
                self.space_ended(space.number, missed, script)
            if record["group_dead"]:
                script.exited.append(tgid)
        elif kind == RecordType.FREE:
            thread = self._threads.free(tid, count, int(record["task"]))
            if thread is not None:
                script.freed.append((tid, thread))
        elif kind == RecordType.RENAME:
            self._name(tid, record)

    def _fork(self, record: np.void, script: Script) -> None:
        child, tgid = int(record["child_tid"]), int(record["child_tgid"])
        self._threads.reach(int(record["tid"]), int(record["count"]))
        self._threads.begin(child, tgid, 0)
        self._name(child, record)
        parent = self._spaces.of(int(record["tgid"]))
        self._spaces.lifecycle(record)
        if tgid == int(record["tgid"]):
            return
        space = self._spaces.of(tgid)
        if space is not None:
            self._last_space[tgid] = space.number
        if space is not None and parent is not None and space is not parent:
            self._reconciler.view(space.number, Source.FORK).descend(
                parent.number, self._reconciler.view(parent.number)
            )
            pair = parent.number, space.number
            inherit = partial(self._timeline.releases.inherit, *pair, int(record["time_ns"]))
            both = whole(parent.number), whole(space.number)
            script.actions.append(Action(len(script.placing), both, inherit))
            self._calls.memory.inherit(*pair)
            self._changed.add(space.number)

    def _name(self, tid: int, record: np.void) -> None:
        raw = record["comm"].tobytes().split(b"\0", 1)[0]
        self._join.comms[tid] = self._names.comm(text_of(raw))

    # -- ends ------------------------------------------------------------------------

    def end_of_batch(self, script: Script, read_ns: int) -> None:
        """Free the state of what ended, recorded or not; all up to `read_ns` has been read."""
        self._end_unrecorded(script, read_ns)
        self.close_ended(script.ended)
        self._let_go(script)

    def _end_unrecorded(self, script: Script, read_ns: int) -> None:
        """Handle ends without a record: those records were dropped."""
        self._missed_exits.ask(self._threads, time.monotonic_ns())
        for tid, thread, time_ns in self._missed_exits.due(self._threads, read_ns):
            self._threads.let_go(tid)
            self._join.comms.pop(tid, None)
            self._calls.close(tid)
            if tid == thread.tgid:
                self._spaces.exit(time_ns, tid)
                script.exited.append(tid)
        seen = {number for number, _ in script.ended}
        for space in self._spaces.ended():
            if space.number not in seen:
                self.space_ended(space.number, self._gaps.missed_in(space), script)
                script.exited.append(space.owner)  # unless it runs on in another space

    def space_ended(self, number: int, missed: int, script: Script) -> None:
        self._changed.discard(number)
        script.ended.append((number, missed))
        self._ended.append(number)

    def close_ended(self, ended: list[tuple[int, int]]) -> None:
        """These spaces ended, and all records of them have been applied."""
        unrecorded: Unrecorded | None = None
        for number, missed in ended:
            if self._timeline.ledger.has_unexplained(number):
                # Read from the kernel, and seldom needed.
                unrecorded = unrecorded or self._gaps.unrecorded()
                self._reconciler.close(number, unrecorded._replace(own=missed))
            self._timeline.releases.drop_assumed(number)

    def _let_go(self, script: Script) -> None:
        """Forget threads and processes that are gone, unless their ids are used again."""
        for tid, thread in script.freed:
            if self._threads.live.get(tid) is thread:
                self._threads.let_go(tid)
                self._join.comms.pop(tid, None)
        for tgid in script.exited:
            if self._spaces.of(tgid) is None:
                self._tgids.discard(tgid)
                if tgid != self._command:
                    self._last_space.pop(tgid, None)
        for tgid in {*script.exited, *(thread.tgid for _, thread in script.freed)}:
            if self._spaces.of(tgid) is None and tgid != self._command:
                self._threads.forget(tgid)

    def retire(self, keep: int | None) -> None:
        """Free the state of ended spaces; `keep` is one that a last snapshot is still due for."""
        for number in dict.fromkeys(self._ended):
            space = self._spaces.find(number)
            if number != keep and space is not None and not space.retired:
                self._timeline.releases.retire(number, space.ended_ns or 0)
                space.retired = True
                self._reconciler.forget(number)
                self._calls.memory.forget(number)
                self._retired.append(number)
        self._ended = [number for number in self._ended if number == keep]
        archive = self._timeline.ledger.archive
        for number in self._retired:
            if number not in archive:
                self._spaces.forget(number)
        self._retired = [number for number in self._retired if number in archive]


def _maps_of(pid: int) -> list[Mapping]:
    """A process's mappings, read through another thread where its leader has ended."""
    try:
        return read_maps(pid)
    except ProcessGone:
        return read_maps(pid, stat.living_thread(pid))
