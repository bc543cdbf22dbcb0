"""A CPU that goes offline under trace, one that comes back, one that comes only then.

Also one that has come back before /sys is read again: nothing of that is to be seen there.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import witnesses
from tests.live.background import Background, Held, check, wait_until_all
from tests.live.workload import Workload
from tracer.probes.choose import Attached
from tracer.procfs import stat
from tracer.session.plan import Plan

CPU = 1
ONLINE = Path(f"/sys/devices/system/cpu/cpu{CPU}/online")
ENDLESS = 1 << 30
SECONDS = 400.0  # a limit, not a wait
ENOUGH = 300  # faults


@pytest.fixture
def switch(knob: Callable[..., None]) -> Callable[[int], object]:
    """Takes the CPU offline (0) and back (1); in the end it is online."""
    if not os.environ.get("PAGEFAULT_GUEST"):
        pytest.skip("a CPU that nobody else needs")  # the machine may be shared
    knob(ONLINE, 1, "a CPU that can be taken offline")
    return lambda state: ONLINE.write_text(str(state))


def _wait_for_its_faults(live: Background) -> None:
    """Until a fault is seen that happened on the CPU after this moment."""
    now, deadline = time.monotonic_ns(), time.monotonic() + SECONDS
    seen = len(live.seen.batches)
    while not any(
        ((rows["cpu"] == CPU) & (rows["time_ns"] > now)).any() for rows in live.seen.batches[seen:]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("at_first", [1, 0], ids=["leaves and returns", "comes for the first time"])
def test_a_cpu_comes_and_goes(
    attached: Attached, switch: Callable[[int], object], at_first: int
) -> None:
    # No storm: an emulated tracer on one CPU would fall behind it, and read for minutes.
    with Workload("showers", 4, 20, ENDLESS, 200_000) as work:
        before = witnesses.process_fault_count(work.pid)
        if at_first == 0:
            switch(0)
        with Background(attached, work.pid) as live:
            work.send_line()
            live.wait_for_more(ENOUGH)
            if at_first == 1:
                switch(0)
                live.wait_for_more(ENOUGH)
            switch(1)
            os.sched_setaffinity(stat.threads(work.pid)[-1], {CPU})  # none need go there else
            _wait_for_its_faults(live)
            os.kill(work.pid, signal.SIGSTOP)
            wait_until_all(work.pid, "T")
            result = live.end()
        check(result.books, live, witnesses.process_fault_count(work.pid) - before)
    books = result.books
    assert np.unique(live.log.rows["cpu"]).size >= 2
    if books.missed and not attached.probe.inexact():
        assert attached.probe.name == "perf"
        assert "CPU came online" in books.missed_reason


def _bind(work: Workload) -> None:
    """All its threads run there and nowhere else; going offline undoes that."""
    for tid in stat.threads(work.pid):
        os.sched_setaffinity(tid, {CPU})


def _fault(work: Workload) -> None:
    """Until it has faulted often enough, seen or not."""
    wanted, deadline = witnesses.process_fault_count(work.pid) + ENOUGH, time.monotonic() + SECONDS
    while witnesses.process_fault_count(work.pid) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("goes_on", [True, False], ids=["and the trace goes on", "and it ends"])
def test_a_cpu_is_back_before_sys_is_read(
    attached: Attached, switch: Callable[[int], object], goes_on: bool
) -> None:
    """All that runs is there: without that CPU's events nothing would be seen any more."""
    with Workload("showers", 2, 20, ENDLESS, 200_000) as work:
        before = witnesses.process_fault_count(work.pid)
        _bind(work)
        plan = Plan(snapshot_interval_ms=600_000)
        with Background(attached, work.pid, plan=plan) as live:
            work.send_line()
            live.wait_for_more(ENOUGH)
            held = Held(live)
            held.stands()
            switch(0)
            switch(1)
            _bind(work)
            _fault(work)
            if goes_on:
                held.go()
                _wait_for_its_faults(live)
            os.kill(work.pid, signal.SIGSTOP)
            wait_until_all(work.pid, "T")
            live.session.stop()
            held.go()
            result = live.ended()
        check(result.books, live, witnesses.process_fault_count(work.pid) - before)
    books = result.books
    if attached.probe.name == "perf":
        assert books.missed >= ENOUGH
        assert "CPU came online" in books.missed_reason
    else:
        assert not books.missed or attached.probe.inexact()
