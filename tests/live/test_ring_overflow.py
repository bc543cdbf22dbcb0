"""A ring that runs over: what is recorded and what is lost come to the kernel's own count."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests import witnesses
from tests.live.background import Background, check, wait_until_all
from tests.live.workload import Workload
from tracer.common.resources import bpf_dir
from tracer.probes.choose import Attached, attach

RING = 1 << 15  # 128 records, or 178 in the kernel's ring buffer


@pytest.fixture(scope="module")
def small(attached: Attached) -> Iterator[Attached]:
    """The same probe once more, with hardly any room."""
    probe = attach(attached.probe.name, bpf_dir(), RING)
    yield probe
    probe.close()


@pytest.mark.parametrize("arguments", [("storm", 4, 211, 50), ("late-threads", 211, 16)], ids=str)
def test_loss_is_exact(small: Attached, arguments: tuple[str | int, ...]) -> None:
    small.program.reset()
    with Workload(*arguments) as work:
        before = witnesses.process_fault_count(work.pid)
        with Background(small, work.pid) as live:
            work.go()
            os.kill(work.pid, signal.SIGSTOP)
            wait_until_all(work.pid, "T")
            result = live.end()
        counted = witnesses.process_fault_count(work.pid) - before
    books = result.books
    assert books.lost
    check(books, live, counted)
    if not small.probe.inexact():
        assert books.traced + books.lost == counted
        assert books.missed == 0
    # The frames are all found, and it is said why nobody saw them come.
    assert set(books.gained_by) <= {"fault", "around", "missed"}, books.gained_by
