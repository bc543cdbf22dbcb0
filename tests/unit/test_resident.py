"""How many pages were resident when: all points of a short run, some of a long one."""

from hypothesis import given
from hypothesis import strategies as st

from tracer.resident import ResidentSeries


def test_short_runs_keep_every_point() -> None:
    series = ResidentSeries()
    for time_ns, pages in ((5, 1), (7, 3), (9, 2)):
        series.add(time_ns, pages)
    assert series.points == [(5, 1), (7, 3), (9, 2)]


@given(st.integers(2, 9), st.integers(1, 300))
def test_long_runs_keep_the_first_and_the_last(most: int, count: int) -> None:
    series = ResidentSeries(most)
    for at in range(count):
        series.add(at, at * 10)
    points = series.points
    assert len(points) <= most
    assert points[0] == (0, 0)
    assert points[-1] == (count - 1, (count - 1) * 10)
    assert points == sorted(set(points))
