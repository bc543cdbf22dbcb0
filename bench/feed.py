"""Synthetic records as in the ring, the same in every run: the input of bench.throughput.

`storm` has the records of one thread faulting through a large anonymous region, `mixture`
those of a few related processes with files, forks, huge pages and remote faults. Their page
tables are simulated, so that every record is consistent with those before it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.procfs.maps import Mapping
from tracer.wire.records import Layout, Mark, RecordType

PAGE = 4096
PID = 4242
ZERO_FRAME = 0x1_0000_1000
STARTED_NS = 5_000_000_000_000
COUNT = 100  # faults of the first thread before the trace
_MM = 0xFFFF_8880_0400_0000
_CODE, _HEAP, _LIBRARY = 0x55D0_1234_5000, 0x55D0_2000_0000, 0x7F10_0000_0000
_ANON, _SHARED = 0x7F20_0000_0000, 0x7F30_0000_0000
_PAGES = 1 << 16  # of each region
_DEVICE = 8 << 20 | 2
_PRESENT, _WRITABLE, _USER, _DIRTY, _LEAF = 0x1, 0x2, 0x4, 0x40, 0x80
_FRAME = np.uint64(0x000F_FFFF_FFFF_F000)
_VM_ANON, _VM_FILE, _VM_SHARED = 0x100073, 0x75, 0xFB
_KNOWN = Mark.ENTRY | Mark.BEFORE | Mark.AFTER
_USER_FAULT, _WRITE, _FETCH, _USER_FLAG = 0x1255, 0x1, 0x100, 0x40
_EXT4 = 0xEF53
_SWAP = 3 << 59 | 0x7FF_FFFF_0000_0000 >> 5  # any entry of a swap area
_MADVISE, _MUNMAP, _DONTNEED = 28, 11, 4

Records = npt.NDArray[np.void]
Bytes = npt.NDArray[np.uint8]


@dataclass
class Feed:
    """Records in the ring's order, shape (n, RECORD_SIZE), and the mappings of PID at the start.

    `last` is the page table of PID at the end: its pages and their frames.
    """

    records: Bytes
    mappings: list[Mapping]
    last: dict[int, int] = field(default_factory=dict)


def mappings() -> list[Mapping]:
    """The mappings of PID at the start of the trace."""
    size = _PAGES * PAGE
    return [
        Mapping(_CODE, _CODE + 256 * PAGE, "r-xp", 0, _DEVICE, 77, "/usr/bin/worker"),
        Mapping(_HEAP, _HEAP + size, "rw-p", 0, 0, 0, "[heap]"),
        Mapping(_LIBRARY, _LIBRARY + size, "r--p", 0x2000, _DEVICE, 78, "/usr/lib/libdata.so"),
        Mapping(_ANON, _ANON + (1 << 36), "rw-p", 0, 0, 0, ""),
        Mapping(_SHARED, _SHARED + size, "rw-s", 0, _DEVICE, 79, "/var/lib/worker/db,one"),
    ]


def storm(layout: Layout, faults: int, *, own_mapping: bool = True) -> Feed:
    """First writes of one thread to `faults` successive pages.

    `own_mapping`: the records have their mapping, as those of fentry and kprobe do.
    """
    made = np.zeros(faults, layout.fault)
    chance = _chance(faults)
    took = 400 + (chance % np.uint64(900)) * (chance >> np.uint64(40)) % np.uint64(1200)
    took[chance % np.uint64(997) == 0] += np.uint64(40_000)
    end = STARTED_NS + np.cumsum(took + 150, dtype=np.uint64)
    made["type"], made["level_before"], made["level_after"] = RecordType.FAULT, 1, 1
    made["tgid"] = made["tid"] = PID
    made["mm"] = made["current_mm"] = _MM
    made["time_ns"], made["start_ns"] = end, end - took
    page = np.arange(faults, dtype=np.uint64)
    made["address"] = np.uint64(_ANON) + page * np.uint64(PAGE) + np.uint64(8)
    made["ip"] = _CODE + 0x1A4
    made["count"] = COUNT + 1 + page
    made["entry_after"] = _frames(faults) | (_PRESENT | _WRITABLE | _USER | _DIRTY)
    made["calls"] = 1
    made["flags"] = _USER_FAULT
    made["marks"] = _KNOWN | Mark.ANON_FN
    if own_mapping:
        made["marks"] |= np.uint8(Mark.MAPPING)
        made["vm_start"], made["vm_end"], made["vm_flags"] = _ANON, _ANON + (1 << 36), _VM_ANON
        made["vm_pgoff"] = _ANON >> 12
    else:
        made["marks"] |= np.uint8(Mark.ERRORCODE)
        made["flags"] = 0x6
    first = (_ANON >> 12) + page
    last = dict(zip(first.tolist(), (made["entry_after"] & _FRAME).tolist(), strict=True))
    return Feed(made.view(np.uint8).reshape(faults, -1), mappings(), last)


def _chance(count: int) -> npt.NDArray[np.uint64]:
    """Pseudo-random numbers, the same with every version of numpy (splitmix64)."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _frames(count: int) -> npt.NDArray[np.uint64]:
    """Frames as from the buddy allocator: short contiguous runs, anywhere in 64 GiB."""
    runs = np.argsort(_chance(count // 32 + 1), kind="stable").astype(np.uint64)
    base = (runs * np.uint64(4801) % np.uint64(1 << 19)) * np.uint64(32)
    frame: npt.NDArray[np.uint64] = np.add(base[:, None], np.arange(32, dtype=np.uint64))
    return (np.uint64(1 << 18) + frame.ravel()[:count]) << np.uint64(12)


@dataclass
class _Thread:
    tid: int
    process: "_Process"
    count: int = 0
    cpu: int = 0


@dataclass
class _Process:
    tgid: int
    mm: int
    table: dict[int, int] = field(default_factory=dict)  # page -> entry
    threads: list[_Thread] = field(default_factory=list)
    next_anon: int = _ANON >> 12
    next_file: int = _LIBRARY >> 12


class _World:
    """The processes, their page tables, and their records."""

    def __init__(self, layout: Layout, own_mapping: bool) -> None:
        self.layout = layout
        self.own_mapping = own_mapping
        self.random = random.Random(2)
        self.out: list[bytes] = []
        self.now = STARTED_NS
        self.faults = 0
        self._frame = 1 << 20
        self._ids = PID
        self.first = self._process(_MM)
        self.first.threads[0].count = COUNT

    def frame(self) -> int:
        """The address of the next free frame; not always contiguous with the one before."""
        self._frame += 1 if self.random.random() < 0.9 else self.random.randrange(2, 4000)
        return self._frame * PAGE

    def fault(
        self,
        thread: _Thread,
        page: int,
        after: int,
        *,
        write: bool = True,
        window: dict[int, int] | None = None,
        **fields: Any,
    ) -> None:
        """One fault: `after` is the entry after it, `window` the other entries it maps."""
        process, draw = thread.process, self.random
        took = 300 + int(draw.expovariate(1 / 500)) + (90_000 if fields.get("result") else 0)
        self.now += took + draw.randrange(80, 400)
        thread.count += 1
        self.faults += 1
        before = process.table.get(page, 0)
        record = np.zeros(1, self.layout.fault)
        values = {
            **{"type": RecordType.FAULT, "marks": _KNOWN, "cpu": thread.cpu},
            **{"level_before": 1, "level_after": 1, "time_ns": self.now},
            **{"tgid": process.tgid, "tid": thread.tid, "mm": process.mm},
            **{"current_mm": process.mm, "address": page * PAGE + draw.randrange(0, PAGE, 8)},
            **{"start_ns": self.now - took, "ip": _CODE + draw.randrange(0, 0x8000, 4)},
            **{"count": thread.count, "entry_before": before, "entry_after": after},
            **{"calls": 1, "flags": _USER_FAULT if write else _USER_FAULT & ~_WRITE},
            **self._mapping(page),
            **fields,
        }
        if not self.own_mapping:
            values["marks"] |= Mark.ERRORCODE
            values["flags"] = (2 if write else 0) | (4 if values["flags"] & _USER_FLAG else 0)
        for name, value in values.items():
            record[name] = value
        if window:
            self._window(thread, page, {page: after, **window})
        self.out.append(record.tobytes())
        if not values["marks"] & Mark.FAILED:
            process.table[page] = after
        else:
            thread.count -= 1

    def _mapping(self, page: int) -> dict[str, int]:
        if not self.own_mapping:
            return {}
        address = page * PAGE
        for each in mappings():
            if each.start <= address < each.end:
                shared, file = each.perms[3] == "s", each.inode != 0
                return {
                    **{"marks": _KNOWN | Mark.MAPPING, "inode": each.inode},
                    **{"vm_start": each.start, "vm_end": each.end, "device": each.device},
                    "vm_flags": _VM_SHARED if shared else _VM_FILE if file else _VM_ANON,
                    "vm_pgoff": each.offset >> 12 if file else each.start >> 12,
                    "magic": _EXT4 if file else 0,
                }
        return {}

    def _window(self, thread: _Thread, page: int, entries: dict[int, int]) -> None:
        first = page & ~15
        record = np.zeros(1, self.layout.window)
        before = after = 0
        for number in range(16):
            entry = entries.get(first + number, thread.process.table.get(first + number, 0))
            before |= (thread.process.table.get(first + number, 0) & 1) << number
            after |= (entry & 1) << number
            record["entries"][0, number] = entry
        record["type"], record["level"] = RecordType.WINDOW, 1
        record["time_ns"], record["tgid"] = self.now, thread.process.tgid
        record["tid"], record["mm"] = thread.tid, thread.process.mm
        record["address"], record["seen"] = first * PAGE, before | after << 16
        self.out.append(record.tobytes())
        thread.process.table.update(
            {at: e for at, e in entries.items() if first <= at < first + 16}
        )

    def task(self, kind: RecordType, thread: _Thread, **fields: Any) -> None:
        """A lifecycle record about `thread`."""
        self.now += 2000
        record = np.zeros(1, self.layout.task)
        record["type"], record["time_ns"] = kind, self.now
        record["tgid"], record["tid"] = thread.process.tgid, thread.tid
        record["mm"], record["count"] = thread.process.mm, thread.count
        for name, value in fields.items():
            record[name] = np.frombuffer(value.ljust(16, b"\0"), "<u8") if name == "comm" else value
        self.out.append(record.tobytes())

    def syscall(self, thread: _Thread, number: int, *args: int) -> None:
        """A system call that succeeded."""
        self.now += 900
        record = np.zeros(1, self.layout.syscall)
        record["type"], record["time_ns"] = RecordType.SYSCALL, self.now
        record["tgid"], record["tid"] = thread.process.tgid, thread.tid
        record["mm"], record["number"] = thread.process.mm, number
        record["args"][0, : len(args)] = args
        self.out.append(record.tobytes())

    def fork(self, parent: _Thread) -> _Process:
        """A child with its parent's pages, all of them read-only from now on."""
        child = self._process(_MM + self._ids * 0x440)
        table = parent.process.table
        for page, entry in table.items():
            if page < _SHARED >> 12:
                table[page] = entry & ~_WRITABLE if entry & _PRESENT else entry
        child.table = dict(table)
        child.next_anon, child.next_file = parent.process.next_anon, parent.process.next_file
        ids = {"child_tgid": child.tgid, "child_tid": child.tgid, "child_mm": child.mm}
        self.task(RecordType.FORK, parent, comm=b"worker", task=child.mm + 64, **ids)
        return child

    def clone(self, parent: _Thread) -> None:
        """One more thread."""
        process = parent.process
        thread = _Thread(self._ids, process, cpu=self._ids % 4)
        self._ids += 1
        process.threads.append(thread)
        ids = {"child_tgid": process.tgid, "child_tid": thread.tid, "child_mm": process.mm}
        self.task(RecordType.FORK, parent, comm=b"helper", task=thread.tid << 12, **ids)

    def leave(self, thread: _Thread) -> None:
        """A thread's exit; the last one's ends the process."""
        process = thread.process
        process.threads.remove(thread)
        self.task(RecordType.EXIT, thread, group_dead=not process.threads, task=thread.tid << 12)
        self.task(RecordType.FREE, thread, task=thread.tid << 12)

    def _process(self, mm: int) -> _Process:
        process = _Process(self._ids, mm)
        process.threads = [_Thread(self._ids, process, cpu=self._ids % 4)]
        self._ids += 1
        return process


def mixture(layout: Layout, faults: int, *, own_mapping: bool = True) -> Feed:
    """About `faults` faults of many kinds, with system calls and lifecycle events in between."""
    world = _World(layout, own_mapping)
    alive = [world.first]
    draw = world.random
    acts: list[tuple[int, Callable[[_World, _Thread], None]]] = [
        (30, _anonymous),
        (25, _file),
        (12, _heap),
        (12, _again),
        (6, _shared),
        (2, _huge),
        (3, _odd),
        (4, _gives_back),
        (1, _renamed),
    ]
    weights, choices = [weight for weight, _ in acts], [act for _, act in acts]
    while world.faults < faults:
        thread = draw.choice(draw.choice(alive).threads)
        for _ in range(draw.randrange(1, 6)):
            draw.choices(choices, weights)[0](world, thread)
        if draw.random() < 0.02:
            world.clone(thread)
        if draw.random() < 0.03 and len(alive) < 4 and len(thread.process.table) < 20_000:
            alive.append(world.fork(thread))
        if draw.random() < 0.03 and thread.tid != PID:
            world.leave(thread)
            alive = [process for process in alive if process.threads]
    records = np.frombuffer(b"".join(world.out), np.uint8).reshape(-1, layout.size)
    here = {page: entry for page, entry in world.first.table.items() if entry & _PRESENT}
    last = {page: entry & int(_FRAME) for page, entry in sorted(here.items())}
    return Feed(records, mappings(), last)


def _anonymous(world: _World, thread: _Thread) -> None:
    """A run of new pages, written or only read."""
    process, draw = thread.process, world.random
    write = draw.random() < 0.85
    for _ in range(draw.randrange(1, 48)):
        page, process.next_anon = process.next_anon, process.next_anon + 1
        entry = world.frame() | 0x47 if write else ZERO_FRAME | 0x225
        world.fault(thread, page, entry, write=write)


def _file(world: _World, thread: _Thread) -> None:
    """Pages of a mapped file, with fault-around."""
    process, draw = thread.process, world.random
    for _ in range(draw.randrange(1, 6)):
        page = process.next_file
        process.next_file += draw.choice((16, 16, 16, 5, 1))
        if process.next_file >= (_LIBRARY >> 12) + _PAGES:
            process.next_file = _LIBRARY >> 12
        if page in process.table:
            continue
        cached = [at for at in range(page & ~15, (page & ~15) + 16) if at not in process.table]
        bring = {at: world.frame() | 0x25 for at in cached if at != page and draw.random() < 0.8}
        major = {"result": 4, "calls": 2} if draw.random() < 0.05 else {}
        world.fault(thread, page, world.frame() | 0x25, write=False, window=bring, **major)


def _heap(world: _World, thread: _Thread) -> None:
    """Scattered pages, some of them swapped out before."""
    process, draw = thread.process, world.random
    for _ in range(draw.randrange(1, 10)):
        page = (_HEAP >> 12) + draw.randrange(512)
        entry = process.table.get(page, 0)
        if entry & _PRESENT and draw.random() < 0.5:
            process.table[page] = _SWAP
        elif not entry & _PRESENT:
            world.fault(thread, page, world.frame() | 0x47)


def _again(world: _World, thread: _Thread) -> None:
    """Writes to present pages: copy-on-write after a fork, made writable, or spurious."""
    process, draw = thread.process, world.random
    last = process.next_anon
    for _ in range(draw.randrange(1, 12)):
        page = max(_ANON >> 12, last - draw.randrange(1, 400))
        entry = process.table.get(page, 0)
        if not entry & _PRESENT:
            continue
        if entry & _WRITABLE:
            after = entry
        elif entry & ~0xFFF == ZERO_FRAME or draw.random() < 0.6:
            after = world.frame() | 0x47
        else:
            after = entry | 0x42
        world.fault(thread, page, after)


def _shared(world: _World, thread: _Thread) -> None:
    """Shared pages of a file: read, then made writable."""
    page = (_SHARED >> 12) + world.random.randrange(256)
    entry = thread.process.table.get(page, 0)
    if not entry:
        world.fault(thread, page, world.frame() | 0x25, write=False)
    elif not entry & _WRITABLE:
        world.fault(thread, page, entry | 0x42)


def _huge(world: _World, thread: _Thread) -> None:
    """A huge page."""
    process = thread.process
    first = (process.next_anon + 511) & ~511
    process.next_anon = first + 512
    frame = 1 << 36 | world.random.randrange(1 << 12) << 21
    page = first + world.random.randrange(512)
    entry = frame | _LEAF | 0x47
    world.fault(thread, page, entry, level_before=2, level_after=2)
    for number in range(512):
        process.table[first + number] = frame + number * PAGE | 0x47


def _odd(world: _World, thread: _Thread) -> None:
    """Failed faults, faults in kernel mode, and faults without an instruction."""
    process = thread.process
    which = world.random.randrange(3)
    if which == 0:
        page = (_LIBRARY >> 12) + _PAGES - 1 - world.random.randrange(64)
        marks = _KNOWN | Mark.FAILED | (Mark.MAPPING if world.own_mapping else 0)
        if page not in process.table:
            world.fault(thread, page, 0, write=False, marks=marks, result=2)
        return
    page, process.next_anon = process.next_anon, process.next_anon + 1
    fields: dict[str, Any] = {"flags": _USER_FAULT & ~_USER_FLAG}
    fields["ip"] = 0 if which == 1 else 0xFFFF_FFFF_8123_4567
    world.fault(thread, page, world.frame() | 0x47, **fields)


def _gives_back(world: _World, thread: _Thread) -> None:
    """madvise or munmap of some of the newest anonymous pages."""
    process, draw = thread.process, world.random
    count = draw.randrange(1, 64)
    first = max(_ANON >> 12, process.next_anon - draw.randrange(count, 4 * count))
    for page in range(first, first + count):
        process.table.pop(page, None)
    where = first * PAGE, count * PAGE
    if draw.random() < 0.7:
        world.syscall(thread, _MADVISE, *where, _DONTNEED)
    else:
        world.syscall(thread, _MUNMAP, *where)


def _renamed(world: _World, thread: _Thread) -> None:
    """A thread's new name, with commas and quotes."""
    name = world.random.choice((b"io", b'a "b", c', b"=1+1", b"w\xc3\xb6rker"))
    world.task(RecordType.RENAME, thread, comm=name)
