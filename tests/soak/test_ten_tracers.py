"""What tests/live/test_many_tracers.py does with a few tracers, with ten: minutes."""

import pytest

from tests.live.test_many_tracers import (
    _nothing_left,
    stack,
    test_all_compile_at_the_same_moment,
    test_each_on_its_own_target,
    test_on_one_target,
)

__all__ = [
    "_nothing_left",
    "stack",
    "test_all_compile_at_the_same_moment",
    "test_each_on_its_own_target",
    "test_on_one_target",
]


@pytest.fixture
def count() -> int:
    return 10
