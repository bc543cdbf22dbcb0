"""Known answers: every page once, the right kind, pagemap's frame, the kernel's count."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from tests.live.tracing import check_books, check_counts, check_frames, file_kind, trace
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Access, Cause, Confirmed, Kind
from tracer.model.sources import Source
from tracer.probes.choose import Attached


@dataclass(frozen=True)
class Case:
    """A step of the workload: what each page of `range` must show, in order."""

    arguments: tuple[str | int, ...]
    range: str
    kinds: dict[str, int]
    access: Access = Access.WRITE
    cause: Cause = Cause.USER
    blind: tuple[str, ...] = ()  # steps that raise no perf event


CASES = {
    "first-write": Case(("anon-write", 211), "anon", {"anon": 211}),
    "first-read-then-write": Case(("zero-then-cow", 101), "anon", {"zero": 101, "cow": 101}),
    "file-read": Case(("file-read", 53), "file", {"file": 53}, Access.READ),
    "file-private-write": Case(("file-private-write", 59), "file", {"cow": 59}),
    "file-shared-write": Case(("file-shared-write", 61), "file", {"file": 61}),
    "fetch": Case(("fetch", 31), "file", {"file": 31}, Access.EXEC),
    "shared-anonymous": Case(("shared-anon", 67), "shared", {"shmem": 67}),
    "stack-growth": Case(("stack", 71), "stack", {"anon": 71}),
    "read-into": Case(("read-into", 73), "anon", {"anon": 73}, cause=Cause.KERNEL),
    "dontneed": Case(("dontneed", 79), "anon", {"anon": 158}),
    "threads": Case(("threads", 37, 5), "anon", {"anon": 185}),
    "populate": Case(
        ("populate", 83), "anon", {"anon": 83}, cause=Cause.POPULATE, blind=("populate",)
    ),
    "mlock": Case(("mlock", 89), "anon", {"anon": 89}, cause=Cause.POPULATE, blind=("mlock",)),
}


@pytest.mark.parametrize("name", CASES)
def test_exact(attached: Attached, name: str) -> None:
    case = CASES[name]
    traced = trace(attached, *case.arguments)
    blind = sum(count.faults for count in traced.report.counts if count.label in case.blind)
    check_counts(traced, case.blind)
    check_books(traced, blind)
    check_frames(traced, case.range)
    range_ = traced.report.ranges[case.range]
    if traced.probe == "perf" and case.blind:
        assert traced.kinds(range_) == Counter()
        assert traced.sources(range_) == {"populate": range_.pages}
        return
    rows = traced.within(range_)
    kinds = case.kinds
    if traced.inexact and traced.books.missed:
        # Found and counted, which `check_books` has seen to; what there is is right.
        assert len(rows) + traced.books.missed >= sum(kinds.values())
        assert set(traced.kinds(range_)) <= set(kinds)
        return
    if "file" in kinds:
        kinds = {file_kind(traced, range_): kinds["file"]}
    assert traced.kinds(range_) == kinds
    times = sum(kinds.values()) // range_.pages
    assert sorted((rows["address"] & ~np.uint64(4095)).tolist()) == sorted(
        range_.addresses() * times
    )
    assert set(rows["cause"].tolist()) == {case.cause}
    if name != "first-read-then-write":
        assert set(rows["access"].tolist()) <= {case.access, Access.WRITE}
    assert (rows["pages"] == 1).all()
    assert (rows["latency_ns"] > 0).all()
    assert set(traced.sources(range_)) == {"fault"}


def test_confirmed_by_both(attached: Attached) -> None:
    """Pages that are still there at the closing snapshot are confirmed by it."""
    traced = trace(attached, "anon-write", 211)
    rows = traced.within(traced.report.ranges["anon"])
    assert (rows["confirmed"] == Confirmed.BOTH).all()


def test_zero_page_is_named(attached: Attached) -> None:
    """The copy's frame_before is the zero page that the read mapped."""
    traced = trace(attached, "zero-then-cow", 101)
    rows = traced.within(traced.report.ranges["anon"])
    zero = set(rows["frame"][rows["kind"] == Kind.ZERO].tolist())
    assert zero == {attached.direct_map.zero_frame}
    assert set(rows["frame_before"][rows["kind"] == Kind.COW].tolist()) == zero
    assert set(rows["frame_before"][rows["kind"] == Kind.ZERO].tolist()) == {NO_FRAME}


def test_released_by_madvise(attached: Attached) -> None:
    traced = trace(attached, "dontneed", 79)
    range_ = traced.report.ranges["anon"]
    assert traced.losses(range_) == {"madvise": 79}
    assert {row["gains"] for row in traced.table(range_).values()} == {2}


def test_fault_around(attached: Attached) -> None:
    """A few faults bring all pages; each neighbour is recorded with the fault that brought it."""
    traced = trace(attached, "file-around", 97)
    range_ = traced.report.ranges["file"]
    check_counts(traced)
    check_books(traced)
    check_frames(traced, "file")
    assert traced.within(range_)["pages"].sum() == 97
    sources = traced.sources(range_)
    assert sources["fault"] == len(traced.within(range_))
    assert sources["fault"] + sources["around"] == 97


def test_cold_file_is_major_and_counted_once(attached: Attached) -> None:
    """Two calls of handle_mm_fault, one fault."""
    traced = trace(attached, "file-cold", 43)
    check_counts(traced)
    check_books(traced)
    check_frames(traced, "file")


def test_huge_page(attached: Attached) -> None:
    traced = trace(attached, "huge")
    if traced.report.resident.get("huge") != 512:
        pytest.skip("no huge page was free for the workload")
    range_ = traced.report.ranges["huge"]
    check_counts(traced)
    check_books(traced)
    check_frames(traced, "huge")
    assert traced.kinds(range_) == {"huge": 1}
    assert traced.within(range_)["pages"].tolist() == [512]
    assert traced.sources(range_) == {"fault": 1, "around": 511}


def test_failed(attached: Attached) -> None:
    """Beyond the end of a truncated file: SIGBUS, not counted by the kernel, shown as failed."""
    traced = trace(attached, "sigbus", 47)
    range_ = traced.report.ranges["file"]
    assert traced.kinds(range_) == {"failed": 47}
    assert traced.books.failed == 47
    check_books(traced)
    check_counts(traced)


def test_fork_and_copy_on_write(attached: Attached) -> None:
    """The child's pages come by fork; each side's writes copy, or reuse what the other has left."""
    traced = trace(attached, "fork-cow", 97, 41, 29, 13)
    range_ = traced.report.ranges["anon"]
    check_counts(traced)
    check_books(traced)
    check_frames(traced, "anon")
    rows = traced.within(range_)
    child = rows[rows["pid"] == traced.report.child]
    assert Counter(child["kind"].tolist()) == {Kind.COW: 41}
    parent = rows[(rows["pid"] != traced.report.child)]
    kinds = Counter(parent["kind"].tolist())
    assert kinds[Kind.ANON] == 97
    assert kinds[Kind.COW] + kinds[Kind.REUSE] == 29 + 13
    assert kinds[Kind.COW] >= 29
    assert traced.sources(range_, traced.report.child) == {"fork": 97}


def test_remote_write(attached: Attached) -> None:
    """process_vm_writev into a child: the writer's fault, the child's memory."""
    traced = trace(attached, "remote", 103)
    range_ = traced.report.ranges["anon"]
    check_counts(traced, blind=("process_vm_writev",))
    check_books(traced, 103)
    if traced.probe == "perf":
        assert traced.sources(range_, traced.report.child) == {"remote": 103}
        return
    rows = traced.within(range_)
    rows = rows[rows["pid"] == traced.report.child]
    assert len(rows) == 103
    assert set(rows["cause"].tolist()) == {Cause.REMOTE}
    assert set(rows["kind"].tolist()) == {Kind.ANON}


def test_threads_on_the_same_pages(attached: Attached) -> None:
    """Lost races are spurious, not gains: each page is gained once."""
    traced = trace(attached, "threads-same", 113, 16)
    range_ = traced.report.ranges["anon"]
    check_counts(traced)
    check_books(traced)
    check_frames(traced, "anon")
    assert set(traced.kinds(range_)) <= {"anon", "spurious"}
    assert traced.books.missed or traced.kinds(range_)["anon"] == 113
    assert {row["gains"] for row in traced.table(range_).values()} == {1}


def test_threads_started_under_trace(attached: Attached) -> None:
    traced = trace(attached, "late-threads", 31, 7)
    check_counts(traced)
    check_books(traced)
    kinds = traced.kinds(traced.report.ranges["anon"])
    assert kinds["anon"] + traced.books.missed >= 217
    assert set(kinds) == {"anon"}
    assert traced.inexact or kinds["anon"] == 217


def test_short_lived_mappings(attached: Attached) -> None:
    """400 mappings, anonymous and file in turn at one address: each fault names its own."""
    traced = trace(attached, "short-lived", 200)
    range_ = traced.report.ranges["short"]
    check_counts(traced)
    check_books(traced)
    rows = traced.within(range_)
    names = [traced.names.regions[int(region)].name for region in rows["region"]]
    assert names == ["[anon]", traced.report.file] * 200
    offsets = [traced.names.regions[int(region)].offset for region in rows["region"][1::2].tolist()]
    assert offsets == [page * 4096 for page in range(200)]
    kinds = [Kind(int(kind)).name.lower() for kind in rows["kind"]]
    assert kinds == ["anon", file_kind(traced, range_)] * 200


def test_storm(attached: Attached) -> None:
    """16 threads, every fault seen; what preempted fentry handlers miss is counted and shown."""
    traced = trace(attached, "storm", 16, 257, 6)
    books = traced.books
    total = 16 * 257 * 6
    counted = sum(count.faults for count in traced.report.counts)
    assert counted == total
    check_counts(traced)
    check_books(traced)
    rows = len(traced.within(traced.report.ranges["anon"]))
    assert rows + books.lost + books.missed >= total
    assert books.traced + books.lost + books.missed == books.kernel


def test_initial_pages_are_named(attached: Attached) -> None:
    """What was there when we came is no gain of ours."""
    traced = trace(attached, "anon-write", 2)
    first = Counter(traced.pages.first_source.tolist())
    assert first[Source.INITIAL] > 50
    assert "initial" not in traced.books.gained_by
