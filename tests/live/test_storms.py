"""Processes that come and go too fast to be followed: the trace ends, the books balance."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import cli

_FORKS = "import os\nwhile True:\n    if not os.fork(): os._exit(0)\n    os.wait()\n"
_EXECS = "while :; do /bin/true; done"


@pytest.fixture(params=["forks", "execs"])
def storm(request: pytest.FixtureRequest) -> Iterator[int]:
    command = cli.python(_FORKS) if request.param == "forks" else ["sh", "-c", _EXECS]
    with subprocess.Popen(command) as process:
        yield process.pid
        process.kill()


def test_it_ends_and_every_fault_is_accounted_for(storm: int, tmp_path: Path) -> None:
    """What there was no time to read is lost, exactly; nothing is unbalanced by it."""
    done = cli.run("-p", storm, "-d", "1", "--csv", tmp_path / "a.csv", "-q")
    assert done.status == 0, done.err
    books = cli.books(tmp_path / "a.csv")
    found = books["traced"] + books["lost"] + books["missed"] + books["filtered"]
    assert found == books["kernel"] > 0
    assert (
        len([row for row in cli.rows(tmp_path / "a.csv") if row["kind"] != "failed"])
        == (books["traced"])
    )
