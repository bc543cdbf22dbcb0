"""pagefault-report reads what the tracer wrote, and says which line is wrong where it did not."""

import contextlib
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.outputs_data import HOSTILE, START, five, info, names, rows, table
from tests.unit.report_data import MS, demo, hostile, lossy, mixed, written
from tracer.common.errors import Exit, TraceError
from tracer.common.pages import NO_FRAME
from tracer.common.text import printable
from tracer.model.result import Books
from tracer.model.rows import UNKNOWN_LATENCY, Access, Cause, Kind, Names
from tracer.outputs.cells import text_cell
from tracer.outputs.meta import SUFFIX as META_SUFFIX
from tracer.reporting.analysis.curves import mapped, resident
from tracer.reporting.reading import needs
from tracer.reporting.reading.columns import BLOCK, read_table
from tracer.reporting.reading.facts import OLD_FORMAT, SUFFIX, read_facts
from tracer.reporting.reading.names import safe, shown
from tracer.reporting.reading.run import load
from tracer.reporting.reading.schema import FAULTS
from tracer.reporting.text.overview import sentences
from tracer.reporting.text.tables import Tables


def test_the_demo(tmp_path: Path) -> None:
    run = load(demo(tmp_path / "t.csv"))
    faults = run.faults
    assert len(faults) == 5
    assert faults.time_ns.tolist() == [START + at * MS for at in range(5)]
    assert [hex(address) for address in faults.address.tolist()][:2] == [
        "0x7f03141a6000",
        "0x7f03141a5000",
    ]
    assert faults.latency_ns.tolist() == [1380, 890, 1452, 12345, 2000]
    assert (faults.kind.words, faults.kind.counts().tolist()) == (["anon"], [5])
    assert faults.region.words == ["[anon]"]
    assert (faults.perms.words, faults.comm.words) == (["rwxp"], ["multimap"])
    assert run.seconds == pytest.approx(1.23456789)
    assert run.facts.what == "multimap --auto"
    assert (run.facts.host, run.facts.probe, run.facts.lost) == ("host", "perf", 0)
    assert run.pages is not None
    assert run.pages.present.all()
    assert run.notes == []


def test_the_names_of_files_agree_with_the_tracers() -> None:
    assert SUFFIX == META_SUFFIX


def test_what_is_empty(tmp_path: Path) -> None:
    faults = rows(
        2, pid=0, tid=0, space=0, latency_ns=[UNKNOWN_LATENCY, 7], frame=[NO_FRAME, 4096], pages=0,
        kind=0, access=Access.UNKNOWN, cause=Cause.UNKNOWN,
    )  # fmt: skip
    read = load(written(tmp_path / "t.csv", faults, Names())).faults
    assert read.latency_ns.tolist() == [-1, 7]
    assert read.present.tolist() == [False, True]
    assert read.pid.tolist() == [0, 0]
    assert read.kind.words == read.region.words == read.access.words == [""]


def test_rows_come_out_in_the_order_of_time(tmp_path: Path) -> None:
    faults = five(time_ns=[START + 3, START + 1, START + 2, START + 5, START + 4])
    read = load(written(tmp_path / "t.csv", faults)).faults
    assert (np.diff(read.time_ns) == 1).all()
    assert read.latency_ns.tolist() == [890, 1452, 1380, 2000, 12345]


def test_many_blocks_are_one_table(tmp_path: Path) -> None:
    count = 40_000
    kinds = np.arange(count) // 10_000 + 1  # a new word in later blocks
    path = tmp_path / "t.csv"
    faults = rows(count, kind=kinds, latency_ns=np.arange(count))
    run = load(written(path, faults))
    assert path.stat().st_size > 3 * BLOCK
    assert run.faults.latency_ns.tolist() == list(range(count))
    assert dict(zip(run.faults.kind.words, run.faults.kind.counts().tolist(), strict=True)) == {
        Kind(kind).name.lower(): 10_000 for kind in (1, 2, 3, 4)
    }


def test_names_are_safe_and_no_more_escaped_than_they_were(tmp_path: Path) -> None:
    run = load(hostile(tmp_path / "t.csv"))
    for name, code in zip(HOSTILE, run.faults.comm.codes.tolist(), strict=False):
        assert run.faults.comm.words[code] == printable(name)
    assert run.facts.host == "<script>document.title='owned'</script>"


@given(st.text(alphabet=st.sampled_from("a;'=\\x3b")) | st.text())
def test_names_of_files_are_shown_as_a_terminal_shows_them(name: str) -> None:
    (cell,) = next(csv.reader([text_cell(name, b"").decode()] if name else ['""']))
    assert shown(cell) == printable(name)


@given(st.text())
def test_shown_names_never_hold_what_a_terminal_acts_on(name: str) -> None:
    assert safe(printable(name)) == printable(name)
    assert "\n" not in shown(name)
    assert "\x1b" not in shown(name)
    assert safe(shown(name)) == shown(name)


def test_without_a_meta_file_the_faults_give_the_times(tmp_path: Path) -> None:
    run = load(written(tmp_path / "t.csv", five(), meta=False))
    assert run.start_ns == START - 1380
    assert run.end_ns == START + 4 * MS
    assert run.facts.host == "not known"
    assert "no t.csv.meta.json" in run.notes[0]


def test_a_trace_that_was_killed_is_reported(tmp_path: Path) -> None:
    path = demo(tmp_path / "t.csv")
    meta = Path(path + SUFFIX)
    content = json.loads(meta.read_text()) | {"state": "running", "books": None, "lost": None}
    meta.write_text(json.dumps(content))
    run = load(path)
    assert run.facts.lost is None
    assert "did not end cleanly" in run.notes[0]


def _broken(tmp_path: Path, change: str, line: int = 3) -> str:
    """What is said where `line` of the demo is replaced."""
    path = Path(written(tmp_path / "t.csv", five()))
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change.encode("utf-8", "surrogateescape")
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(TraceError) as caught:
        load(str(path))
    assert caught.value.code == Exit.INPUT
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message.removeprefix(f"{path}: ")


GOOD = "2,5,1,1,1,c,0,0x1000,,,anon,false,7,,,1,,,,,,,fault"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "line 3 is empty"),
        ("1,2,3", "line 3 has 3 cells where the header has 23"),
        (GOOD + ",", "line 3 has 24 cells where the header has 23"),
        (
            GOOD.replace(",5,", ",,"),
            "line 3 is wrong: column 'time_ns' holds '', which must not be empty",
        ),
        (GOOD.replace(",5,", ",soon,"), "column 'time_ns' holds 'soon', not an integer"),
        (GOOD.replace("0x1000", "0xzz"), "column 'address' holds '0xzz', not an integer"),
        (GOOD.replace("false", "maybe"), "column 'major' holds 'maybe', neither true nor false"),
        (GOOD.replace("1,1,1", "1,1,5000000000"), "'tid' holds '5000000000', out of range"),
        (GOOD.replace(",c,", ',"c,'), "line 3 is not valid CSV"),
        (GOOD.replace(",c,", ",\udcff,"), "line 3 is not UTF-8 from its byte 11 on"),
        (GOOD.replace("1,1,1", "1,1,\x1b[2J"), r"'tid' holds '\x1b[2J', not an integer"),
    ],
)
def test_the_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    assert said in _broken(tmp_path, line)


def test_a_wrong_line_far_into_the_file_is_named(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "t.csv", rows(30_000)))
    lines = path.read_text().split("\n")
    lines[25_000] = "x" + lines[25_000][lines[25_000].index(",") :]
    lines[25_001] = lines[25_001].replace("false", "no")
    path.write_text("\n".join(lines))
    with pytest.raises(TraceError, match="line 25002 is wrong: column 'major' holds 'no'"):
        load(str(path))


@pytest.mark.parametrize(
    ("time_ns", "latency_ns", "said"),
    [
        (START, START, ""),
        (START, START + 1, "line 4 has a latency_ns larger than its time_ns"),
        (START, (1 << 63) - 1, "line 4 has a latency_ns larger than its time_ns"),
        (-1, 0, "line 4 has a time below 0"),
        (START, -5, "line 4 has a time below 0"),
        (1 << 62, 0, "line 4 has a time of more than a hundred years"),
        ((1 << 62) - 1, (1 << 62) - 1, "more than a hundred years in all"),
    ],
)
def test_times_that_no_fault_can_have(
    tmp_path: Path, time_ns: int, latency_ns: int, said: str
) -> None:
    path = demo(tmp_path / "t.csv")
    lines = [line.split(",") for line in Path(path).read_text().splitlines()]
    for name, value in (("time_ns", time_ns), ("latency_ns", latency_ns)):
        lines[3][lines[0].index(name)] = str(value)
    Path(path).write_text("".join(",".join(line) + "\n" for line in lines))
    if not said:
        load(path)
        return
    with pytest.raises(TraceError, match=said) as caught:
        load(path)
    assert caught.value.code == Exit.INPUT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty: line 1, the header, is missing"),
        (b"\n", "line 1 is not a header"),
        (b"\x7fELF\xff\x01\x01\0\0\n\xff\xfe", "line 1 is not a header: it is not text"),
        (
            b"a,b,c\n1,2,3\n",
            "line 1 is not the expected header: column 'time_ns', 'pid', 'space', …",
        ),
        (b"no newline at all", "line 1 is not the expected header"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=".*") as caught:
        load(str(path))
    assert said in caught.value.message
    assert caught.value.code == Exit.INPUT


def test_the_two_files_cannot_be_confused(tmp_path: Path) -> None:
    path = demo(tmp_path / "t.csv")
    with pytest.raises(TraceError, match="give that one to --pages"):
        load(f"{path}.pages.csv")
    with pytest.raises(TraceError, match="the header of a file that --csv wrote"):
        load(path, path)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="cannot read"):
        load(str(tmp_path / name))


@settings(max_examples=40)
@given(st.integers(1, 2000))
def test_a_file_cut_anywhere_is_read_to_its_last_line(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(written(Path(folder) / "t.csv", five(), meta=False))
        whole = path.read_bytes()
        kept = whole[: min(cut, len(whole))]
        path.write_bytes(kept)
        lines = kept.count(b"\n")
        if not lines:
            with pytest.raises(TraceError, match="line 1"):
                load(str(path))
            return
        run = load(str(path))
        assert len(run.faults) == lines - 1
        cut_off = [note for note in run.notes if "is cut off" in note]
        assert bool(cut_off) == (not kept.endswith(b"\n"))
        assert not cut_off or f"line {lines + 1} of t.csv is cut off" in cut_off[0]


@settings(max_examples=60)
@given(st.binary(max_size=400), st.integers(0, 400))
def test_no_bytes_crash_the_reader(junk: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(written(Path(folder) / "t.csv", five(), meta=False))
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + junk + whole[at:])
        with contextlib.suppress(TraceError):
            table = read_table(str(path), FAULTS, "--csv")
            assert table.rows <= whole.count(b"\n") + junk.count(b"\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1 is not valid JSON"),
        ('{"format": 1,\n oops', "line 2 is not valid JSON"),
        ("[1, 2]", "line 1 is not what pagefault-trace writes"),
        ('{"name": "x"}', "line 1 is not what pagefault-trace writes"),
        ('{"format": 3}', "its format is 3, newer"),
        ('{"format": 1, "lost": ' + "9" * 5_000_000 + "}", "has more than 40 digits"),
    ],
)
def test_foreign_meta_files(tmp_path: Path, content: str, said: str) -> None:
    path = demo(tmp_path / "t.csv")
    Path(path + SUFFIX).write_text(content)
    with pytest.raises(TraceError, match=said) as caught:
        load(path)
    assert caught.value.code == Exit.INPUT


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.data())
def test_any_value_in_the_meta_file_is_stood(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = demo(Path(folder) / "t.csv")
        meta = Path(path + SUFFIX)
        content = json.loads(meta.read_text())
        field = data.draw(st.sampled_from(sorted(set(content) - {"format"})))
        content[field] = data.draw(json_values)
        meta.write_text(json.dumps(content))
        facts = read_facts(path)
        assert facts.there
        assert "\x1b" not in facts.what + facts.host + "".join(facts.notes)


def test_mapped_memory_by_snapshots_and_faults(tmp_path: Path) -> None:
    run = load(lossy(tmp_path / "t.csv"))
    curve = mapped(run)
    at = np.array([-1, 0, 1, 2, 3, 4, 5, 8, 10]) * MS + START
    assert curve.at(at).tolist() == [0, 1, 2, 3, 4, 4, 2, 2, 2]
    assert curve.how == "2 counts by the tracer, plus faults since"


def test_mapped_memory_without_snapshots(tmp_path: Path) -> None:
    path = lossy(tmp_path / "t.csv")
    meta = Path(path + SUFFIX)
    content = json.loads(meta.read_text())
    del content["mapped"]
    meta.write_text(json.dumps(content))
    at = np.array([0, 3, 5, 10]) * MS + START
    assert mapped(load(path)).at(at).tolist() == [1, 4, 2, 2]
    meta.unlink()
    curve = mapped(load(path))
    assert curve.at(at).tolist() == [1, 4, 4, 4]
    assert curve.how == "gained by faults; releases are not known"


def test_format_1_called_resident_what_is_mapped(tmp_path: Path) -> None:
    """It had the sum over all processes only: that is said, and distinct frames are not shown."""
    path = lossy(tmp_path / "t.csv")
    new = load(path)
    assert new.facts.notes == ()
    meta = Path(path + SUFFIX)
    content = json.loads(meta.read_text())
    books = content["books"]
    content |= {"format": 1, "resident": content.pop("mapped")}
    content["books"] = {
        **{name: value for name, value in books.items() if "mapped" not in name},
        **{"resident": 2, "resident_change": 2},
    }
    for name in ("resident_growth", "resident_peak"):
        del content["books"][name]
    meta.write_text(json.dumps(content))
    old = load(path)
    assert mapped(old).pages.tolist() == mapped(new).pages.tolist()
    assert resident(old) is None
    assert old.facts.notes == (OLD_FORMAT,)
    assert old.facts.books["mapped"] == old.facts.books["mapped_change"] == 2
    assert "resident" not in old.facts.books
    assert "resident" not in " ".join(sentences(Tables(old, mapped(old))))
    assert Tables(old, mapped(old)).working_set().columns[-1] == "MAPPED"


def test_distinct_frames_are_read_and_shown(tmp_path: Path) -> None:
    books = Books(traced=4, kernel=4, gained=4, mapped=4, resident=3, resident_peak=5)
    points = {
        "mapped": [(START, 4)],
        "resident": [(START, 0), (START + 2 * MS, 5), (START + 3 * MS, 3)],
    }
    run = load(written(tmp_path / "t.csv", rows(4), facts=info(**points), books=books))
    counted = resident(run)
    assert counted is not None
    assert (counted.pages.tolist(), counted.how) == ([0, 5, 3], "3 counts of distinct frames")
    tables = Tables(run, mapped(run))
    said = "12 KiB resident, each frame counted once (at its peak at least 20 KiB)."
    assert said in sentences(tables)[0]
    assert tables.working_set().columns[-2:] == ["MAPPED", "RESIDENT"]
    assert tables.working_set().rows[-1][-1].text == "12 KiB"


def test_a_snapshot_corrects_what_faults_alone_say(tmp_path: Path) -> None:
    facts = info(mapped=[(START + 2 * MS, 10), (START + 9 * MS, 1)])
    run = load(written(tmp_path / "t.csv", rows(5, comm=1, region=1), facts=facts))
    at = np.array([0, 1, 2, 3, 4, 9]) * MS + START
    assert mapped(run).at(at).tolist() == [1, 2, 10, 11, 12, 1]


def test_pages_that_a_snapshot_misses_are_back_when_they_are_gained_again(tmp_path: Path) -> None:
    faults = rows(7, comm=1, region=1)
    page = np.array([0, 1, 2, 0, 1, 0, 3])
    faults["address"][:] = 0x7F0000000000 + page * 4096
    facts = info(mapped=[(START + 2 * MS + 1, 1)])  # two of three are gone
    run = load(written(tmp_path / "t.csv", faults, facts=facts))
    at = np.arange(7) * MS + START
    assert mapped(run).at(at).tolist() == [1, 2, 3, 2, 3, 3, 4]
    pages = table(faults[np.array([0, 1, 2, 6])])
    pages.last_frame[0] = NO_FRAME
    pages.last_time_ns[0] = START + 8 * MS
    run = load(written(tmp_path / "u.csv", faults, pages=pages, facts=facts))
    at = np.append(at, START + 8 * MS)
    assert mapped(run).at(at).tolist() == [1, 2, 3, 2, 3, 3, 4, 3]


def test_curves_are_thinned_but_keep_their_peaks(tmp_path: Path) -> None:
    run = load(mixed(tmp_path / "t.csv"))
    curve = mapped(run)
    many = type(curve)(np.arange(10_000), np.r_[np.arange(5000), [99_999], np.arange(4999)], "")
    thin = many.thinned(300)
    assert len(thin.pages) <= 300
    assert thin.pages.max() == 99_999
    assert (np.diff(thin.time_ns) > 0).all()
    assert thin.pages[-1] == many.pages[-1]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TraceError) as caught:
        needs.library("pyarrow")
    assert caught.value.code == Exit.NO_LIBRARY
    assert "pip install pyarrow matplotlib" in caught.value.hint


def test_the_tracer_does_not_import_reports() -> None:
    code = (
        "import sys, tracer.app.cli, tracer.app.run, tracer.app.sinks, tracer.ptdump.cli\n"
        "print([n for n in sys.modules if 'reporting' in n or n in ('pyarrow', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_reports_do_without_bcc_and_proc() -> None:
    code = (
        "import sys, tracer.reporting.cli, tracer.reporting.text.summary\n"
        "import tracer.reporting.reading.run\n"
        "print([n for n in sys.modules if n == 'bcc' or n.startswith('tracer.p')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_a_file_read_from_elsewhere_finds_its_pages(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    demo(folder / "t.csv")
    assert load(str(folder / "t.csv")).pages is not None
    shutil.move(folder / "t.csv.pages.csv", tmp_path / "p.csv")
    assert load(str(folder / "t.csv")).pages is None
    assert load(str(folder / "t.csv"), str(tmp_path / "p.csv")).pages is not None


def test_unbalanced_books_are_known(tmp_path: Path) -> None:
    books = Books(traced=5, kernel=9, lost=2, missed=1)
    run = load(written(tmp_path / "t.csv", five(), names(), books=books))
    assert run.facts.book("missed") == 1
    assert run.facts.books["balanced"] is False
