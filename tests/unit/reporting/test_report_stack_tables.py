"""Call stacks in a report's tables and words: summed by function, compared."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.outputs_data import rows, table
from tests.unit.report_data import APP, LIBC, MAIN, add_stacks, frame, mixed, stacked, written
from tracer.reporting.analysis.curves import mapped
from tracer.reporting.exports.chrome import chrome
from tracer.reporting.exports.flame import folded, speedscope
from tracer.reporting.exports.perfetto import perfetto
from tracer.reporting.reading.run import load
from tracer.reporting.text.diff import print_diff
from tracer.reporting.text.stackwords import health
from tracer.reporting.text.summary import print_summary
from tracer.reporting.text.tables import Table, Tables


def cells(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_memory_by_function(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    found = Tables(run, mapped(run)).functions()
    assert [row[:2] + row[3:7] for row in cells(found)][:3] == [
        ["copy_to_user", "[kernel]", "64 KiB", "64.0%", "64 KiB", "1"],
        ["fill", APP, "12 KiB", "12.0%", "20 KiB", "3"],
        ["memset", LIBC, "8 KiB", "8.0%", "8 KiB", "2"],
    ]
    assert sum(int(row[2].value) for row in found.rows) == 25
    assert sum(int(row[6].value) for row in found.rows) == 10


def test_memory_by_stack(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    found = cells(Tables(run, mapped(run)).stacks(20))
    assert found[0][1] == "64 KiB"
    assert found[0][-1] == ("copy_to_user ← vfs_read ← read ← main ← __libc_start_main ← _start")
    assert found[1][-1] == "fill ← main ← __libc_start_main ← _start"  # both threads'
    assert sum(int(row[0]) for row in found) == 25


def test_stacks_of_the_same_functions_are_one_row(tmp_path: Path) -> None:
    stacks = [[frame("fill", file="app.c", line=at), *MAIN] for at in (1, 2, 3)]
    run = load(add_stacks(written(tmp_path / "t.csv", rows(4)), [1, 2, 3, 0], stacks))
    found = cells(Tables(run, mapped(run)).stacks(20))
    assert [(row[0], row[-1]) for row in found] == [
        ("3", "fill ← main ← __libc_start_main ← _start"),
        ("1", "(no stack)"),
    ]


def test_deep_stacks_are_abbreviated(tmp_path: Path) -> None:
    deep = [frame(f"f{at}") for at in range(30)]
    run = load(add_stacks(written(tmp_path / "t.csv", rows(1)), [1], [deep]))
    found = cells(Tables(run, mapped(run)).stacks(20))
    assert found[0][-1] == "f0 ← f1 ← f2 ← f3 ← f4 ← f5 ← f6 ← f7 ← … 22 more"


def test_what_is_missing_is_said_and_what_to_do(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    assert health(run) == [
        "Of 10 faults 7 (70%) have a complete call stack.",
        "1 breaks off in code that keeps no frame pointers and was not walked by unwind rules, in "
        f"{LIBC}: build it with -fno-omit-frame-pointer, or give assembly .cfi directives.",
        "1 is deeper than the limit of frames: the outermost callers are missing.",
        "1 has none: the kernel gave none, or it was not recorded.",
        f"1 was taken in code without a symbol, in {APP}: keep its symbols, or install its debug "
        "symbols.",
    ]


def test_code_made_at_run_time_needs_a_map(tmp_path: Path) -> None:
    stacks = [[frame("", "[jit]"), *MAIN], [frame("", "[kernel]", side="kernel"), *MAIN]]
    path = written(tmp_path / "t.csv", rows(3))
    run = load(add_stacks(path, [1, 1, 2], stacks))
    assert "3 were taken in code without a symbol, mostly in [jit]" in health(run)[-1]
    assert "perf-PID.map" in health(run)[-1]


def test_the_summary_has_both(tmp_path: Path) -> None:
    out = io.StringIO()
    print_summary(Console(file=out), load(stacked(tmp_path / "t.csv")))
    assert "By function" in out.getvalue()
    assert "Call stacks" in out.getvalue()
    assert "-fno-omit-frame-pointer" in out.getvalue()
    out = io.StringIO()
    print_summary(Console(file=out), load(mixed(tmp_path / "u.csv")))
    assert "By function" not in out.getvalue()


def test_two_runs_are_compared_by_function(tmp_path: Path) -> None:
    out = io.StringIO()
    a = load(stacked(tmp_path / "a.csv"))
    path = written(tmp_path / "b.csv", rows(3, comm=1, region=1))
    b = load(add_stacks(path, [1, 1, 1], [[frame("memset", LIBC), *MAIN]]))
    print_diff(Console(file=out, width=300), a, b, 20)
    part = [line.split() for line in out.getvalue().split("By function")[1].splitlines()]
    assert " ".join(part[2]) == "copy_to_user [kernel] 64 KiB 0 B −64 KiB −100.0%"
    assert " ".join(part[3]) == f"fill {APP} 12 KiB 0 B −12 KiB −100.0%"
    assert f"memset {LIBC} 8 KiB 12 KiB +4 KiB +50.0%".split() in part
    out = io.StringIO()
    print_diff(Console(file=out), a, load(mixed(tmp_path / "c.csv")), 20)
    assert "B has no call stacks" in out.getvalue()
    assert "By function" not in out.getvalue()


@pytest.mark.parametrize("count", [0, 1])
def test_runs_with_hardly_a_fault(tmp_path: Path, count: int) -> None:
    path = written(tmp_path / "t.csv", rows(count), pages=table(rows(count)))
    run = load(add_stacks(path, [0] * count, []))
    out = io.StringIO()
    print_summary(Console(file=out), run)
    print_diff(Console(file=out), run, run, 20)
    for export in (folded, speedscope, chrome, perfetto):
        b"".join(export(run))
