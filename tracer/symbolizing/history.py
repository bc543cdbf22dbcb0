"""What was at an address of JIT-compiled code, and when: as perf maps say it."""

from collections.abc import Sequence
from dataclasses import dataclass

Change = tuple[int, str, int]  # the check, the name from then on ("": none), bytes into it
NEVER = -1
_ONE_DUMP_NS = 300_000_000  # a map that is written anew is there in steps


@dataclass(frozen=True, slots=True)
class Period:
    """What is known of when something was written: after `before_ns`, and by `by_ns`."""

    before_ns: int  # CLOCK_MONOTONIC
    by_ns: int


def dumps(periods: Sequence[Period]) -> list[Period]:
    """The same checks of a map that is written anew each time: from one of these times to the next.

    It is silent about what came between them. Checks in the course of one have the same period.
    """
    result: list[Period] = []
    before_ns, begin = NEVER, 0
    for index, period in enumerate(periods):
        after = periods[index + 1] if index + 1 < len(periods) else None
        if after is None or after.by_ns - period.by_ns > _ONE_DUMP_NS:
            result += [Period(before_ns, period.by_ns)] * (index + 1 - begin)
            before_ns, begin = period.by_ns, index + 1
    return result
