"""Pages that come without a fault of their own: populated, pinned, written by others."""

from collections import Counter
from collections.abc import Callable

import pytest

from tests.live import outside
from tests.live.features import VERSION
from tests.live.tracing import Traced, check_all, trace
from tests.live.workload import Range, Workload
from tracer.model.rows import Cause
from tracer.model.sources import Loss
from tracer.probes.choose import Attached

N = 71
TABLE = 2 << 20  # what a page table maps


def check_populated(traced: Traced, kinds: dict[str, int], source: str = "populate") -> None:
    """Rows where the probe sees them; where it is blind, the number and the frames."""
    anon = traced.report.ranges["anon"]
    check_all(traced, "anon", blind=tuple(count.label for count in traced.report.counts))
    if traced.probe == "perf":
        assert traced.kinds(anon) == {}
        assert traced.sources(anon) == {source: N}
        return
    assert traced.kinds(anon) == kinds
    assert traced.sources(anon) == {"fault": N}
    assert set(traced.within(anon)["cause"].tolist()) == {Cause.POPULATE}


@pytest.mark.parametrize("access", ["read", "write"])
def test_madv_populate(attached: Attached, access: str) -> None:
    traced = trace(attached, f"populate-{access}", N)
    if "missing" in traced.report.resident:
        pytest.skip(f"MADV_POPULATE_{access.upper()}")
    check_populated(traced, {"zero" if access == "read" else "anon": N})


@pytest.mark.parametrize(
    ("name", "pages"), [("populate-gone", N), ("populate-gone", 4096), ("mlock-gone", N)]
)
def test_filled_and_unmapped_before_a_snapshot(attached: Attached, name: str, pages: int) -> None:
    """Where the probe is blind, the call's records have the pages that it left as it returned."""
    traced = trace(attached, name, pages)
    check_all(traced, blind=tuple(count.label for count in traced.report.counts))
    anon = traced.report.ranges["anon"]
    blind = traced.probe == "perf"
    assert traced.kinds(anon) == ({} if blind else {"anon": pages})
    assert traced.sources(anon) == {"populate" if blind else "fault": pages}
    assert {page["last_loss"] for page in traced.table(anon).values()} == {Loss.MUNMAP}


def test_filled_beyond_what_is_reported_of_a_call(attached: Attached) -> None:
    """16 page tables; the rest is in no record, and that is said."""
    pages = 17 * 512
    traced = trace(attached, "populate-gone", pages)
    anon = traced.report.ranges["anon"]
    blind = traced.probe == "perf"
    reported = (16 * TABLE - anon.start % TABLE) // 4096
    assert traced.sources(anon) == ({"populate": reported} if blind else {"fault": pages})
    assert traced.books.unseen_fills == blind


def test_what_may_not_be_filled(attached: Attached) -> None:
    """The kernel's part of the page tables is nobody's memory."""
    traced = trace(attached, "mlock-refused", N)
    assert traced.sources(traced.report.ranges["anon"]) == {"fault": N}
    assert "populate" not in traced.books.gained_by
    assert max(traced.pages.page) < 1 << 47


@pytest.mark.parametrize("name", ["mlock-future", "mlock-all"])
def test_mlockall(attached: Attached, name: str) -> None:
    check_populated(trace(attached, name, N), {"anon": N})


def test_direct_read(attached: Attached) -> None:
    """The disk writes into memory that nothing has touched: pinned by get_user_pages."""
    check_populated(trace(attached, "direct-read", N), {"anon": N}, "missed")


@pytest.mark.parametrize("by", ["process_vm_writev", "/proc/PID/mem"])
@pytest.mark.parametrize("zero", [False, True])
def test_another_process_writes(attached: Attached, by: str, zero: bool) -> None:
    """One that is not traced: its faults are on its own account, the frames are ours."""
    action: Callable[[int, Range], None] = (
        outside.write if by == "process_vm_writev" else outside.write_file
    )

    def write(work: Workload) -> None:
        action(work.pid, work.range())

    name = "outside-zero" if zero else "outside"
    traced = trace(attached, name, N, at={"write": write})
    unrecorded = N if traced.probe == "perf" and by != "process_vm_writev" else 0
    check_all(traced, "anon", unknown=unrecorded)
    anon = traced.report.ranges["anon"]
    own = {"zero": N} if zero else {}
    if traced.probe == "perf":
        assert traced.kinds(anon) == own
        assert traced.books.gained_by.get("remote", 0) == N - unrecorded
        return
    assert traced.kinds(anon) == Counter(own) + Counter({"cow" if zero else "anon": N})
    assert traced.books.foreign == N
    rows = traced.within(anon)[-N:]
    assert set(rows["cause"].tolist()) == {Cause.REMOTE}


@pytest.mark.parametrize("by", ["caller", "worker"])
@pytest.mark.parametrize("how", ["buffered", "direct"])
def test_io_uring(attached: Attached, how: str, by: str) -> None:
    """Read through io_uring, by the calling thread or a worker thread of the kernel's."""
    traced = trace(attached, "uring", N, int(how == "direct"), int(by == "worker"))
    if "missing" in traced.report.resident:
        pytest.skip("io_uring")
    anon = traced.report.ranges["anon"]
    blind = how == "direct" and traced.probe == "perf"
    check_all(traced, "anon", blind=("io_uring",) if how == "direct" else (), missed=N * blind)
    assert traced.kinds(anon) == ({} if blind else {"anon": N})
    assert traced.sources(anon) == {"missed" if blind else "fault": N}
    if not blind:
        rows = traced.within(anon)
        # ext4 on 5.10 gives direct reads to a worker.
        mine = by == "caller" and (how == "buffered" or VERSION >= (5, 11))
        assert (set(rows["tid"].tolist()) == {traced.report.pid}) == mine
        assert traced.report.counts[0].faults == (N if mine else 0)
