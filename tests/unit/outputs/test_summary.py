"""What a run comes to, through consoles of fixed width."""

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.unit.outputs_data import HOSTILE, PAGE, five, info, names, rows, table
from tracer.common.pages import NO_FRAME
from tracer.common.quantiles import EXACT, Latencies
from tracer.common.units import Glyphs
from tracer.model.result import Books, PageTable, RunInfo
from tracer.model.rows import UNKNOWN_LATENCY, Kind, Names, Region, Rows
from tracer.model.sources import Loss, Source
from tracer.outputs.books import balance, memory, reasons
from tracer.outputs.page_history import LOSS_WORDS, SOURCE_WORDS, sources
from tracer.outputs.summary import MOST_ALIKE, MOST_GROUPS, MOST_LINES, Summary

GLYPHS = Glyphs()
MEMORY: dict[str, Any] = {"mapped": 5, "mapped_change": 5, "resident": 4, "resident_peak": 6}
BALANCED = Books(traced=5, kernel=5, gained=5, gained_by={"fault": 5}, **MEMORY)


def gained_in(batches: list[Rows]) -> dict[int, int]:
    """Pages gained by region, as far as faults brought them."""
    sums: dict[int, int] = {}
    for batch in batches:
        for region, pages in zip(batch["region"].tolist(), batch["pages"].tolist(), strict=True):
            sums[region] = sums.get(region, 0) + pages
    return sums


def rendered(
    batches: list[Rows],
    known: Names,
    width: int = 0,
    books: Books = BALANCED,
    pages: PageTable | None = None,
    facts: RunInfo | None = None,
) -> list[str]:
    """The summary's lines without styles; for a pipe where `width` is 0."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=bool(width),
        width=width or None,
        color_system="truecolor" if width else None,
    )
    summary = Summary()
    for batch in batches:
        summary.write(batch, known)
    if not books.gained_in:
        books = replace(books, gained_in=gained_in(batches))
    summary.close()
    tables = None if pages is None else [pages]
    summary.render(console, known, books, tables, facts or info())
    text = stream.getvalue()
    assert ("\x1b[" in text) == bool(width)
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")[:-1]]


DEMO_80 = """
5 faults in 1.235 s of multimap --auto, probe perf (fentry and kprobe are
refused here)

KIND FAULTS  SHARE MAJOR     P50     P99     MAX
anon      5 100.0%     0 1.45 µs 12.3 µs 12.3 µs

FAULTS GAINED GONE  GROSS     NET     P50     P99     MAX PERMS REGION
     5      5    0 20 KiB +20 KiB 1.45 µs 12.3 µs 12.3 µs rwxp  [anon]

PAGE           GAINED AT FRAME       BY             CONFIRMED NOW
0x7f03141a6000  0.000000 0x28664d000 fault 1 (anon) both      same
0x7f03141a5000  0.001000 0x318603000 fault 2 (anon) both      same
0x7f03141a4000  0.002000 0x1c9b89000 fault 3 (anon) both      same
0x7f03141a3000  0.003000 0x2a0001000 fault 4 (anon) both      same
0x7f03141a2000  0.004000 0x199f4000  fault 5 (anon) both      same

books: 5 faults traced = 5 the kernel counted; 0 lost, 0 missed
frames: 5 gained − 0 released = +5 mapped
memory: 20 KiB gained in all, +20 KiB net of releases; resident at the end 16
  KiB (peak at least 24 KiB), mapped 20 KiB"""


def test_the_demo() -> None:
    assert "\n".join(rendered([five()], names(), 80, pages=table(five()))) == DEMO_80


def test_the_demo_in_a_pipe() -> None:
    one_line = DEMO_80.replace("are\nrefused", "are refused").replace("\nframes", "; frames")
    one_line = one_line.replace("16\n ", "16")
    assert "\n".join(rendered([five()], names(), pages=table(five()))) == one_line


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_lines_fit_the_terminal(width: int) -> None:
    pages = table(five(), first_source=[1, 2, 3, 4, 5], last_loss=[0, 1, 2, 3, 4])
    trouble = Books(traced=7, failed=1, foreign=2, kernel=9, lost=1, missed=1, conflict=1)
    for shown in (
        rendered([five()], names("/a/very/long/path/indeed/to/a/file"), width, pages=pages),
        rendered([five()], names(), width, books=trouble),
    ):
        assert all(cell_len(line) <= width for line in shown)
        assert any("[anon]" in line or "file" in line for line in shown)


@pytest.mark.parametrize("width", [0, 60, 80])
def test_an_empty_run(width: int) -> None:
    facts = info(command=[], pids=[42], probe_brief="")
    shown = rendered([], Names(), width, Books(mapped_change=0), None, facts)
    assert shown[:3] == ["", "0 faults in 1.235 s of process 42, probe perf", ""]
    assert " ".join(" ".join(shown[3:]).replace("missed;", "missed").split()) == (
        "books: 0 faults traced = 0 the kernel counted; 0 lost, 0 missed "
        "frames: 0 gained − 0 released = +0 mapped memory: 0 B gained in all, 0 B net of releases; "
        "resident at the end not known, mapped not known"
    )
    assert rendered([rows(0)], Names(), width, Books(mapped_change=0), None, facts) == shown
    assert rendered([], Names(), width, Books(mapped_change=0), table(rows(0)), facts) == shown


def test_pages_without_faults_are_reported() -> None:
    """Attached to a process that then did nothing: its pages were there."""
    pages = table(
        five(),
        first_source=np.full(5, Source.INITIAL, np.uint8),
        first_kind=np.zeros(5, np.uint8),
        first_fault=np.zeros(5, np.uint64),
    )
    shown = rendered([], names(), books=Books(mapped_change=0), pages=pages)
    assert sum("before" in line and "present at the start pagemap" in line for line in shown) == 5
    assert not any("REGION" in line for line in shown)  # nothing gained, no faults


def test_kinds_shares_and_majors() -> None:
    batch = rows(4, kind=[1, 1, 1, 5], major=[False, False, False, True], latency_ns=[1, 2, 3, -1])
    shown = rendered([batch, batch], names())
    assert [line.split() for line in shown[3:7]] == [
        ["KIND", "FAULTS", "SHARE", "MAJOR", "P50", "P99", "MAX"],
        ["anon", "6", "75.0%", "0", "2", "ns", "3", "ns", "3", "ns"],
        ["file", "2", "25.0%", "2", "–", "–", "–"],
        ["all", "8", "100.0%", "2", "2", "ns", "3", "ns", "3", "ns"],
    ]


def test_regions_by_name_and_permissions() -> None:
    known = Names()
    heap = [known.region(Region(n, n + 1, "rw-p", 0, "[heap]")) for n in range(3)]
    code = known.region(Region(0, 1, "r-xp", 0, "/bin/x"))
    batch = rows(8, region=[*heap, *heap, code, 0], pages=[1] * 6 + [16, 0])
    shown = rendered([batch], known)
    start = next(n for n, line in enumerate(shown) if "REGION" in line)
    assert [line.split() for line in shown[start : start + 4]] == [
        ["FAULTS", "GAINED", "GONE", "GROSS", "NET", "P50", "P99", "MAX", "PERMS", "REGION"],
        ["6", "6", "0", "24", "KiB", "+24", "KiB", *["1.38", "µs"] * 3, "rw-p", "[heap]"],
        ["1", "16", "0", "64", "KiB", "+64", "KiB", *["1.38", "µs"] * 3, "r-xp", "/bin/x"],
        ["1", "0", "0", "0", "B", "0", "B", *["1.38", "µs"] * 3, "–", "(unknown)"],
    ]


def test_frames_by_region_are_the_books() -> None:
    """Not the page table's: a page of a mapping that is gone is not in there."""
    known = names()
    other = known.region(Region(0x1000, 0x3000, "rwxp", 0, "[anon]"))  # the same name: one line
    books = replace(BALANCED, gained_in={1: 4, other: 2}, lost_in={1: 4})
    shown = rendered([five()], known, books=books, pages=table(five()))
    line = next(line for line in shown if line.endswith("[anon]"))
    assert line.split()[:7] == ["5", "6", "4", "24", "KiB", "+8", "KiB"]  # gross, and net


@pytest.mark.parametrize("count", [MOST_LINES + 1, MOST_LINES + 2, MOST_GROUPS + 100])
def test_many_regions_add_up(count: int) -> None:
    known = Names()
    for number in range(count):
        known.region(Region(number, number + 1, "rw-p", 0, f"/file{number}"))
    index = np.arange(count * 2)
    batch = rows(count * 2, region=1 + index % count)
    shown = rendered([batch[:count], batch[count:]], known)
    start = next(n for n, line in enumerate(shown) if "REGION" in line)
    end = shown.index("", start)
    assert sum(int(line.split()[0]) for line in shown[start + 1 : end]) == count * 2
    assert end - start - 1 == MOST_LINES + 1


def test_the_history_of_pages_that_moved_on() -> None:
    pages = table(
        five(),
        first_source=[Source.FAULT, Source.AROUND, Source.FORK, Source.MISSED, Source.FAULT],
        first_kind=[Kind.ANON, Kind.FILE, 0, 0, Kind.ZERO],
        last_frame=[NO_FRAME, NO_FRAME, 0x1000, 0x2A0001000, 0x199F4000],
        last_loss=[Loss.MADVISE, Loss.NONE, Loss.REPLACED, Loss.NONE, Loss.NONE],
        confirmed=[0, 1, 0, 0, 1],
    )
    shown = rendered([five()], names(), pages=pages)
    start = next(n for n, line in enumerate(shown) if line.startswith("PAGE "))
    assert [line[37:] for line in shown[start + 1 : start + 6]] == [
        "fault 1 (anon)                 fault     gone (madvise)",
        "along with fault 2 (file)      both      gone",
        "copied from the parent by fork pagemap   0x1000",
        "by a fault the probe missed    pagemap   same",
        "fault 5 (zero)                 both      same",
    ]


def test_more_pages_are_counted_by_source() -> None:
    batch = rows(33)
    books = Books(gained_by={"fault": 33, "fork": 7, "ksm": 0}, lost_by={"madvise": 2})
    shown = rendered([batch], names(), books=books, pages=table(batch))
    assert "    33 fault    by its own fault" in shown
    assert "     7 fork     copied from the parent by fork" in shown
    assert "       2 madvise  discarded by madvise" in shown
    assert not any("ksm" in line for line in shown)


def test_every_source_and_release_has_words() -> None:
    assert set(SOURCE_WORDS) == set(Source) - {Source.NONE}
    assert set(LOSS_WORDS) == set(Loss) - {Loss.NONE}


@pytest.mark.parametrize("width", [0, 60, 80, 120])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_stay_in_their_cells(hostile: str, width: int) -> None:
    facts = info(command=["run", hostile], probe_brief=hostile, notes=[hostile])
    pages = table(five(), region=[0, 1, 1, 1, 1])
    shown = rendered([five()], names("/" + hostile), width, pages=pages, facts=facts)
    assert all(line.isprintable() for line in shown)
    assert not width or all(cell_len(line) <= width for line in shown)


def test_notes_and_exit_status() -> None:
    shown = rendered([], Names(), facts=info(notes=["frames are off"], exit_status=3))
    assert shown[-2:] == ["note: frames are off", "the command ended with status 3"]


# -- the books in words ----------------------------------------------------------


def test_books_that_balance() -> None:
    books = Books(traced=523, kernel=523, gained=801, given_up=12, mapped_change=789)
    assert balance(books, GLYPHS) == (
        "books: 523 faults traced = 523 the kernel counted; 0 lost, 0 missed; "
        "frames: 801 gained − 12 released = +789 mapped"
    )
    assert reasons(books, GLYPHS) == []


def test_books_with_every_difference_named() -> None:
    books = Books(
        traced=100,
        failed=1,
        foreign=10,
        kernel=105,
        lost=5,
        missed=7,
        missed_reason="populate faults raise no perf event",
        filtered=3,
        given_up=4,
        mapped_change=None,
    )
    assert books.balanced()
    assert balance(books, GLYPHS) == (
        "books: 90 faults traced + 3 filtered out + 5 lost + 7 missed = 105 the kernel counted; "
        "frames: 0 gained − 4 released = −4; mapped pages not known"
    )
    said = reasons(books, GLYPHS)
    assert [line.split()[:2] for line in said] == [
        *(["1", "fault"], ["10", "faults"], ["5", "events"], ["7", "faults"])
    ]
    assert said[-1].endswith("populate faults raise no perf event")


def test_memory_gross_and_net_resident_and_mapped() -> None:
    """A buffer that came fifty times is gained fifty times, and there once."""
    books = Books(gained=12_800, given_up=12_544, mapped=300, resident=256, resident_peak=270)
    assert memory(books, GLYPHS) == (
        "memory: 50 MiB gained in all, +1 MiB net of releases; "
        "resident at the end 1 MiB (peak at least 1.05 MiB), mapped 1.17 MiB"
    )
    shrunk = Books(given_up=4, mapped=300, resident=None)
    assert memory(shrunk, GLYPHS) == (
        "memory: 0 B gained in all, −16 KiB net of releases; "
        "resident at the end not known, mapped 1.17 MiB (from records only)"
    )


def test_books_say_whose_faults_they_may_lack() -> None:
    books = Books(traced=5, kernel=5, unfollowed=2)
    assert "5 faults traced = 5 the kernel counted of the threads that were followed; " in balance(
        books, GLYPHS
    )
    (why,) = reasons(books, GLYPHS)
    assert why.startswith("2 thread starts and exits may have been missed, ")
    (why,) = reasons(Books(unfollowed=1), GLYPHS)
    assert why.startswith("1 thread start or exit may have been missed, ")


def test_books_say_that_what_was_gained_is_a_bound() -> None:
    books = Books(gained=9, given_up=4, unseen_fills=2, gained_by={"populate": 8, "fault": 1})
    assert balance(books, GLYPHS).endswith(
        "frames: at least 9 gained − 4 released = +5; mapped pages not known"
    )
    assert memory(books, GLYPHS).startswith("memory: at least 36 KiB gained in all, +20 KiB net")
    (why,) = reasons(books, GLYPHS)
    assert why.startswith("2 calls populated pages without records ")
    (_, rows), *_ = sources(books, GLYPHS)
    words = {row["HOW"][0]: row[""][0] for row in rows}
    assert words["populate"].endswith("; at least")
    assert not words["fault"].endswith("at least")


def test_books_say_that_the_kernels_count_is_a_bound() -> None:
    books = Books(
        traced=5, kernel=7, missed=2, kernel_at_least=True, kernel_reason="a map was full"
    )
    assert not books.balanced()
    assert not books.unaccounted()
    assert "5 faults traced + 2 missed = at least 7 the kernel counted; 0 lost; " in balance(
        books, GLYPHS
    )
    *_, why = reasons(books, GLYPHS)
    assert why == "the kernel may have counted more: a map was full; the books do not balance"


def test_books_name_what_the_kernel_does_not_count() -> None:
    """Faults without a row, beside the equation: they are not its."""
    books = Books(
        traced=5, kernel=5, failed_lost=3, failed_filtered=1, foreign_lost=1, foreign_filtered=4
    )
    assert books.balanced()
    assert [line.split(":")[0] for line in reasons(books, GLYPHS)] == [
        "3 failed faults lost",
        "1 failed fault filtered out",
        "1 fault by another process lost",
        "4 faults by other processes filtered out",
    ]


def test_books_that_do_not_balance_say_so() -> None:
    books = Books(traced=5, kernel=8, conflict=2, gained=1, mapped_change=3)
    assert "5 faults traced but 8 the kernel counted" in balance(books, GLYPHS)
    assert "+1, but mapped pages changed by +3" in balance(books, GLYPHS)
    assert reasons(books, GLYPHS) == [
        "the books do not balance: the kernel's count differs by +3",
        "2 faults contradicted by pagemap without an explanation: a bug, please report it",
    ]


# -- latencies ---------------------------------------------------------------------


@given(st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=50), st.floats(0, 1))
def test_few_latencies_are_exact(values: list[int], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(np.array([value]))
    rank = max(1, int(np.ceil(share * len(values))))
    assert latencies.quantile(share) == sorted(values)[rank - 1]
    assert (latencies.count, latencies.max) == (len(values), max(values))


@given(st.integers(0, 62), st.integers(0, 1 << 32), st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_many_are_within_one_part_in_128(octave: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 1 << octave, EXACT + 500, endpoint=True)
    latencies = Latencies()
    latencies.add(values[:1000])
    latencies.add(values[1000:])
    exact = int(np.sort(values)[int(np.ceil(share * len(values))) - 1])
    assert abs(latencies.quantile(share) - exact) <= exact / 128 + 1
    assert latencies.max == values.max()


@pytest.mark.parametrize("first", [0, 10, EXACT + 1])
@pytest.mark.parametrize("second", [0, 10, EXACT, EXACT + 1])
def test_merging_is_adding(first: int, second: int) -> None:
    values = np.random.default_rng(5).integers(100, 100_000, first + second)
    one, other, both = Latencies(), Latencies(), Latencies()
    one.add(values[:first])
    other.add(values[first:])
    both.add(values)
    one.merge(other)
    assert (one.count, one.max) == (both.count, both.max)
    for share in (0.1, 0.5, 0.99):
        assert one.quantile(share) == pytest.approx(both.quantile(share), rel=0.016)


def test_no_latencies() -> None:
    assert Latencies().quantile(0.5) == -1
    shown = rendered([rows(3, latency_ns=UNKNOWN_LATENCY)], names())
    assert shown[4].split() == ["anon", "3", "100.0%", "0", "–", "–", "–"]


def test_memory_is_constant() -> None:
    latencies = Latencies()
    for _ in range(20):
        latencies.add(np.arange(10_000) * PAGE)
    assert not len(latencies._values)
    assert latencies.count == 200_000


def _arrays(count: int) -> tuple[Names, list[Rows]]:
    """Arrays of a page more each, the one before all without a number."""
    known, batches = Names(fold=True), []
    for array in range(count + 1):
        number = known.array_at(array << 32) if array else 0
        region = known.region(Region(PAGE, 2 * PAGE, "rw-p", 0, "[anon]"), number)
        batches.append(rows(array + 1, region=region))
    return known, batches


def test_arrays_are_rows_of_their_own() -> None:
    known, batches = _arrays(3)
    shown = "\n".join(rendered(batches, known, 80))
    found = re.findall(r"^ +(\d+) .*rw-p  (.*)$", shown, re.MULTILINE)
    assert found == [
        *(("4", "[anon] 0x300000000"), ("3", "[anon] 0x200000000")),
        *(("2", "[anon] 0x100000000"), ("1", "[anon] (others)")),
    ]


def test_many_arrays_are_few_rows() -> None:
    """Those with most faults; the others are one, and their number a bound."""
    known, batches = _arrays(600)
    shown = rendered(batches[500:], known, 80)
    lines = [line for line in shown if "[anon]" in line]
    assert len(lines) == MOST_ALIKE + 1
    assert sum(int(line.split()[0]) for line in lines) == sum(map(len, batches[500:]))
    assert any("+ others)" in line for line in lines)
    lines = rendered(batches[1:20], known, 80)
    assert any(f"({19 - MOST_ALIKE} others)" in line for line in lines)


def test_thread_stacks_are_one_row_always() -> None:
    known, batches = _arrays(12)
    for array in (1, 2, 12):
        known.name_stack(array)
    shown = "\n".join(rendered(batches, known, 80))
    found = re.findall(r"^ +(\d+) .*rw-p  \[anon\] (.*)$", shown, re.MULTILINE)
    stacks = ("18", "thread stacks")  # 13 + 3 + 2
    others = [(str(array + 1), f"{array << 32:#x}") for array in range(11, 6, -1)]
    assert found == [("23", "(4+ others)"), stacks, *others]
    known, batches = _arrays(9)
    known.name_stack(1)
    shown = "\n".join(rendered(batches, known, 80))
    assert re.search(r"^ +2 .*\[anon\] thread stacks$", shown, re.MULTILINE)


def test_gains_and_releases_are_of_their_array() -> None:
    known, batches = _arrays(2)
    books = replace(BALANCED, gained_in={2: 70, 3: 80}, lost_in={3: 9})
    shown = rendered(batches, known, 0, books)
    figures = [line.split()[:3] for line in shown if "[anon] 0x" in line]
    assert figures == [["3", "80", "9"], ["2", "70", "0"]]


def test_names_alone_are_cut_not_addresses() -> None:
    known = Names()
    number = known.array_at(0x7F1234500000)
    region = known.region(Region(PAGE, 2 * PAGE, "r--p", 0, "/usr/lib/a/long/path.so", 8), number)
    (line,) = (line for line in rendered([rows(1, region=region)], known, 60) if "r--p" in line)
    assert line.endswith(" 0x7f1234500000")
