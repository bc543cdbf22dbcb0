"""One CSV row a fault, read back by Python's csv module."""

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.outputs_data import HOSTILE, five, name_of, names, rows
from tracer.common.deadline import Enough
from tracer.common.errors import Exit, TraceError
from tracer.common.pages import NO_FRAME
from tracer.common.text import decode, printable
from tracer.files.output import open_output
from tracer.files.output_file import OutputFile
from tracer.model.rows import ROW, UNKNOWN_LATENCY, Access, Cause, Kind, Names, Region, Rows
from tracer.outputs.cells import text_cell
from tracer.outputs.csv import CHUNK, COLUMNS, CsvOutput

U64 = (1 << 64) - 1
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=())).map(
    lambda text: decode(text.encode("utf-8", "surrogatepass"))
) | st.binary(max_size=40).map(lambda raw: decode(raw.replace(b"\0", b"")))


def written(batches: Sequence[Rows], known: Names, path: Path, symbols: object = None) -> str:
    output = CsvOutput(open_output(str(path), force=True), symbols)  # type: ignore[arg-type]
    for batch in batches:
        output.write(batch, known)
    output.close()
    return path.read_text()


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_demo(tmp_path: Path) -> None:
    text = written([five()], names(), tmp_path / "f")
    assert text.splitlines()[:3] == [
        "number,time_ns,pid,space,tid,comm,cpu,address,access,cause,kind,major,latency_ns,"
        "frame,frame_before,pages,region,perms,offset,ip,symbol,count,confirmed",
        "1,1000000000,4242,1,4242,multimap,0,0x7f03141a6000,write,user,anon,false,1380,"
        "0x28664d000,,1,[anon],rwxp,,0x401000,,100,both",
        "2,1001000000,4242,1,4242,multimap,0,0x7f03141a5000,write,user,anon,false,890,"
        "0x318603000,,1,[anon],rwxp,,0x401000,,101,both",
    ]
    assert text.endswith("both\n")


def test_no_faults_is_a_header(tmp_path: Path) -> None:
    assert written([], Names(), tmp_path / "f") == ",".join(COLUMNS) + "\n"
    assert written([rows(0)], Names(), tmp_path / "f") == ",".join(COLUMNS) + "\n"


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    row = np.zeros(1, ROW)
    row["latency_ns"], row["frame"], row["frame_before"] = UNKNOWN_LATENCY, NO_FRAME, NO_FRAME
    (cells,) = read(written([Rows.from_records(row)], Names(), tmp_path / "f"))
    assert {name for name, value in cells.items() if value} == {
        *("number", "time_ns", "cpu", "address", "major", "pages", "confirmed")
    }


def test_frame_zero_is_a_frame(tmp_path: Path) -> None:
    (cells,) = read(written([rows(1, frame=0, frame_before=0)], Names(), tmp_path / "f"))
    assert cells["frame"] == cells["frame_before"] == "0x0"


def test_the_offset_is_the_pages_own_in_the_file(tmp_path: Path) -> None:
    known = names("/bin/x")
    known.regions.append(Region(0, 1 << 47, "rw-p", 0, "[anon]"))
    cells = read(
        written([rows(3, region=[1, 2, 1], offset=[0x6000, 0x6000, 0])], known, tmp_path / "f")
    )
    assert [row["offset"] for row in cells] == ["0x6000", "", "0x0"]


def expected(row: np.void, known: Names) -> dict[str, str]:
    """The row as plain Python would write it."""

    def hexadecimal(value: int, blank: int) -> str:
        return "" if value == blank else f"{value:#x}"

    def number(value: int, blank: int = 0) -> str:
        return "" if value == blank else str(value)

    def word(value: int, of: type[Access] | type[Cause] | type[Kind]) -> str:
        return of(value).name.lower() if value else ""

    def name(text: str) -> str:
        text = printable(text).replace(";", "\\x3b")
        formula = text.strip()[:1] in set("=+-@＝＋－＠") - {""}
        return "'" + text if formula or text[:1] == "'" else text

    region = known.regions[row["region"]]
    return {
        "number": str(row["number"]),
        "time_ns": str(row["time_ns"]),
        "pid": number(row["pid"]),
        "space": number(row["space"]),
        "tid": number(row["tid"]),
        "comm": name(known.comms[row["comm"]]),
        "cpu": str(row["cpu"]),
        "address": f"{int(row['address']):#x}",
        "access": word(row["access"], Access),
        "cause": word(row["cause"], Cause),
        "kind": word(row["kind"], Kind),
        "major": str(bool(row["major"])).lower(),
        "latency_ns": number(row["latency_ns"], UNKNOWN_LATENCY),
        "frame": hexadecimal(row["frame"], NO_FRAME),
        "frame_before": hexadecimal(row["frame_before"], NO_FRAME),
        "pages": str(row["pages"]),
        "region": name(region.name),
        "perms": region.perms,
        "offset": f"{int(row['offset']):#x}" if region.name.startswith("/") else "",
        "ip": hexadecimal(row["ip"], 0),
        "symbol": "",
        "count": number(row["count"]),
        "confirmed": "both" if row["confirmed"] else "fault",
    }


def digits(most: int) -> st.SearchStrategy[int]:
    """Numbers of every length up to `most`, the edges of each length too."""
    edges = [n for k in range(65) for n in ((1 << k) - 1, 1 << k)]
    edges += [n for k in range(21) for n in (10**k - 1, 10**k)]
    return st.sampled_from([n for n in edges if n <= most]) | st.integers(0, most)


ROWS = st.fixed_dictionaries(
    {
        **{name: digits(U64) for name in ("number", "address", "frame", "frame_before", "ip")},
        "count": digits(U64),
        "offset": digits(U64).map(lambda offset: offset & ~0xFFF),
        "time_ns": digits((1 << 63) - 1),
        "latency_ns": st.just(UNKNOWN_LATENCY) | digits((1 << 63) - 1),
        **{name: digits((1 << 32) - 1) for name in ("pid", "space", "tid", "cpu", "pages")},
        "access": st.integers(0, len(Access) - 1),
        "cause": st.integers(0, len(Cause) - 1),
        "kind": st.integers(0, len(Kind) - 1),
        "major": st.booleans(),
        "confirmed": st.integers(0, 1),
        "comm": st.integers(0, len(HOSTILE)),
        "region": st.integers(0, len(HOSTILE)),
    }
)


@given(st.lists(ROWS, min_size=1, max_size=12))
def test_every_value_comes_out_as_python_would_write_it(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, int]]
) -> None:
    known = Names(["", *HOSTILE])
    known.regions += [
        Region(0x1000 * n, 0x1000 * (n + 1), "r-xp", 0x5000, text) for n, text in enumerate(HOSTILE)
    ]
    batch = np.zeros(len(values), ROW)
    for row, value in zip(batch, values, strict=True):
        for name, number in value.items():
            row[name] = number
    text = written([Rows.from_records(batch)], known, tmp_path_factory.getbasetemp() / "every")
    assert read(text) == [expected(row, known) for row in batch]


def test_batches_longer_than_a_chunk(tmp_path: Path) -> None:
    many = rows(2 * CHUNK + 7, comm=1, region=1, latency_ns=np.arange(2 * CHUNK + 7))
    cells = read(written([many[:5], many[5:]], names(), tmp_path / "f"))
    assert [row["number"] for row in cells] == [str(n) for n in range(1, len(many) + 1)]
    assert [row["latency_ns"] for row in cells] == [str(n) for n in range(len(many))]


def test_names_that_come_later_are_known(tmp_path: Path) -> None:
    known = names()
    output = CsvOutput(open_output(str(tmp_path / "f")))
    output.write(five(), known)
    comm, region = known.comm("late"), known.region(Region(0, 1 << 47, "r--p", 0, "/late"))
    output.write(rows(1, comm=comm, region=region), known)
    output.close()
    last = read((tmp_path / "f").read_text())[-1]
    assert (last["comm"], last["region"]) == ("late", "/late")


class Symbols:
    """Names that are known as long as `known` is set."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.known, self.settles = texts, True, True

    def names(self, batch: Rows) -> tuple[list[str], bool]:
        raise AssertionError("a file can wait, and nobody waits for it")

    def ask(self, batch: Rows) -> tuple[list[str], bool]:
        return [text if self.known else "early" for text in self.texts[: len(batch)]], self.known

    def settle(self) -> None:
        if not self.settles:
            raise Enough
        self.known = True


def test_symbols_fill_their_column(tmp_path: Path) -> None:
    symbols = Symbols("main+0x4", "", "std::map<a, b>::at+0x1", "main+0x4", "=x")
    cells = read(written([five()], names(), tmp_path / "f", symbols))
    assert [row["symbol"] for row in cells] == [
        *("main+0x4", "", "std::map<a, b>::at+0x1", "main+0x4", "'=x")
    ]


def test_rows_wait_for_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order; not more of them than may wait; and no longer than until the end."""
    monkeypatch.setattr("tracer.outputs.csv.MOST_HELD", 3)
    symbols, known, path = Symbols("later"), names(), tmp_path / "f"
    output = CsvOutput(open_output(str(path)), symbols)

    def there() -> list[tuple[str, str]]:
        return [(row["number"], row["symbol"]) for row in read(path.read_text())]

    def write(number: int) -> None:
        output.write(rows(1, number=number), known)

    symbols.known = False
    write(1)
    write(2)
    assert there() == []
    symbols.known = True
    output.write(rows(0), known)
    assert there() == [("1", "later"), ("2", "later")]
    symbols.known = False
    for number in range(3, 8):
        write(number)
    assert there()[2:] == [("3", "early"), ("4", "early")]
    output.close()
    assert there()[4:] == [("5", "later"), ("6", "later"), ("7", "later")]
    assert not Path(str(path) + ".part").exists()


def test_after_a_failure_nothing_is_written_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols, path = Symbols("later"), tmp_path / "f"
    file = open_output(str(path))
    output = CsvOutput(file, symbols)
    output.write(rows(0), names())
    symbols.known = False
    for number in (1, 2):
        output.write(rows(1, number=number), names())
    symbols.known = True

    def fail(text: object) -> None:
        raise TraceError("disk full", "make room", Exit.OUTPUT)

    with monkeypatch.context() as patch:
        patch.setattr(file, "write", fail)
        with pytest.raises(TraceError):
            output.write(rows(1, number=3), names())
    output.close()
    assert read(path.read_text()) == []


def test_at_once_rows_go_without_names(tmp_path: Path) -> None:
    symbols = Symbols("never")
    symbols.known = symbols.settles = False
    cells = read(written([rows(1)], names(), tmp_path / "f", symbols))
    assert [row["symbol"] for row in cells] == ["early"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_in_its_cell(name: str) -> None:
    line = (text_cell(name) + b"next").decode()
    assert line.isprintable()
    (cells,) = csv.reader([line])
    shown, after = cells
    assert after == "next"
    assert name_of(shown) == name


@given(st.sampled_from(["", " ", "'", ";", ","]), st.sampled_from("=+-@＝＋－＠"), ANY)
def test_no_spreadsheet_sees_a_formula(before: str, sign: str, after: str) -> None:
    r"""Neither in the cell nor in what a spreadsheet that splits at ";" or tabs makes of it."""
    line = (b"1," + text_cell(before + sign + after) + b"2").decode()
    for separator in ",;\t":
        for cell in csv.reader([line], delimiter=separator):
            assert not any(text.strip().startswith(tuple("=+-@＝＋－＠")) for text in cell)


@given(ANY)
def test_a_name_can_be_had_back(name: str) -> None:
    ((shown,),) = csv.reader([text_cell(name, b"").decode() or '""'])
    assert name_of(shown) == name


def test_the_rule_in_the_docs_gives_names_back() -> None:
    page = (Path(__file__).parents[3] / "docs" / "csv.md").read_text()
    scope: dict[str, Any] = {"re": re}
    exec(page.split("```python\n")[1].split("```")[0], scope)  # a few lines of ours
    for name in HOSTILE:
        ((shown,),) = csv.reader([text_cell(name, b"").decode() or '""'])
        assert scope["name_of"](shown) == name.encode("utf-8", "surrogateescape")


@given(ANY, ANY)
def test_different_names_have_different_cells(one: str, other: str) -> None:
    assert (text_cell(one) == text_cell(other)) == (one == other)


def test_every_write_is_whole_lines(tmp_path: Path) -> None:
    class Spy(OutputFile):
        writes: list[bytes]

        def write(self, data: bytes | memoryview) -> None:
            self.writes.append(bytes(data))

    spy = Spy(os.open(os.devnull, os.O_WRONLY), "spy")
    spy.writes = []
    output = CsvOutput(spy)
    output.write(rows(CHUNK + 1), names())
    output.close()
    assert len(b"".join(spy.writes).splitlines()) == CHUNK + 2
    assert all(data.endswith(b"\n") for data in spy.writes)


def test_a_full_disk_is_a_trace_error() -> None:
    output = CsvOutput(open_output("/dev/full"))
    with pytest.raises(TraceError, match="No space left") as caught:
        output.write(five(), names())
    assert caught.value.code == Exit.OUTPUT
    assert "free some space" in caught.value.hint


def test_a_reader_that_left_is_a_broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = CsvOutput(OutputFile(writer, "pipe"))
    with pytest.raises(BrokenPipeError):
        output.write(five(), names())


def test_discarding_removes_the_file(tmp_path: Path) -> None:
    output = CsvOutput(open_output(str(tmp_path / "f")))
    output.discard()
    assert not list(tmp_path.iterdir())
