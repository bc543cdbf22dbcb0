"""Call stacks in reports: read and checked, exported, summed by function, compared."""

import contextlib
import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.unit.outputs_data import HOSTILE, START, info, name_of, names, rows, table
from tests.unit.report_data import (
    APP,
    LIBC,
    MAIN,
    MARKUP,
    MS,
    STACK_COLUMNS,
    STACKS,
    add_stacks,
    demo,
    frame,
    kernel,
    mixed,
    stacked,
    written,
)
from tracer.common.errors import Exit, TraceError
from tracer.common.pages import NO_FRAME
from tracer.common.text import printable
from tracer.model.sources import Loss, Source
from tracer.reporting import cli
from tracer.reporting.analysis.curves import mapped
from tracer.reporting.exports.chrome import chrome
from tracer.reporting.exports.flame import folded, speedscope
from tracer.reporting.exports.perfetto import perfetto
from tracer.reporting.pictures.weighing import weigh
from tracer.reporting.reading.callstacks import Function
from tracer.reporting.reading.run import Run, load
from tracer.reporting.text.diff import print_diff
from tracer.reporting.text.stackwords import health
from tracer.reporting.text.summary import print_summary
from tracer.reporting.text.tables import Table, Tables

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace  # isort: skip


def stack_of(run: Run, fault: int) -> list[str]:
    """The names of a fault's frames, outermost first."""
    assert run.callstacks is not None
    number = int(run.faults.stack[fault])
    return [place.function.marked for place in run.callstacks.stack(number)]


def cells(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


# -- reading ----------------------------------------------------------------------


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


def test_places_have_files_and_lines(tmp_path: Path) -> None:
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
def test_what_has_no_symbol_is_named_by_its_place(
    tmp_path: Path, cells: dict[str, Any], name: str
) -> None:
    run = load(add_stacks(written(tmp_path / "t.csv", rows(1)), [1], [[frame("", **cells)]]))
    assert run.callstacks is not None
    assert [place.function.name for place in run.callstacks.stack(1)] == [name]


def test_the_file_is_found_where_meta_says_and_beside(tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    beside = Path(path + ".stacks.csv")
    elsewhere = tmp_path / "other.csv"
    beside.rename(elsewhere)
    run = load(path)
    assert run.callstacks is None
    assert "t.csv.stacks.csv, the file of call stacks, is not there" in run.notes[0]
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
    assert run.stackless == "t.csv has no call stacks: trace with --stacks to have them"
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
        "Of 4 faults 0 (0%) have a whole call stack.",
        "2 may lack a caller in between, that of code built without frame pointers, in "
        f"{LIBC}; build that with -fno-omit-frame-pointer.",
        f"1 breaks off in code built without frame pointers, in {LIBC}: the callers are missing; "
        "build that with -fno-omit-frame-pointer, or take a build that has them.",
        "1 breaks off (broken): the callers are missing.",
    ]


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
        ("1,x,user,fill,0x1,m,0x1,,,,0x1,", "line 3 is wrong: column 'frame' holds 'x', no whole"),
        ("-1,1,user,fill,0x1,m,0x1,,,,0x1,", "line 3 is wrong: column 'stack' holds '-1', out of"),
        (",1,user,fill,0x1,m,0x1,,,,0x1,", "line 3 is wrong: column 'stack' holds '', which is"),
        ("0,1,user,fill,0x1,m,0x1,,,,0x1,", "line 3 is of stack 0: they count from 1"),
        ("1,1,nobody,fill,0x1,m,0x1,,,,0x1,", "line 3 is of a side that is neither"),
        ("1,7,user,fill,0x1,m,0x1,,,,0x1,", "is a frame whose inner neighbour is missing"),
        ("1,0,user,fill,0x1,m,0x1,,,,0x1,", "is a frame whose inner neighbour is missing"),
        ("1,1,kernel,fill,0x1,m,0x1,,,,0x1,", "line 3 is a kernel's frame outside of a user's"),
        ("", "line 3 is empty"),
    ],
)
def test_the_wrong_line_is_named(tmp_path: Path, change: str, said: str) -> None:
    assert said in said_of(tmp_path, change)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"name,value\n1,2\n", "line 1 is not its header"),
        (b"\x89PNG\r\n\x1a\n", "line 1 is no header"),
        (b"stack,frame,side,function,module", "line 1 is not its header"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = stacked(tmp_path / "t.csv")
    Path(path + ".stacks.csv").write_bytes(content)
    with pytest.raises(TraceError, match=said):
        load(path)


def test_files_mixed_up_are_told_apart(tmp_path: Path) -> None:
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


# -- exports ----------------------------------------------------------------------


def test_folded_stacks_are_call_stacks(tmp_path: Path) -> None:
    lines = b"".join(folded(load(stacked(tmp_path / "t.csv")))).decode().splitlines()
    start = "_start;__libc_start_main;main"
    assert lines == [
        f"other;{start};fill 8192",
        "worker;(no frame pointers);memcpy 4096",
        "worker;(no stack) 4096",
        f"worker;(truncated);{';'.join(['recurse'] * 7)} 4096",
        f"worker;{start};app+0x1f30 4096",
        f"worker;{start};fill 4096",
        f"worker;{start};fill;memset 8192",
        f"worker;{start};read;vfs_read_[k];copy_to_user_[k] 65536",
    ]


def test_speedscope_has_files_and_lines(tmp_path: Path) -> None:
    content = json.loads(b"".join(speedscope(load(stacked(tmp_path / "t.csv")))))
    frames = content["shared"]["frames"]
    assert {"name": "fill", "file": "app.c", "line": 12} in frames
    assert {"name": "fill", "file": "app.c", "line": 14} in frames
    assert {"name": "memset", "file": LIBC} in frames
    assert {"name": "copy_to_user_[k]", "file": "[kernel]"} in frames
    memory = content["profiles"][0]
    assert memory["endValue"] == sum(memory["weights"]) == 25 * 4096
    heaviest = memory["samples"][int(np.argmax(memory["weights"]))]
    assert [frames[at]["name"] for at in heaviest] == [
        *("worker", "_start", "__libc_start_main", "main"),
        *("read", "vfs_read_[k]", "copy_to_user_[k]"),
    ]


def test_perfetto_has_the_call_stack_of_each_slice(tmp_path: Path) -> None:
    trace = Trace()
    trace.ParseFromString(b"".join(perfetto(load(stacked(tmp_path / "t.csv")))))
    known: dict[str, dict[int, Any]] = {}
    for packet in trace.packet:
        interned = packet.interned_data
        for name in (
            *("function_names", "mapping_paths", "source_paths", "mappings", "frames"),
            *("callstacks", "debug_annotation_string_values", "debug_annotation_names"),
        ):
            known.setdefault(name, {}).update({each.iid: each for each in getattr(interned, name)})
    found = []
    for packet in trace.packet:
        event = packet.track_event
        if not event.callstack_iid:
            continue
        frames = [known["frames"][at] for at in known["callstacks"][event.callstack_iid].frame_ids]
        said = {
            known["debug_annotation_names"][each.name_iid].name: each.string_value_iid
            for each in event.debug_annotations
        }
        brief = known["debug_annotation_string_values"][said["stack"]].str.decode()
        places = [known["function_names"][each.function_name_id].str.decode() for each in frames]
        assert brief.split(" ← ")[0] == places[-1]
        for each in frames:
            (path,) = known["mappings"][each.mapping_id].path_string_ids
            assert known["mapping_paths"][path].str
        found.append((places, event.callstack_weight, frames[-1]))
    assert len(found) == 10
    assert sum(weight for _, weight, _ in found) == 25 * 4096
    assert found[0][0] == ["_start", "__libc_start_main", "main", "fill", "memset"]
    source = known["source_paths"][found[2][2].source_path_iid].str
    assert (source, found[2][2].line_number) == (b"app.c", 14)
    assert found[7][0] == ["(no stack)"]


def test_chrome_has_them_too(tmp_path: Path) -> None:
    content = json.loads(b"".join(chrome(load(stacked(tmp_path / "t.csv")))))
    frames = content["stackFrames"]

    def names(number: object) -> list[str]:
        each = frames[str(number)]
        return [*(names(each["parent"]) if "parent" in each else []), each["name"]]

    faults = [event for event in content["traceEvents"] if event["ph"] == "X"]
    assert names(faults[0]["sf"]) == ["_start", "__libc_start_main", "main", "fill", "memset"]
    assert names(faults[7]["sf"]) == ["(no stack)"]


def hostile_stacks(path: Path) -> str:
    """A fault for each name that wants to be something else, with a stack of two such frames."""
    wanted = [name for name in [*HOSTILE, *MARKUP] if name]
    known = names(comm=MARKUP[0], region=MARKUP[1])
    faults = rows(len(wanted), comm=1, region=1)
    csv = written(path, faults, known, pages=table(faults), facts=info(command=MARKUP))
    stacks = [
        [
            frame(name, wanted[at - 1], file=name, line=3),
            frame(wanted[at - 1], name, note="no frame pointers" if at % 2 else ""),
        ]
        for at, name in enumerate(wanted)
    ]
    return add_stacks(csv, range(1, len(wanted) + 1), stacks)


@pytest.mark.parametrize("weight", ["bytes", "faults", "nanoseconds"])
def test_hostile_names_stay_names(tmp_path: Path, weight: str) -> None:
    run = load(hostile_stacks(tmp_path / "t.csv"))
    lines = b"".join(folded(run, weight)).decode().splitlines()
    assert len(lines) == len(run.faults)
    assert {line.count(";") for line in lines} == {2, 3}
    shown = {frame["name"] for frame in json.loads(b"".join(speedscope(run)))["shared"]["frames"]}
    assert {printable(name) for name in MARKUP} <= shown
    assert json.loads(b"".join(chrome(run)))
    trace = Trace()
    trace.ParseFromString(b"".join(perfetto(run)))


# -- tables and words -------------------------------------------------------------


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


def test_deep_stacks_are_told_in_short(tmp_path: Path) -> None:
    deep = [frame(f"f{at}") for at in range(30)]
    run = load(add_stacks(written(tmp_path / "t.csv", rows(1)), [1], [deep]))
    found = cells(Tables(run, mapped(run)).stacks(20))
    assert found[0][-1] == "f0 ← f1 ← f2 ← f3 ← f4 ← f5 ← f6 ← f7 ← … 22 more"


def test_what_is_missing_is_said_and_what_to_do(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    assert health(run) == [
        "Of 10 faults 7 (70%) have a whole call stack.",
        f"1 breaks off in code built without frame pointers, in {LIBC}: the callers are missing; "
        "build that with -fno-omit-frame-pointer, or take a build that has them.",
        "1 is deeper than the kernel's limit: the outermost callers are missing.",
        "1 has none: the kernel gave none, or it was not kept.",
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


# -- what is still resident -------------------------------------------------------


def pages_of(run: Run) -> list[int]:
    found: list[int] = (weigh(run, "resident").values // 4096).tolist()
    return found


def test_resident_pages_are_of_the_fault_that_brought_them(tmp_path: Path) -> None:
    run = load(stacked(tmp_path / "t.csv"))
    assert pages_of(run) == [0, 1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert weigh(run, "resident").left_out == ""


def test_a_page_that_came_back_is_of_the_later_fault(tmp_path: Path) -> None:
    faults = rows(4, comm=1, region=1)
    faults["address"][:] = faults["address"][0]
    pages = table(faults[:1])
    pages.gains[:], pages.losses[:] = 3, 2
    pages.last_time_ns[:] = START + 2 * MS
    assert pages_of(load(written(tmp_path / "t.csv", faults, pages=pages))) == [0, 0, 1, 0]
    pages.last_time_ns[:] = START + 9 * MS  # a moment of no fault: the last one on the page
    assert pages_of(load(written(tmp_path / "u.csv", faults, pages=pages))) == [0, 0, 0, 1]


def test_neighbours_are_of_the_fault_they_came_with(tmp_path: Path) -> None:
    faults = rows(2, comm=1, region=1)
    faults["pages"][:] = 16, 1
    pages = table(rows(20, comm=1, region=1))
    pages.last_source[:] = [Source.FAULT] * 2 + [Source.AROUND] * 15 + [Source.INITIAL] * 3
    pages.last_time_ns[:] = [START, START + MS] + [START] * 18
    run = load(written(tmp_path / "t.csv", faults, pages=pages))
    assert pages_of(run) == [16, 1]
    assert weigh(run, "resident").left_out == (
        "Not shown, as no fault of this trace brought it: 12 KiB by being there at the start."
    )


def test_another_space_at_the_same_moment_is_another_page(tmp_path: Path) -> None:
    faults = rows(3, comm=1, region=1, time_ns=START, space=[1, 2, 3])
    faults["address"][:] = faults["address"][0]
    pages = table(faults[np.array([2, 1])])
    assert pages_of(load(written(tmp_path / "t.csv", faults, pages=pages))) == [0, 1, 1]


def test_a_frame_moved_in_place_is_of_the_fault_that_filled_it(tmp_path: Path) -> None:
    faults = rows(3, comm=1, region=1)
    pages = table(faults)
    pages.last_source[:] = [Source.MIGRATE, Source.COLLAPSE, Source.SWAPOFF]
    pages.last_time_ns[:] = START + 50 * MS
    run = load(written(tmp_path / "t.csv", faults, pages=pages))
    assert pages_of(run) == [1, 1, 0]
    assert "4 KiB by swapoff" in weigh(run, "resident").left_out


def test_faults_that_were_filtered_out_are_told(tmp_path: Path) -> None:
    faults = rows(3, comm=1, region=1)
    pages = table(faults)
    run = load(written(tmp_path / "t.csv", faults[:2], pages=pages))
    assert pages_of(run) == [1, 1]
    assert "4 KiB by faults that the CSV has no row of" in weigh(run, "resident").left_out


def test_pages_that_are_gone_count_for_nobody(tmp_path: Path) -> None:
    faults = rows(2, comm=1, region=1)
    pages = table(faults, last_frame=[NO_FRAME] * 2, last_loss=[Loss.MUNMAP] * 2)
    run = load(written(tmp_path / "t.csv", faults, pages=pages))
    assert pages_of(run) == [0, 0]


def test_kernel_code_is_told_from_the_programs(tmp_path: Path) -> None:
    stacks = [[kernel("same"), frame("same", "[kernel]")]]
    run = load(add_stacks(written(tmp_path / "t.csv", rows(1)), [1], stacks))
    assert run.callstacks is not None
    assert stack_of(run, 0) == ["same", "same_[k]"]
    assert len({place.function for place in run.callstacks.stack(1)}) == 2
    assert len(STACKS) == 6
