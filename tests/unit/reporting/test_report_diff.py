"""pagefault-report diff A B: what changed between two runs."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.unit.outputs_data import PAGE, START, info, rows
from tests.unit.report_data import MS, demo, hostile, known_names, mixed, written
from tracer.common.errors import Exit
from tracer.model.result import Books
from tracer.reporting import cli
from tracer.reporting.reading.run import load
from tracer.reporting.text.diff import cautions, overall, print_diff, side, tables
from tracer.reporting.text.tables import Table


def cells(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def better(path: Path) -> str:
    """`mixed` after a change: the heap first, then half as many anonymous pages, no library."""
    faults = rows(4, comm=1, tid=1, pid=1)
    faults["region"][:] = [3, 1, 1, 1]
    faults["address"][:] = [0x600010, *(np.arange(3) * PAGE + 0x7F03141A2000)]
    faults["latency_ns"][:] = [500, 1000, 1000, 1000]
    return written(path, faults, known_names(), facts=info(ended_monotonic_ns=START + 10 * MS))


def test_figures(tmp_path: Path) -> None:
    a, b = side(load(mixed(tmp_path / "a.csv"))), side(load(better(tmp_path / "b.csv")))
    found = {row[0]: row[1:] for row in cells(overall(a, b))}
    assert found["interval"] == ["0.020 s", "0.010 s", "−0.010 s", "−50.0%"]
    assert found["faults"] == ["10", "4", "−6", "−60.0%"]
    assert found["major faults"] == ["1", "0", "−1", "−100.0%"]
    assert found["pages gained"] == ["54", "4", "−50", "−92.6%"]
    assert found["regions"] == ["3", "2", "−1", "−33.3%"]
    assert found["longest fault"] == ["40.0 µs", "1.00 µs", "−39.0 µs", "−97.5%"]
    assert found["in huge pages"] == ["0 B", "0 B", "0 B", "–"]


def test_kinds_regions_and_order(tmp_path: Path) -> None:
    a, b = side(load(mixed(tmp_path / "a.csv"))), side(load(better(tmp_path / "b.csv")))
    _, kinds, regions, order = tables(a, b)
    assert [row[:5] for row in cells(kinds)] == [
        ["file", "3", "0", "−3", "−100.0%"],
        ["anon", "6", "4", "−2", "−33.3%"],
        ["reuse", "1", "0", "−1", "−100.0%"],
    ]
    assert [row[:4] for row in cells(regions)] == [
        ["[anon]", "rwxp", "6", "3"],
        ["/usr/lib/libx.so", "r-xp", "3", "0"],
        ["[heap]", "rw-p", "1", "1"],
    ]
    assert [row[:2] + row[4:5] for row in cells(order)] == [
        ["3", "1", "[heap]"],
        ["1", "2", "[anon]"],
        ["2", "–", "/usr/lib/libx.so"],
    ]
    assert order.note == "2 regions in both: 2 in a different position"


def test_a_run_is_like_itself(tmp_path: Path) -> None:
    run = load(mixed(tmp_path / "a.csv"))
    whole, kinds, _, order = tables(side(run), side(run))
    assert all(row[4] in ("0.0%", "–") for row in cells(whole))
    assert all(row[3] == "0" for row in cells(kinds))
    assert order.note == "3 regions in both: the same order"
    assert cautions(run, run) == []


def test_what_makes_a_comparison_lame_is_said(tmp_path: Path) -> None:
    a = load(demo(tmp_path / "a.csv"))
    other = info(kernel="7.0", probe="fentry", filters={"range": "0x1000-0x2000", "perms": "rwx"})
    b = load(written(tmp_path / "b.csv", rows(2), facts=other, books=Books(lost=3)))
    assert cautions(a, b) == [
        "kernel 6.12.1 in A, 7.0 in B: times may differ for that alone",
        "probe perf in A, fentry in B: times may differ for that alone",
        "A and B have different filters",
        "events were lost in B: there were more faults than shown",
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_run_can_be_compared(tmp_path: Path, count: int) -> None:
    out = io.StringIO()
    a, b = (
        load(written(tmp_path / "a.csv", rows(0))),
        load(written(tmp_path / "b.csv", rows(count))),
    )
    print_diff(Console(file=out), a, b, 20)
    assert "Total" in out.getvalue()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = mixed(tmp_path / "a.csv"), hostile(tmp_path / "b.csv")
    assert cli.run(["diff", a, b]) == 0
    out = capsys.readouterr().out
    assert out.startswith("A: multimap --auto\n")
    assert not any(char < " " and char != "\n" for char in out)
    assert cli.run(["diff", a, str(tmp_path / "missing")]) == Exit.INPUT
    assert cli.run(["diff", a]) == Exit.USAGE
