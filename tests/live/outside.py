"""What another process does to a workload's memory: the calls Python has no names for."""

import ctypes
import os
from collections.abc import Sequence

from tests.live.workload import Range

_LIBC = ctypes.CDLL(None, use_errno=True)

# x86-64 numbers (arch/x86/entry/syscalls/syscall_64.tbl)
_MIGRATE_PAGES, _MOVE_PAGES, _PROCESS_VM_WRITEV, _PROCESS_MADVISE = 256, 279, 311, 440
_MPOL_MF_MOVE = 2
MADV_PAGEOUT = 21


class _Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _call(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def write(pid: int, range_: Range) -> None:
    """Every page of a range written in one call, by process_vm_writev."""
    size = range_.pages * 4096
    source = ctypes.create_string_buffer(b"\1" * size, size)
    local = _Vector(ctypes.addressof(source), size)
    remote = _Vector(range_.start, size)
    one = ctypes.c_ulong(1)
    done = _call(
        _PROCESS_VM_WRITEV,
        pid,
        ctypes.byref(local),
        one,
        ctypes.byref(remote),
        one,
        ctypes.c_ulong(0),
    )
    assert done == size, done


def write_file(pid: int, range_: Range) -> None:
    """The same through /proc/PID/mem."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        assert os.pwrite(memory.fileno(), b"\1" * (range_.pages * 4096), range_.start)


def move_pages(pid: int, range_: Range, node: int) -> list[int]:
    """Migrate each page of a range to a NUMA node; where each is then, or its -errno."""
    count = range_.pages
    pages = (ctypes.c_void_p * count)(*range_.addresses())
    nodes = (ctypes.c_int * count)(*[node] * count)
    status = (ctypes.c_int * count)()
    _call(_MOVE_PAGES, pid, ctypes.c_ulong(count), pages, nodes, status, _MPOL_MF_MOVE)
    return list(status)


def where(pid: int, addresses: Sequence[int]) -> list[int]:
    """The NUMA node of each page, or its -errno."""
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    status = (ctypes.c_int * count)()
    _call(_MOVE_PAGES, pid, ctypes.c_ulong(count), pages, None, status, 0)
    return list(status)


def migrate_pages(pid: int, old: int, new: int) -> None:
    """Migrate all of a process's pages on one node to another."""
    mask = ctypes.c_ulong * 1
    width = ctypes.c_ulong(64)
    _call(_MIGRATE_PAGES, pid, width, mask(1 << old), mask(1 << new))


def advise(pid: int, range_: Range, advice: int) -> None:
    """process_madvise on a whole range."""
    descriptor = os.pidfd_open(pid)
    try:
        vector = _Vector(range_.start, range_.pages * 4096)
        one = ctypes.c_ulong(1)
        done = _call(_PROCESS_MADVISE, descriptor, ctypes.byref(vector), one, advice, 0)
        assert done == range_.pages * 4096, done
    finally:
        os.close(descriptor)
