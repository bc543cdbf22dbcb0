"""What several unit tests share."""

import os
from collections.abc import Iterator

import pytest

from tests.unit.browser import Browser, executable


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; without one the test is skipped, but never in CI."""
    program = executable()
    if program is None:
        missing = "no Chromium here (tools/bootstrap --browser installs one)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Browser(program, tmp_path_factory.mktemp("profile")) as running:
        yield running
