"""The kernel's count holds when records do not: against getrusage, with rings much too small."""

from pathlib import Path
from typing import Any

import pytest

from tests.live import cli
from tests.live.workload import command
from tracer.errors import Exit

SMALL = "32K"


def books_of(csv: Path) -> dict[str, Any]:
    found = cli.meta(csv)["books"]
    assert isinstance(found, dict)
    return found


# ---- failed faults -----------------------------------------------------------


@pytest.mark.guest
def test_failed_faults_are_rows_or_lost(tmp_path: Path) -> None:
    """A storm of faults that fail: none of them goes without a word."""
    times, csv = 20_000, tmp_path / "a.csv"
    done = cli.run(
        "-q", "--strict", "--buffer", SMALL, "--csv", csv, "--", *command("sigbus", times)
    )
    books = books_of(csv)
    assert books["failed_lost"] > 0, books
    assert books["failed"] + books["failed_lost"] == times, books
    assert done.status == Exit.INEXACT
    assert f"{books['failed_lost']} faults that failed lost" in done.err
    assert f"{books['failed_lost']} faults failed lost" in done.out


@pytest.mark.parametrize(
    "given", [("--range", "0x1000-0x2000"), ("--min-latency", "1ns")], ids=lambda given: given[0]
)
def test_failed_faults_are_filtered(tmp_path: Path, given: tuple[str, str]) -> None:
    """By address as others are; by latency always, as `perf` has none of theirs."""
    csv = tmp_path / "a.csv"
    cli.run("-q", *given, "--csv", csv, "--", *command("sigbus", 500))
    books = books_of(csv)
    assert (books["failed"], books["failed_lost"]) == (0, 0), books
    assert books["failed_filtered"] == 500, books
