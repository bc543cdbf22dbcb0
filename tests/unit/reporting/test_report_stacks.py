"""Call stacks as reports read them: found, checked, named."""

import contextlib
import csv
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.outputs_data import name_of, rows
from tests.unit.report_data import (
    APP,
    LIBC,
    MAIN,
    STACK_COLUMNS,
    STACKS,
    add_stacks,
    demo,
    frame,
    kernel,
    stacked,
    written,
)
from tracer.callstacks import frames, python_frames
from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.reporting import cli
from tracer.reporting.exports.flame import folded
from tracer.reporting.reading.callstacks import MISSING, Function
from tracer.reporting.reading.run import Run, load
from tracer.reporting.text.stackwords import health


def stack_of(run: Run, fault: int) -> list[str]:
    """The names of a fault's frames, outermost first."""
    assert run.callstacks is not None
    number = int(run.faults.stack[fault])
    return [location.function.marked for location in run.callstacks.stack(number)]


def test_a_fault_has_its_frames_outermost_first(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    assert run.notes == []
    start = ["_start", "__libc_start_main", "main"]
    assert [stack_of(run, fault) for fault in range(8)] == [
        [*start, "fill", "memset"],
        [*start, "fill", "memset"],
        [*start, "fill"],
        [*start, "read", "vfs_read_[k]", "copy_to_user_[k]"],
        ["(no frame pointers)", "memcpy"],
        ["(truncated)", *["recurse"] * 7],
        [*start, "app+0x1f30"],
        ["(no stack)"],
    ]


def test_frames_have_files_and_lines(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    assert run.callstacks is not None
    fill, memset = run.callstacks.stack(1)[-2:]
    assert (fill.function, fill.file, fill.line) == (Function("fill", "user", APP), "app.c", 12)
    assert (memset.function, memset.file, memset.line) == (Function("memset", "user", LIBC), "", 0)
    other = run.callstacks.stack(2)[-1]
    assert (other.function, other.line) == (fill.function, 14)


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ({"module": APP, "module_offset": 0x1F30}, "app+0x1f30"),
        ({"module": APP, "module_offset": ""}, "app"),
        ({"module": "[kernel]", "side": "kernel", "module_offset": ""}, "[kernel]"),
        ({"module": "[jit]", "module_offset": 0x77}, "[jit]"),
        ({"module": "", "module_offset": "", "address": 0x7F0012}, "0x7f0012"),
        ({"module": "", "module_offset": "", "address": ""}, "(not known)"),
    ],
)
def test_what_has_no_symbol_is_named_by_its_offset(
    tmp_path: Path, cells: dict[str, Any], name: str
) -> None:
    run = load(add_stacks(written(tmp_path / "t.csv", rows(1)), [1], [[frame("", **cells)]]))
    assert run.callstacks is not None
    assert [location.function.name for location in run.callstacks.stack(1)] == [name]


def test_the_file_is_found_where_meta_says_and_beside(tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    beside = Path(path + ".stacks.csv")
    elsewhere = tmp_path / "other.csv"
    beside.rename(elsewhere)
    run = load(path)
    assert run.callstacks is None
    assert "call stacks file t.csv.stacks.csv not found" in run.notes[0]
    assert run.faults.stack.tolist() == [0] * 10
    assert load(path, None, str(elsewhere)).callstacks is not None
    meta = Path(path + ".meta.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"stacks": "other.csv"}))
    assert load(path).callstacks is not None
    meta.unlink()
    assert load(path).callstacks is None
    elsewhere.rename(beside)
    assert load(path).callstacks is not None


def test_a_trace_without_stacks_says_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = demo(tmp_path / "t.csv")
    run = load(path)
    assert run.callstacks is None
    assert run.notes == []
    assert run.stackless == "t.csv has no call stacks: trace with --stacks to record them"
    assert cli.run(["flame", path]) == Exit.INPUT
    assert "trace with --stacks" in capsys.readouterr().err


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    with pytest.raises(TraceError, match="cannot read") as caught:
        load(path, None, str(tmp_path / "missing.csv"))
    assert caught.value.code == Exit.INPUT


def test_a_missing_caller_is_shown_where_it_is_missing(tmp_path: Path) -> None:
    gap = [frame("read", LIBC), frame("load"), *MAIN]
    inner = [kernel("vfs_read"), {**gap[0], "note": "no frame pointers"}, *gap[1:]]
    outer = [*gap[:-1], frame("odd", LIBC, note="no frame pointers")]
    path = written(tmp_path / "t.csv", rows(4, comm=1))
    add_stacks(path, [1, 1, 2, 3], [inner, outer, [frame("f", note="something new")]])
    run = load(path)
    start = ["_start", "__libc_start_main", "main", "load"]
    assert stack_of(run, 0) == [*start, "(no frame pointers)", "read", "vfs_read_[k]"]
    assert stack_of(run, 2) == ["(no frame pointers)", "odd", *start[1:], "read"]
    assert stack_of(run, 3) == ["(broken)", "f"]
    assert health(run) == [
        "Of 4 faults 0 (0%) have a complete call stack.",
        "2 may lack a caller, skipped in code built without frame pointers, in "
        f"{LIBC}; build that with -fno-omit-frame-pointer.",
        "1 breaks off in code that keeps no frame pointers and was not walked by unwind rules, in "
        f"{LIBC}: build it with -fno-omit-frame-pointer, or give assembly .cfi directives.",
        "1 breaks off (broken): the callers are missing.",
    ]


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        (["copy dropped"], f"in code whose unwind rules came too late, in {LIBC}: of a copy of"),
        (["copy too short", "copy dropped"], "3 break off in code whose unwind rules came too"),
        (["no unwind rule", "unreadable stack"], "whose unwind information leads to no caller"),
        (["no return address"], "1 breaks off in code whose unwind information leads to no"),
        (["code replaced"], f"in code that replaced other code at the same addresses, in {LIBC}"),
    ],
)
def test_what_is_missing_has_a_sentence_of_its_own(
    tmp_path: Path, notes: list[str], said: str
) -> None:
    stacks = [[frame("f", LIBC, note=note)] for note in notes]
    numbers = [*range(1, len(notes) + 1), len(notes)] if len(notes) > 1 else [1]
    path = written(tmp_path / "t.csv", rows(len(numbers), comm=1))
    run = load(add_stacks(path, numbers, stacks))
    assert stack_of(run, 0) == [f"({notes[0]})", "f"]
    (first, sentence) = health(run)
    assert first.endswith("0 (0%) have a complete call stack.")
    assert said in sentence


def test_code_made_at_run_time_is_to_keep_frame_pointers(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", rows(1, comm=1))
    stacks = [[frame("f", "[jit]", note="no frame pointers")]]
    sentence = health(load(add_stacks(path, [1], stacks)))[1]
    assert "-XX:+PreserveFramePointer" in sentence
    assert "-fno-omit-frame-pointer" not in sentence


def test_every_note_of_the_tracer_is_known() -> None:
    notes = {
        *(frames.NO_FRAME_POINTERS, frames.TRUNCATED, frames.NO_RULE, frames.NO_RETURN_ADDRESS),
        *(frames.UNREADABLE, frames.COPY_DROPPED, frames.COPY_TOO_SHORT, frames.REPLACED),
        *(python_frames.TRUNCATED_PYTHON, python_frames.UNREADABLE_PYTHON),
        *(python_frames.SEVERAL, python_frames.NO_CODE),
    }
    assert notes == {*MISSING} - {"no stack", "cut off", "broken"}


def test_a_frame_without_a_name_lacks_no_caller(tmp_path: Path) -> None:
    stacks = [[frame("", LIBC, note="no symbols: it took more than 10 s of processor time"), *MAIN]]
    run = load(add_stacks(written(tmp_path / "t.csv", rows(1)), [1], stacks))
    assert stack_of(run, 0)[0] == "_start"
    assert health(run)[0] == "Of 1 fault 1 (100%) have a complete call stack."


def test_frames_in_any_order_and_numbers_with_gaps(tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    beside = Path(path + ".stacks.csv")
    expected = [stack_of(load(path), fault) for fault in range(10)]
    header, *lines = beside.read_text().splitlines()
    moved = [f"{int(line.split(',', 1)[0]) * 7}," + line.split(",", 1)[1] for line in lines]
    beside.write_text("\n".join([header, *moved[::-1]]) + "\n")
    text = Path(path).read_text().splitlines()
    numbers = [int(line.rsplit(",", 1)[1] or 0) * 7 for line in text[1:]]
    changed = [
        line.rsplit(",", 1)[0] + f",{n or ''}" for line, n in zip(text[1:], numbers, strict=True)
    ]
    Path(path).write_text("\n".join([text[0], *changed]) + "\n")
    run = load(path)
    assert [stack_of(run, fault) for fault in range(10)] == expected


def said_of(tmp_path: Path, change: str, line: int = 3) -> str:
    """What is said where `line` of the stacks file is replaced."""
    path = stacked(tmp_path / "t.csv")
    beside = Path(path + ".stacks.csv")
    lines = beside.read_text().split("\n")
    lines[line - 1] = change
    beside.write_text("\n".join(lines))
    with pytest.raises(TraceError) as caught:
        load(path)
    assert caught.value.code == Exit.INPUT
    assert str(beside) in caught.value.message
    assert "pagefault-trace --stacks --csv FILE" in caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("1,1,user,fill", "line 3 has 4 cells where the header has 12"),
        ("1,x,user,fill,0x1,m,0x1,,,,0x1,", "line 3 is wrong: column 'frame' holds 'x', not an"),
        ("-1,1,user,fill,0x1,m,0x1,,,,0x1,", "line 3 is wrong: column 'stack' holds '-1', out of"),
        (",1,user,fill,0x1,m,0x1,,,,0x1,", "line 3 is wrong: column 'stack' holds '', which must"),
        ("0,1,user,fill,0x1,m,0x1,,,,0x1,", "line 3 has stack number 0: they start at 1"),
        ("1,1,nobody,fill,0x1,m,0x1,,,,0x1,", "line 3 has a side that is neither"),
        ("1,7,user,fill,0x1,m,0x1,,,,0x1,", "has a frame number that is out of sequence"),
        ("1,0,user,fill,0x1,m,0x1,,,,0x1,", "has a frame number that is out of sequence"),
        (
            "1,1,kernel,fill,0x1,m,0x1,,,,0x1,",
            "line 3 has a kernel frame as the caller of a user frame",
        ),
        ("", "line 3 is empty"),
    ],
)
def test_the_wrong_line_is_named(tmp_path: Path, change: str, said: str) -> None:
    assert said in said_of(tmp_path, change)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"name,value\n1,2\n", "line 1 is not the expected header"),
        (b"\x89PNG\r\n\x1a\n", "line 1 is not a header"),
        (b"stack,frame,side,function,module", "line 1 is not the expected header"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = stacked(tmp_path / "t.csv")
    Path(path + ".stacks.csv").write_bytes(content)
    with pytest.raises(TraceError, match=said):
        load(path)


def test_files_mixed_up_are_recognised(tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    stacks, pages = path + ".stacks.csv", path + ".pages.csv"
    for files, said in (
        ((stacks,), "header of a file of call stacks; give that one to --stacks"),
        ((path, stacks), "header of a file of call stacks"),
        ((path, None, path), "header of a file that --csv wrote"),
        ((path, None, pages), "header of a file that --pages-csv wrote"),
    ):
        with pytest.raises(TraceError, match=said):
            load(*files)


def test_a_file_that_was_cut_off_is_read_to_its_last_line(tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    beside = Path(path + ".stacks.csv")
    lines = beside.read_bytes().splitlines(keepends=True)
    beside.write_bytes(b"".join(lines[:8]) + b"2,2,us")  # stack 2 is begun
    run = load(path)
    assert "line 9 of t.csv.stacks.csv is cut off after 6 bytes" in run.notes[0]
    assert "4 faults have call stacks that t.csv.stacks.csv does not have" in run.notes[1]
    assert stack_of(run, 2) == ["(cut off)", "main", "fill"]
    assert stack_of(run, 4) == ["(no stack)"]
    assert any("break off (cut off)" in sentence for sentence in health(run))


@settings(max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 2500))
def test_no_bytes_crash_the_reader(junk: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = stacked(Path(folder) / "t.csv")
        beside = Path(path + ".stacks.csv")
        whole = beside.read_bytes()
        beside.write_bytes(whole[:at] + junk + whole[at:])
        with contextlib.suppress(TraceError):
            b"".join(folded(load(path)))


STACK = st.lists(st.sampled_from("abc"), min_size=1, max_size=6)


@settings(max_examples=60)
@given(st.lists(STACK, min_size=1, max_size=8), st.data())
def test_any_stacks_come_back_as_they_were(stacks: list[list[str]], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(stacks)), min_size=1, max_size=12))
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "t.csv", rows(len(numbers), comm=1), meta=False)
        run = load(add_stacks(path, numbers, [[frame(name) for name in each] for each in stacks]))
        for fault, number in enumerate(numbers):
            assert stack_of(run, fault) == (stacks[number - 1][::-1] if number else ["(no stack)"])
        expected = Counter(
            ";".join(["multimap", *(stacks[n - 1][::-1] if n else ["(no stack)"])]) for n in numbers
        )
        lines = b"".join(folded(run, "faults")).decode().splitlines()
        assert {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in lines} == expected


@given(st.text(min_size=1))
def test_names_of_functions_are_shown_as_a_terminal_shows_them(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "t.csv", rows(1), meta=False)
        add_stacks(path, [1], [[frame(name, "/" + name)]])
        with Path(path + ".stacks.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert list(row) == list(STACK_COLUMNS)
        assert name_of(row["function"]) == name
        run = load(path)
        assert run.callstacks is not None
        function = run.callstacks.stack(1)[0].function
        assert (function.name, function.module) == (printable(name), printable("/" + name))


def test_kernel_code_is_distinguished_from_the_programs(tmp_path: Path) -> None:
    stacks = [[kernel("same"), frame("same", "[kernel]")]]
    run = load(add_stacks(written(tmp_path / "t.csv", rows(1)), [1], stacks))
    assert run.callstacks is not None
    assert stack_of(run, 0) == ["same", "same_[k]"]
    assert len({location.function for location in run.callstacks.stack(1)}) == 2
    assert len(STACKS) == 6
