"""Memory that userfaultfd fills: waited for, or given before anyone asks."""

import pytest

from tests.live.tracing import check_all, trace
from tracer.probes.choose import Attached

N = 71


@pytest.mark.parametrize(
    ("how", "who"),
    [
        *((how, who) for how in ("copy", "zeropage") for who in ("thread", "child", "stranger")),
        ("move", "thread"),  # the kernel lets nobody else
    ],
)
def test_userfaultfd(attached: Attached, how: str, who: str) -> None:
    """Half of the pages are waited for; the rest comes with one of them, and never faults.

    The reader of the descriptor is a thread, a child that is traced, or a process that is not.
    """
    numbers = ("copy", "zeropage", "move").index(how), ("thread", "child", "stranger").index(who)
    traced = trace(attached, "uffd", N, *numbers)
    if "missing" in traced.report.resident:
        pytest.skip("UFFDIO_MOVE")
    check_all(traced, "anon", "source")
    anon = traced.report.ranges["anon"]
    waited = N // 2 + 1
    kinds = traced.kinds(anon)
    assert kinds["uffd"] == waited, kinds
    assert set(kinds) <= {"uffd", "spurious"}
    assert traced.sources(anon) == {"uffd": N}
    assert traced.books.lost_by.get("move", 0) == (N if how == "move" else 0)
