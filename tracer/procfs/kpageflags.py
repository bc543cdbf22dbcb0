"""/proc/kpageflags and /proc/kpagecount: flags and map count of each frame. Root only.

Bits: include/uapi/linux/kernel-page-flags.h. Kernel 6.12.107 sets KSM on every anonymous
page; on 5.10 and 6.1 the tails of a compound page lack most flags.
"""

import ctypes
import mmap
import os

import numpy as np

from tracer.common.errors import Exit, TraceError
from tracer.common.pages import PAGE_SIZE
from tracer.common.types import PAGE_BITS, U64, Bools
from tracer.procfs.pagemap import PageMap, frames

LOCKED = 1 << 0
REFERENCED = 1 << 2
UPTODATE = 1 << 3
DIRTY = 1 << 4
LRU = 1 << 5
ACTIVE = 1 << 6
SLAB = 1 << 7
WRITEBACK = 1 << 8
RECLAIM = 1 << 9
BUDDY = 1 << 10
MMAP = 1 << 11
ANON = 1 << 12
SWAPCACHE = 1 << 13
SWAPBACKED = 1 << 14
COMPOUND_HEAD = 1 << 15
COMPOUND_TAIL = 1 << 16
HUGE = 1 << 17  # hugetlb
UNEVICTABLE = 1 << 18
HWPOISON = 1 << 19
NOPAGE = 1 << 20
KSM = 1 << 21
THP = 1 << 22  # any large folio that can be mapped, not only PMD-mapped ones
OFFLINE = 1 << 23
ZERO_PAGE = 1 << 24
IDLE = 1 << 25
PGTABLE = 1 << 26
RESERVED = 1 << 32
MLOCKED = 1 << 33

Words = U64

_WORD_SIZE = 8
_GAP = 16  # frames: reading a few unneeded words costs less than another system call


def flags(pfns: Words) -> Words:
    """The flag word of each of `pfns`, in their order; NOPAGE beyond the last frame.

    Raises TraceError where /proc/kpageflags cannot be read.
    """
    return _read_words("/proc/kpageflags", pfns, NOPAGE)


def counts(pfns: Words) -> Words:
    """The map count of each frame (an estimate under CONFIG_NO_PAGE_MAPCOUNT)."""
    return _read_words("/proc/kpagecount", pfns, 0)


def are_zero(frames: Words) -> Bools:
    """Which of `frames` (addresses) are of the zero page or the huge one; none if unknown."""
    try:
        return np.asarray((flags(frames >> PAGE_BITS) & np.uint64(ZERO_PAGE)) != 0)
    except TraceError:
        return np.zeros(len(frames), np.bool_)


def calls_all_ksm() -> bool:
    """Whether this kernel sets KSM on every anonymous page, as 6.12.107: tested on one of ours.

    True also where that is unknown: then the flag proves nothing.
    """
    with mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = 1
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        try:
            with PageMap(os.getpid()) as pagemap:
                frame = frames(pagemap.read(start, start + PAGE_SIZE))
            return bool((flags(frame >> PAGE_BITS) & np.uint64(KSM)).any())
        except TraceError:
            return True


def _read_words(path: str, pfns: Words, beyond: int) -> Words:
    distinct, inverse = np.unique(pfns, return_inverse=True)
    words = np.empty(len(distinct), dtype=np.uint64)
    if len(distinct) == 0:
        return words
    descriptor = _open(path)
    try:
        cuts = np.flatnonzero(np.diff(distinct) > _GAP) + 1
        for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(distinct)], strict=True):
            run = distinct[low:high]
            block = _read_run(descriptor, int(run[0]), int(run[-1]), beyond)
            words[low:high] = block[run - run[0]]
    finally:
        os.close(descriptor)
    return words[inverse]


def _read_run(descriptor: int, first: int, last: int, beyond: int) -> Words:
    block = np.full(last - first + 1, beyond, dtype=np.uint64)
    view = block.data.cast("B")
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], first * _WORD_SIZE + done)
        if count == 0:
            break
        done += count
    return block


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise TraceError(
            f"no permission to read {path}", "run it as root, for example with sudo", Exit.NO_RIGHTS
        ) from None
    except FileNotFoundError:
        raise TraceError(
            f"this kernel has no {path}",
            "it needs one built with CONFIG_PROC_PAGE_MONITOR",
            Exit.UNSUPPORTED,
        ) from None
