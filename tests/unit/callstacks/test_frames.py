"""Frames by name, from the file to the row of FILE.stacks.csv."""

import csv
import os
import shutil
import subprocess
from array import array
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.answering import Here, lookup
from tests.unit.opened import opener
from tracer.callstacks import frames as frames_module
from tracer.callstacks.frames import (
    NO_FRAME_POINTERS,
    TRUNCATED,
    Frame,
    FrameNames,
    opening_vdso,
)
from tracer.callstacks.locations import VDSO, Location
from tracer.callstacks.source_lines import SourceLines, find
from tracer.callstacks.stacks import Stack, Stacks
from tracer.callstacks.symbols import Symbols
from tracer.callstacks.unwinding import End
from tracer.common import units
from tracer.common.deadline import Enough
from tracer.model.rows import ROW, Names, Rows
from tracer.outputs import stacks as stacks_output
from tracer.outputs.callers import Callers
from tracer.outputs.stacks import STACK_COLUMNS, StacksFile
from tracer.spaces.spaces import Spaces
from tracer.symbolizing import elf
from tracer.symbolizing.lookup import no_file
from tracer.symbolizing.perf_maps import PerfMaps
from tracer.symbolizing.rule import Cfa, CodeRule, Rule

KERNEL = 0xFFFFFFFF81000000
SOURCE = """\
namespace app {
struct Filler {
  __attribute__((noinline)) int fill(int n) {
    return n * 3;
  }
};
}
int main(int argc, char **) { return app::Filler().fill(argc); }
"""


def kallsyms() -> tuple[list[int], list[str]]:
    return [KERNEL, KERNEL + 0x100], ["vfs_read", "ext4_read [ext4]"]


def names_of(program: Path | None = None) -> FrameNames:
    """`program` is file 1."""

    def open_file(number: int) -> int:
        if program is None or number != 1:
            raise FileNotFoundError(number)
        return opener(program)()

    asked = Here()
    symbols = Symbols([], lookup(opening_vdso(open_file), asked=asked), kallsyms)
    return FrameNames(symbols, PerfMaps(asked))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C++ program with debug information."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("program")
    (folder / "app.cc").write_text(SOURCE)
    command = [compiler, "-g", "-O1", "-o", str(folder / "app"), str(folder / "app.cc")]
    subprocess.run(command, check=True, cwd=folder)
    return folder / "app"


def offset_of(program: Path, part: str) -> int:
    """Where a function whose symbol holds `part` begins in the file."""
    found = elf.functions(opener(program))
    assert found is not None
    (symbol,) = (s for s in found.symbols if part in found._name(int(s["name"])))
    (segment,) = (
        s for s in found.segments if s["vaddr"] <= symbol["value"] < s["vaddr"] + s["memsz"]
    )
    return int(symbol["value"]) - int(segment["vaddr"]) + int(segment["offset"])


def test_the_kernel_s() -> None:
    names = names_of()
    assert names.frame(Location(True, "", KERNEL + 0x10)) == Frame(
        True, "vfs_read", 0x10, "[kernel]", None
    )
    # A return address at a function's very end belongs to the one before.
    assert names.frame(Location(True, "", KERNEL + 0x100, returns=True)).function == "vfs_read"
    assert names.frame(Location(True, "", KERNEL + 0x104)).module == "[ext4]"


def test_of_a_file(program: Path) -> None:
    at = offset_of(program, "fill")
    frame = names_of(program).frame(Location(False, str(program), at + 3, file=1))
    assert frame.function == "_ZN3app6Filler4fillEi"
    assert (frame.offset, frame.module, frame.module_offset) == (3, str(program), at + 3)
    assert len(frame.build_id) == 40
    nowhere = names_of(program).frame(Location(False, str(program), 1 << 40, file=1))
    assert (nowhere.function, nowhere.text()) == ("", "app+0x10000000000")


def test_a_file_that_is_open_for_its_rules_is_named_when_it_is_gone(program: Path) -> None:
    there = [True]

    def open_file(number: int) -> int:
        return opener(program)() if there[0] else no_file(number)

    found = lookup(open_file)
    at = offset_of(program, "fill")
    assert found.rule(1, at) is not None
    there[0] = False
    assert found.function(1, at) == ("_ZN3app6Filler4fillEi", 0)
    assert len(found.build_id(1)) == 40
    assert found.function(2, at) is None


def test_of_what_is_not_known() -> None:
    names = names_of()
    assert names.frame(Location(False, "", 0x1234, tgid=1)).text() == "(unknown)"
    assert names.frame(Location(False, "/no/such/file", 0x10)).text() == "file+0x10"
    assert names.frame(Location(False, "/bin/sh (deleted)", 0x10)).build_id == ""


def test_of_code_made_at_run_time() -> None:
    """By the perf map, also where that lists it only later."""
    names = names_of()
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    in_file = Location(False, "/memfd:x (deleted)", 0x10, os.getpid(), True, address=0x1005)
    anonymous = Location(False, "[anon]", 0x1008, os.getpid(), address=0x1008)
    assert names.frame(in_file).text() == "memfd:x (deleted)+0x10"
    assert names.frame(anonymous).text() == "[anon]"
    path.write_text("1000 10 JS:*f /app/w.js:2:7\n")
    try:
        names.versions.again(last=True)
        assert not names.settled(in_file)
        assert names.frame(in_file) == Frame(False, "f", 5, "[jit]", None, file="/app/w.js", line=2)
        assert names.frame(anonymous).offset == 8
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("_Z4stepPci", "step"),
        ("_ZN3app6Filler4fillEi", "app::Filler::fill"),
        ("_ZNK3app4sizeEv", "app::size"),
        ("_ZN3app4fillIiEEvT_", "_ZN3app4fillIiEEvT_"),
        ("_ZNSt6vectorIiE4dataEv", "_ZNSt6vectorIiE4dataEv"),
        ("_ZN99999999999E", "_ZN99999999999E"),
        ("_Z3ab", "_Z3ab"),
        ("_Zoops", "_Zoops"),
        ("main", "main"),
    ],
)
def test_plain_names(name: str, plain: str) -> None:
    assert Frame(False, name, 0, "/bin/x", 0).text() == plain


@given(st.text("_ZNKE0123456789ab", max_size=30))
def test_any_name_has_a_text(name: str) -> None:
    assert Frame(False, "_Z" + name, 0, "/bin/x", 0).text()


def test_our_vdso_has_names() -> None:
    functions = elf.functions(partial(opening_vdso(no_file), VDSO))
    assert functions is not None
    at = int(functions.symbols["value"][0])
    assert names_of().frame(Location(False, "[vdso]", at)).function


def test_notes(program: Path) -> None:
    names = names_of(program)
    locations = [
        Location(False, str(program), offset_of(program, "fill"), file=1),
        Location(False, str(program), offset_of(program, "_start") + 1, file=1),
        Location(True, "", KERNEL),
    ]

    def note(
        *frames: int, gap: int = -1, ended: bool = False, truncated: bool = False
    ) -> tuple[str, int]:
        return names.note(
            locations, Stack(array("I", frames), array("Q", frames), truncated, gap, ended)
        )

    assert note(0, 1) == ("", -1)
    assert note(0) == (NO_FRAME_POINTERS, 0)
    assert note(0, ended=True) == ("", -1)
    assert note(0, 1, gap=0) == (NO_FRAME_POINTERS, 0)
    assert note(0, 1, gap=1) == ("", -1)
    assert note(2) == ("", -1)
    assert note(0, 0, truncated=True) == (TRUNCATED, 1)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (End.NO_COPY, frames_module.COPY_DROPPED),
        (End.NO_RULE, frames_module.COPY_DROPPED),
        (End.SHORT_COPY, frames_module.COPY_TOO_SHORT),
        (End.REPLACED, frames_module.REPLACED),
        (End.UNREADABLE, frames_module.UNREADABLE),
        (End.NO_CALLER, frames_module.NO_RETURN_ADDRESS),
        (End.NO_FRAME, ""),  # a frame pointer of 0 marks the outermost frame
    ],
)
def test_notes_of_walks_by_rules(program: Path, end: End, said: str) -> None:
    names = names_of(program)
    location = Location(False, str(program), offset_of(program, "fill"), file=1)
    names.ask_rules([location])

    def note(*, truncated: bool = False, ended: bool = False) -> tuple[str, int]:
        made = Stack(array("I", [0, 0]), array("Q", [0, 0]), truncated, -1, ended, end)
        return names.note([location], made)

    assert note() == (said, 1 if said else -1)
    assert note(ended=True) == ("", -1)
    assert note(truncated=True) == (TRUNCATED, 1)


def test_notes_where_there_are_no_rules(program: Path) -> None:
    """Of code that a JIT compiler made, and of what is no ELF file: frame pointers were wrong."""
    names = names_of(program)
    compiled = Location(False, "[anon]", 0x1000, os.getpid(), address=0x1000)
    unknown = Location(False, "/no/such/file", 0x1000)
    for location in (compiled, unknown):
        stack = Stack(array("I", [0]), array("Q", [0]), False, -1, end=End.NO_CALLER)
        assert names.note([location], stack) == (NO_FRAME_POINTERS, 0)


def test_source_lines_and_plain_names(program: Path) -> None:
    location = Location(False, str(program), offset_of(program, "fill"), file=1)
    name = "_ZN3app6Filler4fillEi"
    lines = find([location], [name, "_Znonsense", "main"], lookup(lambda _: opener(program)()))
    frame = lines.complete(names_of(program).frame(location), location)
    assert frame.function == "app::Filler::fill(int)"
    pytest.importorskip("symbolic")
    assert frame.file.endswith("app.cc")
    assert frame.line in (3, 4)


def test_what_cannot_be_asked_leaves_less() -> None:
    location = Location(False, "/etc/passwd", 0, file=1)  # no ELF file
    assert not find([location], [], lookup(lambda _: opener("/etc/passwd")()))
    gone = find([location], [], lookup())
    assert not gone
    assert "1 of 1 files could not be read" in gone.lacking


# -- FILE.stacks.csv and the summary ---------------------------------------------------------


def stacks_with(*names: str) -> tuple[Stacks, FrameNames]:
    """One stack, of code made at run time whose functions have these names."""
    found = names_of()
    stacks = Stacks(Spaces(Names()), [], found.kernel_names)
    for at, name in enumerate(names):
        location = Location(False, "[anon]", at, tgid=1)
        stacks.locations.append(location)
        found._known[location] = Frame(False, name, 4, "[jit]", None)
    stacks.stacks.append(
        Stack(array("I", range(len(names))), array("Q", range(len(names))), False, -1, ended=True)
    )
    return stacks, found


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_come_before_what_refers_to_them(tmp_path: Path) -> None:
    file = StacksFile(str(tmp_path / "f.csv"))
    stacks, names = stacks_with("inner", "outer")
    file.follow(stacks, names)
    file.write(Rows.from_records(np.zeros(1, ROW)), Names())
    path = tmp_path / "f.csv.stacks.csv"
    assert tuple(read(path)[0]) == STACK_COLUMNS
    assert [(row["stack"], row["frame"], row["function"]) for row in read(path)] == [
        ("1", "0", "inner"),
        ("1", "1", "outer"),
    ]
    file.write(Rows.from_records(np.zeros(1, ROW)), Names())
    assert len(read(path)) == 2
    file.close()
    demangled = SourceLines(names={"inner": "std::inner<int>(char)"})
    with pytest.raises(Enough):
        file.finish(demangled, lambda: True)
    assert [row["function"] for row in read(path)] == ["inner", "outer"]
    file.finish(demangled)
    assert [row["function"] for row in read(path)] == ["std::inner<int>(char)", "outer"]


def test_other_work_is_done_between_a_few_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel waits for unwind rules meanwhile."""
    monkeypatch.setattr(stacks_output, "_AT_ONCE", 2)
    file = StacksFile(str(tmp_path / "f.csv"))
    stacks, names = stacks_with("inner")
    stacks.stacks += stacks.stacks[1:] * 4
    sizes = []
    path = tmp_path / "f.csv.stacks.csv"
    file.follow(stacks, names, lambda: sizes.append(len(read(path))))
    file.write(Rows.from_records(np.zeros(1, ROW)), Names())
    assert sizes == [0, 2, 4]
    assert len(read(path)) == 5
    file.close()


def test_what_was_there_stays_until_the_first_batch(tmp_path: Path) -> None:
    path = tmp_path / "f.csv.stacks.csv"
    path.write_text("old")
    file = StacksFile(str(tmp_path / "f.csv"), force=True)
    file.follow(*stacks_with("inner"))
    assert path.read_text() == "old"
    file.close()
    assert path.read_text() == ",".join(STACK_COLUMNS) + "\n"


@given(st.text(min_size=1, max_size=30))
def test_names_are_cells(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("names")
    file = StacksFile(str(folder / "f.csv"))
    stacks, names = stacks_with(name)
    file.follow(stacks, names)
    file.write(Rows.from_records(np.zeros(1, ROW)), Names())
    file.close()
    (row,) = read(folder / "f.csv.stacks.csv")
    assert None not in row
    assert all(value.isprintable() for value in row.values())
    assert not row["function"].lstrip().startswith(("=", "+", "-", "@"))


def rows_with(stack: list[int], pages: list[int]) -> Rows:
    records = np.zeros(len(stack), ROW)
    records["stack"], records["pages"] = stack, pages
    return Rows.from_records(records)


def test_which_code_brought_most() -> None:
    stacks, names = stacks_with("inner", "outer")
    stacks.stacks.append(Stack(array("I", [1]), array("Q", [0]), False, 0))
    callers = Callers(stacks, names)
    callers.write(rows_with([1, 1, 0, 2], [1, 1, 5, 512]), Names())
    columns, rows = callers.table(SourceLines(), units.glyphs_for("utf-8"))
    assert [column.name for column in columns] == ["GROSS", "FAULTS", "CODE"]
    assert [(row["GROSS"][0], row["FAULTS"][0], row["CODE"][0]) for row in rows] == [
        ("2 MiB", "1", "outer"),
        ("8 KiB", "2", "inner ← outer"),
    ]
    notes = callers.notes()
    assert any("1 faults have no stack" in note for note in notes)
    assert any("[jit]" in note and "99%" in note for note in notes)
    assert callers.table(SourceLines(), units.glyphs_for("ascii"))[1][1]["CODE"][0] == (
        "inner <- outer"
    )


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (End.NOT_WALKED, "(libx.so); build it with -fno-omit-frame-pointer"),
        (End.NO_FRAME, "and without frame pointers (libx.so); have its runtime keep frame"),
        (End.NO_COPY, "in code whose unwind rules came too late (libx.so); of a copy"),
        (End.NO_RULE, "in code whose unwind rules came too late (libx.so); of a copy"),
        (End.SHORT_COPY, "in code whose unwind rules came too late (libx.so); of a copy"),
        (End.NO_CALLER, "in code whose unwind information leads to no caller (libx.so)"),
        (End.UNREADABLE, "in code whose unwind information leads to no caller (libx.so)"),
        (End.REPLACED, "in code that replaced other code at the same addresses (libx.so)"),
        (End.LIMIT, "1 are truncated, with more than 127 frames"),
    ],
)
def test_what_is_missing_is_noted_with_its_share(
    end: End, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks, names = stacks_with("inner", "outer")
    location = Location(False, "/lib/libx.so", 8, tgid=1 if end == End.NO_FRAME else 0)
    stacks.locations.append(location)
    names._known[location] = Frame(False, "f", 4, "/lib/libx.so", 8)
    monkeypatch.setattr(names, "code", lambda _: CodeRule(Rule(Cfa.RSP, 8), True, False))
    frames = array("I", [2])
    stack = Stack(frames, array("Q", [8]), end == End.LIMIT, -1, end=end)
    stacks.stacks.append(stack)
    callers = Callers(stacks, names)
    callers.write(rows_with([1, 2], [999, 1]), Names())
    (note,) = callers.notes()
    assert said in note
    assert ("less than 1% of the memory" in note) == (end != End.LIMIT)


def test_no_fault_no_table() -> None:
    callers = Callers(*stacks_with("inner"))
    callers.write(rows_with([], []), Names())
    assert callers.table(SourceLines(), units.glyphs_for("utf-8")) == ([], [])
    assert callers.notes() == []
