"""Attached to at a bad moment: asleep before an exec, in the middle of one, among forks.

On the running machine only (conftest.py): the order of these steps is ours, not the kernel's.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.background import Background
from tracer.model.result import Books
from tracer.probes.choose import Attached

HELD = 1009  # pages
PROGRAM = [sys.executable, "-c", f"held = bytearray({HELD} << 12)"]
# Each line of FILE is a round that has begun.
FORKS = 'while test ! -e "$1"; do /bin/true; (echo >> "$0"); done'
EXECS = 'test -e "$1" && exit; echo >> "$0"; exec sh -c "$2" "$0" "$1" "$2"'


def check(books: Books) -> None:
    """Nobody else wrote, and what nothing explains there is none."""
    assert (books.lost, books.conflict) == (0, 0), books
    assert not {"remote", "unknown"} & books.gained_by.keys(), books
    assert "unknown" not in books.lost_by, books
    assert books.gained - books.given_up == books.mapped_change, books


def test_a_sleeper_that_execs(attached: Attached) -> None:
    """It has not faulted since: the first fault is in memory that is not known yet."""
    argv = ["sh", "-c", 'head -c 1 > /dev/null; exec "$@"', "sh", *PROGRAM]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        assert process.stdin
        time.sleep(0.2)
        with Background(attached, process.pid) as live:
            process.stdin.write(b"\n")
            process.stdin.close()
            result = live.ended()
    check(result.books)
    rows = live.log.rows[live.log.rows["pid"] == process.pid]
    assert len(rows) > HELD
    regions = [live.session.names.regions[number] for number in set(rows["region"].tolist())]
    assert all(region.perms for region in regions)
    assert result.books.lost_by["exit"] > 0


def trace(attached: Attached, script: str, folder: Path) -> tuple[Background, Books, int]:
    """A shell that goes round and round, attached to and traced to its end, soon after.

    Returns how many of its rounds began under trace, at least.
    """
    rounds, stop = folder / "rounds", folder / "stop"
    with subprocess.Popen(["sh", "-c", script, str(rounds), str(stop), script]) as process:
        try:
            while not rounds.exists():
                time.sleep(0.01)
            with Background(attached, process.pid) as live:
                began = len(rounds.read_bytes())
                stop.touch()
                result = live.ended()
        finally:
            stop.touch()
    return live, result.books, len(rounds.read_bytes()) - began - 1


@pytest.mark.parametrize("turn", range(5))
def test_a_shell_that_forks_all_the_time(attached: Attached, tmp_path: Path, turn: int) -> None:
    """Each of its children is followed, into its program; all that they had is in a mapping."""
    live, books, count = trace(attached, FORKS, tmp_path)
    check(books)
    rows = live.log.rows
    assert len(set(rows["pid"].tolist())) >= 2 * count
    assert (rows["region"] != 0).all()


@pytest.mark.parametrize("turn", range(5))
def test_a_shell_that_execs_all_the_time(attached: Attached, tmp_path: Path, turn: int) -> None:
    """Also in the middle of one: each program has its memory, and each page is in a mapping."""
    live, books, count = trace(attached, EXECS, tmp_path)
    check(books)
    rows = live.log.rows
    assert len(set(rows["space"].tolist())) >= count
    assert (rows["region"] != 0).all()
