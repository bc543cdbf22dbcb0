"""From the ring to joined rows: reads every record once, in order, and keeps the state they move.

The one place where the parts meet: address spaces, threads' counts, the
timeline and the observer all follow the same stream of records.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError
from tracer.join import Join, match_windows
from tracer.kernel.sideband import Sideband
from tracer.observer import Observer
from tracer.probes.choose import Attached
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import read_maps
from tracer.procfs.system import large_anonymous_folios, mounts, shows_vvar
from tracer.records import Mark, RecordType
from tracer.ring import Ring
from tracer.rows import Names, Rows
from tracer.snapshots import Snapshot
from tracer.sources import Source
from tracer.spaces import Spaces
from tracer.syscalls import Effect, effect
from tracer.text import decode
from tracer.threads import Threads
from tracer.timeline import Timeline

Records = npt.NDArray[np.void]
Bytes = npt.NDArray[np.uint8]

_BATCH = 1 << 14  # records read at once
_RESCUE_NS = 20_000_000
_PATIENCE_NS = 1_000_000_000  # how long a window waits for its fault


@dataclass
class Recorder:
    """Follows the targets of one trace on an attached probe."""

    attached: Attached
    names: Names = field(default_factory=Names)

    def __post_init__(self) -> None:
        program = self.attached.program
        self.layout = program.layout
        self.ring = Ring(program.ring_fd, program.ring_bytes, self.layout.size)
        self.sideband: Sideband | None = None
        self.notes: list[str] = []
        try:
            self.sideband = Sideband()
        except TraceError as error:
            self.notes.append(f"mappings are known from snapshots only: {error.message}")
        self.spaces = Spaces(self.names)
        self.timeline = Timeline()
        self.threads = Threads()
        self.observer = Observer(self.timeline)
        self.join = Join(
            self.names,
            self.spaces,
            self.timeline,
            self.attached.direct_map.zero_frame,
            large_anon=large_anonymous_folios(),
            on_tmpfs=mounts().on_tmpfs,
            vvar_seen=shows_vvar(),
        )
        self.tgids: set[int] = set()
        self.traced = self.failed = self.foreign = 0
        self.closed: set[int] = set()  # spaces whose last look came after their last record
        self.last_space: dict[int, int] = {}  # by process: the space it is or was in
        self.execs: set[int] = set()  # processes that replaced their memory since last asked
        self.changed: set[int] = set()  # spaces in which something happened since the last snapshot
        self._windows: Records = np.empty(0, self.layout.window)
        self._ended: list[int] = []  # spaces, not retired yet
        self._brk: dict[int, int] = {}
        self._sideband_gap = 0
        self._rescued_ns = 0

    def close(self) -> None:
        """Let go of the ring and the sideband; the probe is its owner's."""
        self.ring.close()
        if self.sideband is not None:
            self.sideband.close()

    # -- targets ------------------------------------------------------------------

    def attach(self, pid: int, *, children: bool) -> None:
        """Trace a process that is there already, all its threads, from now. Raises ProcessGone."""
        now = time.monotonic_ns()
        self.tgids.add(pid)
        self.attached.program.add_target(pid, children=children)
        space = self.spaces.attach(now, pid, None, read_maps(pid))
        self.last_space[pid] = space.number
        self.observer.view(space.number, Source.INITIAL)
        self.changed.add(space.number)
        for tid in stat.threads(pid):
            try:
                self.threads.begin(tid, pid, stat.fault_count(pid, tid))
                self.join.comms[tid] = self.names.comm(stat.comm(pid, tid))
            except ProcessGone:
                continue  # a thread that ended meanwhile; its records tell

    def expect(self, pid: int, *, children: bool) -> None:
        """Trace a process from the first instruction after its next exec."""
        self.tgids.add(pid)
        self.spaces.expect(pid)
        self.attached.program.add_target(pid, children=children, waits=True)

    # -- the stream -----------------------------------------------------------------

    def cycle(self) -> Iterator[Rows]:
        """Everything the ring holds now, as batches of rows.

        What comes meanwhile waits for the next call: a target may be faster than we are,
        and the trace must end all the same.
        """
        for _ in range(1 + self.ring.pending() // (_BATCH * self.ring.record_size)):
            now = time.monotonic_ns()
            batch = self.ring.read(_BATCH)
            if len(batch):
                yield from self._process(batch)
            else:
                self._feed_sideband(now)
            if len(batch) < _BATCH:
                return

    def _process(self, batch: Bytes) -> Iterator[Rows]:
        types = batch[:, 0]
        self._learn_children(batch[types == RecordType.FORK])
        last_ns = int(batch[-1:].view(self.layout.fault)["time_ns"][0, 0])
        self._feed_sideband(last_ns)
        is_fault = types == RecordType.FAULT
        faults = batch[is_fault].view(self.layout.fault).ravel()
        windows = batch[types == RecordType.WINDOW].view(self.layout.window).ravel()
        windows = np.concatenate([self._windows, windows])
        matched = match_windows(faults, windows)
        self._windows = _recent(windows[matched < 0])  # their faults come with the next batch
        before = np.cumsum(is_fault)  # faults up to and including each record
        start = 0
        effects: list[Effect] = []
        others = np.flatnonzero(~is_fault & (types != RecordType.WINDOW))
        for index in others.tolist():
            kind = int(types[index])
            if kind == RecordType.SYSCALL:
                change = self._syscall(batch[index].view(self.layout.syscall)[0])
                effects += [change] if change is not None else []
                continue
            record = batch[index].view(self.layout.task)[0]
            # A thread's id used again: what came before is the old one's.
            reused = kind == RecordType.FORK and int(record["child_tid"]) in self.threads.live
            if reused or _cuts(kind, record):
                end = int(before[index])
                mine = windows[(matched >= start) & (matched < end)]
                yield from self._segment(faults[start:end], mine, effects)
                start, effects = end, []
            self._lifecycle(kind, record)
        mine = windows[matched >= start]
        yield from self._segment(faults[start:], mine, effects)
        self.spaces.advance(last_ns)

    def _segment(self, faults: Records, windows: Records, effects: list[Effect]) -> Iterator[Rows]:
        """Faults between two lifecycle records, and what system calls took away meanwhile."""
        self._rescue_sideband()
        effects.sort(key=lambda change: change.time_ns)
        if not len(faults):
            for change in effects:
                self._apply_effect(change)
            return
        failed = (faults["marks"] & Mark.FAILED) != 0
        foreign = (faults["marks"] & Mark.FOREIGN) != 0
        counted = ~failed & ~foreign
        self.threads.record(
            faults["tid"][counted], faults["tgid"][counted], faults["count"][counted]
        )
        batch = self.join.describe(faults, windows)
        rows, done = batch.rows, 0
        for change in effects:
            until = max(done, int(np.searchsorted(rows["time_ns"], change.time_ns)))
            if self._touches(change, rows["address"][done:until]):
                self.join.tell(batch, done, until)
                self._apply_effect(change)
                done = until
        self.join.tell(batch, done, len(rows))
        self.traced += int((~failed).sum())
        self.foreign += int((foreign & ~failed).sum())
        self.failed += len(rows) - int((~failed).sum())
        self.changed.update(np.unique(rows["space"]).tolist())
        yield rows

    # -- the records between faults ------------------------------------------------

    def _learn_children(self, forks: Bytes) -> None:
        for record in forks.view(self.layout.task).ravel():
            self.tgids.add(int(record["child_tgid"]))

    def _feed_sideband(self, settled_ns: int) -> None:
        """Take the new mappings; whose process began after `settled_ns` may not be known yet."""
        if self.sideband is None:
            return
        self.spaces.feed(self.sideband.poll(self.tgids, settled_ns))
        gap = self.sideband.lost + self.sideband.corrupt
        if gap != self._sideband_gap:
            self._sideband_gap = gap
            self.changed.update(space.number for space in self.spaces.alive() if space.members)

    def _rescue_sideband(self) -> None:
        """A batch may take a while: empty the sideband's buffers before they overflow."""
        now = time.monotonic_ns()
        if self.sideband is not None and now - self._rescued_ns > _RESCUE_NS:
            self._rescued_ns = now
            self.sideband.rescue()

    def tend(self) -> None:
        """Now and then: follow CPUs that came online."""
        if self.sideband is not None and self.sideband.refresh():
            self.changed.update(space.number for space in self.spaces.alive() if space.members)

    def _lifecycle(self, kind: int, record: np.void) -> None:
        tgid, tid, count = int(record["tgid"]), int(record["tid"]), int(record["count"])
        if kind == RecordType.FORK:
            self._fork(record)
        elif kind == RecordType.EXEC:
            old = self.last_space.get(tgid)
            self.threads.become_leader(int(record["child_tid"]), tid)
            self.threads.restart(tid, tgid, count)
            self._name(tid, record)
            self.spaces.lifecycle(record)
            new = self.spaces.of(tgid)
            self.execs.add(tgid)
            if new is not None:
                self.last_space[tgid] = new.number
                self.observer.view(new.number, Source.EXEC)
                self.changed.add(new.number)
            if old is not None and self.spaces[old].ended_ns is not None:
                self._space_ended(old)
        elif kind == RecordType.EXIT:
            self.threads.end(tid, count)
            space = self.spaces.of(tgid)
            self.spaces.lifecycle(record)
            if space is not None and space.ended_ns is not None:
                self._space_ended(space.number)
        elif kind == RecordType.FREE:
            thread = self.threads.live.get(tid)
            if thread is not None and thread.ended:
                self.threads.reach(tid, count)
        elif kind == RecordType.RENAME:
            self._name(tid, record)

    def _fork(self, record: np.void) -> None:
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
            self.observer.view(space.number, Source.FORK)
            self.timeline.inherit(parent.number, space.number, int(record["time_ns"]))
            if parent.number in self._brk:
                self._brk[space.number] = self._brk[parent.number]
            self.changed.add(space.number)

    def _space_ended(self, number: int) -> None:
        self.changed.discard(number)
        self.timeline.drop_assumed(number)
        self._ended.append(number)

    def retire(self, keep: int | None) -> None:
        """Let go of what ended spaces took; `keep` is one that is still to be looked at."""
        for number in self._ended:
            if number != keep:
                self.timeline.retire(number)
        self._ended = [number for number in self._ended if number == keep]

    def _name(self, tid: int, record: np.void) -> None:
        raw = record["comm"].tobytes().split(b"\0", 1)[0]
        self.join.comms[tid] = self.names.comm(decode(raw))

    def _syscall(self, record: np.void) -> Effect | None:
        space = self.spaces.at(int(record["mm"])) or self.spaces.of(int(record["tgid"]))
        if space is None:
            return None
        self.changed.add(space.number)
        change = effect(record, space.number, self._brk)
        self.spaces.syscall(record)
        if change is not None and change.populates:
            self.observer.populate(space.number, change.start, change.end)
            return None
        return change

    def _touches(self, change: Effect, waiting: npt.NDArray[np.uint64]) -> bool:
        """Whether the change concerns an address the timeline is still to hear of, or a frame."""
        ranges = [(change.start, change.end)]
        if change.moved_to is not None:
            ranges.append((change.moved_to, change.moved_to + change.moved_size))
        return any(
            ((waiting >= start) & (waiting < end)).any()
            or self.timeline.holds(change.space, start, end)
            for start, end in ranges
        )

    def _apply_effect(self, change: Effect) -> None:
        if change.moved_to is not None:
            self.timeline.move(
                change.space,
                change.start,
                change.moved_to,
                change.end - change.start,
                change.time_ns,
                change.moved_size,
            )
        else:
            self.timeline.lose(change.space, change.start, change.end, change.time_ns, change.loss)

    # -- snapshots --------------------------------------------------------------------

    def observe(self, space: int, shot: Snapshot) -> None:
        """Hold a snapshot against the timeline; the ring must have been read to its end."""
        owner = self.spaces[space]
        if owner.ended_ns is None:
            self.spaces.snapshot(shot.before_ns, shot.pid, shot.mappings)
        regions = shot.regions(self.names)
        filtered = self.attached.program.counters()["filtered"]
        self.observer.observe(space, shot, regions, self.missed(), filtered)

    # -- counts -------------------------------------------------------------------------

    def missed(self) -> int:
        """Faults the kernel counted for the targets that no record and no counter tells of."""
        counters = self.attached.program.counters()
        gaps = self.threads.counted - self.threads.seen
        return gaps - counters["lost"] - counters["filtered"]


def _cuts(kind: int, record: np.void) -> bool:
    """Whether the faults before this record must be joined before it is followed."""
    if kind == RecordType.FORK:
        return bool(record["child_tgid"] != record["tgid"])
    if kind == RecordType.EXIT:
        return bool(record["group_dead"])
    return kind in (RecordType.EXEC, RecordType.RENAME)


def _recent(windows: Records) -> Records:
    """Without those so old that their fault's record must have been lost."""
    if not len(windows):
        return windows
    young = windows["time_ns"] + np.uint64(_PATIENCE_NS) > windows["time_ns"].max()
    return np.asarray(windows[young])
