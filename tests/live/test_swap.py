"""Memory that goes away: swapped out and back, reclaimed, freed lazily, unmapped."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live import features, outside
from tests.live.tracing import Traced, check_all, gone_now, trace
from tests.live.workload import Workload
from tracer.model.sources import Loss, Source
from tracer.probes.choose import Attached
from tracer.session.plan import Plan

Swap = Callable[..., Path]
N = 67


def majors(traced: Traced) -> int:
    rows = traced.within(traced.report.ranges["anon"])
    return int(rows["major"].sum())


@pytest.mark.parametrize("kind", ["zram", "file", "zswap"])
def test_out_and_back(
    attached: Attached,
    swap: Swap,
    machine: ExitStack,
    memcg: Callable[..., features.Group],
    kind: str,
) -> None:
    """Every page comes back in a new frame; how many were major, the kernel says."""
    if kind == "zswap":
        machine.enter_context(features.knob("/sys/module/zswap/parameters/enabled", "Y", "zswap"))
    swap(64, "zram" if kind == "zram" else "file")
    group = memcg() if kind == "file" else None

    def drop(work: Workload) -> None:
        """What swap still keeps in memory goes: half of the pages are read from the disk."""
        if group is not None:
            group.reclaim(N // 2 * 4096)

    def join(work: Workload) -> None:
        if group is not None:
            group.add(work.pid)

    traced = trace(attached, "swap-back", N, at={"out": drop}, before_start=join)
    anon = traced.report.ranges["anon"]
    check_all(traced, "anon")
    kinds = traced.kinds(anon)
    assert kinds.pop("anon") == kinds.pop("swap") == N
    again = next(count for count in traced.report.counts if count.label == "again")
    assert kinds["reuse"] + kinds["cow"] == again.faults == kinds.total(), kinds
    assert traced.books.lost_by["reclaim"] >= N
    assert majors(traced) == traced.report.resident["majors"]
    if kind == "zram":
        assert majors(traced) == N


def test_from_the_swap_cache(attached: Attached, swap: Swap) -> None:
    """Written to swap, and still in memory: back by a minor fault, in the frame it had."""
    swap(64, "file")
    traced = trace(attached, "swap-back", N, at={"out": lambda work: None})
    check_all(traced, "anon")
    assert traced.kinds(traced.report.ranges["anon"])["swap"] == N
    assert majors(traced) == traced.report.resident["majors"] < N


def test_swapoff(attached: Attached, swap: Swap) -> None:
    """The pages come back with no fault, as the swap area is turned off."""
    area = swap(64)

    def off(work: Workload) -> None:
        features._run("swapoff", str(area))

    traced = trace(attached, "swap-off", N, at={"out": off})
    anon = traced.report.ranges["anon"]
    check_all(traced, "anon")
    assert traced.kinds(anon) == {"anon": N}
    table = traced.table(anon).values()
    # A frame that is free again may by chance come back to the page that had it.
    back = [row for row in table if row["last_frame"] != row["first_frame"]]
    assert len(back) > N // 2
    assert traced.books.gained_by["swapoff"] == len(back)
    assert {row["last_source"] for row in back} == {Source.SWAPOFF}
    assert traced.losses(anon) == {"reclaim": len(back)}


# Which pages the kernel reclaims is its choice: those on another processor's list of new pages
# (struct cpu_fbatches, mm/swap.c), it does not find. pagemap says which.


def check_gone(traced: Traced, gone: dict[int, str], free: str = "reclaim") -> None:
    """These pages were released, and how; those of the first half that were swapped are back."""
    anon = traced.report.ranges["anon"]
    check_all(traced, "anon")
    assert len(gone) > N // 2
    losses = {
        page: Loss(row["last_loss"]).name.lower()
        for page, row in traced.table(anon).items()
        if row["losses"]
    }
    assert losses == {
        page: "reclaim" if where == "swapped" else free for page, where in gone.items()
    }
    half = anon.start + N // 2 * 4096
    back = sum(where == "swapped" and page < half for page, where in gone.items())
    assert traced.kinds(anon)["swap"] == back


def test_page_out(attached: Attached, swap: Swap) -> None:
    swap(64)
    gone: dict[int, str] = {}
    traced = trace(
        attached, "page-out", N, before_end=lambda work: gone.update(gone_now(work, "anon"))
    )
    check_all(traced, "anon")
    assert traced.losses(traced.report.ranges["anon"]) == {"reclaim": len(gone)}
    assert len(gone) > N // 2


def pressed(
    attached: Attached,
    name: str,
    press: Callable[[Workload], None],
    before_start: Callable[[Workload], None] = lambda work: None,
) -> tuple[Traced, dict[int, str]]:
    """A workload of which the kernel reclaimed pages in the middle, and which these were."""
    gone: dict[int, str] = {}

    def at_press(work: Workload) -> None:
        press(work)
        gone.update(gone_now(work, "anon"))

    traced = trace(attached, name, N, at={"press": at_press}, before_start=before_start)
    return traced, gone


def test_process_madvise(attached: Attached, swap: Swap) -> None:
    """Another process pages this one's memory out."""
    swap(64)

    def press(work: Workload) -> None:
        outside.advise(work.pid, work.range(), outside.MADV_PAGEOUT)

    traced, gone = pressed(attached, "pressed", press)
    check_gone(traced, gone)
    assert set(traced.kinds(traced.report.ranges["anon"])) == {"anon", "swap"}


def test_process_madvise_of_a_file(attached: Attached) -> None:
    """Its pages are dropped, and read from the page cache or the disk again."""

    def press(work: Workload) -> None:
        outside.advise(work.pid, work.range("file"), outside.MADV_PAGEOUT)

    traced = trace(attached, "pressed-file", N, at={"press": press})
    file = traced.report.ranges["file"]
    check_all(traced, "file")
    released = traced.losses(file)
    assert set(released) == {"reclaim"}
    assert released["reclaim"] == sum(row["losses"] for row in traced.table(file).values()) > N // 2


def test_memory_group(attached: Attached, swap: Swap, memcg: Callable[..., features.Group]) -> None:
    """Reclaim under a control group's limit."""
    swap(64)
    group = memcg()
    traced, gone = pressed(
        attached, "pressed", lambda _: group.reclaim(1 << 30), lambda work: group.add(work.pid)
    )
    check_gone(traced, gone)
    assert set(traced.kinds(traced.report.ranges["anon"])) == {"anon", "swap"}


@pytest.mark.parametrize("interval_ms", [600_000, 20])
def test_under_a_limit(
    attached: Attached, swap: Swap, memcg: Callable[..., features.Group], interval_ms: int
) -> None:
    """A process that drives out its own pages as it faults others in, four times over."""
    swap(64)
    group = memcg(3 << 20)
    pages = 1531  # 6 MiB
    traced = trace(
        attached,
        "thrash",
        pages,
        4,
        before_start=lambda work: group.add(work.pid),
        plan=Plan(snapshot_interval_ms=interval_ms),
    )
    anon = traced.report.ranges["anon"]
    check_all(traced, "anon")
    kinds = traced.kinds(anon)
    assert kinds.pop("anon") == pages
    assert kinds["swap"] > pages
    assert set(kinds) <= {"swap", "reuse", "cow", "spurious"}, kinds
    assert traced.books.lost_by["reclaim"] >= kinds["swap"]
    assert set(traced.losses(anon)) == {"reclaim"}


def test_lazily_freed(attached: Attached, swap: Swap, memcg: Callable[..., features.Group]) -> None:
    """MADV_FREE: the kernel releases the pages when it wants memory, without swapping them."""
    swap(64)
    group = memcg()
    traced, gone = pressed(
        attached, "free", lambda _: group.reclaim(1 << 30), lambda work: group.add(work.pid)
    )
    check_gone(traced, gone, free="madvise")
    assert "nowhere" in gone.values()


def test_munmap(attached: Attached) -> None:
    traced = trace(attached, "munmap", N)
    anon = traced.report.ranges["anon"]
    check_all(traced, "anon")
    assert traced.losses(anon) == {"munmap": N - N // 2}
