"""Code objects of CPython: texts and lines, compared with the running interpreter's own."""

import ctypes
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import CodeType

import numpy as np
import pytest

from tests.unit.copies_data import copied
from tests.unit.faults_data import LAYOUT
from tests.unit.pythons_data import V311, V312, V313, V314, code_record, str_object
from tracer.callstacks import python_code
from tracer.callstacks.python_code import _CODE, Code, Codes, _text, is_code
from tracer.wire.shared import PYTHON_TEXT

MODULES = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[::4]
HERE = sys.hexversion >> 16
TEXTS = ["", "plain", "Größe", "Ω≤x", "naïve.Ω", "𝒳.y", "\ud800x", "é" * 30]


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A code object and all that it makes functions of."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from codes_in(each)


def read(code: CodeType) -> Code:
    return Code(code.co_qualname, code.co_filename, code.co_firstlineno, code.co_linetable)


def test_the_head_of_a_code_object_is_the_kernel_s() -> None:
    layout = LAYOUT.structs["python_code"]
    assert _CODE.size == layout.itemsize
    made = np.zeros(1, layout)
    names = ("no_stack", "number", "version", "first_line", "lines", "offset", "size")
    for number, name in enumerate(names):
        made[name] = number
    assert _CODE.unpack(made.tobytes()) == tuple(range(7))


# -- lines


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_lines_are_those_that_python_has(module: Path) -> None:
    """Of some instructions of each function, and the first and the last."""
    random = Random(module.stem)
    for code in codes_in(compile(module.read_bytes(), str(module), "exec", dont_inherit=True)):
        mine = read(code)
        lines = [line or 0 for line, *_ in code.co_positions()]
        for at in {0, len(lines) - 1, *random.choices(range(len(lines)), k=12)}:
            assert mine.line(at) == lines[at], (code.co_qualname, at)
        assert mine.line(len(lines)) == 0
        assert mine.line(-1) == code.co_firstlineno


SOURCE = """
def f(
    a,
    b=[each
       for each in (1, 2)],
):
    try:
        return [
            a
            for a in (
                b
            )
        ]
    finally:
        lambda: (
            a,

            b)


class A:
    def method(self): return 1


async def g(x):
    async with x as y:
        yield y
"""


@pytest.mark.parametrize("far", [0, 40, 2000, 100_000])
def test_every_instruction_s_line(far: int) -> None:
    """Lines that are far apart, and that go back."""
    module = compile("\n" * far + SOURCE + "\n" * far + SOURCE, "x", "exec")
    for code in codes_in(module):
        mine = read(code)
        for at, (line, *_) in enumerate(code.co_positions()):
            assert mine.line(at) == (line or 0)
        of_bytes = [line for start, end, line in code.co_lines() for _ in range(start, end, 2)]
        assert [mine.line(at) for at in range(len(of_bytes))] == [each or 0 for each in of_bytes]


def test_lines_of_instructions_without_one() -> None:
    # Kind 15: no line; 13: no columns, 3 lines further; 11: one line further, with two columns.
    table = bytes([0x80 | 15 << 3, 0x80 | 13 << 3 | 1, 6, 0x80 | 11 << 3, 4, 9])
    code = Code("f", "x.py", 10, table)
    assert [code.line(at) for at in range(-1, 6)] == [10, 0, 13, 13, 14, 0, 0]


@pytest.mark.parametrize("first", [0, (1 << 32) - 1])
def test_a_line_that_no_file_has(first: int) -> None:
    assert Code("f", "x.py", first, bytes([0x80 | 10 << 3])).line(0) == 0
    back = bytes([0x80 | 13 << 3, 0x40 | 63, 63])  # a number whose sign is its lowest bit
    assert Code("f", "x.py", 5, back).line(0) == 0


# -- texts


@pytest.mark.parametrize("version", [V311, V312, V313, V314])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_by_its_layout(text: str, version: int) -> None:
    made = str_object(text, version)[:PYTHON_TEXT].ljust(PYTHON_TEXT, b"\0")
    found = _text(made, version)
    assert found == text.replace("\ud800", "\ufffd")
    found.encode()
    assert _text(str_object(text, version, compact=False).ljust(PYTHON_TEXT), version) == ""


@pytest.mark.parametrize("text", [*TEXTS, "x" * 600, "ü" * 600, "Ω" * 300, "𝒳" * 200])
def test_a_text_as_it_lies_in_memory(text: str) -> None:
    """Of the interpreter that runs this."""
    own = text[:1] + text[1:]
    data = ctypes.string_at(id(own), sys.getsizeof(own))[:PYTHON_TEXT].ljust(PYTHON_TEXT, b"\0")
    found = _text(data, HERE)
    assert found == own.replace("\ud800", "\ufffd") or (len(own) >= 200 and found[-1] == "…")
    assert own.replace("\ud800", "\ufffd").startswith(found.rstrip("…"))
    made = str_object(own, HERE)[:PYTHON_TEXT].ljust(PYTHON_TEXT, b"\0")
    assert _text(made, HERE) == found


@pytest.mark.parametrize(
    ("letter", "version", "room"),
    [
        *[("x", V311, 464), ("x", V312, 472), ("x", V314, 472)],
        *[("é", V311, 440), ("é", V312, 456), ("Ω", V311, 220), ("Ω", V314, 228)],
        *[("𝒳", V311, 110), ("𝒳", V313, 114)],
    ],
)
def test_a_text_that_is_too_long_is_cut(letter: str, version: int, room: int) -> None:
    whole, longer = (
        _text(str_object(letter * size, version)[:PYTHON_TEXT].ljust(PYTHON_TEXT), version)
        for size in (room, room + 1)
    )
    assert whole == letter * room
    assert longer == letter * room + "…"


@pytest.mark.parametrize("kind", [0, 3, 5, 6, 7])
def test_a_text_of_no_known_kind(kind: int) -> None:
    made = bytearray(str_object("text").ljust(PYTHON_TEXT, b"\0"))
    made[32] = made[32] & ~0x1C | kind << 2
    assert _text(bytes(made), V311) == ""
    assert _text(bytes(PYTHON_TEXT), V311) == ""


# -- records


def test_what_a_record_has() -> None:
    codes = Codes()
    record = code_record(7, "A.f.<locals>.g", "/app/ü.py", 30, b"\xd8\x00")
    assert is_code(record)
    assert not is_code(copied(7, 0x401000, [1]))
    codes.receive(record)
    assert codes.get(7) == Code("A.f.<locals>.g", "/app/ü.py", 30, b"\xd8\x00")
    assert codes.get(8) is None
    codes.receive(code_record(7, "other", first_line=4, version=V313))  # it was sent again
    assert codes.get(7) == Code("other", "/app/module.py", 4, b"")
    assert len(codes) == 1


def test_a_table_in_parts() -> None:
    codes = Codes()
    for at in (0, 10, 20):
        codes.receive(code_record(7, table=b"%010d" % at, lines=25, offset=at))
    found = codes.get(7)
    assert found is not None
    assert found.table[:25] == b"000000000000000000100000000020"[:25]
    # A code object that comes again has its table again.
    codes.receive(code_record(7, table=b"0" * 10, lines=25))
    assert codes.get(7) == found._replace(table=b"0" * 10)


def test_a_part_whose_predecessor_was_lost_is_of_no_use() -> None:
    codes = Codes()
    codes.receive(code_record(7, table=b"b" * 10, lines=30, offset=10))
    assert codes.get(7) is None
    codes.receive(code_record(7, table=b"a" * 10, lines=30))
    codes.receive(code_record(7, table=b"c" * 10, lines=30, offset=20))
    codes.receive(code_record(7, table=b"b" * 10, lines=30, offset=10))
    codes.receive(code_record(7, table=b"b" * 10, lines=30, offset=10))
    found = codes.get(7)
    assert found is not None
    assert found.table == b"a" * 10 + b"b" * 10


@pytest.mark.parametrize("size", [0, 8, 79, 80, 81, 80 + 2 * PYTHON_TEXT - 1])
def test_a_record_that_is_cut_off(size: int) -> None:
    codes = Codes()
    codes.receive(code_record(7, table=b"abc")[:size])
    assert len(codes) == 0


def test_a_table_that_could_not_be_read() -> None:
    """Nothing of it came: function and file are known."""
    codes = Codes()
    codes.receive(code_record(7, "f", lines=1000))
    assert codes.get(7) == Code("f", "/app/module.py", 1, b"")


@pytest.mark.parametrize(
    ("code", "made"),
    [
        (Code("__init__", "__init__", 0, b""), True),
        (Code("__init__", "__init__", 1, b""), False),
        (Code("A.__init__", "__init__", 0, b""), False),
        (Code("__init__", "/app/__init__.py", 0, b""), False),
        (Code("", "", 0, b""), False),
    ],
)
def test_the_interpreter_s_own_code(code: Code, made: bool) -> None:
    assert code.is_made == made


# -- in bounds


def test_so_many_codes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten first."""
    monkeypatch.setattr(python_code, "_MOST_CODES", 3)
    codes = Codes()
    for number in (1, 2, 3, 1, 4):
        codes.receive(code_record(number, f"f{number}"))
    assert [number for number in range(1, 6) if codes.get(number)] == [1, 3, 4]


def test_what_is_used_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not send it again: it keeps what was looked up last, too."""
    monkeypatch.setattr(python_code, "_MOST_CODES", 3)
    codes = Codes()
    for number in range(1, 10):
        codes.receive(code_record(number, f"f{number}"))
        assert codes.get(1) is not None
    assert [number for number in range(1, 10) if codes.get(number)] == [1, 8, 9]


def test_so_many_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tables, and of texts: a function's name, and its file's."""
    one = len("Class.method") + len("/app/module.py") + 30
    monkeypatch.setattr(python_code, "_MOST_BYTES", 4 * one - 1)
    codes = Codes()
    for number in range(1, 30):
        codes.receive(code_record(number, table=bytes(30)))
        codes.receive(code_record(number, table=bytes(30)))
        assert codes._bytes == one * len(codes) < 4 * one
    assert len(codes) == 3
    codes.receive(code_record(98, "f" * 3 * one))
    assert [number for number in range(100) if codes.get(number)] == [98]
    codes.receive(code_record(99, table=bytes(4 * one)))
    assert (len(codes), codes._bytes) == (0, 0)


def test_a_table_has_no_more_than_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_code, "_LARGEST_TABLE", 100)
    codes = Codes()
    for at in range(0, 1000, 40):
        codes.receive(code_record(7, table=bytes(40), lines=1000, offset=at))
    found = codes.get(7)
    assert found is not None
    assert len(found.table) == 120
