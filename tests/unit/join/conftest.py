"""What the join's tests share."""

import pytest

from tests.unit.join_data import Parts


@pytest.fixture
def parts() -> Parts:
    return Parts()
