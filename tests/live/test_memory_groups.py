"""A target in a control group that has too little memory for it."""

from collections.abc import Callable

from tests import witnesses
from tests.live.background import Background, check
from tests.live.features import Group
from tests.live.tracing import until
from tests.live.workload import Workload
from tracer.probes.choose import Attached
from tracer.procfs import stat

LITTLE = 16 << 20
PAGES = 2 * LITTLE >> 12  # twice what there is room for


def test_a_target_that_the_kernel_kills(attached: Attached, memcg: Callable[..., Group]) -> None:
    """For want of memory: the trace ends with it, and has every fault up to the last."""
    group = memcg(LITTLE)
    with Workload("anon-write", PAGES) as work:
        group.add(work.pid)
        before = witnesses.process_fault_count(work.pid)
        with Background(attached, work.pid) as live:
            work.send_line()
            result = live.ended()
        until(lambda: stat.state(work.pid) == "Z")
        counted = witnesses.process_fault_count(work.pid) - before
        check(result.books, live, counted)
    assert LITTLE >> 13 < counted < PAGES


def test_a_target_whose_memory_is_reclaimed(
    attached: Attached, memcg: Callable[..., Group], swap: Callable[..., object]
) -> None:
    """There is room for half of what it writes: the rest goes to swap, which is reported."""
    swap(64)
    group = memcg(LITTLE)
    with Workload("anon-write", PAGES) as work:
        group.add(work.pid)
        before = witnesses.process_fault_count(work.pid)
        with Background(attached, work.pid) as live:
            work.go()
            counted = witnesses.process_fault_count(work.pid) - before
            result = live.end()
    check(result.books, live, counted)
    assert counted >= PAGES
    assert result.books.lost_by["reclaim"] > PAGES // 4
