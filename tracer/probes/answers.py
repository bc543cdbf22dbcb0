"""What the programs in the kernel say of threads and page tables, as values."""

from dataclasses import dataclass
from enum import IntEnum

from tracer.wire.shared import WATCH_ON, WATCH_OVER


class Watch(IntEnum):
    """What the programs note of threads that begin and end (bpf/maps.bpf.h: watch)."""

    OFF = 0
    ON = WATCH_ON
    OVER = WATCH_OVER  # the trace is over: totals and places stay as they are


@dataclass(frozen=True)
class KernelTotals:
    """What the kernel counted, added up there (bpf/shared.h: struct totals)."""

    begun: int
    ended: int
    faults: int
    base: int
    blind: int


@dataclass(frozen=True)
class Watched:
    """A thread that began or ended while the programs watched; `base` faults are not ours."""

    begun: bool
    ended: bool
    base: int


@dataclass(frozen=True)
class Place:
    """What the kernel keeps of a thread: its count as it got its place, and the last one seen."""

    first: int
    seen: int
    open: bool  # a fault is under way
    task: int  # struct task_struct *: numbers are used again


@dataclass
class Walk:
    """The answer to one walk of the tracer's own memory."""

    pgd: int
    entry: int
    level: int
    symbol_value: int
