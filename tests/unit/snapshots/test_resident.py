"""Distinct frames, each counted once; the points of a short run, some of a long one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracer.snapshots import resident
from tracer.snapshots.resident import Resident, Series, distinct

FRAMES = st.lists(
    # Some close together, some at the far ends of what an entry can hold.
    st.integers(0, 40) | st.integers(0, (1 << 43) - 1),
    max_size=50,
)


def frames(*numbers: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return np.array(numbers, np.uint64) << np.uint64(12)


def test_short_runs_keep_every_point() -> None:
    series = Series()
    for time_ns, pages in ((5, 1), (7, 3), (9, 2)):
        series.add(time_ns, pages)
    assert series.points == [(5, 1), (7, 3), (9, 2)]


@given(st.integers(2, 9), st.integers(1, 300))
def test_long_runs_keep_the_first_and_the_last(most: int, count: int) -> None:
    series = Series(most)
    for at in range(count):
        series.add(at, at * 10)
    points = series.points
    assert len(points) <= most
    assert points[0] == (0, 0)
    assert points[-1] == (count - 1, (count - 1) * 10)
    assert points == sorted(set(points))


@given(st.lists(FRAMES, max_size=5))
def test_each_frame_counts_once(spaces: list[list[int]]) -> None:
    parts = [frames(*space) for space in spaces]
    before = [part.tolist() for part in parts]
    assert distinct(parts) == len({number for space in spaces for number in space})
    assert [part.tolist() for part in parts] == before  # they are others'


def test_frames_are_counted_a_stretch_at_a_time() -> None:
    edge = resident._STRETCH
    assert distinct([frames(3, edge + 3, edge + 2), frames(2 * edge + 3, edge + 3)]) == 4


def test_what_was_counted_last_is_what_there_is() -> None:
    counted = Resident()
    assert (counted.end, counted.growth, counted.peak) == (None, None, None)
    counted.begin(lambda: [frames(1, 2)], 100)
    counted._due_ns = 0
    counted.count(lambda: [frames(1, 2, 3), frames(3, 4)], 200)
    assert (counted.end, counted.growth, counted.peak) == (None, None, 4)  # a bound all the same
    counted.finish(lambda: [frames(4)], 300)
    assert (counted.end, counted.growth, counted.peak) == (1, -1, 4)
    assert counted.series.points == [(100, 2), (200, 4), (300, 1)]


def test_counting_takes_a_small_part_of_the_time() -> None:
    """Unless it is the end: then it must be known."""
    counted = Resident()
    counted.begin(list, 100)
    counted._due_ns = 1 << 62
    counted.count(lambda: [frames(1)], 200)
    assert counted.series.points == [(100, 0)]
    counted.finish(lambda: [frames(1)], 300)
    assert counted.end == 1


def test_without_a_start_growth_is_not_known() -> None:
    counted = Resident()
    counted.finish(lambda: [frames(1)], 300)
    assert (counted.end, counted.growth, counted.peak) == (1, None, 1)
