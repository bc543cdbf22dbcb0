"""Huge pages: each of their pages' frames, whatever brought it, replaced it or released it."""

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.features import THP, VERSION, knob
from tests.live.tracing import (
    Traced,
    check_books,
    check_counts,
    check_frames,
    check_resident,
    trace,
)
from tests.live.workload import Workload, WorkloadError
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.probes.choose import Attached

HugePool = Callable[..., None]
SECONDS = 120.0  # a limit, not a wait
MUNMAP, MPROTECT, DONTNEED, WRITE = range(4)
FIRST, PART = 100, 50  # the part of a huge page that goes
REST = 512 - PART


def check(traced: Traced, name: str = "huge", *, rows: bool = True) -> None:
    check_counts(traced)
    check_frames(traced, name, rows=rows)
    check_books(traced)
    check_resident(traced)


def pages_of(traced: Traced, kind: Kind, name: str = "huge") -> Counter[int]:
    """How many pages the faults of a kind brought."""
    rows = traced.within(traced.report.ranges[name])
    return Counter(rows["pages"][rows["kind"] == kind].tolist())


@pytest.mark.parametrize(
    ("what", "kinds", "losses"),
    [
        (MUNMAP, {"huge": 2}, {"munmap": PART}),
        (MPROTECT, {"huge": 2}, {}),
        (DONTNEED, {"huge": 2, "anon": PART}, {"madvise": PART}),
    ],
    ids=["munmap", "mprotect", "dontneed"],
)
def test_split(
    attached: Attached, what: int, kinds: dict[str, int], losses: dict[str, int]
) -> None:
    """A huge page of which a part goes: what is left keeps its frames, mapped one by one."""
    traced = trace(attached, "thp-split", what, FIRST, PART)
    check(traced)
    range_ = traced.report.ranges["huge"]
    assert traced.kinds(range_) == kinds
    assert pages_of(traced, Kind.HUGE) == {512: 2}
    assert traced.sources(range_) == {"fault": 2, "around": 1022}
    assert traced.losses(range_) == losses


@pytest.mark.parametrize(
    "what", [MUNMAP, MPROTECT, DONTNEED], ids=["munmap", "mprotect", "dontneed"]
)
def test_split_of_the_huge_zero_page(attached: Attached, what: int) -> None:
    """What is left has the small zero page in place of the huge one."""
    traced = trace(attached, "thp-zero", what, FIRST, PART)
    check(traced, rows=False)
    range_ = traced.report.ranges["huge"]
    assert traced.kinds(range_) == {"zero": 1}
    assert pages_of(traced, Kind.ZERO) == {512: 1}
    here = 512 if what == MPROTECT else REST
    assert traced.holders(range_) == {"split": here}
    assert set(traced.truth["huge"].tolist()) == {attached.direct_map.zero_frame, NO_FRAME}
    gone = {MUNMAP: {"munmap": PART}, DONTNEED: {"madvise": PART}, MPROTECT: {}}[what]
    assert traced.losses(range_) == {"replaced": here} | gone


def test_write_to_the_huge_zero_page(attached: Attached) -> None:
    """Older kernels split it and copy a page at a time, newer ones (6.13) put a huge page there."""
    traced = trace(attached, "thp-zero", WRITE, FIRST, PART)
    check(traced, rows=False)
    range_ = traced.report.ranges["huge"]
    assert pages_of(traced, Kind.ZERO) == {512: 1}
    assert traced.losses(range_) == {"replaced": 512}
    if traced.kinds(range_)["cow"] == 1:
        assert pages_of(traced, Kind.COW) == {512: 1}
        assert traced.holders(range_) == {"fault": 1, "around": 511}
        return
    assert traced.kinds(range_) == {"zero": 1, "cow": PART}
    assert pages_of(traced, Kind.COW) == {512: 1, 1: PART - 1}
    assert traced.holders(range_) == {"fault": PART, "around": REST}


def test_write_to_a_clean_huge_page(attached: Attached) -> None:
    """It looks like the huge zero page, which a write splits; but its other pages stay."""
    traced = trace(attached, "thp-clean", FIRST, PART)
    check(traced, rows=False)
    range_ = traced.report.ranges["huge"]
    assert traced.kinds(range_) == {"huge": 1, "cow": PART}
    assert pages_of(traced, Kind.COW) == {1: PART}
    assert traced.holders(range_, traced.report.pid) == {"fault": 1 + PART, "around": REST - 1}


@pytest.mark.parametrize("name", ["collapse", "shmem-collapse"])
def test_collapse_by_madvise(attached: Attached, name: str) -> None:
    """Small pages, and holes between them, become a huge page without a fault."""
    traced = trace_or_skip(attached, name, 300, 0)
    check_collapsed(traced)


def trace_or_skip(attached: Attached, *arguments: str | int) -> Traced:
    try:
        return trace(attached, *arguments)
    except WorkloadError:
        if VERSION >= (6, 1):
            raise
        pytest.skip("MADV_COLLAPSE")


def check_collapsed(traced: Traced) -> None:
    check(traced, rows=False)
    range_ = traced.report.ranges["huge"]
    assert sum(traced.kinds(range_).values()) == 300
    assert traced.sources(range_) == {"fault": 300, "collapse": 212}
    assert traced.holders(range_) == {"collapse": 512}
    assert traced.losses(range_) == {"replaced": 300}


def test_collapse_by_khugepaged(attached: Attached, machine: ExitStack) -> None:
    for name, value in (
        ("alloc_sleep_millisecs", 1),
        ("pages_to_scan", 1 << 20),
        ("max_ptes_none", 511),
        ("scan_sleep_millisecs", 1),
    ):
        machine.enter_context(knob(THP / "khugepaged" / name, value, "khugepaged"))
    check_collapsed(trace(attached, "collapse", 300, 1, at={"collapse": wait_for_huge}))


def wait_for_huge(work: Workload) -> None:
    """Until smaps shows a huge page in the range."""
    deadline = time.monotonic() + SECONDS
    start = f"{work.range('huge').start:x}-"
    while time.monotonic() < deadline:
        text = Path(f"/proc/{work.pid}/smaps").read_text()
        mapping = text[text.index(start) :]
        huge = re.search(r"^AnonHugePages: +(\d+)", mapping, re.M)
        assert huge is not None
        if huge[1] == "2048":
            return
        time.sleep(0.01)
    pytest.fail("khugepaged left the pages as they were")


@pytest.mark.parametrize(
    "what", [MUNMAP, MPROTECT, DONTNEED], ids=["munmap", "mprotect", "dontneed"]
)
def test_split_of_a_file_s_huge_page(attached: Attached, what: int) -> None:
    """It is unmapped whole; what is left comes back by faults, in its frames."""
    traced = trace(attached, "shmem-huge", 1, what, FIRST, PART, at={"parted": nothing})
    check(traced, rows=False)
    range_ = traced.report.ranges["huge"]
    kinds = traced.kinds(range_)
    if what == DONTNEED:  # the mapping is whole: the next fault brings the huge page back
        assert kinds == {"huge": 3}
    else:
        assert set(kinds) == {"huge", "shmem"}
        assert kinds["huge"] == 2
    assert set(pages_of(traced, Kind.HUGE)) == {512}
    gone = {MUNMAP: {"munmap": PART}, DONTNEED: {"madvise": PART}, MPROTECT: {}}[what]
    split = 512 if what == MPROTECT else REST
    assert traced.losses(range_) == {"split": split} | gone


def test_private_write_to_a_file_s_huge_page(attached: Attached) -> None:
    """The copy is one page; the huge page is unmapped for it, and read in again."""
    traced = trace(attached, "shmem-private", 77, at={"written": nothing})
    check(traced, rows=False)
    range_ = traced.report.ranges["huge"]
    kinds = traced.kinds(range_)
    assert kinds["huge"] == kinds["cow"] == 1
    assert set(kinds) == {"huge", "cow", "shmem"}
    assert pages_of(traced, Kind.COW) == {1: 1}
    assert traced.losses(range_) == {"split": 511, "replaced": 1}


def nothing(work: Workload) -> None:
    """Let it go on."""


@pytest.mark.parametrize("how", [0, 1], ids=["memfd", "mount"])
def test_shared_memory(attached: Attached, how: int, machine: ExitStack) -> None:
    """Memory of tmpfs, by a memfd or a file, comes in huge pages where that is set so."""
    if not how:
        machine.enter_context(knob(THP / "shmem_enabled", "always", "huge pages in shmem"))
    traced = trace(attached, "shmem-huge", how, 9, 0, 0, at={"parted": nothing})
    check(traced)
    range_ = traced.report.ranges["huge"]
    assert traced.kinds(range_) == {"huge": 2}
    assert traced.sources(range_) == {"fault": 2, "around": 1022}


@pytest.mark.parametrize("how", [0, 1, 2], ids=["private", "shared", "memfd"])
def test_hugetlb(attached: Attached, hugetlb: HugePool, how: int) -> None:
    """Two huge pages; after a fork the child writes the first one, then the parent the second."""
    hugetlb(6)
    traced = trace(attached, "hugetlb-fork", 2, how)
    check(traced, "hugetlb")
    range_ = traced.report.ranges["hugetlb"]
    assert set(traced.kinds(range_)) == {"hugetlb"}
    rows = traced.within(range_)
    mine, theirs = rows[rows["pid"] == traced.report.pid], rows[rows["pid"] == traced.report.child]
    assert mine["pages"][:2].tolist() == [512, 512]
    copied = [] if how else [512]
    assert mine["pages"][2:].tolist() == copied
    faulted = how and VERSION >= (6, 0)  # where a fork leaves shared ones to be faulted in
    assert theirs["pages"].tolist() == ([512] if faulted else copied)
    inherited = {"fault": 1, "around": 511} if faulted else {"fork": 1024}
    assert traced.sources(range_, traced.report.child) == inherited
