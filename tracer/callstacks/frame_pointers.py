"""Which frames of a walk by frame pointers are callers of each other, and where one is missing.

The kernel walks so where it cannot walk by unwind rules (bpf_get_stack()).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tracer.callstacks.locations import Location
from tracer.symbolizing.rule import KEPT, Cfa, Rule

Frames = list[tuple[int, Location]]  # addresses and where they are, innermost first


class Callers(NamedTuple):
    """Which of a stack's frames are callers of each other."""

    frames: Frames
    gap: int  # the first frame whose caller may be missing; -1: none
    ended: bool  # the last frame is marked as outermost
    sure: bool  # all unwind rules that it needed were known


def callers(
    found: Sequence[tuple[int, Location]],
    rule_at: Callable[[Location], tuple[Rule | None, bool]],
    *,
    has_caller: bool,
) -> Callers:
    """Select the callers from frames found by frame pointers.

    A function that keeps no frame pointer leaves its caller's in place, and so hides its
    caller; one that uses the register for something else hides all there is above it. Where
    it `has_caller`, the second frame is not by a frame pointer: it holds where the first
    function has pushed nothing. `rule_at`: the rule of a location, None where there is none, and
    whether that is final.
    """
    if not found:
        return Callers([], -1, False, True)
    rule, sure = rule_at(found[0][1])
    pushed_nothing = rule is not None and (rule.cfa, rule.offset) == (Cfa.RSP, 8)
    if has_caller and not pushed_nothing:
        found = [found[0], *found[2:]]
    walked: Frames = []
    gap = -1
    for index, (address, location) in enumerate(found):
        walked.append((address, location))
        rule, known = rule_at(location)
        sure = sure and known
        if rule is not None and rule.cfa == Cfa.OUTERMOST:
            return Callers(walked, gap, True, sure)
        if rule is None or rule.cfa in (Cfa.RBP, Cfa.FRAME):
            continue
        if gap < 0 and not (index == 0 and has_caller and pushed_nothing):
            gap = index
        if rule.rbp != KEPT:
            break
    return Callers(walked, gap, False, sure)
