"""State and fault counts of processes and threads: /proc/PID/{stat,status,task,comm,syscall}.

Everything here works without privileges on one's own processes and without numpy.
A process or thread that is gone raises ProcessGone. Field numbers are those of proc(5).
"""

import os
import re
from dataclasses import dataclass

from tracer.common.errors import TraceError
from tracer.common.text import decode
from tracer.procfs.errors import ProcessGone, read_bytes, reading

_STATE, _PARENT, _FLAGS = 3, 4, 9
_MIN_FLT, _MAJ_FLT = 10, 12
_UTIME, _STIME = 14, 15
_START_TIME = 22
_PF_EXITING, _PF_KTHREAD = 0x00000004, 0x00200000  # include/linux/sched.h


def _stat(pid: int, tid: int | None = None) -> list[bytes]:
    """Fields of stat with field n of proc(5) at index n - 3; comm, field 2, may hold anything."""
    _, _, fields = read_bytes(pid, "stat", tid).rpartition(b")")
    if not fields:
        raise ProcessGone(pid)
    return fields.split()


def _field(fields: list[bytes], number: int) -> int:
    try:
        return int(fields[number - 3])
    except (IndexError, ValueError):
        raise TraceError(f"/proc/PID/stat has no number in field {number}") from None


def fault_count(pid: int, tid: int) -> int:
    """min_flt + maj_flt of one thread since it started."""
    fields = _stat(pid, tid)
    return _field(fields, _MIN_FLT) + _field(fields, _MAJ_FLT)


@dataclass(frozen=True)
class Life:
    """A thread's `fault_count`, and whether it is exiting or dead."""

    faults: int
    exiting: bool  # PF_EXITING
    dead: bool  # a zombie, or dead


def life(pid: int, tid: int) -> Life:
    """The fault count and state of a thread."""
    fields = _stat(pid, tid)
    return Life(
        faults=_field(fields, _MIN_FLT) + _field(fields, _MAJ_FLT),
        exiting=bool(_field(fields, _FLAGS) & _PF_EXITING),
        dead=fields[_STATE - 3] in (b"Z", b"X"),
    )


def processor_time(pid: int) -> float:
    """Seconds of CPU time, user and system, that a process has used."""
    fields = _stat(pid)
    return (_field(fields, _UTIME) + _field(fields, _STIME)) / os.sysconf("SC_CLK_TCK")


def state(pid: int, tid: int | None = None) -> str:
    """One letter, as ps(1) shows it: R, S, D, Z (ended, not yet waited for), T, t, X, I."""
    try:
        return _stat(pid, tid)[_STATE - 3].decode("ascii")
    except (IndexError, UnicodeDecodeError):
        raise TraceError(f"/proc/PID/stat has no letter in field {_STATE}") from None


def parent(pid: int) -> int:
    """The parent's pid; 0 where there is none in this pid namespace."""
    return _field(_stat(pid), _PARENT)


def start_time(pid: int, tid: int | None = None) -> int:
    """Start time in clock ticks since boot: distinguishes a reused pid from the old one."""
    return _field(_stat(pid, tid), _START_TIME)


def is_kernel_thread(pid: int) -> bool:
    """Whether this is a thread of the kernel, which has no memory of its own."""
    return bool(_field(_stat(pid), _FLAGS) & _PF_KTHREAD)


def exists(pid: int, tid: int | None = None) -> bool:
    """Whether there is such a process, and in it such a thread; zombies included."""
    return os.path.exists(f"/proc/{pid}" if tid is None else f"/proc/{pid}/task/{tid}")


def thread_group(tid: int) -> int:
    """The pid of the process that thread `tid` belongs to (Tgid of /proc/TID/status)."""
    match = re.search(rb"^Tgid:\s+(\d{1,10})", read_bytes(tid, "status"), re.MULTILINE)
    if match is None:
        raise ProcessGone(tid)
    return int(match[1])


def comm(pid: int, tid: int | None = None) -> str:
    """The thread's name, not made printable; at most 15 bytes."""
    return decode(read_bytes(pid, "comm", tid).removesuffix(b"\n"))


def stack_pointer(pid: int, tid: int) -> int:
    """User stack pointer of a blocked thread; 0 where it runs, or reading is not permitted."""
    try:
        words = read_bytes(pid, "syscall", tid).split()  # proc(5): … SP PC, or "running"
        return int(words[-2], 16) if len(words) > 2 else 0
    except (TraceError, ValueError):
        return 0


def threads(pid: int) -> list[int]:
    """Thread ids of a process, ascending."""
    with reading(pid):
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def living_thread(pid: int) -> int:
    """A thread through which the process's memory can be read: the leader, if it is alive.

    Raises ProcessGone where all have ended, as in a zombie.
    """
    for tid in [pid, *threads(pid)]:
        try:
            if state(pid, tid) not in "ZX":
                return tid
        except ProcessGone:
            continue
    raise ProcessGone(pid, f"process {pid} has ended: its memory is gone")


def children(pid: int) -> list[int]:
    """All living descendants of a process, parents before their children.

    Not atomic: those forked or reparented meanwhile may be missing.
    """
    found: list[int] = []
    pending = [pid]
    while pending:
        try:
            offspring = _direct_children(pending.pop(0))
        except ProcessGone:
            if not found and not exists(pid):
                raise
            continue
        found += offspring
        pending += offspring
    return found


def _direct_children(pid: int) -> list[int]:
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):  # CONFIG_PROC_CHILDREN off
        threads(pid)  # raises where it is the process that is missing
        return [child for child, its_parent in _parents().items() if its_parent == pid]
    offspring: list[int] = []
    for tid in threads(pid):
        try:
            offspring += map(int, read_bytes(pid, "children", tid).split())
        except ProcessGone:
            continue
    return sorted(offspring)


def _parents() -> dict[int, int]:
    """pid -> parent's pid of every process."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = parent(int(name))
            except ProcessGone:
                continue
    return parents
