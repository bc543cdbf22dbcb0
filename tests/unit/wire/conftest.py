"""What the rings' tests share."""

from collections.abc import Iterator

import pytest

from bench.replay import FedRing
from tests.unit.ring_data import CAPACITY, RECORD, FakeRing


@pytest.fixture
def fake() -> Iterator[FakeRing]:
    made = FakeRing()
    yield made
    made.close()


@pytest.fixture
def fed() -> Iterator[FedRing]:
    made = FedRing(CAPACITY, RECORD)
    yield made
    made.close()
