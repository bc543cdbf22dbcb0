"""Reading /proc/PID/pagemap without numpy: entry bits, raw reads, PAGEMAP_SCAN.

Facts: Documentation/admin-guide/mm/pagemap.rst and fs/proc/task_mmu.c. Addresses and
sizes are in bytes. tracer/procfs/pagemap.py is the numpy interface to this module.
"""

import errno
import fcntl
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence

from tracer.common.errors import TraceError
from tracer.common.pages import PAGE_SIZE
from tracer.procfs.errors import ProcessGone, path_of, reading

ENTRY_SIZE = 8

PFN_MASK = (1 << 55) - 1  # if present the frame; if swapped the type (bits 0-4) and offset
SOFT_DIRTY = 1 << 55
EXCLUSIVE = 1 << 56  # mapped once (an estimate under CONFIG_NO_PAGE_MAPCOUNT)
UFFD_WP = 1 << 57
GUARD = 1 << 58  # 6.15 on
FILE_OR_SHARED = 1 << 61
SWAPPED = 1 << 62  # in swap; markers, migration and poison entries too
PRESENT = 1 << 63

# The soft-dirty bit of an absent page means nothing: it is set throughout new mappings.
HELD = PRESENT | SWAPPED

USER_LIMIT = 1 << 63  # addresses from here on are the kernel's (vsyscall) on 64-bit machines

# struct pm_scan_arg and struct page_region of include/uapi/linux/fs.h
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_SCAN_ARG = struct.Struct("=12Q")
_IS_PRESENT, _IS_SWAPPED = 0x8, 0x10
_REGION_WORDS = 3
_REGIONS_A_CALL = 4096
_FALLBACK_PAGES = 1 << 16


def open_pagemap(pid: int, tid: int | None = None) -> int:
    """A descriptor of the pagemap of the process's current address space.

    It refers to that address space: after exec or exit it reads as gone. Raises
    ProcessGone, or TraceError without PTRACE_MODE_READ on the process.
    """
    with reading(pid):
        return os.open(path_of(pid, "pagemap", tid), os.O_RDONLY | os.O_CLOEXEC)


def is_gone(descriptor: int) -> bool:
    """Whether the address space behind an open pagemap is gone (or never was: a kernel thread).

    The kernel then returns 0 bytes for every read; page 0 is otherwise always readable.
    """
    try:
        return not os.pread(descriptor, ENTRY_SIZE, 0)
    except ProcessLookupError:
        return True


def read_into(descriptor: int, pid: int, start: int, buffer: memoryview) -> None:
    """Fill `buffer`, of bytes, with the entries of the pages from `start` on.

    Pages outside the user address space (vsyscall) read as 0, like pages not there.
    Raises ProcessGone when the address space is gone.
    """
    offset = start // PAGE_SIZE * ENTRY_SIZE
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
        except ProcessLookupError:
            raise ProcessGone(pid) from None
        if count == 0:
            if is_gone(descriptor):
                raise ProcessGone(pid, f"process {pid} has ended: its memory is gone")
            buffer[done:] = bytes(len(buffer) - done)
            return
        done += count


def read_entries(descriptor: int, pid: int, start: int, pages: int) -> "array[int]":
    """The entries of `pages` pages from `start` on, as array("Q")."""
    entries = array("Q", bytes(pages * ENTRY_SIZE))
    read_into(descriptor, pid, start, memoryview(entries).cast("B"))
    return entries


def frames_visible() -> bool:
    """Whether the kernel shows this process the frame numbers in pagemap (CAP_SYS_ADMIN).

    Tested by reading the entry of an object of ours, which is surely present.
    """
    touched = object()
    page = id(touched) // PAGE_SIZE * PAGE_SIZE  # CPython: the address of the object
    try:
        descriptor = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(read_entries(descriptor, os.getpid(), page, 1)[0] & PFN_MASK)
    finally:
        os.close(descriptor)


def scan_held(
    descriptor: int,
    pid: int,
    spans: Sequence[tuple[int, int]],
    skip: Sequence[tuple[int, int]] = (),
) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of pages present or swapped within `spans`, ascending.

    `spans` are mappings' [start, end), ascending, below USER_LIMIT; `skip` lies in them and is
    not scanned. Uses PAGEMAP_SCAN (6.7 on), whose cost depends on the page tables, not on the
    size of the address range: it also scans between the spans. Before, all entries of the spans
    are read, and a range may have pages that are neither. Mappings without struct pages
    (VM_PFNMAP) are never in a range; pagemap shows nothing of them either. Raises ProcessGone.
    """
    if not spans:
        return
    # Before 6.16 the ioctl dereferences a null mm where there is none: check first.
    if is_gone(descriptor):
        raise ProcessGone(pid)
    try:
        for start, end in without([(spans[0][0], spans[-1][1])], skip):
            yield from _scan(descriptor, start, end)
    except ProcessLookupError:  # since 6.16
        raise ProcessGone(pid) from None
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            raise
        for start, end in without(spans, skip):
            yield from _scan_by_reading(descriptor, pid, start, end)
    # For an address space that ended meanwhile the scan finds nothing.
    if is_gone(descriptor):
        raise ProcessGone(pid)


def without(
    spans: Iterable[tuple[int, int]], skip: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """`spans` less `skip`; both ascending, each without overlaps."""
    rest = iter(skip)
    skipped = next(rest, None)
    for start, end in spans:
        while skipped is not None and skipped[0] < end:
            if start < skipped[0]:
                yield start, skipped[0]
            start = max(start, skipped[1])
            if skipped[1] > end:
                break
            skipped = next(rest, None)
        if start < end:
            yield start, end


def scan_available(descriptor: int) -> bool:
    """Whether this kernel has PAGEMAP_SCAN."""
    try:
        next(_scan(descriptor, 0, PAGE_SIZE), None)
    except OSError:
        return False
    return True


def _scan(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    regions = array("Q", bytes(_REGIONS_A_CALL * _REGION_WORDS * 8))
    address, _ = regions.buffer_info()
    held = _IS_PRESENT | _IS_SWAPPED
    pending: tuple[int, int] | None = None
    while start < end:
        argument = bytearray(
            _SCAN_ARG.pack(
                _SCAN_ARG.size, 0, start, end, 0, address, _REGIONS_A_CALL, 0, 0, 0, held, 0
            )
        )
        # walk_end is not used: the kernel works in batches of 512 ranges, and up to 6.18 at
        # least it is the end of the last full batch. The scan stops only at the end or when
        # there is no room for another range.
        count = fcntl.ioctl(descriptor, _PAGEMAP_SCAN, argument)
        _check_scan(0 <= count <= _REGIONS_A_CALL)
        for index in range(0, count * _REGION_WORDS, _REGION_WORDS):
            first, last = regions[index], regions[index + 1]
            _check_scan(start <= first < last <= end)
            start = last
            if pending is not None and pending[1] == first:
                pending = (pending[0], last)
                continue
            if pending is not None:
                yield pending
            pending = (first, last)
        if count < _REGIONS_A_CALL:
            break
    if pending is not None:
        yield pending


def _check_scan(sense: bool) -> None:
    """Raise TraceError unless `sense`: callers rely on ranges that ascend and end."""
    if not sense:
        raise TraceError("PAGEMAP_SCAN said what makes no sense", "please report it: a bug")


def _scan_by_reading(descriptor: int, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    step = _FALLBACK_PAGES * PAGE_SIZE
    # Entries of untouched memory, compared as a whole for speed.
    untouched = [array("Q", [entry]) * _FALLBACK_PAGES for entry in (0, SOFT_DIRTY)]
    for first in range(start, end, step):
        last = min(first + step, end)
        pages = (last - first) // PAGE_SIZE
        entries = read_entries(descriptor, pid, first, pages)
        if all(entries != same[:pages] for same in untouched) and any(
            entry & HELD for entry in entries
        ):
            yield first, last
