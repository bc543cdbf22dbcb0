"""The direct map's base, found and verified at every start.

The page-table walk reads tables by physical address through the kernel's
direct map, whose base is randomised (CONFIG_RANDOMIZE_MEMORY). It is
1 GiB-aligned (arch/x86/mm/kaslr.c) and lies below mm->pgd by that table's
physical address, so there is one candidate for each GiB of memory. A candidate
is right when walking our own pages gives the same frames as /proc/self/pagemap.
kallsyms takes longer to read than all candidates to try: it is searched for
`page_offset_base` (there with CONFIG_KALLSYMS_ALL) only if none is right.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tracer.common.errors import TraceError
from tracer.kernel.machine import highest_frame, symbol_address

GIB = 1 << 30
_FRAME = 0x000FFFFFFFFFF000
_PRESENT = 1
_PAGES = 3  # a match on one page could be chance; on three it is not


@dataclass(frozen=True)
class DirectMap:
    """The base, or 0 where the walk must stay off; `reason`: why, or how it was found."""

    base: int
    zero_frame: int  # physical address of the shared zero page
    reason: str


class Walk(Protocol):
    """Result of a walk: mm->pgd, the entry reached, its level, and the symbol's value."""

    pgd: int
    entry: int
    level: int
    symbol_value: int


class Walker(Protocol):
    """A program in the kernel that walks our own page tables (probes/program.py)."""

    def start_calibration(self) -> None: ...

    def stop_calibration(self) -> None: ...

    def walk_own(self, address: int, direct_map: int, symbol: int = 0) -> Walk | None: ...


def find_direct_map(program: Walker) -> DirectMap:
    """Find the direct map's base, verified against pagemap, and the zero page's frame."""
    pages = _OwnPages()
    program.start_calibration()
    try:
        if pages.frames[0] == 0:
            return DirectMap(0, 0, "/proc/self/pagemap shows no frames (CAP_SYS_ADMIN is missing)")
        for base, source in _candidates(program, pages.addresses[0]):
            if all(_agrees(program, base, at, frame) for at, frame in pages):
                return DirectMap(base, pages.zero_frame, source)
        return DirectMap(0, pages.zero_frame, "no candidate for the direct map agrees with pagemap")
    finally:
        program.stop_calibration()
        pages.close()


def _candidates(program: Walker, address: int) -> Iterator[tuple[int, str]]:
    """(base, how it was found), `address` being one of our own pages."""
    highest = highest_frame()
    pgd = _ask(program, address).pgd
    base = pgd & ~(GIB - 1)
    while base > 0 and pgd - base <= highest:
        yield base, "calibrated against pagemap"
        base -= GIB
    if symbol := symbol_address("page_offset_base"):
        named = _ask(program, address, symbol).symbol_value
        yield named, "page_offset_base, verified against pagemap"


def _ask(program: Walker, address: int, symbol: int = 0) -> Walk:
    answer = program.walk_own(address, 0, symbol)
    if answer is None or not answer.pgd:
        raise TraceError("the calibration program did not run")
    return answer


def _agrees(program: Walker, base: int, address: int, frame: int) -> bool:
    walk = program.walk_own(address, base)
    return (
        walk is not None
        and walk.level == 1
        and bool(walk.entry & _PRESENT)
        and walk.entry & _FRAME == frame
    )


class _OwnPages:
    """A few pages of our own that are written, and one only read (which maps the zero page)."""

    def __init__(self) -> None:
        # One page more than needed: the last is read, not written.
        self._memory = mmap.mmap(
            -1, (_PAGES + 1) * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        anchor = ctypes.c_char.from_buffer(self._memory)
        start = ctypes.addressof(anchor)
        del anchor
        self.addresses = [start + number * mmap.PAGESIZE for number in range(_PAGES)]
        for number in range(_PAGES):
            self._memory[number * mmap.PAGESIZE] = 1
        _ = self._memory[_PAGES * mmap.PAGESIZE]
        self.frames = [_own_frame(address) for address in self.addresses]
        self.zero_frame = _own_frame(start + _PAGES * mmap.PAGESIZE)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self.addresses, self.frames, strict=True))

    def close(self) -> None:
        self._memory.close()


def _own_frame(address: int) -> int:
    """Physical address of a page of ours; 0 where hidden (admin-guide/mm/pagemap.rst)."""
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        entry = int.from_bytes(os.pread(fd, 8, address // mmap.PAGESIZE * 8), "little")
    finally:
        os.close(fd)
    return (entry & ((1 << 55) - 1)) * mmap.PAGESIZE
