"""What the session's tests share."""

from collections.abc import Iterator

import pytest

from tests.unit.recorder_data import Kernel, recording
from tracer.session.recorder import Recorder


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.ring.close()


@pytest.fixture
def recorder(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    yield from recording(kernel, monkeypatch)
