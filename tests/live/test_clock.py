"""The wall clock is set while a trace runs, back and forth by hours."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests import witnesses
from tests.live import cli
from tests.live.background import wait_until_all
from tests.live.tracing import until
from tests.live.workload import Workload
from tracer.common import units
from tracer.probes.choose import Attached

HOUR = 3600
ENDLESS = 1 << 30
MUCH = 1 << 13  # bytes of CSV


@pytest.fixture
def set_clock() -> Iterator[Callable[[int], None]]:
    """Sets the wall clock by so many seconds; in the end it is right again."""
    if not os.environ.get("PAGEFAULT_GUEST"):
        pytest.skip("a clock that nobody else goes by")  # the machine may be shared
    right = time.time() - time.monotonic()

    def move(seconds: int) -> None:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)

    yield move
    time.clock_settime(time.CLOCK_REALTIME, time.monotonic() + right)


def wait_for_more(csv_file: Path) -> None:
    size = csv_file.stat().st_size
    until(lambda: csv_file.stat().st_size > size + MUCH)


@pytest.mark.guest("perf")
def test_nothing_goes_by_the_wall_clock(
    attached: Attached, set_clock: Callable[[int], None], tmp_path: Path
) -> None:
    csv_file, lines = tmp_path / "a.csv", tmp_path / "lines"
    options: tuple[str | int | Path, ...] = ("--probe", attached.probe.name, "--time", "wall")
    options += ("--output", lines, "--snapshot-interval", 100)
    with Workload("showers", 1, 20, ENDLESS, 200_000) as work:
        before = witnesses.process_fault_count(work.pid)
        with cli.Attached(work.pid, csv_file, *options) as tracer:
            work.send_line()
            for hours in (2, -5, 4):
                wait_for_more(csv_file)
                set_clock(hours * HOUR)
                wait_for_more(csv_file)
            os.kill(work.pid, signal.SIGSTOP)
            wait_until_all(work.pid, "T")
            counted = witnesses.process_fault_count(work.pid) - before
            done = tracer.end()
    assert (done.status, done.err) == (0, "")
    books = cli.books(csv_file)
    assert books["traced"] == books["kernel"] == counted

    meta = cli.meta(csv_file)
    clock, notes = meta["clock"], meta["notes"]
    assert isinstance(clock, dict)
    assert isinstance(notes, list)
    assert abs(clock["wall_moved_ns"] / 1e9 - HOUR) < 60
    assert any("the clock was set by +3" in note for note in notes), notes
    assert "times of day are by the clock as it was at the start" in " ".join(
        lines.read_text().split()
    )

    times = [int(row["time_ns"]) for row in cli.rows(csv_file)]
    began, ended = clock["started_monotonic_ns"], clock["ended_monotonic_ns"]
    assert began <= times[0] <= times[-1] <= ended
    assert all(one < other for one, other in pairwise(times))  # of one thread
    assert all(0 <= int(row["latency_ns"] or 0) < ended - began for row in cli.rows(csv_file))
    offset = clock["wall_minus_monotonic_ns"]
    shown = re.findall(r"^ *(\d\d:\d\d:\d\d\.\d{6}) ", lines.read_text(), re.M)
    printed = [units.clock(at, "wall", 0, offset) for at in times]
    order = [printed.index(at) for at in shown]  # faults alike are one line
    assert len(order) > 10
    assert order == sorted(order)
