"""What the timeline's tests share."""

import pytest

from tracer.timeline.timeline import Timeline


@pytest.fixture
def line() -> Timeline:
    return Timeline()
