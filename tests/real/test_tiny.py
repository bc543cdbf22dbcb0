"""The same programs with the smallest buffer, where nearly all of what happens is lost.

What is counted must be as exact as without loss, and what is left must make sense.
"""

import pytest

from tests.real import test_programs as checks
from tests.real.programs import REAL, STRESSORS
from tests.real.reports import Reporter
from tests.real.witnessed import Witnessed

# All but stressors, and those stressors that differ most: threads and children that come and go,
# mappings by the thousand, memory that is moved, locked, discarded, and given by userfaultfd.
PROGRAMS = [program.name for program in REAL if program not in STRESSORS] + [
    f"stress-ng-{name}"
    for name in ("madvise", "memfd", "mlock", "mmapmany", "mremap", "tlb-shootdown", "userfaultfd")
]


def tiny(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "traced", [(name, "tiny") for name in names], indirect=True, ids=names
    )


each = tiny(*PROGRAMS)


@each
def test_the_program_does_not_notice(traced: Witnessed) -> None:
    checks.test_the_program_does_not_notice(traced)


@each
def test_most_is_lost(traced: Witnessed) -> None:
    assert traced.books["lost"] > traced.books["traced"]


@each
def test_the_kernels_count_is_getrusages(traced: Witnessed) -> None:
    checks.test_the_kernels_count_is_getrusages(traced)


@each
def test_the_books_balance(traced: Witnessed) -> None:
    checks.test_the_books_balance(traced)


@each
def test_rows_are_what_the_books_say(traced: Witnessed) -> None:
    checks.test_rows_are_what_the_books_say(traced)


@each
def test_perf_stat_has_no_more(traced: Witnessed) -> None:
    """No row says how many it misses at threads' ends, as most are lost (see test_programs.py)."""
    if traced.perf is None:
        pytest.skip("a machine on which perf is quick")
    books, perf = traced.books, traced.perf.minor + traced.perf.major
    assert perf <= books["kernel"], (perf, books)
    if traced.meta["probe"]["name"] == "perf":
        assert perf <= books["traced"] - books["foreign"] + books["lost"], (perf, books)


@tiny("redis", "git", "stress-ng-mremap")
def test_every_report_is_made(traced: Witnessed, reporter: Reporter) -> None:
    assert reporter.trouble(traced.csv, drawn=True) == ""
