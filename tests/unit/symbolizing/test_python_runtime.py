"""Where a CPython's runtime is: of the one that runs this, its headers, and files made by hand."""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType

import pytest

from tests.unit.answering import lookup
from tests.unit.callstacks.test_symbols import DYNSYM, FULL, LOCAL, OBJECT, SYMTAB, Symbol, make_elf
from tests.unit.opened import opener
from tests.unit.pythons_data import (
    ADDRESS,
    DEBUG_OFFSETS,
    MEMBERS_OF,
    SYMBOLS,
    V311,
    V312,
    V313,
    V314,
    V315,
    python_elf,
)
from tracer.callstacks.python_code import Code
from tracer.procfs.maps import read_maps
from tracer.symbolizing import python_runtime
from tracer.symbolizing.lookup import no_file
from tracer.symbolizing.python_runtime import _BY_HEADERS, runtimes
from tracer.symbolizing.runtime import (
    FREE_THREADED,
    MEMBERS,
    NONE,
    NOT_KNOWN,
    OPTIONAL,
    Runtime,
    is_valid,
)

HERE = sys.hexversion >> 16
FREE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
SHIM = 3  # _frameowner: from here on it is no function
KNOWN = pytest.mark.skipif(
    FREE or not V311 <= HERE <= V314 or sys.implementation.name != "cpython",
    reason="the interpreter that runs this is none of those that are known",
)


def one(content: bytes, tmp_path: Path, offset: int = 0x1000) -> Runtime | None:
    (tmp_path / "python").write_bytes(content)
    (found,) = runtimes(opener(tmp_path / "python"), [offset])
    return found


def by_headers(version: int) -> tuple[int, ...]:
    return tuple(each for group in _BY_HEADERS[version] for each in group)


# -- the interpreter that runs this


def own_runtime() -> tuple[int, Runtime]:
    """Where the file is mapped as code, and what it says seen from there."""
    for mapping in read_maps(os.getpid()):
        if "x" in mapping.perms and mapping.name.startswith("/"):
            (found,) = runtimes(opener(mapping.name), [mapping.offset])
            if found is not None:
                return mapping.start, found
    raise AssertionError("no file that is mapped has a CPython")


@KNOWN
def test_the_running_interpreter_s_is_where_it_is() -> None:
    start, found = own_runtime()
    address = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    assert (start + found.distance) % (1 << 64) == address
    assert found.version == HERE
    assert is_valid(found.members)


def walked(found: Runtime, address: int) -> list[tuple[int, int]]:
    """The code objects of this thread's frames, and the instructions, as the kernel has them.

    No function of Python's is called while it reads: its own frame is the innermost.
    """
    at = dict(zip(MEMBERS, found.members, strict=True))
    memory, pread, unpack, size = os.open("/proc/self/mem", os.O_RDONLY), os.pread, struct.unpack, 8
    me, frames, last = threading.get_native_id(), [], 0
    (interpreter,) = unpack("<Q", pread(memory, size, address + at["interpreters"]))
    (following,) = unpack("<Q", pread(memory, size, interpreter + at["next"]))
    assert not following  # there is no other
    (state,) = unpack("<Q", pread(memory, size, interpreter + at["threads"]))
    while state and unpack("<Q", pread(memory, size, state + at["thread_id"])) != (me,):
        assert unpack("<QQ", pread(memory, 16, state + at["thread_before"]))[0] == last
        last = state
        (state,) = unpack("<Q", pread(memory, size, state + at["thread_next"]))
    assert unpack("<Q", pread(memory, size, state + at["thread_interp"])) == (interpreter,)
    (frame,) = unpack("<Q", pread(memory, size, state + at["thread_frame"]))
    entries = []
    if at["frame_within"] != NONE:
        cframe = frame
        (frame,) = unpack("<Q", pread(memory, size, cframe + at["frame_within"]))
        assert unpack("<Q", pread(memory, size, cframe + at["within_before"]))[0] > cframe
    while frame:
        (code,) = unpack("<Q", pread(memory, size, frame + at["frame_code"]))
        (ip,) = unpack("<Q", pread(memory, size, frame + at["frame_at"]))
        if pread(memory, 1, frame + at["frame_owner"])[0] < SHIM:
            code &= ~7
            frames.append((code, (ip - code - at["code_start"]) >> 1))
            if at["frame_entry"] != NONE:
                entries.append(pread(memory, 1, frame + at["frame_entry"])[0])
        (frame,) = unpack("<Q", pread(memory, size, frame + at["frame_caller"]))
    os.close(memory)
    # The outermost is C's to call; of what C code called is the one below, too.
    assert not entries or (set(entries) == {0, 1} and entries[-1] == 1)
    return frames


def of_python(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


@KNOWN
def test_the_running_interpreter_s_frames() -> None:
    """Those that Python shows, to the line: with calls from C in between."""
    start, runtime = own_runtime()
    address = (start + runtime.distance) % (1 << 64)
    frames: list[tuple[list[tuple[int, int]], list[tuple[CodeType, int]]]] = []

    def called(_: int) -> None:
        both = walked(runtime, address), list(of_python(sys._getframe()))
        frames.append(both)

    list(map(called, [1]))
    ((found, expected),) = frames
    del found[0]  # the walk's own
    assert [code for code, _ in found] == [id(code) for code, _ in expected]
    for (_, position), (code, line) in zip(found, expected, strict=True):
        mine = Code(code.co_qualname, code.co_filename, code.co_firstlineno, code.co_linetable)
        assert mine.line(position) == line


@KNOWN
def test_the_running_interpreter_s_code_objects() -> None:
    """Each member of one by what Python says of it."""
    _, runtime = own_runtime()
    at = dict(zip(MEMBERS, runtime.members, strict=True))
    code = walked.__code__
    data = ctypes.string_at(id(code), code.__sizeof__())
    words = {
        "code_file": id(code.co_filename),
        "code_name": id(code.co_qualname),
    }
    for name, value in words.items():
        assert struct.unpack_from("<Q", data, at[name]) == (value,), name
    assert struct.unpack_from("<I", data, at["code_line"]) == (code.co_firstlineno,)
    (lines,) = struct.unpack_from("<Q", data, at["code_lines"])
    table = code.co_linetable
    assert ctypes.string_at(lines, 32 + len(table))[32:] == table
    adaptive = code._co_code_adaptive  # type: ignore[attr-defined]
    assert len(data) - at["code_start"] >= len(adaptive)
    assert data[at["code_start"] :][:2] == adaptive[:2]


MEASURED = """
#define Py_BUILD_CORE 1
#include <Python.h>
#include <stddef.h>
#include <stdio.h>
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#include "internal/pycore_frame.h"
#define SHOW(type, member) printf("%zu\\n", offsetof(type, member))
int main(void)
{
	SHOW(_PyRuntimeState, interpreters.head);
	SHOW(PyInterpreterState, next);
	SHOW(PyInterpreterState, threads.head);
	SHOW(PyThreadState, prev);
	SHOW(PyThreadState, next);
	SHOW(PyThreadState, interp);
	SHOW(PyThreadState, native_thread_id);
	SHOW(PyThreadState, cframe);
	SHOW(_PyCFrame, current_frame);
	SHOW(_PyCFrame, previous);
	SHOW(_PyInterpreterFrame, f_code);
	SHOW(_PyInterpreterFrame, previous);
	SHOW(_PyInterpreterFrame, prev_instr);
	SHOW(_PyInterpreterFrame, owner);
#if PY_MINOR_VERSION == 11
	SHOW(_PyInterpreterFrame, is_entry);
#else
	puts("65535");
#endif
	SHOW(PyCodeObject, co_filename);
	SHOW(PyCodeObject, co_qualname);
	SHOW(PyCodeObject, co_linetable);
	SHOW(PyCodeObject, co_firstlineno);
#if PY_MINOR_VERSION == 11
	puts("65535");
#else
	SHOW(PyCodeObject, co_version);
#endif
	SHOW(PyCodeObject, co_code_adaptive);
	return 0;
}
"""


@pytest.mark.skipif(HERE not in _BY_HEADERS, reason="no version whose headers are needed")
def test_the_members_are_the_headers_s(tmp_path: Path) -> None:
    headers = sysconfig.get_path("include")
    compiler = shutil.which("gcc")
    if compiler is None or not Path(headers, "internal", "pycore_frame.h").exists():
        pytest.skip("no headers of this interpreter, or no gcc")
    (tmp_path / "x.c").write_text(MEASURED)
    program = tmp_path / "x"
    command = [compiler, "-w", f"-I{headers}", "-o", str(program), f"{program}.c"]
    subprocess.run(command, check=True)
    shown = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    measured = dict(zip(MEMBERS, map(int, shown.split()), strict=True))
    assert measured == dict(zip(MEMBERS, by_headers(HERE), strict=True))


@pytest.mark.parametrize("version", [V311, V312])
def test_what_is_installed_is_found(version: int) -> None:
    """Executables and libraries: their dynamic symbols are enough."""
    name = f"3.{version & 0xFF}"
    folders = ("/usr/bin/python", "/usr/lib/x86_64-linux-gnu/libpython", "/usr/lib64/libpython")
    paths = [path for folder in folders for end in ("", ".so.1.0")
             if (path := Path(folder + name + end)).exists()]  # fmt: skip
    if not paths:
        pytest.skip(f"no Python {name} is installed")
    for path in paths:
        (found,) = runtimes(opener(path), [0])
        assert found is not None
        assert (found.version, found.members, found.why) == (version, by_headers(version), 0)


# -- files made by hand


@pytest.mark.parametrize("version", [V311, V312])
def test_an_old_version_is_known_by_its_headers(version: int, tmp_path: Path) -> None:
    found = one(python_elf(version), tmp_path)
    assert found == Runtime(0, version, by_headers(version))


@pytest.mark.parametrize("version", [V313, V314])
def test_a_version_that_says_its_offsets(version: int, tmp_path: Path) -> None:
    assert one(python_elf(version), tmp_path) == Runtime(0, version, MEMBERS_OF[version])


def test_it_is_as_far_as_it_is_mapped(tmp_path: Path) -> None:
    """From each offset that is asked about; None where nothing is loaded."""
    (tmp_path / "python").write_bytes(python_elf(V312))
    found = runtimes(opener(tmp_path / "python"), [0x1000, 0x1234, 0x1FFF, 0x2000, 0, 1 << 63])
    distances = [each and each.distance for each in found]
    assert distances == [0, (1 << 64) - 0x234, (1 << 64) - 0xFFF, None, None, None]


@pytest.mark.parametrize(("version", "why"), [(V315, NOT_KNOWN), (0x03FF, NOT_KNOWN)])
def test_a_version_that_is_too_new_is_refused(version: int, why: int, tmp_path: Path) -> None:
    assert one(python_elf(version), tmp_path) == Runtime(0, version, (), why)


@pytest.mark.parametrize("version", [V313, V314])
def test_a_free_threaded_build_is_refused(version: int, tmp_path: Path) -> None:
    found = one(python_elf(version, free_threaded=1), tmp_path)
    assert found == Runtime(0, version, (), FREE_THREADED)


@pytest.mark.parametrize("version", [0, 0x0207, 0x0309, 0x030A, 0x0400, 0xFFFF])
def test_other_versions_are_no_python(version: int, tmp_path: Path) -> None:
    assert one(python_elf(version), tmp_path) is None


@pytest.mark.parametrize("version", [V313, V314])
def test_offsets_that_are_none(version: int, tmp_path: Path) -> None:
    assert one(python_elf(version, cookie=b"xdebugpx"), tmp_path) is None
    other = V313 if version == V314 else V314
    assert one(python_elf(version, debugged=other), tmp_path) is None
    unused = {V313: 288, V314: 328}  # co_name: the qualified name is read
    for at in DEBUG_OFFSETS[version].keys() - {unused[version]}:
        large = at in (40, 64, 72)  # of the runtime, and of an interpreter
        for value in (256, (1 << 24) + 1, 1 << 63, (1 << 64) - 1):
            changed = {**DEBUG_OFFSETS[version], at: value}
            found = one(python_elf(version, changed), tmp_path)
            start = {V313: 344, V314: 384}[version]  # where the code begins, nothing is read
            assert (found is not None) == (value == 256 and (large or at == start)), (at, value)
            assert found is None or is_valid(found.members)


@pytest.mark.parametrize("missing", ["_PyRuntime", "Py_Version"])
def test_a_file_without_one_of_the_symbols(missing: str, tmp_path: Path) -> None:
    left = [each for each in SYMBOLS if each[0] != missing]
    function = [each if each[0] != missing else (missing, LOCAL, *each[2:]) for each in SYMBOLS]
    longer = [(each[0] + "s" * (each[0] == missing), *each[1:]) for each in SYMBOLS]
    for symbols in (left, function, longer):
        assert one(python_elf(V312, symbols=symbols), tmp_path) is None


def test_names_that_are_the_end_of_others(tmp_path: Path) -> None:
    """Linkers keep a name once where another one ends with it; that one may come first."""
    longer = [("x_PyRuntime", OBJECT, ADDRESS + 8, 8), ("my_Py_Version", OBJECT, ADDRESS, 8)]
    found = one(python_elf(V312, symbols=[*longer, *SYMBOLS]), tmp_path)
    assert found == Runtime(0, V312, by_headers(V312))
    # One symbol's name is "xPy_Version", another's begins a byte further in the same text.
    content = bytearray(python_elf(V312, symbols=[*SYMBOLS[:2], ("xPy_Version", *SYMBOLS[2][1:])]))
    assert one(bytes(content), tmp_path) is None
    (shared,) = [at for at in range(len(content) - 24) if content[at : at + 24] == struct.pack(
        "<IBBHQQ", content.index(b"xPy_Version") - content.index(b"\0another\0"), OBJECT, 0, 1,
        *SYMBOLS[2][2:],
    )]  # fmt: skip
    content[shared] += 1
    assert one(bytes(content), tmp_path) == Runtime(0, V312, by_headers(V312))


@pytest.mark.parametrize("address", [0, 0x400FFF, 0x402000, 0x401FFD, (1 << 64) - 8])
def test_symbols_that_lead_nowhere(address: int, tmp_path: Path) -> None:
    moved = [(name, info, address, size) for name, info, _, size in SYMBOLS]
    for version in (V312, V313):
        assert one(python_elf(version, symbols=moved), tmp_path) is None
    # Of the runtime itself nothing is read where the headers say it all.
    runtime = [each if each[0] != "_PyRuntime" else moved[1] for each in SYMBOLS]
    found = one(python_elf(V312, symbols=runtime), tmp_path)
    assert found is not None
    assert found.distance == (address - ADDRESS) % (1 << 64)


def test_symbols_that_are_not_dynamic(tmp_path: Path) -> None:
    """As of a static program, relocated or not; where there are dynamic ones, these hold."""
    content = python_elf(V312)[0x1000:]
    none: list[Symbol] = []
    for tables in ([], [(DYNSYM, none)]):
        static = make_elf(*tables, (SYMTAB, SYMBOLS)).ljust(0x1000, b"\0") + content
        assert one(static, tmp_path) == Runtime(0, V312, by_headers(V312))
    dynamic = make_elf((DYNSYM, FULL), (SYMTAB, SYMBOLS)).ljust(0x1000, b"\0") + content
    assert one(dynamic, tmp_path) is None  # .symtab, which may be large, is not read
    other = [(name, info, value + 8, size) for name, info, value, size in SYMBOLS]
    both = make_elf((DYNSYM, SYMBOLS), (SYMTAB, other)).ljust(0x1000, b"\0") + content
    assert one(both, tmp_path) == Runtime(0, V312, by_headers(V312))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF", make_elf((DYNSYM, FULL)), make_elf((DYNSYM, SYMBOLS), bits=32), b"#!python"],
    ids=["empty", "cut off", "another", "32 bits", "script"],
)
def test_a_file_that_is_no_python(content: bytes, tmp_path: Path) -> None:
    assert one(content, tmp_path) is None
    assert runtimes(opener(tmp_path / "none"), [0, 1]) == [None, None]


def test_a_python_cut_off_anywhere(tmp_path: Path) -> None:
    whole = python_elf(V314)
    for size in range(0, len(whole), 97):
        assert one(whole[:size], tmp_path) in (None, Runtime(0, V314, MEMBERS_OF[V314]))


# -- as it is answered


def test_it_is_asked_of_whoever_reads_files(tmp_path: Path) -> None:
    (tmp_path / "python").write_bytes(python_elf(V314))
    known = lookup(lambda number: opener(tmp_path / "python")() if number == 1 else no_file(number))
    assert known.runtime(1, 0x1000) is None
    assert not known.settled("runtimes", 1, 0x1000)
    known.ask("runtimes", 1, [0x1000, 0x1010, 0])
    known.ask("runtimes", 2, [0])
    known.wait(5.0)
    assert known.runtime(1, 0x1000) == Runtime(0, V314, MEMBERS_OF[V314])
    assert known.runtime(1, 0x1010) == Runtime((1 << 64) - 0x10, V314, MEMBERS_OF[V314])
    assert known.runtime(1, 0) is None
    assert known.settled("runtimes", 1, 0)
    assert known.settled("runtimes", 2, 0)


VALID = list(MEMBERS_OF[V313])


def changed(**values: int) -> list[int]:
    return [values.get(name, each) for name, each in zip(MEMBERS, VALID, strict=True)]


@pytest.mark.parametrize(
    ("members", "valid"),
    [
        (VALID, True),
        (changed(**dict.fromkeys(OPTIONAL, NONE)), True),
        *[(changed(**{name: NONE}), name in OPTIONAL) for name in MEMBERS[3:]],
        ([], False),
        (VALID[:-1], False),
        ([*VALID, 0], False),
        *[(changed(**{name: -1}), False) for name in MEMBERS],
        *[(changed(**{name: 1 << 24}), True) for name in MEMBERS[:3]],
        *[(changed(**{name: (1 << 24) + 1}), False) for name in MEMBERS],
        # As far as the kernel reads them (bpf/python.h).
        *[(changed(thread_id=168), True), (changed(thread_id=169), False)],
        *[(changed(frame_at=72), True), (changed(frame_at=73), False)],
        *[(changed(frame_owner=79), True), (changed(frame_owner=80), False)],  # it has one byte
        *[(changed(frame_entry=79), True), (changed(frame_entry=80), False)],
        *[(changed(within_before=1 << 12), True), (changed(within_before=4097), False)],
        *[(changed(code_start=1 << 12), True), (changed(code_start=4097), False)],
        # Those of a code object are read at once, from the word of the first: that is 68.
        *[(changed(code_lines=64 + 112), True), (changed(code_lines=64 + 113), False)],
        *[(changed(code_line=24), True), (changed(code_line=23), False)],
    ],
)
def test_offsets_that_can_be_members(members: Sequence[int], valid: bool) -> None:
    assert is_valid(members) == valid


def test_every_version_has_every_member() -> None:
    for known in (*python_runtime._BY_HEADERS.values(), *python_runtime._BY_OFFSETS.values()):
        assert sum(map(len, known)) == len(MEMBERS)
    assert all(is_valid(by_headers(version)) for version in _BY_HEADERS)
