"""Changes to the mappings of a space, and queries, each at a moment."""

from dataclasses import dataclass

from tracer.common.types import U32, U64
from tracer.kernel.sideband import MmapEvent
from tracer.procfs.maps import Mapping


@dataclass(slots=True)  # not frozen: making one would take three times as long
class Unmap:
    """munmap, or brk downwards."""

    start: int
    end: int


@dataclass(slots=True)  # not frozen: making one would take three times as long
class Move:
    """A successful mremap(2); sizes page-aligned."""

    old: int
    old_size: int
    new: int
    new_size: int
    keep: bool


@dataclass(slots=True)  # not frozen: making one would take three times as long
class Brk:
    """A brk(2) that returned `end`, including queries of the break."""

    end: int


@dataclass(slots=True)  # not frozen: making one would take three times as long
class Claim:
    """A mapping by a system call's arguments: anonymous memory `name`; "": what was there.

    Only where the sideband dropped records: those cover merged neighbours, too.
    """

    start: int
    end: int
    perms: str
    name: str = ""


@dataclass(slots=True)  # not frozen: making one would take three times as long
class ThreadStack:
    """Where a thread's stack pointer is."""

    pointer: int


@dataclass(slots=True)  # not frozen: answered once its time is reached
class Question:
    """Which mapping each address is in at that time: an index into Names.regions."""

    addresses: U64
    regions: U32 | None = None


Change = tuple[Mapping, ...] | MmapEvent | Unmap | Move | Brk | Claim | ThreadStack | Question
