"""What all fuzzing shares: it takes little memory."""

import resource
from collections.abc import Iterator

import pytest

MUCH_KB = 384 << 10


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    """The examples of one format together: what one takes is given back."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MUCH_KB
