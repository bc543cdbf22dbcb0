"""What a system call did to pages: the effects the timeline books, x86-64 numbers.

Numbers from arch/x86/entry/syscalls/syscall_64.tbl, advice from
include/uapi/asm-generic/mman-common.h.
"""

from dataclasses import dataclass

import numpy as np

from tracer.sources import Loss

_MMAP, _MUNMAP, _BRK, _MREMAP, _MADVISE = 9, 11, 12, 25, 28
_MLOCK, _MLOCKALL, _MLOCK2 = 149, 151, 325
_ERRORS = (1 << 64) - 4095  # results from here on are -errno
_MAP_FIXED, _MAP_LOCKED, _MAP_POPULATE = 0x10, 0x2000, 0x8000
_MLOCK_ONFAULT = 1
_MADV_TAKES = (4, 9, 24, 102)  # DONTNEED, REMOVE, DONTNEED_LOCKED, GUARD_INSTALL
_MADV_POPULATES = (22, 23)
_EVERYTHING = 1 << 56


@dataclass(frozen=True)
class Effect:
    """Pages of [start, end) lost their frames, moved, or were filled in advance.

    Those that move go to `moved_to`, into a mapping of `moved_size` bytes that
    takes the place of what was there.
    """

    space: int
    start: int
    end: int
    time_ns: int
    loss: Loss = Loss.MUNMAP
    moved_to: int | None = None
    moved_size: int = 0
    populates: bool = False


def effect(record: np.void, space: int, brk: dict[int, int]) -> Effect | None:
    """The effect of a SYSCALL record on `space`; None where there is none.

    `brk` remembers each space's last program break. A reclaiming madvise is
    left to the next snapshot, since not every page goes.
    """
    number, result = int(record["number"]), int(record["result"])
    args: list[int] = record["args"].tolist()
    time_ns = int(record["time_ns"])
    if result >= _ERRORS:
        return None

    def change(start: int, end: int, **more: object) -> Effect | None:
        return Effect(space, start, end, time_ns, **more) if end > start else None  # type: ignore[arg-type]

    if number == _MUNMAP:
        return change(args[0], _page_up(args[0] + args[1]))
    if number == _MMAP:
        end = _page_up(result + args[1])
        if args[3] & (_MAP_POPULATE | _MAP_LOCKED):
            return change(result, end, populates=True)
        return change(result, end) if args[3] & _MAP_FIXED else None
    if number == _BRK:
        before, brk[space] = brk.get(space, result), result
        return change(_page_up(result), _page_up(before))
    if number == _MREMAP:
        old, old_size, new_size = args[0], _page_up(args[1]), _page_up(args[2])
        if result != old:
            return change(old, old + old_size, moved_to=result, moved_size=new_size)
        return change(old + new_size, old + old_size)
    if number == _MADVISE:
        end = _page_up(args[0] + args[1])
        if args[2] in _MADV_POPULATES:
            return change(args[0], end, populates=True)
        return change(args[0], end, loss=Loss.MADVISE) if args[2] in _MADV_TAKES else None
    if number == _MLOCK or (number == _MLOCK2 and not args[2] & _MLOCK_ONFAULT):
        return change(args[0] & ~4095, _page_up(args[0] + args[1]), populates=True)
    if number == _MLOCKALL:
        return change(0, _EVERYTHING, populates=True)
    return None


def _page_up(address: int) -> int:
    return (address + 4095) & ~4095
