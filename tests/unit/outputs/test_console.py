"""Lines as they happen, through consoles of fixed width."""

import io
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.unit.outputs_data import HOSTILE, PAGE, START, five, names, rows
from tracer.common import units
from tracer.common.errors import Exit, TraceError
from tracer.common.pages import NO_FRAME
from tracer.common.units import Glyphs
from tracer.files.output import open_output
from tracer.files.text_file import TextFile
from tracer.model.rows import UNKNOWN_LATENCY, Access, Kind, Names, Region, Rows
from tracer.outputs.console import ConsoleOutput
from tracer.outputs.merge import merge


def printed(
    batches: list[Rows], known: Names, width: int = 0, encoding: str = "utf-8", **options: object
) -> str:
    """What the console shows; on a terminal of `width` cells, or into a pipe where it is 0."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, newline="\n")
    console = Console(
        file=stream,
        force_terminal=bool(width),
        width=width or None,
        color_system="truecolor" if width else None,
        legacy_windows=False,
    )
    output = ConsoleOutput(console, START, **options)  # type: ignore[arg-type]
    for batch in batches:
        output.write(batch, known)
    output.close()
    stream.flush()
    return raw.getvalue().decode(encoding)


def without_styles(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def test_plain() -> None:
    assert printed([five()], names()).splitlines() == [
        "        TIME THREAD               PAGE                  FRAME        KIND      ACCESS "
        "LATENCY REGION",
        "    0.000000 multimap/4242        0x7f03141a6000        0x28664d000  anon      write  "
        "1.38 µs [anon]",
        "    0.001000 multimap/4242        0x7f03141a5000        0x318603000  anon      write  "
        " 890 ns [anon]",
        "    0.002000 multimap/4242        0x7f03141a4000        0x1c9b89000  anon      write  "
        "1.45 µs [anon]",
        "    0.003000 multimap/4242        0x7f03141a3000        0x2a0001000  anon      write  "
        "12.3 µs [anon]",
        "    0.004000 multimap/4242        0x7f03141a2000        0x199f4000   anon      write  "
        "2.00 µs [anon]",
    ]


GOLDEN = {
    60: [
        "     TIME PAGE                  FRAME       KIND     LATENCY",
        " 0.000000 0x7f03141a6000        0x28664d000 anon     1.38 µs",
    ],
    80: [
        "     TIME THREAD   PAGE                 FRAME       KIND     A LATENCY REGION",
        " 0.000000 multimap 0x7f03141a6000       0x28664d000 anon     w 1.38 µs [anon]",
    ],
    120: [
        "        TIME THREAD               PAGE                  FRAME        KIND      ACCESS "
        "LATENCY REGION",
        "    0.000000 multimap/4242        0x7f03141a6000        0x28664d000  anon      write  "
        "1.38 µs [anon]",
    ],
}


@pytest.mark.parametrize("width", GOLDEN)
def test_on_a_terminal(width: int) -> None:
    shown = printed([five()[:3], five()[3:]], names(), width)
    assert "\x1b[" in shown
    lines = without_styles(shown)
    assert lines[:2] == GOLDEN[width]
    assert len(lines) == 6


def test_nothing_yet_prints_nothing() -> None:
    assert printed([], Names()) == ""
    assert printed([rows(0)], Names(), 80) == ""


def test_one_header_for_all_batches() -> None:
    assert printed([five(), five()], names()).count("TIME") == 1
    assert printed([five(), five()], names(), 80).count("TIME") == 1


def test_what_is_not_known() -> None:
    line = printed(
        [rows(1, frame=NO_FRAME, latency_ns=UNKNOWN_LATENCY, access=0, kind=0, pages=0)], Names()
    ).splitlines()[1]
    assert line.split() == [
        "0.000000",
        "?/4242",
        "0x7f03141a2000",
        *("–", "unknown", "?", "–", "–"),
    ]


def test_major_and_failed_stand_out() -> None:
    batch = rows(2, kind=[Kind.FILE, Kind.FAILED], major=[True, False])
    shown = printed([batch], names(), 80).splitlines()
    assert re.search(r"\x1b\[1;38;2;213;94;0mfile! ", shown[1])
    assert re.search(r"\x1b\[1;7;38;2;213;94;0mfailed ", shown[2])
    plain = printed([batch], names()).splitlines()
    assert " file! " in plain[1]
    assert " failed " in plain[2]


def test_neighbours_that_came_along() -> None:
    batch = rows(2, pages=[16, 512], address=[0x7F0000003000, 0x7F0000400000])
    assert [line[34:53].strip() for line in printed([batch], names()).splitlines()[1:]] == [
        "0x7f0000003000 +15",
        "0x7f0000400000 +511",
    ]


def test_times() -> None:
    wall = 1_700_000_000_000_000_000 - START
    line = printed([five()[:1]], names(), wall_minus_monotonic=wall, time="wall").splitlines()[1]
    assert re.match(r"\d\d:\d\d:20\.000000 ", line)  # time zones shift hours and minutes only
    line = printed([five()[:1]], names(), time="monotonic").splitlines()[1]
    assert line.startswith("    1.000000 ")
    late = five()[:1]
    late["time_ns"][:] = START + 123_456_789_012_345
    assert without_styles(printed([late], names(), 80))[1].startswith("123456.78 0x7f") is False
    assert without_styles(printed([late], names(), 80))[1].startswith("123456.78 multimap 0x7f")


def test_several_processes_show_their_pids() -> None:
    batch = rows(3, pid=[1, 1, 2], tid=[1, 11, 2], comm=1)
    lines = printed([batch], names()).splitlines()
    assert [line[13:33].strip() for line in lines[1:]] == [
        *("multimap/1", "multimap/1/11", "multimap/2")
    ]


def test_symbols() -> None:
    class Symbols:
        def names(self, batch: Rows) -> tuple[list[str], bool]:
            return ["main+0x1\x1b" if row["ip"] == 1 else "" for row in batch.records()], False

        def settle(self) -> None:
            raise AssertionError("a line does not wait")

    symbols = Symbols()
    lines = printed([rows(2, ip=[1, 2])], names(), symbols=symbols).splitlines()
    assert "SYMBOL" in lines[0]
    assert "main+0x1\\x1b" in lines[1]
    assert "SYMBOL" not in without_styles(printed([five()], names(), 80, symbols=symbols))[0]


@pytest.mark.parametrize("width", [0, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_stay_on_their_line(hostile: str, width: int) -> None:
    batch = rows(3, comm=1, region=1, kind=[1, 5, 14], major=[False, True, False])
    shown = printed([batch], names("/" + hostile * 5, hostile), width)
    lines = without_styles(shown)
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert not width or all(cell_len(line) <= width for line in lines)


def test_markup_is_no_markup() -> None:
    assert "[red]/[/red]" in printed([rows(1, region=1)], names("[red]/[/red]"), 200)


def test_an_ascii_stream() -> None:
    batch = rows(2, latency_ns=[1380, -1], frame=[0x1000, NO_FRAME], comm=1, region=1)
    shown = printed([batch], names("/ü…", "ü"), encoding="ascii")
    assert "1.38 us /\\xfc\\u2026" in shown
    shown = printed([batch], names("/" + "long/" * 40 + "x"), 80, encoding="ascii")
    assert "../x" in shown or " x\n" in shown


def test_a_file_gets_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    file = open_output(str(path))
    ConsoleOutput(Console(file=cast(TextIO, TextFile(file))), START).write(five(), names())
    file.close()
    assert path.read_text() == printed([five()], names())


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_full_disk_is_a_trace_error(wrapped: bool) -> None:
    stream: TextIO = open("/dev/full", "w")  # noqa: SIM115  its close fails too
    file = open_output("/dev/full")
    if wrapped:
        stream.close()
        stream = cast(TextIO, TextFile(file))
    with pytest.raises(TraceError, match="No space left") as caught:
        ConsoleOutput(Console(file=stream), START).write(five(), names())
    assert caught.value.code == Exit.OUTPUT
    with suppress(OSError, TraceError):
        (file if wrapped else stream).close()


def test_a_reader_that_left_is_a_broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w")  # noqa: SIM115  its close fails too
    with pytest.raises(BrokenPipeError):
        ConsoleOutput(Console(file=stream), START).write(five(), names())
    with suppress(BrokenPipeError):
        stream.close()


# -- merging -----------------------------------------------------------------


def test_a_burst_of_neighbours_is_one_line() -> None:
    batch = rows(512, comm=1, region=1, latency_ns=1000)
    (line,) = printed([batch], names()).splitlines()[1:]
    assert line.split(maxsplit=1)[1] == (
        "multimap/4242        0x7f03141a2000 +511   512 frames   anon      write  1.00 µs "
        "[anon] (512 faults, 512 µs)"
    )
    (line,) = without_styles(printed([batch], names(), 80))[1:]
    assert "0x7f03141a2000 +511  512 frames  anon     w 1.00 µs [anon]" in line


def test_fewer_lines_are_not_merged() -> None:
    assert len(printed([rows(50)], names()).splitlines()) == 51


def test_kinds_accesses_threads_and_regions_are_not_mixed() -> None:
    for name, values in (
        ("kind", [1, 2]),
        ("access", [1, 2]),
        ("tid", [5, 6]),
        ("region", [0, 1]),
        ("space", [1, 2]),
        ("major", [False, True]),
    ):
        lines = merge(rows(100, **{name: np.repeat(values, 50)}), 50)
        assert [line.faults for line in lines] == [50, 50], name


def test_neighbours_follow_one_another_whatever_their_order() -> None:
    order = np.random.default_rng(1).permutation(1000)
    address = 0x7F0000000000 + order * PAGE
    (line,) = merge(rows(1000, address=address), 50)
    assert (line.page, line.pages, line.neighbours) == (0x7F0000000000, 1000, True)
    (line,) = merge(rows(1000, address=address[::-1]), 50)
    assert line.pages == 1000


def test_a_gap_parts_two_runs() -> None:
    address = 0x7F0000000000 + np.append(np.arange(60), np.arange(61, 121)) * PAGE
    assert [line.pages for line in merge(rows(120, address=address), 50)] == [60, 60]


def test_fault_around_windows_are_neighbours() -> None:
    window = np.arange(100) * 16 + np.random.default_rng(2).integers(0, 16, 100)
    batch = rows(100, address=0x7F0000000000 + window * PAGE, pages=16, kind=Kind.FILE)
    (line,) = merge(batch, 50)
    assert (line.faults, line.pages, line.frames) == (100, 1600, 1600)


def test_scattered_pages_are_one_line_that_says_so() -> None:
    address = 0x7F0000000000 + np.arange(1000) * 1000 * PAGE
    (line,) = merge(rows(1000, address=address), 50)
    assert not line.neighbours
    shown = printed([rows(1000, address=address, region=1)], names())
    assert "[anon] (1000 faults within 3.81 GiB, 1.38 ms)" in shown


def test_many_regions_and_threads_are_summed_up() -> None:
    known = Names()
    for number in range(1000):
        known.region(Region(number, number + 1, "rw-p", 0, f"/file{number}"))
    index = np.arange(4000)
    batch = rows(4000, region=1 + index % 1000, tid=index)
    shown = printed([batch], known)
    (line,) = shown.splitlines()[1:]
    assert " 4000 threads " in line
    assert " 1000 regions (4000 faults within " in line


def test_the_earliest_fault_gives_the_time() -> None:
    batch = rows(100, address=0x7F0000000000 + np.arange(100)[::-1] * PAGE)
    assert " 0.000000 " in printed([batch], names()).splitlines()[1]


def test_lines_are_in_time_order() -> None:
    index = np.arange(200)
    batch = rows(200, tid=index % 7, address=0x7F0000000000 + index * PAGE * 100)
    times = [int(line.row["time_ns"]) for line in merge(batch, 50)]
    assert times == sorted(times)


@given(
    st.lists(
        st.tuples(
            *(st.integers(1, most) for most in (3, 3, 3, 3)),
            st.booleans(),
            st.integers(0, 300),
            st.sampled_from([0, 1, 16, 512]),
            st.integers(-1, 10_000),
        ),
        min_size=1,
        max_size=300,
    ),
    st.integers(1, 60),
)
def test_nothing_is_dropped(values: list[tuple[int, ...]], above: int) -> None:
    columns = list(zip(*values, strict=True))
    batch = rows(
        len(values),
        space=columns[0],
        tid=columns[1],
        kind=columns[2],
        access=columns[3],
        major=columns[4],
        address=0x7F0000000000 + np.array(columns[5]) * PAGE,
        pages=columns[6],
        latency_ns=columns[7],
    )
    lines = merge(batch, above)
    assert sum(line.faults for line in lines) == len(batch)
    assert sum(line.pages for line in lines) == np.maximum(batch["pages"], 1).sum()
    assert sum(line.frames for line in lines) == batch["pages"].sum()
    known = batch["latency_ns"][batch["latency_ns"] >= 0]
    assert sum(line.total_ns for line in lines) == known.sum()


def test_a_large_batch_costs_little() -> None:
    random = np.random.default_rng(3)
    batch = rows(
        100_000,
        address=0x7F0000000000 + random.integers(0, 1 << 30, 100_000) * PAGE,
        tid=random.integers(1, 17, 100_000),
        kind=random.integers(1, 6, 100_000),
    )
    started = time.thread_time()
    printed([batch], names())
    assert time.thread_time() - started < 1  # some 60 ms; a loop over rows takes several seconds


# -- numbers and names ---------------------------------------------------------


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (-1, "–"),
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (9994, "9.99 µs"),
        (9999, "10.0 µs"),
        (99_949, "99.9 µs"),
        (99_999, "100 µs"),
        (999_499, "999 µs"),
        (999_999, "1.00 ms"),
        (45_678_901, "45.7 ms"),
        (999_999_999, "1.00 s"),
        (3_600_000_000_000, "3600 s"),
    ],
)
def test_latencies(nanoseconds: int, shown: str) -> None:
    assert units.latency(nanoseconds, Glyphs()) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (4096, "4 KiB"),
        (1 << 20, "1 MiB"),
        (3_231_744, "3.08 MiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert units.size(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (9999, "9999"), (10_000, "10k"), (9_999_999, "9999k"), (10_000_000, "10M")],
)
def test_short_counts(count: int, shown: str) -> None:
    assert units.short_count(count) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 9, "0%"), (1, 1000, "less than 1%"), (1, 100, "1%"), (2, 3, "67%"),
     (999, 1000, "more than 99%"), (9, 9, "100%")],
)  # fmt: skip
def test_shares(part: int, whole: int, shown: str) -> None:
    assert units.share(part, whole) == shown


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        (20, "/usr/…/libc.so.6"),
        (12, "…/libc.so.6"),
        (9, "libc.so.6"),
        (7, "lib…o.6"),
        (1, "l"),
    ],
)
def test_regions_are_shortened_in_the_middle(width: int, shown: str) -> None:
    short = units.region("/usr/lib/x86_64-linux-gnu/libc.so.6", width, Glyphs())
    assert cell_len(short) <= width
    assert short == shown


@given(st.text(), st.integers(1, 60))
def test_shortened_names_fit(name: str, width: int) -> None:
    assert cell_len(units.region(name, width, Glyphs())) <= width
    assert cell_len(units.clip("x" + name, width, Glyphs())) <= width


def test_every_kind_is_shown_in_its_own_way() -> None:
    kinds = [kind for kind in Kind if kind]
    shown = printed([rows(len(kinds), kind=kinds, access=Access.READ)], names(), 120)
    for kind in kinds:
        assert kind.name.lower() in shown
