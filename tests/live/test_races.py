"""Threads on the same pages, faults that are tried again, and pages of the kernel's own."""

import pytest

from tests.live.tracing import (
    check_all,
    check_books,
    check_counts,
    check_resident,
    trace,
)
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.probes.choose import Attached
from tracer.session.plan import Plan


def test_different_pages(attached: Attached) -> None:
    """16 threads, each its own pages: on newer kernels under the lock of the mapping alone."""
    traced = trace(attached, "threads", 17, 16)
    check_all(traced, "anon")
    kinds = traced.kinds(traced.report.ranges["anon"])
    assert kinds["anon"] + (traced.books.missed if traced.inexact else 0) >= 17 * 16
    assert set(kinds) == {"anon"}


def test_the_same_pages(attached: Attached) -> None:
    """Lost races are spurious, not gains: every page is gained once."""
    traced = trace(attached, "threads-same", 101, 16)
    check_all(traced, "anon")
    range_ = traced.report.ranges["anon"]
    assert set(traced.kinds(range_)) <= {"anon", "spurious"}
    assert {row["gains"] for row in traced.table(range_).values()} == {1}


@pytest.mark.parametrize("interval_ms", [600_000, 20])
def test_pages_unmapped_under_each_other(attached: Attached, interval_ms: int) -> None:
    """16 threads that fault, discard, unmap and map anew one range: in the end it is pagemap's.

    With snapshots in between, too: what they show in the middle must fit.
    """
    traced = trace(attached, "race", 16, 32, 30, plan=Plan(snapshot_interval_ms=interval_ms))
    check_counts(traced)
    check_books(traced)
    check_resident(traced)
    range_ = traced.report.ranges["race"]
    held = {page: row["last_frame"] for page, row in traced.table(range_).items()}
    truth = traced.truth["race"].tolist()
    assert [held.get(page, NO_FRAME) for page in range_.addresses()] == truth
    assert {"madvise", "munmap"} <= set(traced.books.lost_by)
    assert set(traced.kinds(range_)) <= {"anon", "spurious"}


def test_faults_tried_again(attached: Attached) -> None:
    """A fault that waits for userfaultfd is called twice, and counted once."""
    traced = trace(attached, "uffd-retry", 29)
    if traced.report.missing:
        pytest.skip(traced.report.missing)
    check_all(traced, "anon")
    rows = traced.within(traced.report.ranges["anon"])
    assert len(rows) == 29
    assert len(set(rows["address"].tolist())) == 29


def test_the_kernels_own_pages(attached: Attached) -> None:
    """[vdso] and [vvar] are `special`; vsyscall's page is of no address space: no fault."""
    traced = trace(attached, "kernel-pages")
    check_all(traced)
    names = [traced.names.regions[int(region)].name for region in traced.rows["region"]]
    special = {name for name, row in zip(names, traced.rows, strict=True) if row["kind"] == 19}
    assert special <= {"[vdso]", "[vvar]", "[vvar_vclock]"}


def test_a_drivers_pages(attached: Attached) -> None:
    """Pages that a driver puts there as its file is mapped: no fault brings them."""
    traced = trace(attached, "ring", 23)
    if traced.report.missing:
        pytest.skip(traced.report.missing)
    check_all(traced, "hole")
    range_ = traced.report.ranges["hole"]
    assert traced.kinds(range_) == {}
    assert traced.sources(range_) == {"populate": 23}


def test_pages_without_struct_page(attached: Attached) -> None:
    """Device memory is not in pagemap: no frame of it is reported, and none is missed."""
    traced = trace(attached, "devmem", 5)
    if traced.report.missing:
        pytest.skip(traced.report.missing)
    check_all(traced, "hole")
    range_ = traced.report.ranges["hole"]
    assert traced.kinds(range_) == {}
    assert traced.table(range_) == {}
    assert Kind.UNKNOWN not in set(traced.rows["kind"].tolist())
