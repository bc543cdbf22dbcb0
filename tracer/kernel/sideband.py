"""New mappings of every process, from perf's MMAP2 records.

A dummy software event on each CPU makes the kernel write a record into that
event's buffer whenever `perf_event_mmap` runs (kernel/events/core.c): on
mmap, mprotect, brk, stack growth, and for each segment exec maps. It does not
run on munmap or mremap. A record gives the extent of the mapping as it is
*after* the call, merged with its neighbours where the kernel merged them.

No BPF is involved, so this works wherever perf_event_open(2) does. Records
are system-wide; those of other processes are discarded by pid before they are
decoded.
"""

import ctypes
import errno
import mmap
import os
import struct
import time
from collections.abc import Container
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from tracer.common.closing import Closing
from tracer.common.errors import Exit, TraceError
from tracer.common.text import decode
from tracer.kernel.perf_events import is_enabled

PAGE = mmap.PAGESIZE
FOREVER = (1 << 64) - 1
_SLACK_NS = 10_000_000  # records of the ring are not strictly in order of time
_GRANTED_PAGES = 128  # with the control page, perf_event_mlock_kb (516) of each CPU
_MOST_PAGES = 1024  # of a CPU's buffer
_ALL_PAGES = 4096  # of all CPUs' buffers together, where that is more than granted
_MOST_NAMED = 4096  # decoded file parts that are cached
_MOST_UNCLAIMED = 1 << 16  # records of processes that may become targets: 25 MB

# include/uapi/linux/perf_event.h
_NR_PERF_EVENT_OPEN = 298  # x86-64
_TYPE_SOFTWARE, _SW_DUMMY = 1, 9
_SAMPLE_TID, _SAMPLE_TIME = 1 << 1, 1 << 2
_FORMAT_TIME_ENABLED, _FORMAT_LOST = 1 << 0, 1 << 4
_ATTR_MMAP, _ATTR_COMM, _ATTR_WATERMARK, _ATTR_MMAP_DATA = 1 << 8, 1 << 9, 1 << 14, 1 << 17
_ATTR_SAMPLE_ID_ALL, _ATTR_MMAP2, _ATTR_COMM_EXEC = 1 << 18, 1 << 23, 1 << 24
_ATTR_USE_CLOCKID = 1 << 25
_FLAG_FD_CLOEXEC = 1 << 3
_RECORD_LOST, _RECORD_COMM, _RECORD_MMAP2 = 2, 3, 10
_MISC_COMM_EXEC, _MISC_BUILD_ID = 1 << 13, 1 << 14
_HEAD = 1024  # of data_head in struct perf_event_mmap_page; data_tail follows

_ATTR = struct.Struct("<IIQQQQQIIQQQQIiQII")  # perf_event_attr up to PERF_ATTR_SIZE_VER5
_HEADER = struct.Struct("<IHH")
# Of an MMAP2 record, after pid and tid.
_RANGE = struct.Struct("<QQQ")  # addr len pgoff
_FILE = struct.Struct("<IIQQII")  # maj min ino generation prot flags
_SAMPLE_ID = struct.Struct("<IIQ")  # pid tid time
_WHAT = _HEADER.size + 8 + _RANGE.size
_FILENAME = _WHAT + _FILE.size
_SMALLEST = {
    _RECORD_MMAP2: _FILENAME + _SAMPLE_ID.size,
    _RECORD_COMM: _HEADER.size + 8 + _SAMPLE_ID.size,
}
_LARGEST = _FILENAME + 4096 + _SAMPLE_ID.size

_PROT_READ, _PROT_WRITE, _PROT_EXEC, _MAP_SHARED = 1, 2, 4, 1

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)  # not frozen: making one would take three times as long
class MmapEvent:
    """A mapping [start, end) that exists since `time_ns` (CLOCK_MONOTONIC).

    `perms` as in /proc/PID/maps; `pgoff` the offset in the file in bytes, 0
    for memory without one; `device` in kernel encoding (major << 20 | minor).
    `path` as in maps, too, not made printable: "" for anonymous memory,
    "[heap]", "[stack]", "[vdso]". A file whose path the kernel could not give
    has an inode and no path. `file` is set later: tracer.spaces.code_files.
    """

    time_ns: int
    pid: int
    tid: int
    start: int
    end: int
    pgoff: int
    perms: str
    device: int
    inode: int
    path: str
    file: int = 0


@dataclass(frozen=True, slots=True)
class ExecEvent:
    """The process has a new address space, empty but for the stack being set up.

    It comes before the mappings of the new program; the tracepoint
    sched_process_exec comes after them.
    """

    time_ns: int
    pid: int
    tid: int


Event = MmapEvent | ExecEvent


def parse(
    data: bytes, pids: Container[int] | None = None, settled_ns: int = FOREVER
) -> tuple[list[Event], int, int]:
    """The events of `pids` (all when None) in whole records of one buffer.

    Events after `settled_ns` are kept for every process. Returns (events in the
    buffer's order, number of records dropped by the kernel, bytes left over after
    an invalid record).
    """
    raw, lost, left_over = parse_raw(data)
    events = [
        _event(each)
        for each in raw
        if pids is None or each[_PID] in pids or each[_TIME] > settled_ns
    ]
    return events, lost, left_over


_TIME: Final = 0  # of a _Raw
_PID: Final = 1
# A record not decoded, as most are of processes that are not traced: CLOCK_MONOTONIC ns,
# pid, tid, misc, kind, record.
_Raw = tuple[int, int, int, int, int, bytes]


def parse_raw(data: bytes) -> tuple[list[_Raw], int, int]:
    """The records of mappings and execs, undecoded, and the other two results of `parse`."""
    found: list[_Raw] = []
    lost = at = 0
    header, sample = _HEADER.unpack_from, _SAMPLE_ID.unpack_from
    last = len(data) - _HEADER.size
    while at <= last:
        kind, misc, size = header(data, at)
        end = at + size
        if size < _HEADER.size or end > len(data):
            break
        if kind == _RECORD_MMAP2 or (kind == _RECORD_COMM and misc & _MISC_COMM_EXEC):
            if size < _SMALLEST[kind]:
                break
            pid, tid, time_ns = sample(data, end - _SAMPLE_ID.size)
            found.append((time_ns, pid, tid, misc, kind, data[at:end]))
        elif kind == _RECORD_LOST and size >= _HEADER.size + 16:
            lost += int.from_bytes(data[at + 16 : at + 24], "little")
        at = end
    return found, lost, len(data) - at


def _event(raw: _Raw) -> Event:
    time_ns, pid, tid, misc, kind, record = raw
    if kind != _RECORD_MMAP2:
        return ExecEvent(time_ns, pid, tid)
    start, length, pgoff = _RANGE.unpack_from(record, _HEADER.size + 8)
    what = record[_WHAT : -_SAMPLE_ID.size]
    known = _named.get(what) if not misc & _MISC_BUILD_ID else _name(what, misc)
    if known is None:
        if len(_named) >= _MOST_NAMED:
            _named.clear()
        known = _named[what] = _name(what, misc)
    is_file, perms, device, inode, path = known
    return MmapEvent(
        time_ns,
        pid,
        tid,
        start,
        start + length,
        pgoff if is_file else 0,
        perms,
        device,
        inode,
        path,
    )


_Named = tuple[bool, str, int, int, str]  # whether a file; perms, device, inode, path: MmapEvent's
_named: dict[bytes, _Named] = {}  # by the bytes _name decodes, which often repeat


def _name(what: bytes, misc: int) -> _Named:
    """Decode a record from its `maj` on: all of the mapping but its addresses."""
    major, minor, inode, _, prot, flags = _FILE.unpack_from(what)
    if misc & _MISC_BUILD_ID:
        major = minor = inode = 0
    name = what[_FILE.size :].split(b"\0", 1)[0]
    if name.startswith(b"//"):  # //anon, //enomem, //toolong
        name = b""
    path = decode(name.replace(b"\n", b"\\012"))  # as maps does
    is_file = bool(inode) or name.startswith(b"/")
    return is_file, _perms(prot, flags), major << 20 | minor, inode, path


def _perms(prot: int, flags: int) -> str:
    return (
        ("r" if prot & _PROT_READ else "-")
        + ("w" if prot & _PROT_WRITE else "-")
        + ("x" if prot & _PROT_EXEC else "-")
        + ("s" if flags & _MAP_SHARED else "p")
    )


class _Buffer:
    """One CPU's event and its ring buffer."""

    def __init__(self, cpu: int, data_pages: int) -> None:
        self.fd, self.counts_lost = _open(cpu, min(data_pages, _GRANTED_PAGES) * PAGE // 2)
        try:
            self._map = _mapped(self.fd, data_pages)
        except OSError:
            os.close(self.fd)
            raise
        self._size = len(self._map) - PAGE
        self._positions = memoryview(self._map)[_HEAD : _HEAD + 16].cast("Q")
        self._kept: list[bytes] = []
        self.lost = 0
        self.was_full = False

    def drain(self) -> bytes:
        """All whole records since the last call."""
        self.rescue()
        kept, self._kept = self._kept, []
        return b"".join(kept)

    def rescue(self) -> None:
        """Move all whole records out of the ring, for the next `drain`."""
        head, tail = self._positions
        used = head - tail
        first = PAGE + tail % self._size
        whole = min(used, PAGE + self._size - first)
        data = self._map[first : first + whole] + self._map[PAGE : PAGE + used - whole]
        self._positions[1] = head
        self._kept.append(data)
        if used > self._size - _LARGEST:
            self.was_full = True
            self._count_lost()  # a LOST record only comes with the next record: read the count

    def _count_lost(self) -> None:
        if self.counts_lost:
            self.lost = max(
                self.lost, struct.unpack_from("<Q", os.read(self.fd, 24) + bytes(24), 16)[0]
            )

    def runs(self) -> bool:
        """Whether its CPU is online, and has been since it was opened; updates `lost`."""
        self._count_lost()
        return is_enabled(self.fd)

    def close(self) -> None:
        self._positions.release()
        self._map.close()
        os.close(self.fd)


def _mapped(fd: int, data_pages: int) -> mmap.mmap:
    try:
        return mmap.mmap(fd, (1 + data_pages) * PAGE)
    except OSError:
        if data_pages <= _GRANTED_PAGES:
            raise
    # EPERM: more than RLIMIT_MEMLOCK, without CAP_IPC_LOCK (perf_mmap(), kernel/events/core.c).
    return mmap.mmap(fd, (1 + _GRANTED_PAGES) * PAGE)


def _pages() -> int:
    """Data pages of each CPU's buffer: more where there are few CPUs."""
    share = _ALL_PAGES // os.sysconf("SC_NPROCESSORS_CONF")
    power = 1 << max(share.bit_length() - 1, 0)
    return min(max(power, _GRANTED_PAGES), _MOST_PAGES)


def _open(cpu: int, watermark: int) -> tuple[int, bool]:
    """(descriptor, whether reading it gives the number of dropped records: kernels from 6.0)."""
    flags = _ATTR_MMAP | _ATTR_MMAP2 | _ATTR_MMAP_DATA
    flags |= _ATTR_COMM | _ATTR_COMM_EXEC
    flags |= _ATTR_SAMPLE_ID_ALL | _ATTR_USE_CLOCKID | _ATTR_WATERMARK
    for read_format in (_FORMAT_TIME_ENABLED | _FORMAT_LOST, _FORMAT_TIME_ENABLED):
        sample_type = _SAMPLE_TID | _SAMPLE_TIME
        attr = _ATTR.pack(
            *(_TYPE_SOFTWARE, _ATTR.size, _SW_DUMMY, 0, sample_type, read_format, flags),
            *(watermark, 0, 0, 0, 0, 0, 0, time.CLOCK_MONOTONIC, 0, 0, 0),
        )
        fd = _libc.syscall(_NR_PERF_EVENT_OPEN, attr, -1, cpu, -1, _FLAG_FD_CLOEXEC)
        if fd >= 0:
            return fd, bool(read_format & _FORMAT_LOST)
        error = ctypes.get_errno()
        if error != errno.EINVAL:
            break
    raise OSError(error, os.strerror(error))


class Unclaimed:
    """Records by process, kept until they are due or the process is known to be no target.

    Where the tracer falls behind, they are kept for as long as its backlog. So there is a bound,
    beyond which records are refused; then the ring is full, too, and the process's own fork
    record is dropped.
    """

    def __init__(self, most: int = _MOST_UNCLAIMED) -> None:
        self.refused = 0
        self._most = most
        self._by_pid: dict[int, list[_Raw]] = {}
        self._count = 0

    def add(self, found: list[_Raw], pids: Container[int] | None, settled_ns: int) -> None:
        """Add all records of `pids` (all when None), and of others those after `settled_ns`."""
        for raw in found:
            pid = raw[_PID]
            if pids is not None and pid not in pids:
                if raw[_TIME] <= settled_ns:
                    continue
                if self._count >= self._most:
                    self.refused += 1
                    continue
            waiting = self._by_pid.get(pid)
            if waiting is None:
                waiting = self._by_pid[pid] = []
            waiting.append(raw)
            self._count += 1

    def due(self, pids: Container[int] | None, now: int, settled_ns: int) -> list[Event]:
        """The events of `pids` up to `now`, by time; others up to `settled_ns` are discarded."""
        due: list[Event] = []
        self._count = 0
        for pid in list(self._by_pid):
            waiting = self._by_pid[pid]
            if pids is None or pid in pids:
                due += [_event(raw) for raw in waiting if raw[_TIME] <= now]
                waiting = [raw for raw in waiting if raw[_TIME] > now]
            elif waiting[0][_TIME] <= settled_ns:
                waiting = [raw for raw in waiting if raw[_TIME] > settled_ns]
            self._count += len(waiting)
            if waiting:
                self._by_pid[pid] = waiting
            else:
                del self._by_pid[pid]
        due.sort(key=attrgetter("time_ns"))
        return due


class Sideband(Closing):
    """The open events of all online CPUs.

    Raises TraceError where the kernel refuses them (Exit.NO_RIGHTS without
    CAP_PERFMON or root, Exit.UNSUPPORTED otherwise).
    """

    def __init__(self, data_pages: int | None = None) -> None:
        """`data_pages`: size of each CPU's buffer, a power of two; less if that is refused."""
        self._data_pages = data_pages or _pages()
        self._buffers: dict[int, _Buffer] = {}
        self._unclaimed = Unclaimed()
        self._lost_before = 0  # by buffers closed since
        self.corrupt = 0  # parts of a buffer discarded after an invalid record
        try:
            self._attach_missing()
        except OSError as error:
            self.close()
            raise _refused(error) from error

    def close(self) -> None:
        """Detach. Idempotent."""
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()

    @property
    def lost(self) -> int:
        """Records (of any process) known to be dropped."""
        lost = self._lost_before + self._unclaimed.refused
        return lost + sum(buffer.lost for buffer in self._buffers.values())

    @property
    def was_full(self) -> bool:
        """Whether a buffer has been so full that records may have been dropped."""
        return any(buffer.was_full for buffer in self._buffers.values()) or self.lost > 0

    def poll(
        self, pids: Container[int] | None = None, settled_ns: int | None = None
    ) -> list[Event]:
        """New events of `pids` (tgids; all processes when None) up to this moment, by time.

        Read the fault ring *before* polling: then every mapping a fault could
        have been in is reported. `settled_ns` (CLOCK_MONOTONIC) is the time up
        to which all forks are known: that of the last record read from the
        ring. Later events of processes not in `pids` are kept, and returned once
        the process, a new child, is in `pids`; by default they are discarded.
        When `lost` has grown, /proc/PID/maps must be read to fill the gap.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        settled_ns = now if settled_ns is None else settled_ns - _SLACK_NS
        for buffer in self._buffers.values():
            self._drain(buffer, pids, settled_ns)
        return self._unclaimed.due(pids, now, settled_ns)

    def rescue(self) -> None:
        """Empty the kernel's buffers before they overflow; cheaper than `poll`."""
        for buffer in self._buffers.values():
            buffer.rescue()

    def refresh(self) -> bool:
        """Attach to CPUs that came online; True if so: mappings on them were missed.

        The event of a CPU that goes offline stops permanently. What its buffer
        still held is returned by the next `poll`.
        """
        for cpu, buffer in list(self._buffers.items()):
            if not buffer.runs():
                self._drain(buffer, None, FOREVER)
                self._lost_before += buffer.lost
                self._buffers.pop(cpu).close()
        return self._attach_missing()

    def _drain(self, buffer: _Buffer, pids: Container[int] | None, settled_ns: int) -> None:
        """Drain a buffer into `_unclaimed`; of other processes only after `settled_ns`."""
        found, lost, left_over = parse_raw(buffer.drain())
        buffer.lost += lost if not buffer.counts_lost else 0
        self.corrupt += left_over > 0
        self._unclaimed.add(found, pids, settled_ns)

    def _attach_missing(self) -> bool:
        attached = False
        for cpu in range(os.sysconf("SC_NPROCESSORS_CONF")):
            if cpu in self._buffers:
                continue
            try:
                self._buffers[cpu] = _Buffer(cpu, self._data_pages)
                attached = True
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENXIO):  # offline, not there
                    raise
        return attached


def _refused(error: OSError) -> TraceError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return TraceError(
            "the kernel refuses to report mappings (perf_event_open: permission denied)",
            "run as root, or with CAP_PERFMON",
            Exit.NO_RIGHTS,
        )
    return TraceError(
        f"the kernel cannot report mappings (perf_event_open: {error.strerror})",
        "it needs CONFIG_PERF_EVENTS",
        Exit.UNSUPPORTED,
    )
