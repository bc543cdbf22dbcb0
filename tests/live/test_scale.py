"""As many threads, mappings and addresses as a process may have: exact all the same."""

import os

import numpy as np
import pytest

from tests import witnesses
from tests.live.background import Background, check
from tests.live.features import VERSION
from tests.live.workload import Workload
from tracer.model.rows import Kind, RowRecords
from tracer.probes.choose import Attached

# An emulated machine has neither the memory nor the time for all of it; the pagemap of a
# tebibyte has 2 GiB, which are to be read where the kernel has no PAGEMAP_SCAN.
_EMULATED = bool(os.environ.get("PAGEFAULT_GUEST"))
THREADS = 500 if _EMULATED else 10_000
MAPPINGS = 1_000 if _EMULATED else 60_000
GIB = 16 if _EMULATED and VERSION < (6, 7) else 1024
PAGES = 1024


def trace(attached: Attached, *arguments: str | int) -> tuple[RowRecords, int]:
    """The rows on the range the workload has, and how many an inexact probe missed.

    The books and the workload's own count are checked.
    """
    with Workload(*arguments) as work:
        before = witnesses.process_fault_count(work.pid)
        with Background(attached, work.pid) as live:
            work.go()
            counted = witnesses.process_fault_count(work.pid) - before
            result = live.end()
        for count in work.counts:
            assert count.faults == count.expected, count
        check(result.books, live, counted)
        anon = work.range("anon")
        address = live.log.rows["address"]
        rows = live.log.rows[(address >= anon.start) & (address < anon.end)]
        missed = counted - result.books.traced
        assert attached.probe.inexact() or not missed, result.books
        return rows, missed


def test_a_crowd_of_threads(attached: Attached) -> None:
    """Each has its own row, on the page it was given."""
    rows, missed = trace(attached, "crowd", THREADS)
    assert set(rows["kind"].tolist()) == {Kind.ANON}
    assert np.unique(rows["tid"]).size == np.unique(rows["address"]).size == len(rows)
    assert THREADS - missed <= len(rows) <= THREADS


@pytest.mark.parametrize("before", [1, 0], ids=["there before", "made meanwhile"])
def test_many_mappings(attached: Attached, before: int) -> None:
    """Each page is in its own mapping: the row says in which, and what the fault brought."""
    rows, missed = trace(attached, "mappings", MAPPINGS, before)
    order = np.argsort(rows["address"])
    page = np.diff(rows["address"][order]) >> np.uint64(12)
    same = np.diff(rows["kind"][order].astype(int)) == 0
    assert (same == (page % 2 == 0)).all()  # written and read by turns
    assert set(rows["kind"].tolist()) == {Kind.ANON, Kind.ZERO}
    assert np.unique(rows["region"]).size == len(rows)
    assert MAPPINGS - missed <= len(rows) <= MAPPINGS


def test_a_sparse_mapping(attached: Attached) -> None:
    """A tebibyte with a page here and there."""
    rows, missed = trace(attached, "sparse", PAGES, GIB)
    assert set(rows["kind"].tolist()) == {Kind.ANON}
    assert PAGES - missed <= len(rows) <= PAGES
