"""What the tests of snapshots share."""

import pytest

from tests.unit.reconcile_data import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)
