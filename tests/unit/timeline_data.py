"""Faults for a page timeline, and what it says of them, for the tests of all that follows pages."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.model.sources import Loss, Source
from tracer.timeline.events import Events, Outcome
from tracer.timeline.timeline import Timeline

P = 4096
SPACE, CHILD = 1, 2
A, B, C = 0x1000, 0x2000, 0x3000  # frames


@dataclass
class Event:
    """One fault; `before` None: the page was absent."""

    page: int
    start: int
    time: int
    before: int | None = None
    after: int = A
    absent: bool | None = None  # where it is not what `before` says
    swapped: bool = False
    kind: Kind = Kind.ANON
    source: Source = Source.FAULT
    number: int = 0
    region: int = 1

    @property
    def was_absent(self) -> bool:
        return self.before is None if self.absent is None else self.absent

    @property
    def frame_before(self) -> int:
        return NO_FRAME if self.before is None else self.before


def columns(events: list[Event]) -> Events:
    def of(name: str, dtype: type) -> Any:
        return np.array([getattr(event, name) for event in events], dtype)

    return Events(
        page=of("page", np.uint64),
        start_ns=of("start", np.int64),
        time_ns=of("time", np.int64),
        absent_before=of("was_absent", np.bool_),
        swapped_before=of("swapped", np.bool_),
        frame_before=of("frame_before", np.uint64),
        frame=of("after", np.uint64),
        number=of("number", np.uint64),
        kind=of("kind", np.uint8),
        region=of("region", np.uint32),
        source=of("source", np.uint8),
    )


def apply(line: Timeline, *events: Event, space: int = SPACE) -> Outcome:
    return line.faults.apply(space, columns(list(events)))


def page_of(line: Timeline, page: int, space: int = SPACE) -> dict[str, int]:
    at = line.ledger.state(space, np.array([page], np.uint64))
    names: tuple[str, ...] = ("frame", "changed_ns", "first_ns", "first_frame", "first_fault")
    names += ("gains", "losses")
    names += ("region", "first_source", "first_kind", "source", "last_loss", "confirmed", "assumed")
    names += ("doubt",)
    return {name: line.ledger[name][at[0]].item() for name in names}


def see(line: Timeline, page: int, frame: int, time: int, source: Source) -> None:
    """A snapshot shows the page."""
    at = line.ledger.state(SPACE, np.array([page], np.uint64))
    sources, regions = np.array([source], np.uint8), np.array([1], np.uint32)
    line.ledger.gain(at, time, np.array([frame], np.uint64), sources, regions)


def tallies(line: Timeline) -> tuple[dict[Source, int], dict[Loss, int]]:
    tally = line.ledger.tally
    return (
        {s: int(tally.gained[s]) for s in Source if tally.gained[s]},
        {cause: int(tally.released[cause]) for cause in Loss if tally.released[cause]},
    )


def released(line: Timeline) -> dict[str, int]:
    return {
        cause.name: int(line.ledger.tally.released[cause])
        for cause in Loss
        if line.ledger.tally.released[cause]
    }


def check_books(line: Timeline, *spaces: int) -> None:
    """Gained less released is what is resident; the regions' tallies add up to the same."""
    resident = 0
    for space in spaces:
        at = line.ledger.resident(space)
        resident += int((~line.ledger["assumed"][at]).sum())
    tally = line.ledger.tally
    assert (tally.gained >= 0).all()
    assert int(tally.gained.sum() - tally.released.sum()) == resident
    in_trace = int(tally.gained.sum() - tally.gained[Source.INITIAL])
    assert sum(tally.gained_in.values()) == in_trace
    assert sum(tally.released_in.values()) == int(tally.released.sum())
