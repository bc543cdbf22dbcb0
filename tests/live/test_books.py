"""The books against a second witness, and the three probes against each other."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.live.perf_stat import Counted, PerfStat
from tests.live.tracing import Traced, check_books, check_counts, trace, trace_command
from tests.live.workload import Workload, command
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Cause, Kind
from tracer.probes.choose import Attached
from tracer.target.command import Command

Recorded = Counter[tuple[str, int, str, bool]]  # (range, page in it, kind, whether it has a frame)


def hold_against(traced: Traced, perf: Counted) -> None:
    """perf's count is the kernel's, less the faults that raise no perf event.

    Those have rows with a cause on `fentry` and `kprobe`; on `perf` they are what was missed.
    """
    books, rows = traced.books, traced.rows
    counted = rows[rows["kind"] != Kind.FAILED]
    blind = int(np.isin(counted["cause"], (Cause.POPULATE, Cause.REMOTE)).sum())
    unseen = books.kernel - perf.minor - perf.major
    if books.unfollowed:  # handlers were skipped, and the books say so
        assert unseen <= blind + books.missed, (perf, blind, books)
        return
    if traced.probe == "perf":
        assert (blind, unseen) == (0, books.missed), (perf, books)
    else:
        assert blind <= unseen <= blind + books.missed, (perf, blind, books)
    majors = int(counted["major"].sum())
    assert majors <= perf.major <= majors + books.missed, (perf, books)


@pytest.mark.parametrize(
    "arguments",
    [("late-threads", 31, 7), ("fork-cow", 97, 41, 29, 13), ("file-cold", 43), ("mlock", 89)],
    ids=lambda arguments: arguments[0],
)
def test_perf_stat_agrees(attached: Attached, arguments: tuple[str | int, ...]) -> None:
    """Attached to one process: threads and children that come, I/O, and perf's blind spot."""
    witness: list[PerfStat] = []
    counted: list[Counted] = []

    def begin(work: Workload) -> None:
        witness.append(PerfStat(work.pid))
        witness[0].enable()

    try:
        traced = trace(
            attached,
            *arguments,
            before_go=begin,
            before_end=lambda work: counted.append(witness[0].end()),
        )
    finally:
        for perf in witness:
            perf.__exit__(None, None, None)
    blind = sum(count.faults for count in traced.report.counts if count.label == "mlock")
    check_books(traced, blind)
    hold_against(traced, counted[0])


class Witnessed(Command):
    """A command that perf counts, too, from its first instruction."""

    perf: PerfStat

    def start(self, at_exec: Callable[[], None] = lambda: None) -> None:
        def then_count() -> None:
            at_exec()
            self.perf.enable()

        super().start(then_count)


def test_perf_stat_agrees_on_a_command(attached: Attached) -> None:
    """A shell with children at work beside each other, threads among them; all end."""
    threads = " ".join(command("late-threads", 31, 7))
    writes = " ".join(command("anon-write", 29))
    script = f"({threads} & {writes} & {threads} & wait) >/dev/null; /bin/true"
    with (
        Witnessed(["/bin/sh", "-c", script], dict(os.environ)) as child,
        PerfStat(child.pid) as child.perf,
    ):
        traced = trace_command(attached, child)
        counted = child.perf.end()
    check_books(traced, traced.books.missed if traced.probe == "perf" else 0)
    assert len(set(traced.rows["pid"].tolist())) == 6
    hold_against(traced, counted)


# What needs no luck: no fault-around, no threads that race, nothing that perf cannot see.
DETERMINISTIC = (
    ("zero-then-cow", 31),
    ("file-private-write", 29),
    ("file-shared-write", 19),
    ("read-into", 17),
    ("threads", 11, 5),
    ("fork-cow", 31, 13, 7, 0),
    ("sigbus", 5),
)


@pytest.fixture(scope="session")
def recorded() -> dict[Any, list[tuple[bool, Recorded]]]:
    """By workload, what each probe recorded of it, and whether it missed some."""
    return {}


@pytest.mark.parametrize("arguments", DETERMINISTIC, ids=lambda arguments: arguments[0])
def test_all_probes_report_the_same(
    attached: Attached,
    arguments: tuple[str | int, ...],
    recorded: dict[Any, list[tuple[bool, Recorded]]],
) -> None:
    """The same pages, kinds and frames-or-none; each probe is held against those before it."""
    traced = trace(attached, *arguments)
    check_books(traced)
    check_counts(traced)
    mine, missed = rows_recorded(traced), traced.books.missed > 0
    assert mine
    for missed_too, other in recorded.setdefault(arguments, []):
        assert missed or mine >= other
        assert missed_too or mine <= other
    recorded[arguments].append((missed, mine))


def rows_recorded(traced: Traced) -> Recorded:
    """Every row, without what the machine chose: addresses are places in the workload's ranges."""
    rows = traced.rows
    parent = rows["pid"] == traced.report.pid
    every: Recorded = Counter()
    for name, range_ in traced.report.ranges.items():
        inside = (rows["address"] >= range_.start) & (rows["address"] < range_.end)
        for row, is_parent in zip(rows[inside], parent[inside].tolist(), strict=True):
            every[
                f"{name} of the {'parent' if is_parent else 'child'}",
                (int(row["address"]) - range_.start) >> 12,
                Kind(int(row["kind"])).name,
                int(row["frame"]) != NO_FRAME,
            ] += 1
    return every
