"""Tracing a workload in-process, and the kernel's books to hold the trace against."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.live.background import Background, Collect, balances
from tests.live.resident import Resident, region_name, resident
from tests.live.workload import Count, Range, Report, Workload
from tracer.common.pages import NO_FRAME
from tracer.model.result import Books, PageTable, joined
from tracer.model.rows import Kind, Names, RowRecords
from tracer.model.sources import Loss, Source
from tracer.probes.choose import Attached
from tracer.procfs import stat
from tracer.procfs.pagemap import PageMap, frames, present, swapped
from tracer.session.plan import Outputs, Plan, Result
from tracer.session.session import Session
from tracer.target.command import Command


@dataclass
class Traced:
    """A finished trace, and pagemap's word on the workload's ranges before they went."""

    probe: str
    inexact: str  # why this probe may miss faults here; "" where it may not
    rows: RowRecords
    names: Names
    books: Books
    pages: PageTable
    result: Result
    report: Report
    truth: dict[str, "np.ndarray[tuple[int], np.dtype[np.uint64]]"]  # range -> frame a page
    # By the kernel's own word, of the workload and the children it has; nothing of a command.
    stacks: list[list[str]] = field(default_factory=list)  # by number: functions, innermost first
    stack_notes: list[str] = field(default_factory=list)  # … and what each lacks
    before: Resident = field(default_factory=lambda: resident([], {}))
    after: Resident = field(default_factory=lambda: resident([], {}))

    def within(self, range_: Range) -> RowRecords:
        """The rows of faults on a range, in order."""
        address = self.rows["address"]
        return self.rows[(address >= range_.start) & (address < range_.end)]

    def kinds(self, range_: Range) -> Counter[str]:
        return Counter(Kind(int(kind)).name.lower() for kind in self.within(range_)["kind"])

    def table(self, range_: Range, pid: int = 0) -> dict[int, dict[str, int]]:
        """The page timeline of a range, by address."""
        page = self.pages.page
        chosen = (page >= range_.start) & (page < range_.end)
        if pid:
            chosen &= self.pages.pid == pid
        return {
            int(page[index]): {
                name: int(column[index]) for name, column in vars(self.pages).items()
            }
            for index in np.flatnonzero(chosen)
        }

    def sources(self, range_: Range, pid: int = 0) -> Counter[str]:
        table = self.table(range_, pid).values()
        return Counter(Source(row["first_source"]).name.lower() for row in table)

    def holders(self, range_: Range, pid: int = 0) -> Counter[str]:
        """Where the frames came from that are there in the end."""
        table = self.table(range_, pid).values()
        held = [row for row in table if row["last_frame"] != NO_FRAME]
        return Counter(Source(row["last_source"]).name.lower() for row in held)

    def losses(self, range_: Range, pid: int = 0) -> Counter[str]:
        table = self.table(range_, pid).values()
        return Counter(Loss(row["last_loss"]).name.lower() for row in table if row["last_loss"])


def trace(
    attached: Attached,
    *arguments: str | int,
    before_start: Callable[[Workload], None] = lambda work: None,
    before_end: Callable[[Workload], None] = lambda work: None,
    at: Mapping[str, Callable[[Workload], None]] | None = None,
    plan: Plan | None = None,
    before_go: Callable[[Workload], None] = lambda work: None,
    under: Sequence[str] = (),
    also: Sequence[int] = (),
) -> Traced:
    """Attach to the workload while it waits, let it act, and stop before it ends.

    `under` is what runs it, `also` are further processes to trace. `at` says what to do at
    the workload's own stops (`at WORD`), while it is traced.
    """
    with Workload(*arguments, under=under) as work:
        plan = plan or Plan(snapshot_interval_ms=600_000)
        before_start(work)
        before = _resident(work)
        with Background(attached, work.pid, *also, plan=plan) as live:
            before_go(work)
            work.go(at)
            before_end(work)
            truth = {name: _frames(work.pid, range_) for name, range_ in work.report.ranges.items()}
            after = _resident(work)
            result = live.end()
        return Traced(
            probe=attached.probe.name,
            inexact=attached.probe.inexact(),
            rows=live.log.rows,
            names=live.session.names,
            books=result.books,
            pages=joined(result.pages or []),
            result=result,
            report=work.report,
            truth=truth,
            **_stacks(live.session),
            before=before,
            after=after,
        )


def _stacks(session: Session) -> dict[str, list[Any]]:
    """The call stacks of a trace that took them, by name."""
    if session.stacks is None or session.naming is None:
        return {}
    locations, every, frames = (
        session.stacks.locations,
        session.stacks.stacks,
        session.naming.frames,
    )
    names = [[frames.frame(locations[at]).text() for at in stack.frames] for stack in every]
    notes = ["", *(frames.note(locations, stack)[0] for stack in every[1:])]
    return {"stacks": names, "stack_notes": notes}


def trace_command(attached: Attached, command: Command) -> Traced:
    """Trace a command, which waits, to its end."""
    log = Collect()
    session = Session(attached, Plan(command=command), Outputs(log=[log]))
    result = session.run()
    return Traced(
        probe=attached.probe.name,
        inexact=attached.probe.inexact(),
        rows=log.rows,
        names=session.names,
        books=result.books,
        pages=joined(result.pages or []),
        result=result,
        report=Report(),
        truth={},
        before=Resident(Counter(), Counter(), Counter()),  # it had no memory of its own
        after=Resident(Counter(), Counter(), Counter()),
    )


def _frames(pid: int, range_: Range) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    with PageMap(pid, stat.living_thread(pid)) as pagemap:
        return np.asarray(frames(pagemap.read(range_.start, range_.end)))


def frames_now(work: Workload, name: str) -> list[int]:
    """The frame of each page of a range, by pagemap, while the workload waits."""
    return _frames(work.pid, work.range(name)).tolist()


def gone_now(work: Workload, name: str) -> dict[int, str]:
    """The pages of a range that have no frame, by address: `swapped`, or `nowhere`."""
    range_ = work.range(name)
    with PageMap(work.pid) as pagemap:
        entries = pagemap.read(range_.start, range_.end)
    states = zip(range_.addresses(), present(entries), swapped(entries), strict=True)
    return {page: "swapped" if out else "nowhere" for page, here, out in states if not here}


def until(condition: Callable[[], bool]) -> None:
    """Wait until the kernel has done what a test asked of it: a limit, not a wait."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the kernel did not do it"
        time.sleep(0.02)


def _resident(work: Workload) -> Resident:
    report = work.report
    pids = dict.fromkeys([report.pid, *report.children])
    return resident([pid for pid in pids if stat.exists(pid)], report.ranges)


def check_resident(traced: Traced) -> None:
    """Region by region, frames gained less frames released are the change in pagemap and in Rss.

    Rss leaves out what is named beside it: zero, hugetlb and special pages.
    """
    balance: Counter[str] = Counter()
    regions, ranges = traced.names.regions, traced.report.ranges
    for counts, sign in ((traced.books.gained_in, 1), (traced.books.lost_in, -1)):
        for number, pages in counts.items():
            region = regions[number]
            balance[region_name(region.start, region.end, region.name, ranges)] += sign * pages
    before, after = traced.before, traced.after
    for name in {*balance, *before.present, *after.present}:
        change = after.present[name] - before.present[name]
        assert balance[name] == change, (name, balance[name], change)
        rss = after.rss[name] - before.rss[name]
        beside = after.beside[name] - before.beside[name]
        assert rss == change - beside, (name, rss, change, beside)


def check_all(
    traced: Traced,
    *ranges: str,
    blind: tuple[str, ...] = (),
    missed: int | None = None,
    unknown: int = 0,
) -> None:
    """Every check there is, and that no fault's kind is unknown.

    `unknown` is how many pages came by what no record explains. `blind` names the steps whose
    faults no perf event reports: those are missed on perf (or `missed` are, where other threads
    had them).
    """
    if missed is None:
        missed = sum(count.faults for count in traced.report.counts if count.label in blind)
    check_counts(traced, blind)
    check_books(traced, missed, unknown)
    for name in ranges:
        check_frames(traced, name, rows=False)
    check_resident(traced)
    assert not (traced.rows["kind"] == Kind.UNKNOWN).any()


def check_books(traced: Traced, blind: int = 0, unknown: int = 0) -> None:
    """No event is lost or contradicted; as many faults are missed and pages unexplained as given.

    `blind` faults are reported by no perf event; `unknown` pages came by what no record explains.
    """
    books = traced.books
    assert (books.lost, books.conflict) == (0, 0), books
    assert balances(books), books
    if traced.inexact:
        assert not books.missed or books.missed_reason, books
    else:
        assert books.missed == (blind if traced.probe == "perf" else 0), books
    assert books.gained_by.get("unknown", 0) == unknown, (books.gained_by, unexplained(traced))
    assert "unknown" not in books.lost_by, (books.lost_by, unexplained(traced))
    assert books.gained - books.given_up == books.mapped_change, books


def unexplained(traced: Traced) -> list[str]:
    """Where the pages are whose source or loss nobody knows, and every fault on them."""
    pages = traced.pages
    odd = (pages.first_source == Source.UNKNOWN) | (pages.last_source == Source.UNKNOWN)
    odd |= pages.last_loss == Loss.UNKNOWN
    lines = []
    for i in np.flatnonzero(odd)[:5].tolist():
        facts = {name: int(column[i]) for name, column in vars(pages).items()}
        lines.append(f"{traced.names.regions[int(pages.region[i])].name} {facts}")
        on_it = (traced.rows["address"] & ~np.uint64(4095)) == pages.page[i]
        names = ("tid", "time_ns", "latency_ns", "kind", "frame_before", "frame", "count")
        lines += [
            str(dict(zip(names, row, strict=True))) for row in traced.rows[on_it][list(names)]
        ]
    return lines


def check_counts(traced: Traced, blind: tuple[str, ...] = ()) -> None:
    """By thread, each fault the kernel counted in a step has a row; on perf, less the blind."""
    for count in traced.report.counts:
        mine = rows_of(traced, count)
        if traced.probe == "perf" and count.label in blind:
            assert len(mine) == 0, count
            continue
        seen = sorted(mine["count"].tolist())
        every = list(range(count.before + 1, count.after + 1))
        if traced.inexact:
            assert len(set(every) - set(seen)) <= traced.books.missed, count
            assert len(seen) == len(set(seen)), count
        else:
            assert seen == every, count
        if count.expected is not None:
            assert count.faults == count.expected, count


def rows_of(traced: Traced, count: Count) -> RowRecords:
    """The rows of counted faults that `count`'s thread took during its step."""
    rows = traced.rows
    found: RowRecords = rows[
        (rows["tid"] == count.tid)
        & (rows["count"] > count.before)
        & (rows["count"] <= count.after)
        & (rows["kind"] != Kind.FAILED)
    ]
    return found


def check_frames(traced: Traced, name: str, *, rows: bool = True) -> None:
    """The last row of each page of a range, and the timeline, name the frame pagemap shows.

    Without `rows` the timeline alone: frames changed without a fault of theirs.
    """
    range_ = traced.report.ranges[name]
    mine = traced.within(range_)
    mine = mine[mine["pid"] == traced.report.pid]
    last = {int(row["address"]) & ~4095: int(row["frame"]) for row in mine} if rows else {}
    table = traced.table(range_, traced.report.pid)
    for address, frame in zip(range_.addresses(), traced.truth[name].tolist(), strict=True):
        if address in last:
            assert last[address] == frame, hex(address)
        held = table.get(address, {}).get("last_frame", (1 << 64) - 1)
        assert held == frame, (hex(address), hex(held), hex(frame))


def file_kind(traced: Traced, range_: Range | None = None) -> str:
    """`file`, or `shmem` where the scratch files lie on tmpfs; behind an overlay either may be."""
    overlaid = traced.report.file_system == 0x794C7630
    range_ = range_ or traced.report.ranges["file"]
    if traced.report.file_system == 0x01021994 or (overlaid and traced.kinds(range_)["shmem"]):
        return "shmem"
    return "file"
