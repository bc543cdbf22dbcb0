"""The kernel's count holds when records do not: against getrusage, with rings much too small."""

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests import witnesses
from tests.live.background import Background
from tests.live.perf_stat import PerfStat
from tests.live.storms import STORMS, Storm, charged, commanded
from tests.live.tracing import trace, trace_command, until
from tests.live.workload import Workload
from tracer.common.resources import bpf_dir
from tracer.model.result import Books
from tracer.probes.choose import Attached, attach
from tracer.procfs import stat
from tracer.session.plan import Plan
from tracer.target.command import Command

PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_DISABLE = 0x2400, 0x2401
RINGS = {"4K": 1 << 12, "32K": 1 << 15, "64M": 1 << 26}
ATTACHED = COMMANDED = WITNESSED = tuple(STORMS)
GOING_ON: tuple[str, ...] = ("forks", "orphans", "threads")
if os.environ.get("PAGEFAULT_GUEST"):  # each storm once there: processes begin slowly
    RINGS = {"32K": RINGS["32K"]}
    ATTACHED, COMMANDED, WITNESSED = ("forks", "mappings"), ("execs",), ("threads",)
    GOING_ON = ("threads",)
BRANCHES: Counter[str] = Counter()  # which of its two ways `hold` has taken


@dataclass(frozen=True)
class Ringed:
    """A probe with a ring of its own size."""

    size: str
    attached: Attached

    @property
    def is_small(self) -> bool:
        return self.size != "64M"


@pytest.fixture(scope="module", params=RINGS)
def ringed(attached: Attached, request: pytest.FixtureRequest) -> Iterator[Ringed]:
    """The same probe once more, with rings much too small and one that is large enough."""
    probe = attach(attached.probe.name, bpf_dir(), RINGS[request.param])
    yield Ringed(request.param, probe)
    probe.close()


@pytest.fixture(autouse=True)
def fresh_ring(request: pytest.FixtureRequest) -> None:
    if "ringed" in request.fixturenames:
        request.getfixturevalue("ringed").attached.program.reset()


@pytest.fixture
def hold(record_property: Callable[[str, object], None]) -> Callable[[Books, int], None]:
    """Equal to the fault; or said to be a bound, which is one, and does not balance."""

    def check(books: Books, counted: int) -> None:
        branch = "a bound" if books.kernel_at_least else "equal"
        BRANCHES[branch] += 1
        record_property("the kernel's count", branch)
        print(f"{books.kernel} where {counted} were counted: {branch} {books.kernel_reason}")
        if books.kernel_at_least:
            assert books.kernel <= counted, books
            assert books.kernel_reason
            assert not books.balanced()
            return
        assert books.kernel == counted, books
        own = books.traced - books.foreign + books.lost + books.missed
        assert own == counted, books
        assert books.balanced(), books

    return check


Hold = Callable[[Books, int], None]


def explained(ringed: Ringed, books: Books) -> bool:
    """Whether all that was missed is what the probe cannot see, or says that it did not."""
    if ringed.attached.probe.name == "perf":
        return books.missed == books.blind_faults + books.under_way
    return books.missed == books.blind_faults == 0 or bool(ringed.attached.probe.inexact())


# ---- records of threads and mappings lost --------------------------------------


@pytest.mark.parametrize("name", ATTACHED)
def test_a_storm_is_counted_to_the_fault(ringed: Ringed, name: str, hold: Hold) -> None:
    """Whatever became of the records of threads and mappings."""
    with Storm(name) as storm:
        before = charged(storm.pid)
        with Background(ringed.attached, storm.pid) as live:
            for _ in range(2):
                storm.rage()
            counted = charged(storm.pid) - before
            books = live.end().books
        assert charged(storm.pid) - before == counted
    hold(books, counted)
    if ringed.is_small:
        assert books.lost > 0
        assert books.lost_other > 0
    assert books.kernel_at_least or explained(ringed, books), books


class Charged(Command):
    """A command whose count at its exec, where ours begins, is noted."""

    base = 0

    def start(self, at_exec: Callable[[], None] = lambda: None) -> None:
        def then_note() -> None:
            self.base = stat.fault_count(self.pid, self.pid)
            at_exec()

        super().start(then_note)


@pytest.mark.parametrize("name", COMMANDED)
def test_a_command_is_counted_to_the_fault(ringed: Ringed, name: str, hold: Hold) -> None:
    """All that its parent is charged for, from its exec to its very end, and its children."""
    with Charged(commanded(name), dict(os.environ)) as command:
        books = trace_command(ringed.attached, command).books
        assert command.base > 0, command.pin_reason
        counted = charged(command.pid) - command.base
    hold(books, counted)
    assert books.lost > 0 or not ringed.is_small


@pytest.mark.parametrize("name", GOING_ON)
def test_what_goes_on_at_the_end_is_counted_once(ringed: Ringed, name: str) -> None:
    """Threads begin and end while those are listed that live at the end."""
    with Storm(name) as storm:
        before = charged(storm.pid)
        with Background(ringed.attached, storm.pid) as live:
            storm.begin(3)
            until(lambda: charged(storm.pid) > before + 500)
            books = live.end().books
        storm.finish()
    # There is no second count of that moment. But each of the first is ours, or a named miss.
    assert not books.unaccounted(), books
    assert books.kernel_at_least or explained(ringed, books), books


def test_failed_faults_are_rows_or_lost(ringed: Ringed, hold: Hold) -> None:
    """A storm of faults that fail: none of them goes without a word."""
    times = 2_000 if os.environ.get("PAGEFAULT_GUEST") else 20_000
    with Workload("sigbus", times) as work:
        before = witnesses.process_fault_count(work.pid)
        with Background(ringed.attached, work.pid) as live:
            work.go()
            counted = witnesses.process_fault_count(work.pid) - before
            books = live.end().books
    assert books.failed + books.failed_lost == times, books
    assert not ringed.is_small or books.failed_lost > 0
    hold(books, counted)


@pytest.mark.parametrize(
    "given", [{"range": (0x1000, 0x2000)}, {"min_latency_ns": 1}], ids=["range", "min-latency"]
)
def test_failed_faults_are_filtered(attached: Attached, given: dict[str, int]) -> None:
    """By address as others are; by latency always, as `perf` has none of theirs."""
    traced = trace(attached, "sigbus", 500, plan=Plan(**given))  # type: ignore[arg-type]
    books = traced.books
    assert (books.failed, books.failed_lost) == (0, 0), books
    assert books.failed_filtered == 500, books


# ---- blind ---------------------------------------------------------------------

N = 71


@pytest.mark.parametrize("name", WITNESSED)
def test_perf_stat_counts_what_is_not_blind(ringed: Ringed, name: str, hold: Hold) -> None:
    """perf's events are what has an exception; the rest of the kernel's count is blind."""
    with Storm(name) as storm, PerfStat(storm.pid) as perf:
        before = charged(storm.pid)
        perf.enable()
        with Background(ringed.attached, storm.pid) as live:
            storm.rage()
            counted = charged(storm.pid) - before
            books = live.end().books
        witness = perf.end()
    hold(books, counted)
    if ringed.attached.probe.name == "perf":
        assert books.kernel - books.blind_faults == witness.minor + witness.major, books


@pytest.mark.parametrize(
    "arguments", [("populate-write", N), ("mlock", N), ("mlock-all", N), ("direct-read", N)]
)
def test_blind_is_what_the_kernel_saw_no_exception_of(
    ringed: Ringed, arguments: tuple[str, int]
) -> None:
    """On `perf` to the fault, with any ring; the other probes are blind to nothing."""
    traced = trace(ringed.attached, *arguments)
    books = traced.books
    blind = sum(count.faults for count in traced.report.counts)
    if ringed.attached.probe.name == "perf":
        assert (books.missed, books.blind_faults) == (blind, blind), books
        assert books.blind or not blind
    else:
        assert (books.blind_faults, books.blind) == (0, False)


@pytest.fixture(scope="module")
def events() -> Iterator[Attached]:
    """`perf`, whichever probe the others use."""
    probe = attach("perf", bpf_dir())
    yield probe
    probe.close()


def test_a_miss_is_not_blind(events: Attached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults whose completion no event reports: `--strict` is to mind them."""
    # Events that stand still are those of a CPU that is gone: not looked for here.
    monkeypatch.setattr(events.program, "refresh", lambda: False)
    with Workload("anon-write", N) as work, Background(events, work.pid) as live:
        assert events.program.cpu_events is not None
        fds = [fd for each in events.program.cpu_events._fds.values() for fd in each]
        for fd in fds:
            fcntl.ioctl(fd, PERF_EVENT_IOC_DISABLE, 0)
        work.go()
        books = live.end().books
        for fd in fds:
            fcntl.ioctl(fd, PERF_EVENT_IOC_ENABLE, 0)
    assert books.missed >= N, books
    assert books.blind_faults == 0, books
    assert not books.blind
    assert "cause unknown" in books.missed_reason


def test_threads_counted_by_records_and_by_the_kernel_agree(attached: Attached) -> None:
    """Where no record is lost, both ways of counting come to the same."""
    with Workload("late-threads", 31, 7) as work, Background(attached, work.pid) as live:
        work.go()
        books = live.end().books
    assert books.lost == books.lost_other == 0
    assert live.session.parts.threads.counted == books.kernel


# ---- the beginning --------------------------------------------------------------


def test_a_leader_that_has_ended_is_not_counted(ringed: Ringed, hold: Hold) -> None:
    """Its faults were before the trace; what its threads do is in it."""
    with Storm("threads", leaderless=True) as storm:
        before = witnesses.process_fault_count(storm.pid)
        with Background(ringed.attached, storm.pid) as live:
            storm.rage()
            counted = witnesses.process_fault_count(storm.pid) - before
            books = live.end().books
    hold(books, counted)


# ---- all of it --------------------------------------------------------------------


def test_equal_is_the_rule() -> None:
    """A bound is for what cannot be known; last, as it sums up the tests before it."""
    print(dict(BRANCHES))
    assert BRANCHES["a bound"] * 10 <= BRANCHES["equal"], BRANCHES
