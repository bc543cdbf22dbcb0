"""Code made at run time by its name in the process's perf map, wherever that lies."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.background import Background
from tests.live.test_stacks_live import stacks_of
from tests.live.tracing import trace
from tests.live.workload import Workload
from tracer.probes.choose import Attached
from tracer.session.plan import Plan

N = 37
OWN = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--propagation", "private"]
NAMED = {
    "first": "jit::first",
    "second": "jit::second",
    "again": "jit::first",
    "replaced": "jit::third",
}


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """No maps are left behind."""
    before = set(Path("/tmp").glob("perf-*.map"))
    yield
    for path in set(Path("/tmp").glob("perf-*.map")) - before:
        path.unlink()


# The program itself may be below /tmp.
IN_A_CONTAINER = [
    *OWN,
    *("sh", "-ec", 'exec 9< "$0"; mount -t tmpfs x /tmp; exec /proc/self/fd/9 "$@"'),
]


@pytest.mark.parametrize("under", [[], IN_A_CONTAINER], ids=["here", "in a container"])
def test_in_memory_that_is_mapped_twice(with_stacks: Attached, under: list[str]) -> None:
    """The functions, of which the second is compiled when the map has been read already.

    The third is at the address of the first, which keeps its name. In a container it has a /tmp
    of its own and another number there. Asked when it has ended.
    """
    plan = Plan(snapshot_interval_ms=600_000, stacks=True)
    with Workload("jit", N, under=under) as work:
        with Background(with_stacks, work.pid, plan=plan) as live:
            work.go(dict.fromkeys(["first", "again", "third"], lambda work: time.sleep(0.5)))
            live.end()
        report = work.report
    naming, stacks = live.session.naming, live.session.stacks
    assert naming is not None
    assert stacks is not None
    frames = naming.frames
    for name, function in NAMED.items():
        range_ = report.ranges[name]
        address = live.log.rows["address"]
        mine = live.log.rows[(address >= range_.start) & (address < range_.end)]
        assert len(mine) == N
        for number in set(mine["stack"].tolist()):
            inner = [frames.frame(stacks.locations[at]) for at in stacks.stacks[number].frames[:2]]
            assert [frame.text() for frame in inner] == [function, "run"]
            assert inner[0].module == "[jit]"


@pytest.mark.parametrize("kind", ["fifo", "another's"])
def test_a_map_that_is_not_to_be_trusted(with_stacks: Attached, kind: str) -> None:
    def spoil(work: Workload) -> None:
        path = Path(f"/tmp/perf-{work.pid}.map")
        if kind == "fifo":
            path.unlink()
            os.mkfifo(path)
        else:
            os.chown(path, 12345, 12345)

    def mend(work: Workload) -> None:
        time.sleep(0.5)  # what is listed at once may be what ran just now
        Path(f"/tmp/perf-{work.pid}.map").unlink()

    plan = Plan(snapshot_interval_ms=600_000, stacks=True)
    at = {"first": mend, "again": lambda work: None, "third": lambda work: None}
    found = trace(with_stacks, "jit", N, before_start=spoil, at=at, plan=plan)
    for stack in stacks_of(found, "first"):
        assert stack[0].startswith("memfd:doublemapper"), stack
