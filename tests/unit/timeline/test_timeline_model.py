"""The page timeline against a model of one page at a time in plain Python."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.timeline_data import (
    CHILD,
    SPACE,
    A,
    B,
    C,
    Event,
    P,
    check_books,
    columns,
    page_of,
    tallies,
)
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.model.sources import Loss, Source
from tracer.timeline.timeline import Timeline


@dataclass
class Page:
    """What the model knows of one page."""

    frame: int = NO_FRAME
    changed: int = 0
    source: int = 0
    gains: int = 0
    losses: int = 0
    last_loss: int = 0
    first: tuple[int, int, int] = (0, 0, 0)  # source, frame, fault number
    assumed: bool = False


@dataclass
class Model:
    """The timeline's rules, a page and an event at a time."""

    pages: dict[tuple[int, int], Page] = field(default_factory=dict)
    gained: Counter[int] = field(default_factory=Counter)
    released: Counter[int] = field(default_factory=Counter)

    def page(self, space: int, number: int) -> Page:
        return self.pages.setdefault((space, number), Page())

    def gain(self, page: Page, time: int, frame: int, source: int, number: int = 0) -> None:
        if page.last_loss in (Loss.MUNMAP, Loss.MOVE):
            page.gains = page.losses = page.last_loss = 0
        if page.gains == 0:
            page.first = (source, frame, number)
        page.frame, page.changed, page.source, page.assumed = frame, time, source, False
        page.gains += 1
        self.gained[source] += 1

    def release(self, page: Page, time: int, cause: int) -> None:
        page.frame, page.changed, page.last_loss = NO_FRAME, time, cause
        page.losses += 1
        self.released[cause] += 1

    def forget(self, page: Page) -> None:
        page.frame, page.source, page.assumed = NO_FRAME, 0, False
        page.first = (0, *page.first[1:])

    def swap_frame(self, page: Page, time: int, frame: int, source: int, number: int = 0) -> None:
        if page.frame != NO_FRAME:
            self.release(page, time, Loss.REPLACED)
        self.gain(page, time, frame, source, number)

    def event(self, space: int, event: Event) -> tuple[bool, bool]:
        page = self.page(space, event.page)
        before, after = event.frame_before, event.after
        if page.assumed:
            if not event.was_absent and page.frame == before:
                page.assumed, page.gains = False, 1
                self.gained[Source.FORK] += 1
            else:
                self.forget(page)
        own = event.source != Source.AROUND
        idle = own and (event.kind == Kind.SPURIOUS or before == after)
        meanwhile = page.frame != NO_FRAME and page.changed >= event.start
        stepped = event.was_absent or before not in (NO_FRAME, after)
        if page.frame == after != NO_FRAME and stepped and meanwhile and not idle:
            if page.source in (Source.FAULT, Source.AROUND, Source.MOVE):
                return False, own
            self.gained[page.source] -= 1
            self.gained[event.source] += 1
            page.source, page.changed = event.source, event.time
            if page.gains == 1:
                page.first = (event.source, page.first[1], event.number)
            return True, False
        if page.frame != NO_FRAME and event.was_absent and not meanwhile:
            self.release(page, event.start, Loss.RECLAIM if event.swapped else Loss.UNKNOWN)
        nowhere = page.frame == after == NO_FRAME
        if own and page.frame != before != NO_FRAME and not nowhere and not meanwhile:
            self.swap_frame(page, event.time, before, Source.UNKNOWN)
        if after in (NO_FRAME, page.frame):
            return False, False
        if idle:
            self.swap_frame(page, event.time, after, Source.UNKNOWN)
            return False, False
        if not own and page.frame not in (NO_FRAME, before):
            return False, False
        self.swap_frame(page, event.time, after, event.source, event.number)
        return True, False

    def drop(self, space: int, first: int, last: int, time: int, cause: int) -> None:
        for (where, number), page in self.pages.items():
            if where == space and first <= number < last and page.frame != NO_FRAME:
                if page.assumed:
                    self.forget(page)
                else:
                    self.release(page, time, cause)

    def move(self, space: int, old: int, new: int, length: int, time: int) -> None:
        moved = []
        for number in range(old, old + length):
            page = self.page(space, number)
            if page.frame != NO_FRAME:
                moved.append((number - old + new, page.frame, page.assumed))
        self.drop(space, old, old + length, time, Loss.MOVE)
        self.drop(space, new, new + length, time, Loss.MUNMAP)
        for number, frame, assumed in moved:
            page = self.page(space, number)
            if assumed:
                self.assume(page, frame, time)
            else:
                self.gain(page, time, frame, Source.MOVE)

    def assume(self, page: Page, frame: int, time: int) -> None:
        page.__init__()  # type: ignore[misc]
        page.frame, page.changed, page.source, page.assumed = frame, time, Source.FORK, True
        page.first = (Source.FORK, frame, 0)

    def inherit(self, parent: int, child: int, time: int) -> None:
        for (where, number), page in list(self.pages.items()):
            if where == parent and page.frame != NO_FRAME:
                self.assume(self.page(child, number), page.frame, time)


PAGES = st.sampled_from([509, 510, 511, 512, 513, 514, 2000])  # on both sides of a block's end
FRAMES = st.sampled_from([A, B, C, 0x4000])
KINDS = st.sampled_from([Kind.ANON, Kind.COW, Kind.SPURIOUS, Kind.REUSE, Kind.UNKNOWN])


@st.composite
def batches(draw: st.DrawFn) -> list[Event]:
    events = []
    for _ in range(draw(st.integers(1, 12))):
        absent = draw(st.booleans())
        before = None if absent else draw(st.one_of(st.none(), FRAMES))
        after = draw(st.one_of(FRAMES, st.just(NO_FRAME)))
        source = draw(st.sampled_from([Source.FAULT, Source.FAULT, Source.AROUND]))
        kind = draw(KINDS)
        swapped = absent and source == Source.FAULT and draw(st.booleans())
        events.append(Event(draw(PAGES), 0, 0, before, after, absent, swapped, kind, source))
    return events


SPACES = st.sampled_from([SPACE, CHILD])
OPERATIONS = st.one_of(
    st.tuples(st.just("apply"), SPACES, batches(), st.lists(st.integers(0, 30), min_size=12)),
    st.tuples(st.just("apply"), SPACES, batches(), st.lists(st.integers(0, 30), min_size=12)),
    st.tuples(
        st.just("release"),
        SPACES,
        PAGES,
        st.integers(0, 6),
        st.sampled_from([Loss.MUNMAP, Loss.MADVISE]),
    ),
    st.tuples(st.just("move"), SPACES, PAGES, st.integers(1, 3)),
    st.tuples(st.just("see"), SPACES, PAGES, FRAMES, st.sampled_from([Source.INITIAL, Source.KSM])),
    st.tuples(st.just("unsee"), SPACES, PAGES),
    st.tuples(st.just("fork"), st.integers(0, 1)),
)


def run(line: Timeline, model: Model, operation: tuple[Any, ...], now: int, child: int) -> int:
    """One operation on both; the time after it."""
    name, space, *rest = operation
    if name == "apply":
        events, lags = rest
        for event, lag in zip(events, lags, strict=False):
            now += 3
            event.time, event.start, event.number = now, now - lag, now
        out = line.faults.apply(space, columns(events))
        expected = [model.event(space, event) for event in events]
        assert list(zip(out.gained.tolist(), out.raced.tolist(), strict=True)) == expected
    elif name == "release":
        page, length, cause = rest
        line.releases.release(space, page * P, (page + length) * P, now, cause)
        model.drop(space, page, page + length, now, cause)
    elif name == "move":
        page, length = rest
        line.releases.move(space, page * P, (page + 3) * P, length * P, now)
        model.move(space, page, page + 3, length, now)
    elif name == "see":
        page, frame, source = rest
        at = line.ledger.state(space, np.array([page], np.uint64))
        if line.ledger["frame"][at[0]] == NO_FRAME:
            line.ledger.gain(
                at,
                now,
                np.array([frame], np.uint64),
                np.array([source], np.uint8),
                np.array([1], np.uint32),
            )
            model.gain(model.page(space, page), now, frame, source)
    elif name == "unsee":
        at = line.ledger.state(space, np.array(rest, np.uint64))
        if line.ledger["frame"][at[0]] != NO_FRAME and not line.ledger["assumed"][at[0]]:
            line.ledger.release(at, now, Loss.UNKNOWN)
            model.release(model.page(space, rest[0]), now, Loss.UNKNOWN)
    elif name == "fork":
        parent = (SPACE, CHILD)[space]
        line.releases.inherit(parent, child, now)
        model.inherit(parent, child, now)
    return now + 1


@settings(max_examples=100, deadline=None)
@given(st.lists(OPERATIONS, max_size=12))
def test_the_timeline_follows_the_model(operations: list[tuple[Any, ...]]) -> None:
    line, model, now, forks = Timeline(), Model(), 100, 0
    for operation in operations:
        forks += operation[0] == "fork"
        now = run(line, model, operation, now, 10 + forks)
    for (space, number), page in model.pages.items():
        found = page_of(line, number, space)
        ours = (page.frame, page.source, page.gains, page.losses, page.last_loss, page.assumed)
        names = ("frame", "source", "gains", "losses", "last_loss", "assumed")
        assert tuple(found[name] for name in names) == ours, (space, number)
        if page.frame != NO_FRAME:
            assert found["changed_ns"] == page.changed
        if page.gains:
            first = (found["first_source"], found["first_frame"], found["first_fault"])
            assert first == page.first
    assert tallies(line) == (
        {Source(n): times for n, times in sorted(model.gained.items()) if times},
        {Loss(n): times for n, times in sorted(model.released.items()) if times},
    )
    check_books(line, SPACE, CHILD, *range(11, 11 + forks))
