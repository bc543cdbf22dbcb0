"""A batch's faults while they are looked up, and what happened between them, in order."""

from dataclasses import dataclass, field

from tracer.accounting.fault_counts import Thread
from tracer.join.fills import Fill
from tracer.join.join import Placing, Renamed
from tracer.spaces.syscalls import (
    Effect,
)
from tracer.timeline.schedule import Action


@dataclass
class Script:
    """A batch's faults, while they are looked up, and the actions between them, in order."""

    placing: Placing
    actions: list[Action] = field(default_factory=list)
    # Of calls since the last lifecycle record.
    effects: list[Effect | Fill] = field(default_factory=list)
    fills: bool = False  # whether there are any among them
    renamed: list[Renamed] = field(default_factory=list)  # threads, since then
    ended: list[tuple[int, int]] = field(default_factory=list)  # spaces, and what each missed
    freed: list[tuple[int, Thread]] = field(default_factory=list)  # threads, with their ids
    exited: list[int] = field(default_factory=list)  # processes
