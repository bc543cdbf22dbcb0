"""Pages that get another address, or another frame, with no fault of their own."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import features, outside
from tests.live.tracing import Traced, check_all, frames_now, trace, until
from tests.live.workload import Workload
from tracer.model.sources import Source
from tracer.probes.choose import Attached

N = 61


def last_sources(traced: Traced, name: str = "anon") -> Counter[str]:
    table = traced.table(traced.report.ranges[name]).values()
    return Counter(Source(row["last_source"]).name.lower() for row in table)


def test_mremap_moves(attached: Attached) -> None:
    """The frames stay, the addresses change; what is new there faults."""
    traced = trace(attached, "mremap-move", N)
    check_all(traced, "anon", "moved")
    anon, moved = traced.report.ranges["anon"], traced.report.ranges["moved"]
    assert traced.kinds(anon) == traced.kinds(moved) == {"anon": N}
    assert traced.losses(anon) == {"move": N}
    assert traced.sources(moved) == {"move": N, "fault": N}
    assert traced.books.gained_by["move"] == traced.books.lost_by["move"] == N


def test_mremap_shrinks_and_grows(attached: Attached) -> None:
    traced = trace(attached, "mremap-size", N)
    check_all(traced, "anon")
    anon = traced.report.ranges["anon"]
    assert traced.kinds(anon) == {"anon": N + N - N // 2}
    assert traced.books.lost_by["munmap"] == N - N // 2
    assert "move" not in traced.books.gained_by


def test_mremap_leaves_the_mapping(attached: Attached) -> None:
    """MREMAP_DONTUNMAP: the old mapping is there still, and faults anew."""
    traced = trace(attached, "mremap-keep", N)
    check_all(traced, "anon", "moved")
    anon, moved = traced.report.ranges["anon"], traced.report.ranges["moved"]
    assert traced.kinds(anon) == {"anon": 2 * N}
    assert traced.kinds(moved) == {}
    assert traced.sources(moved) == {"move": N}
    assert traced.books.lost_by["move"] == N


@pytest.mark.parametrize("how", ["move_pages", "migrate_pages"])
def test_migration(attached: Attached, numa: tuple[int, ...], how: str) -> None:
    """Another process has the kernel move this one's pages to the other node."""

    def move(work: Workload) -> None:
        anon = work.range()
        here = outside.where(work.pid, anon.addresses())[0]
        there = next(node for node in numa if node != here)
        if how == "move_pages":
            assert set(outside.move_pages(work.pid, anon, there)) == {there}
        else:
            outside.migrate_pages(work.pid, here, there)
            assert set(outside.where(work.pid, anon.addresses())) == {there}

    traced = trace(attached, "stays", N, at={"move": move})
    check_all(traced, "anon")
    assert traced.kinds(traced.report.ranges["anon"]) == {"anon": N}
    assert last_sources(traced) == {"migrate": N}
    assert traced.losses(traced.report.ranges["anon"]) == {"replaced": N}


def test_compaction(attached: Attached) -> None:
    """Which pages it moves is its own choice; each is found in its new frame."""

    def compact(work: Workload) -> None:
        Path("/proc/sys/vm/compact_memory").write_text("1")

    traced = trace(attached, "scattered", 8 * N, at={"move": compact})
    check_all(traced, "anon")
    assert set(last_sources(traced)) <= {"fault", "migrate"}
    assert set(traced.losses(traced.report.ranges["anon"])) <= {"madvise", "replaced"}
    assert traced.books.gained_by.get("migrate", 0) == traced.books.lost_by.get("replaced", 0)


def test_numa_balancing(
    attached: Attached, numa: tuple[int, ...], knob: Callable[..., None]
) -> None:
    """A page made inaccessible as a hint faults, and may be moved in that fault."""
    knob("/proc/sys/kernel/numa_balancing", 1)
    cpus = [Path(f"/sys/devices/system/node/node{node}/cpulist").read_text() for node in numa[:2]]
    far, near = (int(text.split("-")[0].split(",")[0]) for text in cpus)
    traced = trace(attached, "numa", N, far, near)
    check_all(traced, "anon")
    kinds = traced.kinds(traced.report.ranges["anon"])
    assert kinds.pop("anon") == N
    assert set(kinds) == {"numa"}
    assert set(last_sources(traced)) == {"fault"}


def merged(work: Workload) -> None:
    """Wait until ksmd has made all the range's pages one, and let it rest."""
    until(lambda: len(set(frames_now(work, "anon"))) == 1)
    (features.KSM / "run").write_text("0")


def test_ksm_merge(attached: Attached, ksm: None) -> None:
    traced = trace(attached, "ksm-stays", N, at={"merge": merged, "again": lambda work: None})
    check_all(traced, "anon")
    assert traced.kinds(traced.report.ranges["anon"]) == {"anon": N}
    sources = last_sources(traced)
    assert sources["ksm"] >= N - 1  # one page's own frame may have become the common one
    assert set(sources) <= {"ksm", "fault"}
    assert len(set(traced.truth["anon"].tolist())) == 1


def test_ksm_write(attached: Attached, ksm: None) -> None:
    """Merged, then written: every write makes a copy."""
    traced = trace(attached, "ksm-write", N, at={"merge": merged})
    check_all(traced, "anon")
    anon = traced.report.ranges["anon"]
    assert traced.kinds(anon) == {"anon": N, "cow": N}
    assert traced.books.gained_by["ksm"] >= N - 1
    assert last_sources(traced) == {"fault": N}


def test_ksm_advised_apart(attached: Attached, ksm: None) -> None:
    """MADV_UNMERGEABLE: the process's own faults, which no perf event reports."""
    traced = trace(attached, "ksm-advise", N, at={"merge": merged})
    check_all(traced, "anon", blind=("unmerge",))
    anon = traced.report.ranges["anon"]
    if traced.probe != "perf":
        assert traced.kinds(anon) == {"anon": N, "cow": N}
        assert last_sources(traced) == {"fault": N}


def test_ksm_unmerged(attached: Attached, ksm: None) -> None:
    """`2` in ksm/run: the kernel copies every merged page, on behalf of whoever wrote that."""

    def apart(work: Workload) -> None:
        (features.KSM / "run").write_text("2")

    traced = trace(attached, "ksm-stays", N, at={"merge": merged, "again": apart})
    check_all(traced, "anon")
    if traced.probe != "perf":
        assert traced.kinds(traced.report.ranges["anon"]) == {"anon": N, "cow": N}
