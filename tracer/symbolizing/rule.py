"""Unwind rules: where code keeps its return address (tracer.symbolizing.unwind reads them)."""

from dataclasses import dataclass

RBP, RSP = 6, 7  # DWARF numbers of x86-64's registers (psABI, figure 3.36)


@dataclass(frozen=True, slots=True)
class Rule:
    """At one address: the CFA is `register` + `offset`; the return address lies below it."""

    register: int  # RSP, RBP; -1: computed in another way
    offset: int
    keeps_rbp: bool  # the frame pointer is the caller's still
    outermost: bool = False  # no function called this one
