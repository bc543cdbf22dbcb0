"""Images of pagemap in blocks, against plain dicts; and snapshots that apply only what differs."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.reconcile_data import World
from tests.unit.timeline_data import CHILD, SPACE, A, B, C, Event, apply
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.model.sources import Loss, Source
from tracer.procfs.entries import PFN_MASK, PRESENT, SOFT_DIRTY, SWAPPED
from tracer.snapshots.image import Image

P = 4096
PAGES = st.sampled_from([0, 1, 63, 64, 65, 127, 128, 600, 1 << 20, (1 << 35) + 63])
SHOWN = st.dictionaries(PAGES, st.sampled_from([None, A, B]))  # None: swapped


def numbers(pages: Iterable[int]) -> np.ndarray:
    return np.array(sorted(pages), np.uint64)


def image(shown: dict[int, int | None]) -> Image:
    present = {page: frame for page, frame in shown.items() if frame is not None}
    pages = numbers(present)
    frames = np.array([present[page] for page in pages.tolist()], np.uint64)
    return Image.of(pages, frames, numbers(shown.keys() - present.keys()))


@given(SHOWN)
def test_an_image_shows_what_it_is_of(shown: dict[int, int | None]) -> None:
    made = image(shown)
    present = sorted(page for page, frame in shown.items() if frame is not None)
    assert made.pages.tolist() == present
    assert made.frames.tolist() == [shown[page] for page in present]
    assert made.swapped.tolist() == sorted(shown.keys() - set(present))
    assert made.resident == len(present)
    asked = [0, 2, 64, 599, 600, 1 << 20, 1 << 40]
    words = made.words_of(np.array(asked, np.uint64)).tolist()
    for page, word in zip(asked, words, strict=True):
        frame = shown.get(page)
        expected = 0 if page not in shown else SWAPPED if frame is None else PRESENT | frame // P
        assert word == expected


@given(SHOWN, SHOWN)
def test_what_differs_is_found_by_block(
    before: dict[int, int | None], after: dict[int, int | None]
) -> None:
    found = image(after).differing(image(before)).tolist()
    changed = {p >> 6 for p in before.keys() | after.keys() if before.get(p, 0) != after.get(p, 0)}
    assert found == sorted(changed)
    part = image(after).part(np.array(found, np.uint64))
    assert set(part.pages.tolist()) == {
        p for p, f in after.items() if f is not None and p >> 6 in changed
    }


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.lists(st.integers(0, (1 << 64) - 1), max_size=90)),
        max_size=4,
    )
)
def test_read_in_pieces(pieces: list[tuple[int, list[int]]]) -> None:
    """Pieces may begin and end anywhere, and share blocks."""
    placed, at = [], 0
    expected: dict[int, int] = {}
    for gap, words in pieces:
        # As the kernel says it: nothing of a place unless there is something.
        words = [word if word >> 62 else word & SOFT_DIRTY for word in words]
        at += gap
        placed.append((at, np.array(words, np.uint64)))
        expected |= {at + index: word for index, word in enumerate(words)}
        at += len(words)
    made = Image.read(placed)
    assert made.words.any(axis=1).all()
    assert (np.diff(made.numbers) > 0).all()
    words = made.words_of(np.arange(at + 1, dtype=np.uint64)).tolist()
    keep = PRESENT | SWAPPED | PFN_MASK
    assert words == [expected.get(page, 0) & keep for page in range(at + 1)]


def test_where_most_pages_are() -> None:
    rows = [*range(64 * 8), *range(64 * 10, 64 * 17), *range(64 * 100, 64 * 110)]
    made = image(dict.fromkeys(rows, A))
    size = 64 * P
    assert made.ranges() == [(0, 8 * size), (100 * size, 110 * size)]
    assert Image.nothing().ranges() == []


# -- snapshots -----------------------------------------------------------------------------

FEW = st.sampled_from([1, 2, 65, 130])
FRAMES = st.sampled_from([A, B, C])
FAULT = st.tuples(st.just("fault"), FEW, st.one_of(st.none(), FRAMES), FRAMES, st.integers(0, 9))
STEP = st.one_of(
    FAULT,
    st.tuples(st.just("release"), FEW, st.integers(1, 70), st.integers(0, 9)),
    st.tuples(st.just("move"), FEW, st.integers(1, 9)),
    st.tuples(st.just("fork")),
    st.tuples(st.just("snapshot"), st.dictionaries(FEW, FRAMES), st.booleans()),
    st.tuples(st.just("snapshot"), st.dictionaries(FEW, FRAMES), st.booleans()),
)


def do(world: World, now: int, step: tuple[Any, ...]) -> None:
    """One thing that happens; some of it is recorded late, with a time before the last snapshot."""
    what, *rest = step
    if what == "fault":
        page, before, after, ago = rest
        time = now - 7 * ago
        apply(world.line, Event(page, time - 3, time, before, after, kind=Kind.ANON))
    elif what == "release":
        page, pages, ago = rest
        world.line.releases.release(
            SPACE, page * P, (page + pages) * P, now - 7 * ago, Loss.MADVISE
        )
    elif what == "move":
        page, pages = rest
        world.line.releases.move(SPACE, page * P, (page + 64) * P, pages * P, now)
    elif what == "fork":
        world.line.releases.retire(CHILD, now)
        world.reconciler.forget(CHILD)
        world.line.releases.inherit(SPACE, CHILD, now)
    else:
        present, of_child = rest
        world.snapshot(now, present, space=CHILD if of_child else SPACE)


@pytest.mark.parametrize("tidy", [False, True])
@settings(max_examples=60)
@given(steps=st.lists(STEP, max_size=14))
# A page to be read again, beside one that went: they are not put away together.
@example(
    steps=[
        ("snapshot", {}, False),
        ("fault", 1, None, A, 0),
        ("release", 1, 1, 0),
        ("fault", 65, None, A, 0),
        ("snapshot", {2: B}, False),
        ("snapshot", {2: B}, False),
    ]
)
def test_a_snapshot_of_what_changed_is_worth_a_whole_one(
    tidy: bool, steps: list[tuple[Any, ...]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        short, whole = World(patch), World(patch)
        for world in (short, whole):
            world.born(Source.INITIAL)
        for number, step in enumerate(steps):
            now = 1000 + 10 * number
            if step[0] == "snapshot":
                _forget_the_last_snapshot(whole)
            for world in (short, whole):
                do(world, now, step)
                if tidy and step[0] == "snapshot":
                    world.line.ledger.tidy(CHILD if step[2] else SPACE, now)
        for space in (SPACE, CHILD):
            ours, theirs = short.line.ledger.history(space), whole.line.ledger.history(space)
            assert {name: column.tolist() for name, column in ours.items()} == {
                name: column.tolist() for name, column in theirs.items()
            }
            views = [world.reconciler.view(space) for world in (short, whole)]
            assert views[0].mapped == views[1].mapped
            assert short.suspects(space) == whole.suspects(space)
        assert short.line.ledger.tally.gained.tolist() == whole.line.ledger.tally.gained.tolist()
        assert (
            short.line.ledger.tally.released.tolist() == whole.line.ledger.tally.released.tolist()
        )
        assert short.reconciler.conflicts == whole.reconciler.conflicts


def _forget_the_last_snapshot(world: World) -> None:
    """The next one has to read every page."""
    for space in (SPACE, CHILD):
        world.reconciler.view(space).image = Image.nothing()
        at = world.line.ledger.state(space, np.array([1, 2, 65, 130], np.uint64))
        world.line.ledger.mark(at)
        for pages in range(0, 256, 64):
            world.line.ledger.mark(world.line.ledger.state(space, np.array([pages], np.uint64)))


def test_no_frame_is_no_word() -> None:
    assert image({3: A}).words_of(np.array([4], np.uint64)).tolist() == [0]
    assert NO_FRAME not in image({3: A}).frames.tolist()
