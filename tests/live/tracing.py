"""Tracing a workload in-process, and the kernel's books to hold the trace against."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.live.workload import Count, Range, Report, Workload
from tracer.outputs.base import Books, PageTable
from tracer.probes.choose import Attached
from tracer.procfs.pagemap import PageMap, frames
from tracer.rows import ROW, Kind, Names, Rows
from tracer.session import Outputs, Plan, Result, Session
from tracer.sources import Loss, Source


@dataclass
class Collect:
    """An output that keeps what it is given."""

    batches: list[Rows] = field(default_factory=list)

    def write(self, rows: Rows, names: Names) -> None:
        self.batches.append(rows.copy())

    def close(self) -> None:
        pass

    @property
    def rows(self) -> Rows:
        return np.concatenate(self.batches) if self.batches else np.empty(0, ROW)


@dataclass
class Traced:
    """A finished trace, and pagemap's word on the workload's ranges before they went."""

    probe: str
    inexact: str  # why this probe may miss faults here; "" where it may not
    rows: Rows
    names: Names
    books: Books
    pages: PageTable
    result: Result
    report: Report
    truth: dict[str, "np.ndarray[tuple[int], np.dtype[np.uint64]]"]  # range -> frame a page

    def within(self, range_: Range) -> Rows:
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

    def losses(self, range_: Range, pid: int = 0) -> Counter[str]:
        table = self.table(range_, pid).values()
        return Counter(Loss(row["last_loss"]).name.lower() for row in table if row["last_loss"])


def trace(
    attached: Attached,
    *arguments: str | int,
    before_end: Callable[[Workload], None] = lambda work: None,
    plan: Plan | None = None,
) -> Traced:
    """Attach to the workload while it waits, let it act, and stop before it ends."""
    with Workload(*arguments) as work:
        plan = plan or Plan(snapshot_interval_ms=600_000)
        plan.pids = [work.pid]
        log = Collect()
        session = Session(attached, plan, Outputs(log=[log]))
        outcome: list[Result] = []
        failure: list[BaseException] = []
        started = threading.Event()

        def run() -> None:
            try:
                outcome.append(session.run(started.set))
            except BaseException as error:  # shown in the test's own thread
                failure.append(error)
                started.set()

        runner = threading.Thread(target=run)
        runner.start()
        started.wait()
        try:
            if not failure:
                work.go()
                before_end(work)
                truth = {
                    name: _frames(work.pid, range_) for name, range_ in work.report.ranges.items()
                }
        finally:
            session.stop()
            runner.join()
        if failure:
            raise failure[0]
        result = outcome[0]
        return Traced(
            probe=attached.probe.name,
            inexact=attached.probe.inexact(),
            rows=log.rows,
            names=session.names,
            books=result.books,
            pages=result.pages,
            result=result,
            report=work.report,
            truth=truth,
        )


def _frames(pid: int, range_: Range) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    with PageMap(pid) as pagemap:
        return np.asarray(frames(pagemap.read(range_.start, range_.end)))


def check_books(traced: Traced, blind: int = 0) -> None:
    """Nothing lost, contradicted or unexplained; of `blind` faults no perf event tells."""
    books = traced.books
    assert (books.lost, books.conflict) == (0, 0), books
    assert books.balanced(), books
    if traced.inexact:
        assert not books.missed or books.missed_reason, books
    else:
        assert books.missed == (blind if traced.probe == "perf" else 0), books
    assert "unknown" not in books.gained_by, (books.gained_by, unexplained(traced))
    assert "unknown" not in books.lost_by, (books.lost_by, unexplained(traced))
    assert books.gained - books.given_up == books.resident_change, books


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


def rows_of(traced: Traced, count: Count) -> Rows:
    """The rows of counted faults that `count`'s thread took during its step."""
    rows = traced.rows
    return rows[
        (rows["tid"] == count.tid)
        & (rows["count"] > count.before)
        & (rows["count"] <= count.after)
        & (rows["kind"] != Kind.FAILED)
    ]


def check_frames(traced: Traced, name: str) -> None:
    """The last row of each page of a range, and the timeline, name the frame pagemap shows."""
    range_ = traced.report.ranges[name]
    rows = traced.within(range_)
    rows = rows[rows["pid"] == traced.report.pid]
    last = {int(row["address"]) & ~4095: int(row["frame"]) for row in rows}
    table = traced.table(range_, traced.report.pid)
    for address, frame in zip(range_.addresses(), traced.truth[name].tolist(), strict=True):
        if address in last:
            assert last[address] == frame, hex(address)
        held = table.get(address, {}).get("last_frame", (1 << 64) - 1)
        assert held == frame, (hex(address), hex(held), hex(frame))
