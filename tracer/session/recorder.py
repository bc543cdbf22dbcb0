"""From the ring to joined rows: reads every record once, in order, and keeps the state they move.

The one place where the parts meet: address spaces, threads' counts, the
timeline and the observer all follow the same stream of records.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.accounting.fault_counts import Thread, Threads
from tracer.accounting.missed_exits import UnseenExits
from tracer.common.errors import TraceError
from tracer.common.fields import Columns, distinct
from tracer.common.text import decode as text_of
from tracer.common.types import PAGE_BITS, U8, U32, U64, Structs
from tracer.join.fills import BY_TIME, Fill, Filled
from tracer.join.join import Join, Placing, Renamed, match_windows
from tracer.kernel.sideband import Sideband
from tracer.model.rows import Names, Rows
from tracer.model.sources import Loss, Source
from tracer.probes.choose import Attached
from tracer.procfs import kpageflags, stat, userfaultfd
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import Mapping, read_maps
from tracer.procfs.system import FileSystems, large_anonymous_folios, online_cpus, shows_vvar
from tracer.snapshots.evidence import Hint, Machine
from tracer.snapshots.reconcile import Observer
from tracer.snapshots.resident import Resident
from tracer.snapshots.snapshots import Snapshot
from tracer.snapshots.unrecorded import Untold
from tracer.spaces.mappings import Question, ThreadStack, Unmap
from tracer.spaces.spaces import Space, Spaces
from tracer.spaces.syscalls import (
    Effect,
    Memory,
    SystemCall,
    Takes,
    Taking,
    decode,
    effect,
    only_take,
    taking,
    written,
)
from tracer.timeline.schedule import Action, action_of, together, whole
from tracer.timeline.timeline import Lost, Timeline
from tracer.wire.batches import RawBatch, take
from tracer.wire.records import Mark, RecordType
from tracer.wire.ring import SpillingRing

_BATCH = 1 << 14  # records read at once
_SMALLEST_BATCH = 1 << 10
_MOST_BETWEEN = 1 << 12  # records of a batch that are looked at one by one: the end waits for it
_SKIPPED = 1 << 16  # records at once of those only counted
_LONG_NS = 200_000_000  # for a batch
_LIFE = [kind.value for kind in RecordType if RecordType.FORK <= kind <= RecordType.RENAME]
_CALL, _SYSCALL = RecordType.CALL.value, RecordType.SYSCALL.value
_CALLS = [_CALL, _SYSCALL]
_TAKES = -1  # no record's type: a SYSCALL record of a call that only takes pages
_BESIDE = [RecordType.WINDOW.value, RecordType.STACK.value]  # they go with a fault's record
_IN_ONE = [RecordType.FAULT.value, *_BESIDE]  # those that are taken all at once
_NOT_COUNTED = np.uint8(Mark.FAILED | Mark.FOREIGN)
_RESCUE_NS = 20_000_000
_TEND_NS = 1_000_000_000  # a CPU may be gone and back in less, and what runs there go unseen
_RESCUE_EVERY = 16  # records looked at one by one: the clock is asked that often
_PATIENCE_NS = 1_000_000_000  # how long a window waits for its fault


@dataclass
class _Script:
    """A batch's faults, on their way to their places, and the actions between them, in order."""

    placing: Placing
    actions: list[Action] = field(default_factory=list)
    # Of calls since the last lifecycle record.
    effects: list[Effect | Fill] = field(default_factory=list)
    fills: bool = False  # whether there are any among them
    renamed: list[Renamed] = field(default_factory=list)  # threads, since then
    ended: list[tuple[int, int]] = field(default_factory=list)  # spaces, and what each missed
    freed: list[tuple[int, Thread]] = field(default_factory=list)  # threads, with their ids
    exited: list[int] = field(default_factory=list)  # processes


@dataclass
class Recorder:
    """Follows the targets of one trace on an attached probe."""

    attached: Attached
    names: Names = field(default_factory=Names)

    def __post_init__(self) -> None:
        program = self.attached.program
        self.layout = program.layout
        self.ring = SpillingRing(program.open_ring())
        self.sideband: Sideband | None = None
        self.notes: list[str] = []
        try:
            self.sideband = Sideband()
        except TraceError as error:
            self.notes.append(f"mappings are known from snapshots only: {error.message}")
        self.spaces = Spaces(self.names)
        self.spaces.doubtful = self.sideband is None
        self.timeline = Timeline()
        self.threads = Threads()
        self.resident = Resident()
        self.observer = Observer(
            self.timeline,
            Machine(
                zero_frame=self.attached.direct_map.zero_frame,
                blind_to_others=self.attached.probe.name == "perf",
                ksm_flag=not kpageflags.calls_all_ksm(),
            ),
        )
        large_anon = large_anonymous_folios()
        self.attached.program.expect_large_folios(large_anon)
        self.join = Join(
            self.names,
            self.spaces,
            self.timeline,
            self.attached.direct_map.zero_frame,
            large_anon=large_anon,
            file_systems=FileSystems(),
            vvar_seen=shows_vvar(),
        )
        self.tgids: set[int] = set()
        self.traced = self.failed = self.foreign = 0
        self.unread = 0  # counted faults whose records were only counted: see skip
        self.unread_failed = self.unread_foreign = 0  # the same of those that are not counted
        self.unread_other = 0  # and what else was not looked at: calls, windows, stacks, lives
        self.closed: set[int] = set()  # spaces whose last look came after their last record
        self.last_space: dict[int, int] = {}  # by process: the space it is or was in
        self.changed: set[int] = set()  # spaces in which something happened since the last snapshot
        self._windows: Structs = np.empty(0, self.layout.window)
        self._ended: list[int] = []  # spaces, not retired yet
        self._retired: list[int] = []  # of whose pages there are rows still
        self._unseen_exits = UnseenExits(self._lost_lives)
        self._command = 0  # the process that will be looked at past its end
        self._memory = Memory()
        self._calls: dict[int, Taking] = {}  # by thread: what the call it is in may take
        self._sideband_gap = 0
        self._rescued_ns = 0
        self._batch = _BATCH
        self._online, self._tended_ns = online_cpus(), time.monotonic_ns()
        self.cpu_gaps = 0  # how often a CPU was found without the probe's events

    def close(self) -> None:
        """Let go of the ring and the sideband; the probe is its owner's."""
        self.ring.close()
        if self.sideband is not None:
            self.sideband.close()

    # -- targets ------------------------------------------------------------------

    def attach(self, pid: int, *, children: bool) -> None:
        """Trace a process that is there already, all its threads, from now. Raises ProcessGone."""
        self.tgids.add(pid)
        since = time.monotonic_ns()
        self.attached.program.add_target(pid, children=children)
        now = time.monotonic_ns()  # of an exec that goes on then, the record is to come
        space = self.spaces.attach(now, pid, None, _maps_of(pid), since)
        self.last_space[pid] = space.number
        self.observer.view(space.number, Source.INITIAL)
        self.changed.add(space.number)
        self._attach_userfaults(pid, space.number)
        for tid in stat.threads(pid):
            try:
                self.threads.begin(tid, pid, stat.fault_count(pid, tid))
                self.join.comms[tid] = self.names.comm(stat.comm(pid, tid))
                if tid != pid and (pointer := stat.stack_pointer(pid, tid)):
                    space.history.add(now, ThreadStack(pointer))
            except ProcessGone:
                continue  # a thread that ended meanwhile; its records tell

    def _attach_userfaults(self, pid: int, space: int) -> None:
        ranges = userfaultfd.registered(pid)
        if ranges is not None:
            self.attached.program.expect_userfaults()
            for start, end in ranges:
                self.join.userfaults.register(space, start, end, 0)

    def expect(self, pid: int, *, children: bool) -> None:
        """Trace a process from the first instruction after its next exec."""
        self.tgids.add(pid)
        self._command = pid
        self.spaces.expect(pid)
        self.attached.program.expect_command(pid)
        self.attached.program.add_target(pid, children=children, waits=True)

    # -- the stream -----------------------------------------------------------------

    def cycle(
        self, enough: Callable[[], bool] = lambda: False, done: Callable[[], None] = lambda: None
    ) -> Iterator[Rows]:
        """Everything the ring holds now, as batches of rows, or until it is `enough`.

        `done` is called where all that was read has been dealt with.

        What comes meanwhile waits for the next call: a target may be faster than we are,
        and the trace must end all the same.
        """
        left = self.ring.pending()
        while not enough():
            self._rescue()
            now = time.monotonic_ns()
            records = self._peek()
            count = len(records)
            if count:
                batch = take(records, self.layout.fault)
                self.ring.advance()
                yield from self._process(batch)
                done()
            else:
                self.ring.advance()
                self._feed_sideband(now)
                self._end_of_batch(_Script(Placing(self.join)), now)
            left -= count
            if not count or left <= 0:
                return
            took = time.monotonic_ns() - now
            if took > _LONG_NS:  # many short lives: what is said must not be late for it
                self._batch = max(self._batch // 2, _SMALLEST_BATCH)
            elif took < _LONG_NS // 4:
                self._batch = min(self._batch * 2, _BATCH)

    def _peek(self) -> U8:
        """The next records, as many as make a batch that is soon done with."""
        records = self.ring.peek(self._batch)
        if len(records) > _MOST_BETWEEN:
            between = np.flatnonzero(~np.isin(records[:, 0], _IN_ONE))
            if len(between) > _MOST_BETWEEN:
                return self.ring.peek(int(between[_MOST_BETWEEN]))
        return records

    def skip(self) -> None:
        """Read the rest of the ring for its counts alone: there is no time for more.

        Faults are counted in `unread`, each on its thread. Of lives only so much is followed
        as that takes, and which of the known spaces ended: they are in `unread_other` with the
        rest.
        """
        script = _Script(Placing(self.join))
        while len(records := self.ring.peek(_SKIPPED)):
            self._skip(records, script)
            self.ring.advance()
        self.ring.advance()  # past what was discarded
        self.spaces.ended()  # there is no time for those that no record tells of
        self._close_ended(script.ended)

    def _skip(self, records: U8, script: "_Script") -> None:
        types = records[:, 0].copy()
        life = np.flatnonzero(np.isin(types, _LIFE))
        tasks = records[life].view(self.layout.task).ravel()
        at = np.flatnonzero(types == RecordType.FAULT)
        faults = records[at].view(self.layout.fault).ravel()
        failed = int(((faults["marks"] & Mark.FAILED) != 0).sum())
        counted = (faults["marks"] & _NOT_COUNTED) == 0
        self.unread_failed += failed
        self.unread_foreign += len(faults) - int(counted.sum()) - failed
        at, faults = at[counted], faults[counted]
        self.unread += len(faults)
        self.unread_other += int((types != RecordType.FAULT).sum())
        columns = [faults[name] for name in ("tid", "tgid", "count")]
        start = begin = 0
        for end in [*self._renumbered(tasks), len(tasks)]:
            # All faults up to the record by which a number becomes another thread's.
            until = int(np.searchsorted(at, life[end])) if end < len(tasks) else len(at)
            mine = [column[start:until] for column in columns]
            self._skip_lives(tasks[begin:end], mine, script)
            start, begin = until, end

    def _renumbered(self, tasks: Structs) -> list[int]:
        """Which lifecycle records give a number that is or was a thread's to another one."""
        forks = tasks["type"] == RecordType.FORK
        execs = (tasks["type"] == RecordType.EXEC) & (tasks["child_tid"] != tasks["tid"])
        cuts, seen = [], set(self.threads.live)
        for index in np.flatnonzero(forks | execs).tolist():
            child = int(tasks["child_tid"][index])
            if execs[index] or child in seen:
                cuts.append(index)
            seen.add(child)
        return cuts

    def _skip_lives(
        self, tasks: Structs, faults: Sequence[npt.NDArray[Any]], script: "_Script"
    ) -> None:
        """Lives in which no number but the first record's changes hands, and faults meanwhile.

        So their order does not matter but for this: threads begin before they fault, and end
        after it.
        """
        names = ("type", "tgid", "tid", "count", "child_tgid", "child_tid", "task", "group_dead")
        lives = list(zip(*(tasks[name].tolist() for name in names), strict=True))
        threads = self.threads
        for kind, tgid, tid, count, child_tgid, child_tid, _, _ in lives:
            if kind == RecordType.FORK:
                threads.reach(tid, count)
                threads.begin(child_tid, child_tgid, 0)
            elif kind == RecordType.EXEC:
                threads.become_leader(child_tid, tid)
                threads.restart(tid, tgid, count)
                threads.reach(tid, count)
        if len(faults[0]):
            threads.record(*faults)
        for index, (kind, tgid, tid, count, _, _, task, dead) in enumerate(lives):
            if kind == RecordType.EXIT:
                threads.meet(tid, tgid)
                threads.end(tid, count, task)
            elif kind == RecordType.FREE and threads.free(tid, count, task) is not None:
                threads.let_go(tid)
            space = self.spaces.of(tgid) if dead or kind == RecordType.EXEC else None
            if space is not None:
                missed = self.missed_in(space)
                self.spaces.lifecycle(tasks[index])
                if space.ended_ns is not None:
                    self._space_ended(space.number, missed, script)

    def _process(self, batch: RawBatch) -> Iterator[Rows]:
        rest, types, faults = batch.rest, batch.types, batch.faults
        self._learn_children(rest[types == RecordType.FORK])
        self._feed_sideband(batch.last_ns)
        if self.join.stacks is not None:
            self.join.stacks.learn(rest[types == RecordType.STACK].view(self.layout.stack).ravel())
        windows = rest[types == RecordType.WINDOW].view(self.layout.window).ravel()
        windows = np.concatenate([self._windows, windows])
        matched = match_windows(faults, windows)
        self._windows = _recent(windows[matched < 0])  # their faults come with the next batch
        script = self._follow(batch)
        if len(faults):
            yield from self._join(script, windows[matched >= 0])
        else:
            for due in together(script.actions):
                self._apply(due)
        self._end_of_batch(script, batch.last_ns)
        self.spaces.advance(batch.last_ns)

    def _follow(self, batch: RawBatch) -> "_Script":
        """Follow the life of spaces and threads in order; place the faults on the way.

        What that does to pages is left for later: faults are described all at once.
        """
        script, faults = _Script(Placing(self.join)), batch.faults
        kinds = batch.types.astype(np.int16)
        made = np.flatnonzero(np.isin(kinds, _CALLS))
        records = batch.rest[made].view(self.layout.syscall).ravel()
        plain, takes = only_take(records)
        takes_left, calls = iter(takes), iter(decode(records[~plain]))
        kinds[made[plain]] = _TAKES
        others = np.flatnonzero(~np.isin(kinds, _BESIDE))
        told = Filled.by(batch.rest[kinds == RecordType.FILLED], self.layout.window, self._zero())
        filled_until = filling = 0  # of the FILLED records: followed, and come
        for count, (index, kind) in enumerate(
            zip(others.tolist(), kinds[others].tolist(), strict=True)
        ):
            if not count % _RESCUE_EVERY:
                self._rescue()
            if filling > filled_until and kind != RecordType.FILLED:
                self._filled(told, filled_until, filling, script)
                filled_until = filling
            if kind == _TAKES:
                self._takes(next(takes_left), script)
                continue
            if kind == _CALL:
                self._call(next(calls))
                continue
            if kind == _SYSCALL:
                change = self._syscall(next(calls))
                if change is not None:
                    script.effects.append(change)
                continue
            raw = batch.rest[index]
            if kind == RecordType.FILLED:
                filling += 1
                continue
            record, before = raw.view(self.layout.task)[0], int(batch.before[index])
            # A thread's id used again: what came before is the old one's.
            reused = kind == RecordType.FORK and int(record["child_tid"]) in self.threads.live
            if reused or self._cuts(kind, record, faults[len(script.placing) :]):
                self._segment(script, faults[len(script.placing) : before])
                self._settle(kind, record, script)
            elif kind == RecordType.RENAME:
                tid = int(record["tid"])
                known = self.join.comms.get(tid, 0)
                script.renamed.append(Renamed(before - len(script.placing), tid, known))
            self._lifecycle(kind, record, script)
        if filling > filled_until:
            self._filled(told, filled_until, filling, script)
        self._segment(script, faults[len(script.placing) :])
        return script

    def _cuts(self, kind: int, record: np.void, faults: Columns) -> bool:
        """Whether whose memory the faults before this record were in must be asked first.

        `faults` are those since the last such record.
        """
        if kind == RecordType.FORK:
            return bool(record["child_tgid"] != record["tgid"])
        if kind == RecordType.EXIT:
            return bool(record["group_dead"])
        if kind == RecordType.RENAME:
            return self._leaves_home(int(record["tgid"]), faults)
        return kind == RecordType.EXEC

    def _leaves_home(self, tgid: int, faults: Columns) -> bool:
        """Whether a process may be in exec, by its faults in memory that is not its own yet.

        exec gives the new name as it changes to the new memory (begin_new_exec(), fs/exec.c):
        what came before that only built it.
        """
        home = self.spaces.of(tgid)
        if home is None or home.mm is None:
            return True
        return bool(((faults["tgid"] == tgid) & (faults["mm"] != np.uint64(home.mm))).any())

    def _segment(self, script: "_Script", faults: Columns) -> None:
        """Faults between two lifecycle records, and what system calls took away meanwhile."""
        start, times = len(script.placing), np.empty(0, np.uint64)
        if len(faults):
            counted = (faults["marks"] & _NOT_COUNTED) == 0
            columns = [faults[name] for name in ("tid", "tgid", "count")]
            if not counted.all():
                columns = [column[counted] for column in columns]
            self.threads.record(*columns)
            times = script.placing.add(faults, script.renamed)
        effects = script.effects
        effects.sort(key=BY_TIME)
        if script.fills:
            each_alone = [
                each.parts(effects, faults) if isinstance(each, Fill) else [each]
                for each in effects
            ]
            effects = sorted(itertools.chain.from_iterable(each_alone), key=BY_TIME)
        done = np.array([change.time_ns for change in effects], np.uint64)
        at = (np.searchsorted(times, done) + start).tolist()
        for before, change in zip(at, effects, strict=True):
            if isinstance(change, Fill):
                fill = partial(self._fill, change)
                script.actions.append(Action(before, (change.range_(),), fill))
            else:
                script.actions.append(action_of(before, change))
        script.effects, script.renamed, script.fills = [], [], False

    def _settle(self, kind: int, record: np.void, script: "_Script") -> None:
        """Look up the faults so far in the spaces whose mappings a lifecycle record changes."""
        if kind in (RecordType.FORK, RecordType.EXEC):
            spaces = self.spaces.at(int(record["mm"])), self.spaces.of(int(record["tgid"]))
            script.placing.settle([space.number for space in spaces if space is not None])

    def _join(self, script: "_Script", windows: Structs) -> Iterator[Rows]:
        """Describe the batch's faults and tell the timeline, what else happened in between."""
        placed = script.placing.placed()
        batch = self.join.describe(placed, windows)
        rows = batch.rows
        at = [batch.row_at(action.at) for action in script.actions]
        for due in batch.telling.play(script.actions, at):
            self._apply(due)
        for action in batch.telling.idle:
            if action.begun_ns and isinstance(action.what, Effect):
                self._over(action.what)
        marks = placed.faults["marks"]
        traced = int(((marks & Mark.FAILED) == 0).sum())
        self.traced += traced
        self.failed += len(rows) - traced
        self.foreign += int(((marks & _NOT_COUNTED) == Mark.FOREIGN).sum())
        alive = {space.number for space in self.spaces.alive()}
        self.changed.update(alive.intersection(distinct(rows["space"])))
        yield rows

    # -- the records between faults ------------------------------------------------

    def _learn_children(self, forks: U8) -> None:
        for record in forks.view(self.layout.task).ravel():
            self.tgids.add(int(record["child_tgid"]))

    def _feed_sideband(self, settled_ns: int) -> None:
        """Take the new mappings; whose process began after `settled_ns` may not be known yet."""
        if self.sideband is None:
            return
        self.spaces.feed(self.sideband.poll(self.tgids, settled_ns))
        self.spaces.doubtful = self.spaces.doubtful or self.sideband.was_full
        gap = self.sideband.lost + self.sideband.corrupt
        if gap != self._sideband_gap:
            self._sideband_gap = gap
            self.changed.update(space.number for space in self.spaces.alive() if space.members)

    def _rescue(self) -> None:
        """A batch may take a while: empty the kernel's buffers before they overflow."""
        now = time.monotonic_ns()
        if now - self._rescued_ns > _RESCUE_NS:
            self._rescued_ns = now
            self.ring.spill()
            if self.sideband is not None:
                self.sideband.rescue()

    def cpus_changed(self) -> bool:
        """Whether CPUs went or came since last asked, or may have done both; cheap."""
        before, self._online = self._online, online_cpus()
        return before != self._online or time.monotonic_ns() - self._tended_ns > _TEND_NS

    def tend(self) -> None:
        """Now and then: follow CPUs that came online."""
        self._tended_ns = time.monotonic_ns()
        if self.attached.program.refresh():
            self.cpu_gaps += 1
            self.changed.update(space.number for space in self.spaces.alive() if space.members)
        if self.sideband is not None and self.sideband.refresh():
            self.changed.update(space.number for space in self.spaces.alive() if space.members)

    def _lifecycle(self, kind: int, record: np.void, script: "_Script") -> None:
        tgid, tid, count = int(record["tgid"]), int(record["tid"]), int(record["count"])
        if kind == RecordType.FORK:
            self._fork(record, script)
        elif kind == RecordType.EXEC:
            old = self.last_space.get(tgid)
            left = self.spaces.find(old) if old is not None else None
            # What exec wrote into the new memory is in the thread's count from here on; with
            # perf in no record.
            before = self.missed_in(left) if left is not None else 0
            self.threads.become_leader(int(record["child_tid"]), tid)
            self.threads.restart(tid, tgid, count)
            self.threads.reach(tid, count)
            blind = self.attached.probe.name == "perf"
            missed = before if blind or left is None else self.missed_in(left)
            self._name(tid, record)
            self.spaces.lifecycle(record)
            new = self.spaces.of(tgid)
            if new is not None:
                self.last_space[tgid] = new.number
                view = self.observer.view(new.number, own=self.missed_in(new))
                if new.number != old:  # else it was in exec when we came
                    view.born = Source.EXEC
                self.changed.add(new.number)
            if left is not None and left.ended_ns is not None:
                self._space_ended(left.number, missed, script)
        elif kind == RecordType.EXIT:
            self.threads.meet(tid, tgid)
            self.threads.end(tid, count, int(record["task"]))
            self._close_call(tid)
            space = self.spaces.of(tgid)
            missed = self.missed_in(space) if space is not None else 0
            self.spaces.lifecycle(record)
            if space is not None and space.ended_ns is not None:
                self._space_ended(space.number, missed, script)
            if record["group_dead"]:
                script.exited.append(tgid)
        elif kind == RecordType.FREE:
            thread = self.threads.free(tid, count, int(record["task"]))
            if thread is not None:
                script.freed.append((tid, thread))
        elif kind == RecordType.RENAME:
            self._name(tid, record)

    def _fork(self, record: np.void, script: "_Script") -> None:
        child, tgid = int(record["child_tid"]), int(record["child_tgid"])
        self.threads.reach(int(record["tid"]), int(record["count"]))
        self.threads.begin(child, tgid, 0)
        self._name(child, record)
        parent = self.spaces.of(int(record["tgid"]))
        self.spaces.lifecycle(record)
        if tgid == int(record["tgid"]):
            return
        space = self.spaces.of(tgid)
        if space is not None:
            self.last_space[tgid] = space.number
        if space is not None and parent is not None and space is not parent:
            self.observer.view(space.number, Source.FORK).descend(
                parent.number, self.observer.view(parent.number)
            )
            pair = parent.number, space.number
            inherit = partial(self.timeline.inherit, *pair, int(record["time_ns"]))
            both = whole(parent.number), whole(space.number)
            script.actions.append(Action(len(script.placing), both, inherit))
            self._memory.inherit(*pair)
            self.changed.add(space.number)

    def _end_of_batch(self, script: "_Script", read_ns: int) -> None:
        """Let go of what ended, told by a record or not; all up to `read_ns` has been read."""
        self._end_unseen(script, read_ns)
        self._close_ended(script.ended)
        self._let_go(script)

    def _end_unseen(self, script: "_Script", read_ns: int) -> None:
        """What ended though no record told of it: those were lost."""
        self._unseen_exits.ask(self.threads, time.monotonic_ns())
        for tid, thread, time_ns in self._unseen_exits.due(self.threads, read_ns):
            self.threads.let_go(tid)
            self.join.comms.pop(tid, None)
            self._close_call(tid)
            if tid == thread.tgid:
                self.spaces.exit(time_ns, tid)
                script.exited.append(tid)
        seen = {number for number, _ in script.ended}
        for space in self.spaces.ended():
            if space.number not in seen:
                self._space_ended(space.number, self.missed_in(space), script)
                script.exited.append(space.owner)  # unless it goes on in other memory

    def _lost_lives(self) -> int:
        """How many records found no room, EXIT and FREE among them, or had no handler run."""
        program = self.attached.program
        return program.counters()["lost_other"] + program.unheard_lives()

    def _space_ended(self, number: int, missed: int, script: "_Script") -> None:
        self.changed.discard(number)
        script.ended.append((number, missed))
        self._ended.append(number)

    def _close_ended(self, ended: list[tuple[int, int]]) -> None:
        """These spaces ended, and all that came before has been told of them."""
        untold: Untold | None = None
        for number, missed in ended:
            if self.timeline.has_unseen(number):
                untold = untold or self.untold()  # asked of the kernel, and seldom wanted
                self.observer.close(number, untold._replace(own=missed))
            self.timeline.drop_assumed(number)

    def _let_go(self, script: "_Script") -> None:
        """Forget threads and processes that are no more, unless their ids are used again."""
        for tid, thread in script.freed:
            if self.threads.live.get(tid) is thread:
                self.threads.let_go(tid)
                self.join.comms.pop(tid, None)
        for tgid in script.exited:
            if self.spaces.of(tgid) is None:
                self.tgids.discard(tgid)
                if tgid != self._command:
                    self.last_space.pop(tgid, None)
        for tgid in {*script.exited, *(thread.tgid for _, thread in script.freed)}:
            if self.spaces.of(tgid) is None and tgid != self._command:
                self.threads.forget(tgid)

    def retire(self, keep: int | None) -> None:
        """Let go of what ended spaces took; `keep` is one that is still to be looked at."""
        for number in dict.fromkeys(self._ended):
            space = self.spaces.find(number)
            if number != keep and space is not None and not space.retired:
                self.timeline.retire(number, space.ended_ns or 0)
                space.retired = True
                self.observer.forget(number)
                self._memory.forget(number)
                self._retired.append(number)
        self._ended = [number for number in self._ended if number == keep]
        for number in self._retired:
            if number not in self.timeline.shelf:
                self.spaces.forget(number)
        self._retired = [number for number in self._retired if number in self.timeline.shelf]

    def _name(self, tid: int, record: np.void) -> None:
        raw = record["comm"].tobytes().split(b"\0", 1)[0]
        self.join.comms[tid] = self.names.comm(text_of(raw))

    def _call(self, begun: SystemCall) -> None:
        """A call begins; only told where other threads may fault before it returns."""
        space = self.spaces.at(begun.mm) or self.spaces.of(begun.tgid)
        self._close_call(begun.tid)
        if space is None:
            return
        found = taking(begun, self._memory.brk.get(space.number, 0))
        if found is not None:
            self._calls[begun.tid] = found
            self.timeline.begin_taking(space.number, found)

    def _close_call(self, tid: int) -> None:
        """The thread is in no call any more, though no return was told."""
        before = self._calls.pop(tid, None)
        if before is not None:
            self.timeline.end_taking(before)

    def _syscall(self, made: SystemCall) -> Effect | None:
        space = self.spaces.at(made.mm) or self.spaces.of(made.tgid)
        if space is None:
            return None
        self.changed.add(space.number)
        for start, end in written(made):
            remote = Hint(start, end, source=Source.REMOTE, time_ns=made.time_ns)
            self.observer.hint(space.number, remote)
        call = self._calls.pop(made.tid, None)
        change = effect(made, space.number, self._memory, call)
        self.spaces.syscall(made)
        blind = self.attached.probe.name == "perf"  # to the faults of a call that fills
        filled_only = change is not None and change.populates and not (blind and change.replaces)
        if call is not None and (change is None or filled_only or change.gives_up):
            self.timeline.end_taking(call)
        if change is None:
            return None
        self._follow_userfaults(change)
        if not (change.populates or change.gives_up or change.registers is not None):
            self.observer.taken(space.number, change.start, change.end)
            return change
        if change.populates:
            source = Source.UFFD if change.userfault else Source.POPULATE
            hint = Hint(change.start, change.end, source=source, time_ns=made.time_ns)
            self.observer.hint(space.number, hint)
            if blind and not change.userfault:
                return self._filled_unseen(change)
        elif change.gives_up:
            hint = Hint(change.start, change.end, loss=change.loss, time_ns=made.time_ns)
            self.observer.hint(space.number, hint)
        return None

    def _filled_unseen(self, change: Effect) -> Effect | None:
        """A call filled a range, and no fault tells; what it took away first, if it did."""
        where = change.space, change.start, change.end
        if change.replaces:
            self.observer.taken(*where)
        tells = self.attached.direct_map.base and self.observer.view(change.space).known()
        if not (change.told and tells):  # else FILLED records come
            self.observer.fill_unseen(*where, change.time_ns)
        return Effect(*where, change.time_ns, call=change.call) if change.replaces else None

    def _zero(self) -> int:
        return self.attached.direct_map.zero_frame

    def _filled(self, told: Filled, since: int, until: int, script: "_Script") -> None:
        """FILLED records, one after another, most often of one call."""
        tids = told.records["tid"][since:until]
        for tid in dict.fromkeys(tids.tolist()):
            mine = told.of(since, until, None if (tids == tid).all() else tid)
            first = told.records[mine.start]
            space = self.spaces.at(int(first["mm"])) or self.spaces.of(int(first["tgid"]))
            # What was there may have been there before the call: the first look tells.
            if space is None or not self.observer.view(space.number).known():
                continue
            if len(mine.pages):
                question, at = Question(mine.pages << PAGE_BITS), np.arange(len(mine.pages))
                space.history.add(int(mine.times.min()), question)
                columns = mine.pages, mine.frames, mine.times
                where = space.number, int(first["mm"])
                script.effects.append(Fill(*where, *columns, space.history, question, at))
                script.fills = True
            for start, end, reached, time_ns in mine.ends:
                self.observer.fill_unseen(space.number, max(start, reached), end, time_ns)

    def _fill(self, fill: Fill) -> None:
        if fill.question.regions is None:  # no fault came after it
            fill.history.advance(fill.time_ns)
        assert fill.question.regions is not None
        regions = fill.question.regions[fill.at]
        self.timeline.fill(fill.space, fill.pages, fill.frames, fill.time_ns, regions)

    def _takes(self, made: Takes, script: "_Script") -> None:
        """What `_syscall` does, for calls that only take."""
        tgid, tid, time_ns, mm, start, end, unmaps = made
        space = self.spaces.at(mm) or self.spaces.of(tgid)
        if space is None:
            return
        number = space.number
        self.changed.add(number)
        self.observer.taken(number, start, end)
        call = self._calls.pop(tid, None) if self._calls else None
        if unmaps:
            space.history.add(time_ns, Unmap(start, end))
            self.join.userfaults.end(number, start, end, time_ns)
            change = Effect(number, start, end, time_ns, call=call)
        else:
            change = Effect(number, start, end, time_ns, Loss.MADVISE, call=call)
        script.effects.append(change)

    def _follow_userfaults(self, change: Effect) -> None:
        """Which ranges are registered with userfaultfd; what is unmapped is not."""
        where = change.space, change.start, change.end, change.time_ns
        unmapped = change.loss == Loss.MUNMAP and not (change.userfault or change.populates)
        if change.registers:
            self.join.userfaults.register(*where)
        elif change.registers is False or unmapped:
            self.join.userfaults.end(*where)

    def _apply(self, actions: Sequence[Action]) -> None:
        """Do to the timeline's pages what was done; the actions have no page in common."""
        taken = []
        for action in actions:
            self._rescue()
            change = action.what
            if not isinstance(change, Effect):
                change()
            elif change.moved_to is None:
                taken.append(change)
            else:
                self._move(change, change.moved_to)
        self.timeline.lose_all([_lost(change) for change in taken])
        for change in taken:
            self._over(change)

    def _move(self, change: Effect, to: int) -> None:
        place = change.space, change.start, to, change.end - change.start, change.time_ns
        shifted = partial(self._shifted, bytes_=to - change.start)
        if not self._touches(change, to):
            pass
        elif change.userfault:
            self.timeline.hand_over(*place, shifted)
        else:
            self.timeline.move(*place, change.moved_size, shifted)
        self._over(change)

    def _touches(self, change: Effect, to: int) -> bool:
        """Whether what moves to `to` concerns a page with a frame."""
        ranges = (change.start, change.end), (to, to + change.moved_size)
        return any(self.timeline.holds(change.space, *each) for each in ranges)

    def _over(self, change: Effect) -> None:
        """The call behind a change has returned: it takes nothing more."""
        if change.call is not None:
            self.timeline.end_taking(change.call, change.time_ns)

    def _shifted(self, regions: U32, bytes_: int) -> U32:
        """The regions (indices into names.regions) as they are called that far on."""
        there: dict[int, int] = {}
        numbers = regions.tolist()
        for number in dict.fromkeys(numbers):
            at = self.names.regions[number]
            moved = at._replace(start=at.start + bytes_, end=at.end + bytes_)
            array = self.names.array_of.get(number, 0)
            there[number] = self.names.region(moved, array) if at.end else number
        return np.array([there[number] for number in numbers], np.uint32)

    def meet_threads(self) -> None:
        """Find the threads of living targets that no record told of: io_uring's workers."""
        for tgid in {t.tgid for t in self.threads.live.values() if not t.ended}:
            with contextlib.suppress(ProcessGone):
                for tid in stat.threads(tgid):
                    self.threads.meet(tid, tgid)

    # -- snapshots --------------------------------------------------------------------

    def is_of(self, shot: Snapshot, number: int) -> bool:
        """Whether the process was in that space all along, and its exec over.

        After an exec it showed another; during one, pages that exec may still move. The ring
        must have been read to the snapshot's end.
        """
        space = self.spaces.find(number)
        if space is None or space.ended_ns is not None or shot.pid not in space.members:
            return False
        if shot.before_ns < space.built_ns:
            return False
        # The record that says so may be lost.
        return not space.building or self.attached.program.counters()["lost_other"] > 0

    def observe(
        self,
        space: int,
        shot: Snapshot,
        untold: Untold,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Hold a snapshot against the timeline; the ring must have been read to its end.

        `untold`: what `untold` said since. Raises Enough where it is `enough` meanwhile: then the
        space is not to be looked at again.
        """
        owner = self.spaces[space]
        shot.mappings = self.spaces.settled(shot.pid, shot.mappings)
        if owner.ended_ns is None:
            self.spaces.snapshot(shot.before_ns, shot.pid, shot.mappings)
            owner.history.advance(shot.before_ns)
        self.observer.observe(
            space,
            shot,
            lambda pages: shot.regions(self.names, pages, owner.history.arrays),
            untold._replace(own=self.missed_in(owner)),
            enough,
        )

    def frames(self) -> Iterator[U64]:
        """The frames of every space that has not ended, each as of its last look."""
        for space in self.spaces.all():
            if not space.retired:
                yield from self.observer.frames(space.number)

    # -- counts -------------------------------------------------------------------------

    def missed(self) -> int:
        """Faults the kernel counted for the targets that no record and no counter tells of."""
        return self._missed(self.attached.program.counters())

    def _missed(self, counters: dict[str, int]) -> int:
        gaps = self.threads.counted - self.threads.seen
        return gaps - counters["lost"] - counters["filtered"]

    def untold(self) -> Untold:
        """What no record of the run tells of so far, in whosever memory it was."""
        program = self.attached.program
        counters = program.counters()
        lost = counters["lost"] + self.unread
        return Untold(
            missed=max(0, self._missed(counters)) + lost,
            filtered=counters["filtered"],
            lost=lost,
            dropped=counters["lost_other"] + self.unread_other + program.skipped_calls(),
        )

    def missed_in(self, space: Space) -> int:
        """Faults of the processes in this memory, or the last one there, that no record tells of.

        Those not read are anybody's.
        """
        members = space.members or {space.owner}
        return sum(self.threads.missed_by(tgid) for tgid in members) + self.unread


def _maps_of(pid: int) -> list[Mapping]:
    """A process's mappings, by another thread's word where its first has ended."""
    try:
        return read_maps(pid)
    except ProcessGone:
        return read_maps(pid, stat.living_thread(pid))


def _lost(change: Effect) -> Lost:
    begun_ns = change.call.begun_ns if change.call else 0
    return Lost(
        change.space, change.start, change.end, change.time_ns, change.loss, begun_ns=begun_ns
    )


def _recent(windows: Structs) -> Structs:
    """Without those so old that their fault's record must have been lost."""
    if not len(windows):
        return windows
    young = windows["time_ns"] + np.uint64(_PATIENCE_NS) > windows["time_ns"].max()
    return np.asarray(windows[young])
