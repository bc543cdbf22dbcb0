"""tests/covered.py: a line a package, all of them together, and whether that is enough."""

from collections import Counter

import pytest

from tests.covered import table


def test_a_line_a_package_and_the_sum() -> None:
    statements = Counter({"tracer": 100, "tracer/outputs": 300, "tracer/empty": 0})
    lines, enough = table(statements, Counter({"tracer": 50, "tracer/outputs": 30}), 84)
    assert lines == [
        " 50.0 %  tracer",
        " 90.0 %  tracer/outputs",
        " 80.0 %  of 400 statements; at least 84 % are to be",
    ]
    assert not enough


@pytest.mark.parametrize(("missing", "enough"), [(159, True), (160, True), (161, False)])
def test_the_floor_itself_is_enough(missing: int, enough: bool) -> None:
    assert table(Counter({"tracer": 1000}), Counter({"tracer": missing}), 84)[1] is enough


def test_nothing_measured_is_not_enough() -> None:
    assert not table(Counter(), Counter(), 84)[1]
