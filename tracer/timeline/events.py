"""Faults as arrays for the timeline, and the outcome of each."""

from dataclasses import dataclass, fields

from tracer.common.types import I64, U8, U32, U64, Bools
from tracer.timeline.concurrent_unmaps import Suspected


@dataclass
class Events:
    """Faults to apply to the timeline; arrays of one length, in order of completion."""

    page: U64  # virtual page number
    start_ns: I64  # when the fault began
    time_ns: I64
    absent_before: Bools  # the page-table entry held no frame when it began
    swapped_before: Bools  # … but was a swap entry
    frame_before: U64
    frame: U64  # after; NO_FRAME where none
    number: U64  # ROW.number
    kind: U8
    region: U32
    source: U8  # FAULT, or AROUND for a neighbour mapped with it
    suspected: Suspected | None = None  # calls that may have released it; None: not looked up

    def select(self, at: I64 | Bools | slice) -> "Events":
        """Select some of them."""
        arrays = {
            each.name: getattr(self, each.name)[at]
            for each in fields(self)
            if each.name != "suspected"
        }
        calls = self.suspected.select(at) if self.suspected is not None else None
        return Events(**arrays, suspected=calls)


@dataclass
class Outcome:
    """The result of `apply` for each event."""

    gained: Bools  # this event gave the page its frame
    raced: Bools  # another thread's fault had done so first
