"""Address spaces over time: which one a fault was in, and in which mapping.

A space is one lifetime of a `struct mm_struct`: fork makes one, exec replaces
one, vfork shares one, and the kernel reuses the pointer once it has ended.
Each gets a small number from 1.

Use, once a cycle: read the fault ring, then poll the sideband and `feed` its
events, then go through the ring's records in their order: `lifecycle` and
`syscall` for each record of that kind, `resolve` and `places` for the faults
between two of them; at last `advance` to the last record's time.
"""

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from tracer.common.fields import FEW, Records, distinct
from tracer.common.types import U64, Ids, Index
from tracer.kernel.sideband import Event, ExecEvent
from tracer.model.rows import Names
from tracer.procfs.maps import Mapping
from tracer.spaces.changes import ThreadStack
from tracer.spaces.code_files import CodeFiles, CodeMapping
from tracer.spaces.interval_map import Places, Times
from tracer.spaces.mappings import Files, MappingHistory
from tracer.wire.records import Mark, RecordType

# VM_STACK_INCOMPLETE_SETUP (include/linux/mm.h): the stack exec is still building
_EXEC_STACK = 0x18000


Record = np.void


@dataclass
class Space:
    """One address space.

    `owner` is the process it was made for (0 where that is not known), or
    another that shares it once the owner is gone. `building`: its exec is not known to be
    over, and may still move pages it has mapped.
    """

    number: int
    mm: int | None  # None: not seen yet, of a target that ran before the trace
    owner: int
    history: MappingHistory
    members: set[int] = field(default_factory=set)
    ended_ns: int | None = None
    retired: bool = False  # … and the timeline has released its pages
    building: bool = False
    built_ns: int = 0  # when that was over, where recorded


class Spaces:
    """All address spaces of a run, by number; the living ones also by mm and by process."""

    def __init__(self, names: Names, code: CodeFiles | None = None) -> None:
        """`code`: finds the file of each executable mapping, where used."""
        self._names = names
        self._code = code
        # Called with a process and the code of a file that it has mapped.
        self.code_mapped: Callable[[int, CodeMapping], None] = lambda *_: None
        self._files = Files()
        self._spaces: dict[int, Space] = {}  # by number
        self._made = 0
        self._alive: dict[int, Space] = {}  # by number
        self._by_mm: dict[int, Space] = {}
        self._by_tgid: dict[int, Space] = {}
        # The histories a process goes through, each with its start: that of its space,
        # then those waiting for the EXEC record with the new mm pointer.
        self._streams: dict[int, list[tuple[int, MappingHistory]]] = {}
        # By process: exec events up to then begin no history: their record came first, or the
        # process was attached to since.
        self._execs: dict[int, int] = {}
        self._in_exec: set[int] = set()  # attached to; an EXEC record may still come
        # By process, attached to: since when it is traced, and its mappings before and after.
        self._first: dict[int, tuple[int, list[Mapping], list[Mapping]]] = {}
        self._orphans: dict[int, list[Event]] = {}  # events before their process's FORK record
        self._ended: list[Space] = []
        self._ended_since: list[Space] = []  # the last call of `ended`
        self._doubtful = False  # the sideband dropped records: use system calls, too

    @property
    def doubtful(self) -> bool:
        """Whether mappings are taken from system calls, too."""
        return self._doubtful

    def doubt(self) -> None:
        """The sideband is missing or has dropped records: use system calls, too."""
        self._doubtful = True

    @property
    def files(self) -> Files:
        """The files mapped so far."""
        return self._files

    def __getitem__(self, number: int) -> Space:
        return self._spaces[number]

    def __len__(self) -> int:
        return self._made

    def of(self, tgid: int) -> Space | None:
        """The space a process is in now."""
        return self._by_tgid.get(tgid)

    def attach(
        self,
        time_ns: int,
        tgid: int,
        mm: int | None,
        mappings: Iterable[Mapping] = (),
        since_ns: int | None = None,
        before: Iterable[Mapping] = (),
    ) -> Space:
        """Add a target that is running already; `mm` None: known from its own first fault.

        It is traced since `since_ns`, by default since `time_ns`, when `mappings` began to be
        read: those of an exec's new memory, if that was reported (ExecEvent) by then, or while
        they were read. `before`, `settled`: those it had just before it was traced.
        """
        space = self._by_mm.get(mm) if mm else None
        if space is None:
            space = self._new(mm, tgid)
            listed = list(self.settled(tgid, mappings))
            before = list(before)
            either = listed if _are_of_one_program(before, listed) else _merged(listed, before)
            if since_ns is not None:
                self._first[tgid] = since_ns, before, listed
                space.history.add_mappings(since_ns, either)
            space.history.add_mappings(time_ns, either)
        self._join(tgid, space)
        self._execs[tgid] = time_ns
        return space

    def expect(self, tgid: int) -> None:
        """Add a process that is traced from its next exec on, which makes its space."""
        self._streams[tgid] = [(0, MappingHistory(self._names, self._files))]

    def at(self, mm: int) -> Space | None:
        """The living space behind an mm pointer."""
        return self._by_mm.get(mm)

    def all(self) -> list[Space]:
        """Every space of the run not forgotten, by number."""
        return list(self._spaces.values())

    def find(self, number: int) -> Space | None:
        """The space of that number; None where it is forgotten."""
        return self._spaces.get(number)

    def forget(self, number: int) -> None:
        """Drop a space that has ended and is no longer needed."""
        self._spaces.pop(number, None)

    def ended(self) -> list[Space]:
        """Pop the spaces that have ended since the last call, by a record or by later evidence.

        Where a process's EXIT or EXEC record was dropped, the end of its space shows later: its
        pid or `mm_struct` is reused, or the process itself faults in another space.
        """
        ended, self._ended_since = self._ended_since, []
        return ended

    def alive(self) -> list[Space]:
        """The spaces that have not ended, by number."""
        return list(self._alive.values())

    def lifecycle(self, record: Record) -> None:
        """Follow a task record (bpf/shared.h): FORK, EXEC, EXIT; others are ignored."""
        kind, time_ns, tgid = int(record["type"]), int(record["time_ns"]), int(record["tgid"])
        if kind == RecordType.FORK:
            mm, child = int(record["mm"]), int(record["child_tgid"])
            if child == tgid:
                self._thread(time_ns, tgid, mm, int(record["child_sp"]))
            else:
                self.fork(time_ns, tgid, mm, child, int(record["child_mm"]))
        elif kind == RecordType.EXEC:
            self.exec(time_ns, tgid, int(record["mm"]))
            space = self._by_tgid[tgid]
            space.building, space.built_ns = False, time_ns
        elif kind == RecordType.EXIT and record["group_dead"]:
            self.exit(time_ns, tgid)

    def fork(self, time_ns: int, tgid: int, mm: int, child_tgid: int, child_mm: int) -> None:
        """A process was forked; with `child_mm` == `mm` it shares the memory."""
        if not child_mm:
            return
        parent = self._own(time_ns, tgid, mm)
        self._leave(child_tgid, time_ns)  # an earlier one of that pid: its EXIT was dropped
        if child_mm == mm:
            self._join(child_tgid, parent)
        else:
            self._end_pointer(child_mm, time_ns)
            child = self._new(child_mm, child_tgid, parent.history.fork(time_ns))
            self._join(child_tgid, child)
        self.feed(self._orphans.pop(child_tgid, ()))

    def _thread(self, time_ns: int, tgid: int, mm: int, pointer: int) -> None:
        space = self._by_mm.get(mm) or self._by_tgid.get(tgid)
        if space is not None and pointer:
            space.history.add(time_ns, ThreadStack(pointer))

    def exec(self, time_ns: int, tgid: int, mm: int) -> None:
        """A process replaced its memory by the new address space `mm`.

        The faults of exec's own loading may have shown this before the record.
        """
        now = self._by_tgid.get(tgid)
        if now is not None and now.mm == mm:
            return
        waiting = [entry for entry in self._streams.get(tgid, [])[1:] if entry[0] <= time_ns]
        later = self._streams.get(tgid, [])[1 + len(waiting) :]
        if now is not None and not waiting and tgid in self._in_exec:
            self._in_exec.discard(tgid)
            if now.mm is None:  # at the attach it was in its new memory already
                self._name(now, mm)
                return
        self._in_exec.discard(tgid)
        self._leave(tgid, time_ns)
        space = self._by_mm.get(mm)
        if space is None or space.members:  # else exec's argument pages showed it
            self._end_pointer(mm, time_ns)
            space = self._new(mm, tgid)
        space.owner = tgid
        space.building = True
        if waiting:
            space.history = waiting[-1][1]
        else:
            self._execs[tgid] = time_ns
        self._join(tgid, space)
        self._streams[tgid] += later

    def exit(self, time_ns: int, tgid: int) -> None:
        """A process's last thread ended."""
        self._leave(tgid, time_ns)
        self._streams.pop(tgid, None)
        self._execs.pop(tgid, None)
        self._in_exec.discard(tgid)

    def feed(self, events: Iterable[Event]) -> None:
        """Add the sideband's events, in order of time. Those of unknown processes wait a cycle."""
        for event in events:
            stream = self._streams.get(event.pid)
            if stream is None:
                self._orphans.setdefault(event.pid, []).append(event)
            elif not isinstance(event, ExecEvent):
                if self._code is not None:
                    event.file = self._code.see(event.pid, event, anew=True)
                    if event.file:
                        self.code_mapped(event.pid, event)
                stream[-1][1].add(event.time_ns, event)
            elif event.time_ns > self._execs.get(event.pid, 0):
                history = MappingHistory(self._names, self._files)
                stream.append((event.time_ns, history))
            elif stream[0][1] is stream[-1][1] and self._by_tgid[event.pid].mm is None:
                self._in_exec.add(event.pid)
                since_ns, before, listed = self._first.get(event.pid, (event.time_ns, [], []))
                if since_ns < event.time_ns:
                    history = MappingHistory(self._names, self._files)
                    history.add_mappings(since_ns, before)
                    history.add_mappings(event.time_ns, listed)
                    self._by_tgid[event.pid].history = history
                    stream[0] = stream[0][0], history

    def settled(self, tgid: int, mappings: Iterable[Mapping]) -> list[Mapping]:
        """A process's mappings, with file numbers on executable ones, where used."""
        code = self._code
        if code is None:
            return list(mappings)
        found = [
            each._replace(file=code.see(tgid, each, anew=False)) if "x" in each.perms else each
            for each in mappings
        ]
        for each in found:
            if each.file:
                self.code_mapped(tgid, each)
        return found

    def snapshot(self, time_ns: int, tgid: int, mappings: Iterable[Mapping]) -> None:
        """Add the whole /proc/PID/maps of a process, `settled`, read from `time_ns` on."""
        for since_ns, history in reversed(self._streams.get(tgid, [])):
            if since_ns <= time_ns:
                history.add_mappings(time_ns, mappings)
                break

    def resolve(self, faults: Records) -> tuple[Ids, Ids]:
        """(space numbers, owners' pids) of fault records between two lifecycle records.

        Shapes (n,). An mm not seen before is the faulting thread's own, the one
        exec is setting up for it, or, with owner 0, that of a process without
        records.
        """
        if len(faults) <= FEW:
            # One by one: for few, plain Python costs less than numpy.
            each = [
                self._by_mm.get(mm) or self._discover(faults, mm) for mm in faults["mm"].tolist()
            ]
            return (
                np.array([space.number for space in each], dtype=np.uint32),
                np.array([space.owner for space in each], dtype=np.uint32),
            )
        pointers, inverse = _unique(faults["mm"])
        spaces = [self._by_mm.get(mm) or self._discover(faults, mm) for mm in pointers]
        numbers = np.array([space.number for space in spaces], dtype=np.uint32)
        owners = np.array([space.owner for space in spaces], dtype=np.uint32)
        return numbers[inverse], owners[inverse]

    def places(self, numbers: Ids, faults: Records) -> Places:
        """The region (index into Names.regions) and shift of each fault, at its time, in its space.

        Shapes (n,), (n,) → (2, n).
        """
        if len(numbers) and (numbers == numbers[0]).all():
            return self[int(numbers[0])].history.lookup_faults(faults)
        result = np.zeros((2, len(faults)), dtype=np.uint64)
        few = len(numbers) <= FEW
        for number in set(numbers.tolist()) if few else distinct(numbers):
            history = self[number].history
            mine = numbers == number
            result[:, mine] = history.lookup_faults(faults[mine])
        return result

    def lookup(self, number: int, addresses: U64, times: Times) -> Places:
        """`MappingHistory.lookup` in one space."""
        return self[number].history.lookup(addresses, times)

    def code(self, number: int, address: int, time_ns: int) -> tuple[int, int]:
        """`MappingHistory.code` in one space."""
        return self[number].history.code(address, time_ns)

    def codes(self, number: int, addresses: U64, time_ns: int) -> Places:
        """`MappingHistory.codes` in one space."""
        return self[number].history.codes(addresses, time_ns)

    def places_at(self, numbers: Ids, addresses: U64, times: Times) -> Places:
        """`lookup` of addresses in many spaces, such as those of rows' instructions.

        Shapes (n,) → (2, n). Times before the last `places` use the mappings as of
        that call, which for code are nearly always the same.
        """
        result = np.zeros((2, len(numbers)), dtype=np.uint64)
        for number in np.unique(numbers).tolist():
            if number:
                mine = numbers == number
                result[:, mine] = self.lookup(number, addresses[mine], times[mine])
        return result

    def advance(self, time_ns: int) -> None:
        """End a cycle: apply changes up to `time_ns`, free what is no longer needed.

        A space that ended keeps its mappings until the end of the next cycle.
        """
        for space in self._ended:
            space.history = MappingHistory(self._names, self._files)
        self._ended = []
        for space in self._by_tgid.values():
            space.history.advance(time_ns)
        self._first.clear()  # all events of that time have been fed
        self._orphans = {
            tgid: events for tgid, events in self._orphans.items() if events[-1].time_ns > time_ns
        }

    def _new(self, mm: int | None, owner: int, history: MappingHistory | None = None) -> Space:
        history = history or MappingHistory(self._names, self._files)
        self._made += 1
        space = Space(self._made, mm, owner, history)
        self._spaces[space.number] = space
        self._alive[space.number] = space
        if mm:
            self._by_mm[mm] = space
        return space

    def _join(self, tgid: int, space: Space) -> None:
        space.members.add(tgid)
        self._by_tgid[tgid] = space
        self._streams[tgid] = [(0, space.history)]

    def _leave(self, tgid: int, time_ns: int) -> None:
        space = self._by_tgid.pop(tgid, None)
        if space is None:
            return
        space.members.discard(tgid)
        if not space.members:
            self._end(space, time_ns)
        elif space.owner == tgid:
            space.owner = min(space.members)

    def _end(self, space: Space, time_ns: int) -> None:
        space.ended_ns = time_ns
        self._alive.pop(space.number, None)
        self._ended.append(space)
        self._ended_since.append(space)
        if space.mm and self._by_mm.get(space.mm) is space:
            del self._by_mm[space.mm]

    def _end_pointer(self, mm: int, time_ns: int) -> None:
        """The kernel has reused `mm` for a new space: the old one ended unrecorded."""
        space = self._by_mm.get(mm)
        if space is not None:
            for tgid in sorted(space.members):
                self.exit(time_ns, tgid)
            if space.ended_ns is None:  # no process was in it
                self._end(space, time_ns)

    def _own(self, time_ns: int, tgid: int, mm: int) -> Space:
        """The space `tgid` runs in at `time_ns`, now that its pointer is known to be `mm`."""
        space = self._by_mm.get(mm)
        if space is not None and tgid in space.members:
            return space
        now = self._by_tgid.get(tgid)
        execs = any(since_ns <= time_ns for since_ns, _ in self._streams.get(tgid, [])[1:])
        if now is None or now.mm is not None or execs:
            self.exec(time_ns, tgid, mm)
            return self._by_mm.get(mm) or self._by_tgid[tgid]
        self._name(now, mm)
        return now

    def _name(self, space: Space, mm: int) -> None:
        """Set its mm pointer, now known."""
        space.mm = mm
        self._by_mm[mm] = space

    def _discover(self, faults: Records, mm: int) -> Space:
        mine = faults[faults["mm"] == mm]
        own = mine[(mine["current_mm"] == mm) & (mine["marks"] & np.uint8(Mark.FOREIGN) == 0)]
        if len(own):
            return self._own(int(own["time_ns"][0]), int(own["tgid"][0]), mm)
        building = bool(int(mine["vm_flags"][0]) & _EXEC_STACK == _EXEC_STACK)
        owner = int(mine["owner"][0])
        if owner and not building and owner in self._by_tgid:
            return self._own(int(mine["time_ns"][0]), owner, mm)
        return self._new(mm, int(mine["tgid"][0]) if building else 0)


def _unique(pointers: U64) -> tuple[list[int], Index]:
    """The distinct pointers, and which of them each is."""
    if len(pointers) and (pointers == pointers[0]).all():
        return [int(pointers[0])], np.zeros(len(pointers), dtype=np.intp)
    distinct, inverse = np.unique(pointers, return_inverse=True)
    return distinct.tolist(), inverse


def _are_of_one_program(before: Iterable[Mapping], after: Iterable[Mapping]) -> bool:
    """Whether there was no exec between two readings of a process's mappings.

    It would have put the stack and the vDSO elsewhere, unless addresses are not randomized.
    """
    first, second = (
        {(each.path, each.end) for each in mappings if each.path in ("[stack]", "[vdso]")}
        for mappings in (before, after)
    )
    return not first or first == second


def _merged(mappings: list[Mapping], others: Iterable[Mapping]) -> list[Mapping]:
    """These mappings, and of the others those that overlap none of them; by address."""
    starts = [each.start for each in mappings]
    apart = [
        other
        for other in others
        if (at := bisect.bisect_left(starts, other.end)) == 0 or mappings[at - 1].end <= other.start
    ]
    return sorted([*mappings, *apart], key=lambda each: each.start)
