"""Effects of system calls on pages and mappings, from their records; x86-64 numbers.

madvise(2) advice from include/uapi/asm-generic/mman-common.h.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tracer.common.pages import PAGE_SIZE
from tracer.common.types import Bools, Structs
from tracer.model.sources import Loss
from tracer.spaces.changes import Brk, Change, Claim, Move, Unmap
from tracer.wire.records import RecordType
from tracer.wire.shared import (
    CALL_BRK,
    CALL_IOCTL,
    CALL_MADV_POPULATE_READ,
    CALL_MADV_POPULATE_WRITE,
    CALL_MADVISE,
    CALL_MAP_FIXED,
    CALL_MAP_LOCKED,
    CALL_MAP_POPULATE,
    CALL_MLOCK,
    CALL_MLOCK2,
    CALL_MLOCK_ONFAULT,
    CALL_MLOCKALL,
    CALL_MMAP,
    CALL_MPROTECT,
    CALL_MREMAP,
    CALL_MUNLOCKALL,
    CALL_MUNMAP,
    CALL_PROCESS_VM_WRITEV,
    UFFD_CONTINUE,
    UFFD_COPY,
    UFFD_MOVE,
    UFFD_REGISTER,
    UFFD_UNREGISTER,
    UFFD_ZEROPAGE,
)

_UFFD_MODE_MISSING = 1
_IN_PAGE = PAGE_SIZE - 1
ERRORS = (1 << 64) - 4095  # results from here on are -errno
_ENOMEM = (1 << 64) - 12
_MADV_RELEASES = (4, 9, 24, 102)  # DONTNEED, REMOVE, DONTNEED_LOCKED, GUARD_INSTALL
_MADV_POPULATES = (CALL_MADV_POPULATE_READ, CALL_MADV_POPULATE_WRITE)
_MADV_GIVES_UP = {8: Loss.MADVISE, 21: Loss.RECLAIM}  # FREE, PAGEOUT: when the kernel decides
# mmap(2), mremap(2), mlockall(2): flags that bpf/ passes on and does not use itself
_MAP_SHARED, _MAP_ANONYMOUS = 1, 0x20
_PROT_LETTERS = ((1, "r"), (2, "w"), (4, "x"))
_MREMAP_DONTUNMAP = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_EVERYTHING = 1 << 56


class SystemCall(NamedTuple):
    """A SYSCALL or CALL record (bpf/shared.h), each member as a Python number."""

    tgid: int
    tid: int
    time_ns: int
    mm: int
    number: int
    result: int
    args: list[int]


def decode(records: Structs) -> list[SystemCall]:
    """Decode SYSCALL and CALL records at once: singly, each field costs as much as its effect."""
    columns = (records[name].tolist() for name in SystemCall._fields)
    return list(map(SystemCall._make, zip(*columns, strict=True)))


class PlainRelease(NamedTuple):
    """A munmap or madvise that released the pages of [start, end), and did nothing else."""

    tgid: int
    tid: int
    time_ns: int
    mm: int
    start: int
    end: int
    unmaps: bool


def plain_releases(records: Structs) -> tuple[Bools, list[PlainRelease]]:
    """Which SYSCALL records are such calls, nearly all where there are many; and these, decoded.

    `interpret` gives the same for each.
    """
    number, result = records["number"], records["result"]
    address, length, advice = records["args"][:, :3].T
    failed = result >= np.uint64(ERRORS)
    unmaps = (number == CALL_MUNMAP) & ~failed
    discards = (number == CALL_MADVISE) & np.isin(advice, _MADV_RELEASES)
    chosen = unmaps | (discards & (~failed | (result == np.uint64(_ENOMEM))))
    # Sums that do not overflow are for `interpret`.
    chosen &= records["type"] == np.uint8(RecordType.SYSCALL)
    chosen &= (address < _EVERYTHING) & (length < _EVERYTHING) & (length > 0)
    address, length = address[chosen], length[chosen]
    end = (address + length + np.uint64(_IN_PAGE)) & ~np.uint64(_IN_PAGE)
    names = ("tgid", "tid", "time_ns", "mm")
    columns = [*(records[name][chosen] for name in names), address, end, unmaps[chosen]]
    found = map(PlainRelease._make, zip(*(column.tolist() for column in columns), strict=True))
    return chosen, list(found)


class Effect(NamedTuple):
    """Pages of [start, end) were released, moved, or populated.

    Those that move go to `moved_to`, into a mapping of `moved_size` bytes that
    replaces what was there. With `gives_up` the kernel may reclaim them, or not.
    """

    space: int
    start: int
    end: int
    time_ns: int
    loss: Loss = Loss.MUNMAP
    moved_to: int | None = None
    moved_size: int = 0
    populates: bool = False
    recorded: bool = False  # with perf the BPF side records what that populated (bpf/fill.h)
    replaces: bool = False  # what it populated replaced what was there
    gives_up: bool = False
    userfault: bool = False  # populated, or moved, through userfaultfd
    registers: bool | None = None  # the range with userfaultfd, or no longer
    call: "PendingRelease | None" = None  # its beginning, where others may have faulted since


@dataclass(slots=True)  # not frozen: making one would take three times as long
class PendingRelease:
    """A call under way, which may release pages of [start, end) while other threads fault."""

    start: int
    end: int
    begun_ns: int
    loss: Loss


@dataclass
class Memory:
    """State that calls leave for later ones, by address space."""

    brk: dict[int, int] = field(default_factory=dict)  # the last program break
    locked: set[int] = field(default_factory=set)  # mlockall(MCL_FUTURE): mappings are populated

    def inherit(self, parent: int, child: int) -> None:
        """fork: the break is the parent's; locks are not inherited (mlockall(2))."""
        if parent in self.brk:
            self.brk[child] = self.brk[parent]

    def forget(self, space: int) -> None:
        """The space has ended."""
        self.brk.pop(space, None)
        self.locked.discard(space)


class Consequences(NamedTuple):
    """What a system call did to pages and mappings."""

    effect: Effect | None = None  # to pages
    change: Change | None = None  # to mappings, where the sideband has no report
    written: tuple[tuple[int, int], ...] = ()  # [start, end) each, by another process


_NOTHING = Consequences()


def interpret(
    made: SystemCall,
    space: int,
    memory: Memory,
    call: PendingRelease | None = None,
    *,
    claims: bool = False,
) -> Consequences:
    """What a system call that returned did to `space`.

    `memory` is read and updated; `call` is from the call's own CALL record, if there was one.
    `claims`: mappings are taken from the call, for the sideband has dropped records. What a
    reclaiming madvise releases is left to the next snapshot, since not every page goes.
    """
    _, _, time_ns, _, number, result, args = made
    if number == CALL_PROCESS_VM_WRITEV:
        return Consequences(written=_written(result, args))
    if result >= ERRORS and not _went_on(number, args, result):
        return _NOTHING

    def change(start: int, end: int, **more: object) -> Effect | None:
        if end <= start:
            return None
        return Effect(space, start, end, time_ns, call=call, **more)  # type: ignore[arg-type]

    if number == CALL_MUNMAP:
        end = _page_up(args[0] + args[1])
        return Consequences(change(args[0], end), Unmap(args[0], end))
    if number == CALL_IOCTL:
        return Consequences(_userfault(args, change))
    if number == CALL_MMAP:
        end, claim = _page_up(result + args[1]), _claim_of(made) if claims else None
        if args[3] & (CALL_MAP_POPULATE | CALL_MAP_LOCKED) or space in memory.locked:
            fixed = bool(args[3] & CALL_MAP_FIXED)
            filled = change(result, end, populates=True, recorded=True, replaces=fixed)
            return Consequences(filled, claim)
        return Consequences(change(result, end) if args[3] & CALL_MAP_FIXED else None, claim)
    if number == CALL_MPROTECT:
        return Consequences(change=_claim_of(made) if claims else None)
    if number == CALL_BRK:
        before = memory.brk.get(space, result)
        memory.brk[space] = result
        if result > before and space in memory.locked:
            return Consequences(change(before, result, populates=True), Brk(result))
        return Consequences(change(_page_up(result), _page_up(before)), Brk(result))
    if number == CALL_MREMAP:
        old, old_size, new_size = args[0], _page_up(args[1]), _page_up(args[2])
        move = Move(old, old_size, result, new_size, bool(args[3] & _MREMAP_DONTUNMAP))
        if result != old:
            return Consequences(
                change(old, old + old_size, moved_to=result, moved_size=new_size), move
            )
        return Consequences(change(old + new_size, old + old_size), move)
    return Consequences(_in_place(number, args, space, memory, change))


def _in_place(
    number: int,
    args: list[int],
    space: int,
    memory: Memory,
    change: Callable[..., Effect | None],
) -> Effect | None:
    """The effect of a call that leaves mappings where they are: madvise, and the mlock family."""
    if number == CALL_MADVISE:
        end = _page_up(args[0] + args[1])
        if args[2] in _MADV_POPULATES:
            return change(args[0], end, populates=True, recorded=True)
        if args[2] in _MADV_GIVES_UP:
            return change(args[0], end, loss=_MADV_GIVES_UP[args[2]], gives_up=True)
        return change(args[0], end, loss=Loss.MADVISE) if args[2] in _MADV_RELEASES else None
    if number == CALL_MLOCK or (number == CALL_MLOCK2 and not args[2] & CALL_MLOCK_ONFAULT):
        end = _page_up(args[0] + args[1])
        return change(args[0] & ~_IN_PAGE, end, populates=True, recorded=True)
    if number == CALL_MLOCKALL:
        # The last call decides what later mappings do (apply_mlockall_flags(), mm/mlock.c).
        future = args[0] & (_MCL_FUTURE | _MCL_ONFAULT) == _MCL_FUTURE
        (memory.locked.add if future else memory.locked.discard)(space)
        now = args[0] & (_MCL_CURRENT | _MCL_ONFAULT) == _MCL_CURRENT
        return change(0, _EVERYTHING, populates=True) if now else None
    if number == CALL_MUNLOCKALL:
        memory.locked.discard(space)
    return None


def _claim_of(made: SystemCall) -> Claim | None:
    """The mapping that mmap of anonymous memory or mprotect made; None for mmap of a file."""
    args, result = made.args, made.result
    letters = "".join(letter if args[2] & bit else "-" for bit, letter in _PROT_LETTERS)
    if made.number == CALL_MPROTECT:
        return Claim(args[0], _page_up(args[0] + args[1]), letters + "p")
    if not args[3] & _MAP_ANONYMOUS:
        return None
    shared = args[3] & _MAP_SHARED
    name = "/dev/zero (deleted)" if shared else "[anon]"
    return Claim(result, _page_up(result + args[1]), letters + ("s" if shared else "p"), name)


def _written(result: int, args: list[int]) -> tuple[tuple[int, int], ...]:
    """The ranges another process wrote by process_vm_writev (bpf/remote_write.h)."""
    ranges, left = [], result
    for start, length in zip(args[::2], args[1::2], strict=True):
        length = min(length, left)
        left -= length
        if length:
            ranges.append((start, start + length))
    return tuple(ranges)


def _went_on(number: int, args: list[int], result: int) -> bool:
    """Whether a call that failed did its work nonetheless: madvise(2), where a part is a hole."""
    return number == CALL_MADVISE and args[2] in _MADV_RELEASES and result == _ENOMEM


def pending_release(begun: SystemCall, brk: int) -> PendingRelease | None:
    """What a call that has begun may release before it returns; `brk` is the break now."""
    number, args = begun.number, begun.args
    start, end, loss = args[0], _page_up(args[0] + args[1]), Loss.MUNMAP
    if number == CALL_MADVISE and args[2] in _MADV_RELEASES:
        loss = Loss.MADVISE
    elif number == CALL_MREMAP:
        loss = Loss.MOVE
    elif number == CALL_BRK:
        start, end = _page_up(args[0]), _page_up(brk)
    elif number not in (CALL_MUNMAP, CALL_MMAP):
        return None
    return PendingRelease(start, end, begun.time_ns, loss) if start < end else None


def _userfault(args: list[int], change: Callable[..., Effect | None]) -> Effect | None:
    """The effect of an ioctl on a userfaultfd; `args`: command, range, and a source or mode."""
    command, start, length, other = args[:4]
    if command in (UFFD_COPY, UFFD_ZEROPAGE, UFFD_CONTINUE):
        return change(start, start + length, populates=True, userfault=True)
    if command == UFFD_MOVE:
        return change(other, other + length, moved_to=start, moved_size=length, userfault=True)
    if command == UFFD_REGISTER:
        missing = bool(other & _UFFD_MODE_MISSING)
        return change(start, start + length, registers=missing)
    if command == UFFD_UNREGISTER:
        return change(start, start + length, registers=False)
    return None


def _page_up(address: int) -> int:
    return (address + _IN_PAGE) & ~_IN_PAGE
