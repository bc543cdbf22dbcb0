"""Values read from the programs' maps: totals, watched threads, slots, page-table walks."""

from dataclasses import dataclass
from enum import IntEnum

from tracer.wire.shared import WATCH_ON, WATCH_OVER


class Watch(IntEnum):
    """Whether the programs note threads that begin and end (bpf/maps.bpf.h: watch)."""

    OFF = 0
    ON = WATCH_ON
    OVER = WATCH_OVER  # the trace is over: totals and slots stay as they are


@dataclass(frozen=True)
class KernelTotals:
    """Sums of the kernel's counts, made in the kernel (bpf/shared.h: struct totals)."""

    begun: int
    ended: int
    faults: int
    base: int
    blind: int


@dataclass(frozen=True)
class Watched:
    """A thread that began or ended while watched; its first `base` faults were not traced."""

    begun: bool
    ended: bool
    base: int


@dataclass(frozen=True)
class Slot:
    """A thread's slot: its fault count when it got the slot, and when last seen."""

    first: int
    seen: int
    open: bool  # a fault is under way
    task: int  # struct task_struct *: tids are reused


@dataclass
class Walk:
    """The result of one walk of the tracer's own page tables."""

    pgd: int
    entry: int
    level: int
    symbol_value: int
