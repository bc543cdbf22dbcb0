"""Several tracers at once: each has all of its own, whoever else starts, ends or is killed.

Ten of them: tests/soak/test_ten_tracers.py. In guests two: test_cli_robustness.py.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import witnesses
from tests.live import cli
from tests.live.background import wait_until_all
from tests.live.tracing import until
from tests.live.workload import Workload, command, parse

ENDLESS = 1 << 30
SMALL = ("-q", "--buffer", "8M", "--snapshot-interval", "200")
MUCH = 1 << 15  # bytes of CSV


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with cli.nothing_left_attached():
        yield


@pytest.fixture
def count() -> int:
    """How many."""
    return 3


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def attached(stack: ExitStack, pids: Sequence[int], folder: Path) -> list[cli.Attached]:
    """A tracer for each of these, all of which start at the same moment."""

    def attach(number: int) -> cli.Attached:
        return cli.Attached(pids[number], folder / f"{number}.csv", *SMALL)

    with ThreadPoolExecutor(len(pids)) as pool:
        starting = [pool.submit(attach, number) for number in range(len(pids))]
    for each in starting:
        if each.exception() is None:
            stack.enter_context(each.result())
    return [each.result() for each in starting]


def shower(stack: ExitStack) -> Workload:
    """Faults without end, and not more than ten tracers can take on a small machine."""
    return stack.enter_context(Workload("showers", 4, 20, ENDLESS, 100_000))


def wait_for_more(tracers: Sequence[cli.Attached]) -> None:
    """Until each of these has written of faults that are yet to come."""
    wanted = [(tracer.csv, tracer.csv.stat().st_size + MUCH) for tracer in tracers]
    until(lambda: all(csv.stat().st_size > size for csv, size in wanted))


def stop(work: Workload) -> int:
    """Stop a target where it is; the kernel's count then."""
    os.kill(work.pid, signal.SIGSTOP)
    wait_until_all(work.pid, "T")
    return witnesses.process_fault_count(work.pid)


def check(tracer: cli.Attached, counted: int) -> None:
    """It ended with every fault that the kernel `counted`, each once."""
    books = cli.books(tracer.csv)
    assert books["kernel"] == counted
    assert (books["lost"], books["missed"], books["conflict"]) == (0, 0, 0), books
    rows = cli.rows(tracer.csv)
    assert len({(row["tid"], row["count"]) for row in rows}) == len(rows) == counted


def end(tracers: Sequence[cli.Attached]) -> None:
    """All at once, and well."""
    for tracer in tracers:
        tracer.process.send_signal(signal.SIGINT)
    for tracer in tracers:
        done = tracer.end(None)
        assert (done.status, done.err) == (0, "")


def test_on_one_target(count: int, stack: ExitStack, tmp_path: Path) -> None:
    """One of them ends and one is killed in the middle: all others have everything."""
    work = shower(stack)
    before = witnesses.process_fault_count(work.pid)
    first, second, *others = attached(stack, [work.pid] * count, tmp_path)
    work.send_line()
    wait_for_more([first, second, *others])
    first.end(signal.SIGKILL)
    wait_for_more([second, *others])
    end([second])
    ended = cli.books(second.csv)
    assert ended["traced"] == ended["kernel"] == len(cli.rows(second.csv))
    wait_for_more(others)
    counted = stop(work) - before
    assert ended["kernel"] < counted
    end(others)
    for tracer in others:
        check(tracer, counted)


def test_each_on_its_own_target(count: int, stack: ExitStack, tmp_path: Path) -> None:
    """Each has its own target's faults and nobody else's, also after one was killed."""
    works = [shower(stack) for _ in range(count)]
    before = [witnesses.process_fault_count(work.pid) for work in works]
    tracers = attached(stack, [work.pid for work in works], tmp_path)
    for work in works:
        work.send_line()
    wait_for_more(tracers)
    tracers[0].end(signal.SIGKILL)
    wait_for_more(tracers[1:])
    counts = [stop(work) for work in works]
    end(tracers[1:])
    for work, tracer, since, until_ in list(zip(works, tracers, before, counts, strict=True))[1:]:
        check(tracer, until_ - since)
        assert {int(row["pid"]) for row in cli.rows(tracer.csv)} == {work.pid}


def test_all_compile_at_the_same_moment(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is empty: each finds its probe, and what they leave there is one, and whole."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("PAGEFAULT_CACHE", str(cache))
    work = command("anon-write", 211, directory=tmp_path)

    def run(number: int) -> cli.Done:
        return cli.run("--csv", tmp_path / f"{number}.csv", *SMALL, "--", *work)

    with ThreadPoolExecutor(count) as pool:
        every = list(pool.map(run, range(count)))
    kept = list(cache.iterdir())
    assert [path.suffix for path in kept] == [".json"]
    written = kept[0].stat().st_mtime_ns
    every.append(run(count))  # finds it
    assert kept[0].stat().st_mtime_ns == written
    for number, done in enumerate(every):
        assert (done.status, done.err) == (0, "")
        range_ = parse(done.out.splitlines()).ranges["anon"]
        rows = cli.rows(tmp_path / f"{number}.csv")
        pages = [int(row["address"], 16) & ~4095 for row in rows]
        assert [page for page in pages if range_.start <= page < range_.end] == range_.addresses()
        assert cli.books(tmp_path / f"{number}.csv")["lost"] == 0
