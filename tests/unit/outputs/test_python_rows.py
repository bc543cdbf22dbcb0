"""Python's frames in FILE.stacks.csv, in the summary's table, and in reports."""

from pathlib import Path

import pytest

from tests.unit.callstacks.test_frames import read, rows_with
from tests.unit.callstacks.test_python_frames import EVAL, START, stack_of
from tests.unit.outputs_data import rows
from tests.unit.report_data import add_stacks, frame, written
from tracer.callstacks.frames import FrameNames
from tracer.callstacks.python_frames import NO_CODE, TRUNCATED_PYTHON
from tracer.callstacks.records import PythonEnd
from tracer.callstacks.source_lines import SourceLines
from tracer.callstacks.stacks import Stacks
from tracer.common import units
from tracer.common.errors import TraceError
from tracer.model.rows import Names
from tracer.outputs.callers import Callers
from tracer.outputs.stacks import StacksFile
from tracer.reporting.reading.run import load
from tracer.spaces.spaces import Spaces

FRAMES = ("ext:fill", EVAL, *START)


def stacks_of(
    functions: str = "A.f.<locals>.g main|",
    end: PythonEnd = PythonEnd.WHOLE,
    *,
    frames: tuple[str, ...] = FRAMES,
    unknown: int = -1,
) -> tuple[Stacks, FrameNames]:
    loops = (frames.index(EVAL),)
    names, locations, stack = stack_of(frames, functions, loops, end, unknown=unknown)
    stacks = Stacks(Spaces(Names()), [], names.kernel_names)
    stacks.locations += locations
    stacks.stacks.append(stack)
    return stacks, names


def written_rows(folder: Path, stacks: Stacks, names: FrameNames) -> list[dict[str, str]]:
    file = StacksFile(str(folder / "f.csv"))
    file.follow(stacks, names)
    file.write(rows_with([1], [1]), Names())
    file.close()
    return read(folder / "f.csv.stacks.csv")


def test_a_python_function_is_a_row(tmp_path: Path) -> None:
    found = written_rows(tmp_path, *stacks_of())
    assert [(row["side"], row["function"], row["frame"]) for row in found] == [
        ("user", "fill", "0"),
        ("python", "A.f.<locals>.g", "1"),
        ("python", "main", "2"),
    ]
    given = {name: value for name, value in found[1].items() if value}
    assert given == {
        **{"stack": "1", "frame": "1", "side": "python", "function": "A.f.<locals>.g"},
        **{"module": "/app/x.py", "file": "/app/x.py", "line": "7"},
    }
    assert found[0]["address"] == "0x0"


def test_the_interpreter_s_rows_are_there_if_wanted(tmp_path: Path) -> None:
    stacks, names = stacks_of()
    names.native = True
    found = written_rows(tmp_path, stacks, names)
    assert [row["side"] for row in found] == ["user", "python", "python", *["user"] * 5]
    assert [row["address"] for row in found] == ["0x0", "", "", *map(hex, range(1, 6))]


def test_notes_are_on_the_frame_that_lacks_something(tmp_path: Path) -> None:
    found = written_rows(tmp_path, *stacks_of(end=PythonEnd.LIMIT))
    assert [row["note"] for row in found][:4] == ["", "", TRUNCATED_PYTHON, ""]


def test_a_function_that_is_not_known_has_no_name(tmp_path: Path) -> None:
    found = written_rows(tmp_path, *stacks_of("f g h|", unknown=1))
    assert [row["note"] for row in found] == ["", "", NO_CODE, ""]
    assert {name: value for name, value in found[2].items() if value} == {
        **{"stack": "1", "frame": "2", "side": "python", "module": "[python]", "note": NO_CODE},
    }


def test_a_source_line_is_not_another_s(tmp_path: Path) -> None:
    """What DWARF says of native code at that offset, or of a mangled name, is nothing of it."""
    stacks, names = stacks_of("_Z1fv|")
    file = StacksFile(str(tmp_path / "f.csv"))
    file.follow(stacks, names)
    file.write(rows_with([1], [1]), Names())
    file.close()
    file.finish(SourceLines({(0, 7): ("x.c", 99)}, {"_Z1fv": "f()"}))
    found = read(tmp_path / "f.csv.stacks.csv")[1]
    assert (found["function"], found["file"], found["line"]) == ("_Z1fv", "/app/x.py", "7")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [((EVAL, *START), "A.f.g (x.py:7) ← main"), (FRAMES, "fill ← A.f.g (x.py:7) ← main")],
)
def test_the_innermost_of_pythons_has_its_line_in_the_table(
    frames: tuple[str, ...], expected: str
) -> None:
    callers = Callers(*stacks_of(frames=frames))
    callers.write(rows_with([1], [1]), Names())
    _, ((row),) = callers.table(SourceLines(), units.glyphs_for("utf-8"))
    assert row["CODE"][0] == expected
    assert callers.notes() == []


def words_of(callers: Callers, lines: SourceLines | None = None) -> list[str]:
    callers.write(rows_with([1], [1]), Names())
    ((_, _, words),) = callers.top(1, lines or SourceLines())
    return words


def test_the_innermost_has_its_line_as_well() -> None:
    """Native code that has one, and then the first of Python's; none further out."""
    stacks, names = stacks_of(frames=("ext:fill", "ext:each", EVAL, *START))
    each = {(0, location.offset): ("/app/fast.c", 10) for location in stacks.locations}
    found = words_of(Callers(stacks, names), SourceLines(each))
    assert found == ["fill (fast.c:10)", "each", "A.f.g (x.py:7)", "main"]


def test_frames_without_a_function_are_one_word() -> None:
    """Those of one module that follow each other; an extension's name without its tag."""
    frames = ("ext:", "ext:", "libc:", "ext:", "ext:", "ext:named", "ext:", EVAL, *START)
    assert words_of(Callers(*stacks_of(frames=frames))) == [
        *("fast.so+0x10", "libc.so.6+0x10", "fast.so+0x10", "named", "fast.so+0x10"),
        *("A.f.g (x.py:7)", "main"),
    ]


def test_python_functions_of_one_file_are_not_one_word() -> None:
    callers = Callers(*stacks_of("f f g|", frames=(EVAL, *START)))
    assert words_of(callers) == ["f (x.py:7)", "f", "g"]


@pytest.mark.parametrize(
    ("end", "unknown", "said"),
    [
        (PythonEnd.LIMIT, -1, "3 faults have C frames of Python in place of its own, or not all"),
        (PythonEnd.LIMIT, -1, "there are more than 127"),
        (PythonEnd.UNREADABLE, -1, "its memory could not be read"),
        (PythonEnd.SEVERAL, -1, "several interpreters, and which one is running is not known"),
        (PythonEnd.WHOLE, 0, "there was no room for it"),
    ],
)
def test_what_is_missing_of_pythons_is_noted(end: PythonEnd, unknown: int, said: str) -> None:
    callers = Callers(*stacks_of("f g|", end, unknown=unknown))
    callers.write(rows_with([1, 1, 1], [1, 1, 1]), Names())
    (note,) = (each for each in callers.notes() if "Python" in each)
    assert said in note


def functions_of(path: str) -> list[tuple[str, str]]:
    """Of the first stack, outermost first: each function and its side; no marks of what lacks."""
    stacks = load(path).callstacks
    assert stacks is not None
    functions = [location.function for location in stacks.stack(1)]
    return [(each.name, each.side) for each in functions if each.side]


def test_a_report_reads_what_was_written(tmp_path: Path) -> None:
    """The tracer's file, and functions by the names that the summary has, too."""
    path = written(tmp_path / "t.csv", rows(1))
    native = {"offset": "", "module_offset": "", "build_id": "", "address": ""}
    made = [
        frame("fill", "/app/fast.so"),
        frame("A.f.<locals>.g", "/app/x.py", side="python", file="/app/x.py", line=7, **native),
        frame("", "[python]", side="python", note=NO_CODE, **native),
    ]
    assert functions_of(add_stacks(path, [1], [made])) == [
        ("[python]", "python"),
        ("A.f.g", "python"),
        ("fill", "user"),
    ]
    broken = load(path).callstacks
    assert broken is not None
    assert broken.broken[1:] == [NO_CODE]
    beside = Path(path + ".stacks.csv")
    text = beside.read_text()
    ours = tmp_path / "ours"
    ours.mkdir()
    written_rows(ours, *stacks_of())
    beside.write_bytes((ours / "f.csv.stacks.csv").read_bytes())
    assert functions_of(path) == [("main", "python"), ("A.f.g", "python"), ("fill", "user")]
    beside.write_text(text.replace(",python,", ",perl,"))
    with pytest.raises(TraceError, match="neither kernel, user nor python"):
        load(path)
