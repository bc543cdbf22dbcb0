"""pagefault-report FILE: words and tables with known answers."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.unit.outputs_data import PAGE, START, five, info, names, rows
from tests.unit.report_data import MARKUP, MS, demo, hostile, lossy, mixed, written
from tracer.common.errors import Exit
from tracer.common.pipes import PIPE_CLOSED
from tracer.model.result import Books
from tracer.model.rows import Kind, Names, Region
from tracer.reporting import cli
from tracer.reporting.analysis import findings, groups, stretches
from tracer.reporting.analysis.curves import mapped
from tracer.reporting.reading.codes import combined
from tracer.reporting.reading.run import load
from tracer.reporting.text.overview import head, sentences
from tracer.reporting.text.summary import MOST, print_summary
from tracer.reporting.text.tables import Table, Tables, bar_of


def tables(path: str) -> Tables:
    run = load(path)
    return Tables(run, mapped(run))


def cells(table: Table) -> list[dict[str, str]]:
    return [
        dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows
    ]


def printed(path: str, width: int = 0) -> str:
    """The summary as a file has it, or as a terminal of that width."""
    out = io.StringIO()
    terminal = {"force_terminal": True, "width": width, "color_system": None} if width else {}
    print_summary(Console(file=out, **terminal), load(path))  # type: ignore[arg-type]
    return out.getvalue()


def test_the_head_states_what_it_was_made_from(tmp_path: Path) -> None:
    run = load(demo(tmp_path / "t.csv", filters={"min_latency": "20us"}))
    assert head(run).lines == [
        "multimap --auto",
        "host host, kernel 6.12.1, probe perf",
        "5 faults, 0 lost, filtered by --min-latency 20us; 1.235 s from 2023-11-14 22:13:20 UTC",
    ]


def test_by_kind_region_thread_and_access(tmp_path: Path) -> None:
    made = tables(mixed(tmp_path / "t.csv"))
    kinds = cells(made.kinds())
    assert [(row["KIND"], row["FAULTS"], row["GAINED"], row["MAJOR"]) for row in kinds] == [
        ("anon", "6", "6", "0"),
        ("file", "3", "48", "1"),
        ("reuse", "1", "0", "0"),
    ]
    assert [(row["P50"], row["MAX"], row["TIME IN FAULTS"]) for row in kinds] == [
        ("3.00 µs", "6.00 µs", "21.0 µs"),
        ("30.0 µs", "40.0 µs", "90.0 µs"),
        ("500 ns", "500 ns", "500 ns"),
    ]
    assert [(row["REGION"], row["PERMS"], row["SHARE"]) for row in cells(made.regions())] == [
        ("[anon] 0x7f03141a2000", "rwxp", "60.0%"),
        ("/usr/lib/libx.so", "r-xp", "30.0%"),
        ("[heap]", "rw-p", "10.0%"),
    ]
    assert [(row["THREAD"], row["ID"], row["FAULTS"]) for row in cells(made.threads())] == [
        ("worker", "1", "7"),
        ("other", "1/2", "3"),
    ]
    assert [(row["ACCESS"], row["CAUSE"]) for row in cells(made.accesses())] == [("write", "user")]


def test_first_touch_and_order(tmp_path: Path) -> None:
    found = cells(tables(mixed(tmp_path / "t.csv")).first_touch())
    assert [(row["#"], row["REGION"], row["FIRST"], row["ORDER"]) for row in found] == [
        ("1", "[anon] 0x7f03141a2000", "0.000000", "upwards"),
        ("2", "/usr/lib/libx.so", "0.006000", "–"),
        ("3", "[heap]", "0.009000", "–"),
    ]


@pytest.mark.parametrize(
    ("offsets", "word"),
    [
        (range(10), "upwards"),
        (range(10, 0, -1), "downwards"),
        ([0, 500, 100, 900, 300, 700], "random"),
        ([0, 1, 2, 3, 900, 901, 902], "mostly upwards"),
        ([5, 6, 5, 6, 5, 6, 5], "mixed"),
        ([0, 1, 2], "–"),
    ],
)
def test_the_order_of_a_threads_pages(tmp_path: Path, offsets: list[int], word: str) -> None:
    address = 0x7F0000000000 + np.array(offsets) * PAGE
    path = written(
        tmp_path / "t.csv", rows(len(address), address=address, comm=1, region=1), names("[heap]")
    )
    assert cells(tables(path).regions())[0]["ORDER"] == word


def test_two_threads_are_two_orders(tmp_path: Path) -> None:
    count = 40
    index = np.arange(count)
    address = 0x7F0000000000 + (index // 2 + (index % 2) * 5000) * PAGE
    faults = rows(count, address=address, tid=index % 2 + 1, comm=1, region=1)
    assert cells(tables(written(tmp_path / "t.csv", faults)).regions())[0]["ORDER"] == "upwards"


def test_huge_pages(tmp_path: Path) -> None:
    faults = rows(512 + 3, comm=1, region=1)
    faults["address"][:512] = 0x7F0000000000 + np.arange(512) * PAGE
    faults["address"][512:] = 0x7F0010000000 + np.arange(3) * 512 * PAGE
    faults["kind"][512:], faults["pages"][512:] = Kind.HUGE, 512
    run = load(written(tmp_path / "t.csv", faults))
    assert findings.coverage(run.faults) == findings.Coverage(3 * 512, 512, 1)
    said = sentences(Tables(run, mapped(run)))
    assert (
        "Huge pages made up 75% of the anonymous memory that faults brought; "
        "1 aligned block of 2 MiB was filled page by page."
    ) in said


def test_regions_gross_and_net(tmp_path: Path) -> None:
    """What faults brought in all, and what the pages file has at the end; without it, the first."""
    (row,) = cells(tables(lossy(tmp_path / "t.csv")).regions())
    assert (row["GAINED"], row["GROSS"], row["NET"]) == ("4", "16 KiB", "8 KiB")
    assert all("NET" not in row for row in cells(tables(mixed(tmp_path / "m.csv")).regions()))
    anon, *_ = cells(tables(demo(tmp_path / "d.csv")).regions())
    assert (anon["GROSS"], anon["NET"]) == ("20 KiB", "20 KiB")


def test_the_working_set_over_time(tmp_path: Path) -> None:
    found = cells(tables(lossy(tmp_path / "t.csv")).working_set(5))
    assert [(row["FAULTS"], row["TOUCHED"], row["MAPPED"]) for row in found] == [
        ("2", "2", "12 KiB"),
        ("2", "2", "16 KiB"),
        ("0", "0", "8 KiB"),
        ("0", "0", "8 KiB"),
        ("0", "0", "8 KiB"),
    ]


def test_the_latency_histogram(tmp_path: Path) -> None:
    latency = [-1, 100, 1023, 1024, 2047, 2048, 5000]
    run = load(written(tmp_path / "t.csv", rows(7, latency_ns=latency)))
    assert findings.octaves(run.faults.latency_ns) == [(256, 1), (512, 1), (1024, 2), (2048, 1),
                                                       (4096, 1)]  # fmt: skip
    table = Tables(run, mapped(run)).latencies()
    assert [row[1].text for row in table.rows] == ["1", "1", "2", "1", "1"]
    assert table.note == "1 faults whose entry was not seen have no latency"


def test_the_slowest(tmp_path: Path) -> None:
    found = cells(tables(mixed(tmp_path / "t.csv")).slowest(2))
    assert [(row["LATENCY"], row["THREAD"], row["PAGE"], row["REGION"]) for row in found] == [
        ("40.0 µs", "other/2", "0x7f0400040000", "/usr/lib/libx.so"),
        ("30.0 µs", "other/2", "0x7f0400080000", "/usr/lib/libx.so"),
    ]


@given(st.lists(st.integers(-1, 10**7), min_size=1, max_size=300))
def test_quantiles_are_exact(values: list[int]) -> None:
    known = sorted(value for value in values if value >= 0)
    found = groups.latency_of(np.array(values, np.int64))
    if not known:
        assert found == groups.NOTHING.latency
        return
    assert found.longest == known[-1]
    assert found.total == sum(known)
    for share, value in zip(groups.SHARES, (found.p50, found.p90, found.p99), strict=True):
        assert sum(each <= value for each in known) >= share * len(known)
        assert sum(each < value for each in known) < share * len(known)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3_000_000)), max_size=50))
def test_combinations_can_be_distinguished(pairs: list[tuple[int, int]]) -> None:
    first = np.array([pair[0] for pair in pairs], np.int64)
    second = np.array([pair[1] for pair in pairs], np.int64)
    codes, meanings = combined((first, 6), (second, 3_000_001))
    assert [meanings[code] for code in codes.tolist()] == pairs
    assert sorted(set(pairs)) == meanings


def test_words(tmp_path: Path) -> None:
    assert sentences(tables(mixed(tmp_path / "t.csv"))) == [
        "10 faults brought 54 pages (216 KiB) in 0.020 s; 1 of them major (waited for I/O). "
        "At the end 216 KiB were mapped (gained by faults; releases are not known); how much was "
        "resident is not known.",
        "60% were of kind anon; 60% were in [anon] 0x7f03141a2000, the most faulted of 3 regions.",
        "Within a region a thread's next new page was just above the last one in 71% of all "
        "cases, just below in 0%, elsewhere in 29%: mostly upwards.",
        "Huge pages made up 0% of the anonymous memory that faults brought.",
        "Latency: p50 4.00 µs, p99 40.0 µs, max 40.0 µs; 112 µs in total.",
        "The books balance: the kernel counted 10 faults.",
    ]


def test_unbalanced_books_are_said(tmp_path: Path) -> None:
    books = Books(traced=5, kernel=9, lost=2, missed=1)
    path = written(tmp_path / "t.csv", five(), names(), books=books)
    assert sentences(tables(path))[-1] == (
        "The books do not balance: 5 faults traced, 9 counted by the kernel, 2 lost, 1 missed, "
        "0 in conflict with pagemap."
    )
    assert "5 faults, 2 lost, 1 missed; 1.235 s" in printed(path)


def test_a_run_without_a_fault(tmp_path: Path) -> None:
    text = printed(written(tmp_path / "t.csv", rows(0)))
    assert "No fault was recorded." in text
    assert "By kind" not in text


@pytest.mark.parametrize("width", [0, 40, 80, 200])
def test_names_reach_no_terminal_raw(tmp_path: Path, width: int) -> None:
    text = printed(hostile(tmp_path / "t.csv"), width)
    assert not any(char < " " and char != "\n" for char in text)
    assert "\u202e" not in text
    assert not width or max(map(cell_len, text.split("\n"))) <= width
    if not width:
        assert all(name.replace("\\", "\\\\") in text for name in MARKUP)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("make", [demo, mixed, hostile, lossy])
def test_no_figure_is_cut_or_dropped_without_a_word(
    tmp_path: Path, make: Callable[[Path], str], width: int
) -> None:
    path = make(tmp_path / "t.csv")
    text = printed(path, width)
    assert max(map(cell_len, text.splitlines())) <= width
    found = tables(path)
    for table in (found.kinds(), found.regions(), found.threads(), found.slowest()):
        block = text.split(f"\n{table.title}", 1)[1].split("\n\n")[0].splitlines()[1:]
        said = " ".join(" ".join(block).split()).partition("(no room for ")[2]
        shown = [name for name in table.columns if name not in said.partition(":")[0].split(", ")]
        assert table.columns[0] in shown
        assert [name for name in shown if name in block[0]] == shown
        for row, line in zip(table.rows[:MOST], block[1:], strict=False):
            for name, cell in zip(table.columns, row, strict=True):
                whole = cell.text in line
                assert whole or name not in shown or name in ("REGION", "THREAD")


def test_tables_are_cut_and_say_so(tmp_path: Path) -> None:
    count = 30
    known = names()
    known.comms += [f"c{at}" for at in range(count)]
    faults = rows(count, comm=np.arange(count) + 1, tid=np.arange(count) + 1, region=1)
    text = printed(written(tmp_path / "t.csv", faults, known))
    assert "(10 more)" in text


@given(st.floats(0, 1))
def test_bars_fit(part: float) -> None:
    bar = bar_of(part, 10)
    assert len(bar) <= 10
    assert bool(bar) == (part > 0)


# -- the command ------------------------------------------------------------------


def report(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    found: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-m", "tracer.reporting.cli", *arguments],
        capture_output=True, text=True, timeout=120, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    return found


def test_the_command_prints_a_summary(tmp_path: Path) -> None:
    path = demo(tmp_path / "t.csv")
    alone, named = report(path), report("summary", path)
    assert alone.returncode == named.returncode == 0, alone.stderr
    assert alone.stdout == named.stdout == printed(path)
    assert alone.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], Exit.USAGE, "name the CSV file"),
        (["--nonsense"], Exit.USAGE, "No such option '--nonsense'"),
        (["summary", "--top", "0", "x"], Exit.USAGE, "Invalid value for '-n' / '--top'"),
        (["missing.csv"], Exit.INPUT, "cannot read missing.csv: No such file"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    assert cli.run(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pagefault-report: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    path = demo(tmp_path / "t.csv")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tracer.reporting.cli", path],
        stdout=write, stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


def test_a_full_disk_is_reported() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tracer.reporting.cli", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == Exit.OUTPUT
    assert "cannot write standard output" in done.stderr


def test_the_interval_is_the_runs(tmp_path: Path) -> None:
    facts = info(ended_monotonic_ns=START + 250 * MS)
    run = load(written(tmp_path / "t.csv", five(), facts=facts))
    assert "; 0.250 s from" in head(run).counts


# -- arrays


def anonymous(path: Path, *parts: np.ndarray, names_: list[str] | None = None) -> str:
    """A fault on each of these pages, of a mapping called so; a space for each part."""
    known = Names()
    regions = [known.region(Region(0, 0, "rw-p", 0, name)) for name in names_ or ["[anon]"]]
    address = np.concatenate(parts).astype(np.uint64) * np.uint64(PAGE)
    each = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    region = np.array(regions)[each % len(regions)]
    return written(path, rows(len(address), address=address, space=each + 1, region=region), known)


def faults_by_region(path: str) -> dict[str, int]:
    """The rows of the table by region, and how many faults each has."""
    table = tables(path).regions()
    assert table.columns[2] == "FAULTS"
    return {row[0].text: int(row[2].value) for row in table.rows}


A, B = 0x7F0000000, 0x7F0100000


def test_two_arrays_are_two_rows(tmp_path: Path) -> None:
    """One after the other, faulted in turn; and those of a forked child are the same."""
    pages = np.arange(1000)
    made = anonymous(tmp_path / "t.csv", A + pages, B + pages[::-3], A + 500 + pages[:100])
    assert faults_by_region(made) == {"[anon] 0x7f0000000000": 1100, "[anon] 0x7f0100000000": 334}


def test_arrays_that_adjoin_nearly(tmp_path: Path) -> None:
    """As the kernel aligns them to huge pages: a megabyte in between."""
    made = anonymous(tmp_path / "t.csv", A + np.arange(700), A + 1000 + np.arange(600))
    assert list(faults_by_region(made).values()) == [700, 600]


def test_an_array_touched_at_random_is_one(tmp_path: Path) -> None:
    chosen = np.random.default_rng(7).choice(1 << 20, 10_000, replace=False)
    assert list(faults_by_region(anonymous(tmp_path / "t.csv", A + chosen)).values()) == [10_000]


def test_huge_pages_are_no_gaps(tmp_path: Path) -> None:
    known = Names()
    region = known.region(Region(0, 0, "rw-p", 0, "[anon]"))
    address = (A + np.arange(8) * 512 + 7) * PAGE
    faults = rows(8, address=address, pages=512, region=region, kind=Kind.HUGE)
    assert faults_by_region(written(tmp_path / "t.csv", faults, known)) == {
        "[anon] 0x7f0000000000": 8
    }


def test_many_arrays_are_few_rows(tmp_path: Path) -> None:
    parts = [A + number * 100_000 + np.arange(number + 1) for number in range(20)]
    found = faults_by_region(anonymous(tmp_path / "t.csv", np.concatenate(parts)))
    assert len(found) == stretches.MOST + 1
    assert found[f"[anon] ({20 - stretches.MOST} others)"] == sum(range(1, 15))
    assert sum(found.values()) == 210


def test_other_names_are_whole(tmp_path: Path) -> None:
    parts = [A + np.arange(5), B + np.arange(5), 2 * B + np.arange(5), B + 5 + np.arange(5)]
    names_ = ["[heap]", "[anon:cache]"]
    assert faults_by_region(anonymous(tmp_path / "t.csv", *parts, names_=names_)) == {
        "[heap]": 10,
        "[anon:cache]": 10,
    }


def test_addresses_stay_whole_at_80_columns(tmp_path: Path) -> None:
    made = anonymous(tmp_path / "t.csv", A + np.arange(1000), B + np.arange(1000))
    assert printed(made, 80).count("[anon] 0x7f0000000000") >= 2  # by region, first touch
