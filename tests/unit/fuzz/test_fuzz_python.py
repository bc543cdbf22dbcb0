"""What targets make of a Python's memory, and the helper of their files: reading it ends."""

import struct
import time
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.faults_data import LAYOUT
from tests.unit.fuzz.mutation import every, mutated
from tests.unit.learning_data import FakeRules
from tests.unit.pythons_data import MEMBERS_OF, V311, V313, code_record, python_records
from tracer.callstacks import python_code
from tracer.callstacks.python_code import Code, Codes
from tracer.callstacks.python_runtimes import PythonRuntimes
from tracer.callstacks.records import PythonEnd, python_of
from tracer.symbolizing import lookup as lookup_module
from tracer.symbolizing.runtime import NONE, Runtime, is_valid
from tracer.wire.shared import PYTHON_FRAMES, PYTHON_TEXT, pack

SECONDS = 10.0  # of processor time: a guard, no budget
HEAD = 80  # bytes
U32 = st.integers(0, (1 << 32) - 1)
SMALL = st.one_of(st.integers(0, 99), U32)
TABLES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from(b"\xff\x80\xc0\xe8\xf0\x7f\x40\0"), max_size=300).map(bytes),
)


def check(codes: Codes) -> None:
    """What is kept can be written, and is not much."""
    for code in codes._codes.values():
        for text in (code.function, code.file):
            text.encode()
            assert len(text) <= PYTHON_TEXT
    assert codes._bytes == sum(code.size for code in codes._codes.values())


@given(st.lists(st.binary(max_size=HEAD + 2 * PYTHON_TEXT + 40), max_size=5))
def test_any_bytes_are_received(records: list[bytes]) -> None:
    codes = Codes()
    for record in records:
        codes.receive(record)
    check(codes)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            *(U32, U32, SMALL, SMALL, U32),
            st.binary(max_size=2 * PYTHON_TEXT),
            TABLES,
        ),
        max_size=8,
    )
)
def test_any_code_object_is_received(pieces: list[tuple[Any, ...]]) -> None:
    codes = Codes()
    for number, *members, texts, table in pieces:
        head = struct.pack("<QQIIIII44x", 0, number, *members)
        codes.receive(head + texts.ljust(2 * PYTHON_TEXT, b"\0") + table)
    assert len(codes) <= 3
    check(codes)


def test_damaged_code_objects() -> None:
    whole = code_record(7, "A.<locals>.Ω", "/app/é.py", 3, bytes([0xD8, 2] * 20))
    tables = [[(at, 8) for at in range(0, 16, 8)], [(at, 4) for at in range(16, 36, 4)]]
    tables += [[(HEAD + at + 16, 8), (HEAD + at + 32, 4)] for at in (0, PYTHON_TEXT)]

    def one(random: Random) -> None:
        codes = Codes()
        for _ in range(3):
            codes.receive(mutated(random, whole, tables))
        check(codes)
        for code in codes._codes.values():
            assert code.line(random.randrange(-1, 99)) >= 0

    every("python code", 1000, one)


@given(TABLES, U32, st.one_of(st.integers(-2, 400), st.integers(-1 << 31, (1 << 31) - 1)))
def test_any_table_has_a_line_or_none(table: bytes, first: int, position: int) -> None:
    line = Code("f", "x.py", first, table).line(position)
    assert 0 <= line < 1 << 32


@pytest.mark.parametrize("byte", [0xFF, 0xF0, 0xE8, 0x7F, 0x40, 0])
def test_the_longest_table_takes_no_time(byte: int) -> None:
    table = b"\xf0" + bytes([byte]) * python_code._LARGEST_TABLE
    began = time.process_time()
    for at in (0, 10_000_000):
        Code("f", "x.py", 1, table).line(at)
    assert time.process_time() - began < SECONDS


WORDS = st.integers(0, (1 << 64) - 1)


@given(
    st.lists(st.lists(WORDS, min_size=15, max_size=15), min_size=1, max_size=22),
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.sampled_from(PythonEnd)),
    st.integers(0, 30),
)
def test_any_records_of_frames(
    ips: list[list[int]], head: tuple[int, int, PythonEnd], wrong: int
) -> None:
    """All of the frames that they claim, or None."""
    records = python_records(1, [(1, 0, False)] * 8 * len(ips))[: len(ips)]
    records["ips"][: len(ips)] = ips[: len(records)]
    records["user"], records["kernel"], records["caller"] = head
    if wrong < len(records):
        records["first"][wrong] += 1
    found = python_of(list(records))
    if wrong < len(records) or 2 * head[0] + head[1] > 15 * len(records):
        assert found is None
        return
    assert found is not None
    counts = {len(found.codes), len(found.positions), len(found.entries)}
    assert (counts, len(found.loops), found.end) == ({head[0]}, head[1], head[2])
    assert all(-1 << 31 <= at < 1 << 31 for at in found.positions)
    assert all(-1 <= at <= PYTHON_FRAMES * 2 + 1 for _, at in found.loops)


# -- answers of the helper, which may be in the hands of a file that it has read

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)
MEMBERS: st.SearchStrategy[list[Any]] = st.one_of(
    st.just([]),
    st.lists(st.one_of(st.integers(), st.booleans(), st.floats()), min_size=21, max_size=21),
    st.lists(st.integers(-1, 249), min_size=20, max_size=22),
    st.lists(st.integers(0, 72), min_size=21, max_size=21),
    st.just(list(MEMBERS_OF[V313])),
    st.builds(
        lambda at, value: [*MEMBERS_OF[V313][:at], value, *MEMBERS_OF[V313][at + 1 :]],
        *(st.integers(0, 20), st.one_of(st.integers(0, 300), st.integers(), st.just(NONE))),
    ),
)
NUMBERS = st.one_of(st.integers(), st.integers(0, 1 << 16), st.just(V311), JSON)


@given(st.one_of(JSON, st.lists(st.tuples(NUMBERS, NUMBERS, MEMBERS, NUMBERS).map(list))))
def test_any_answer_is_refused_or_installed(answer: Any) -> None:
    """What is believed can be given to the kernel."""
    found: list[Runtime | None] = []
    with suppress(Exception):  # the helper is ended then, whatever it is
        found = lookup_module._runtimes(answer)
    for each in found:
        if each is None or not each.members:
            assert each is None or 0 <= each.version < 1 << 16
            continue
        assert is_valid(each.members)
        runtimes = PythonRuntimes(FakeRules(), lambda _: None, lambda _: 0, lambda *_: None)
        value = runtimes._value(each, each.distance, inside=True)
        pack(LAYOUT.structs["python_runtime"], **value)
        assert 0 < value["code_bytes"] < 128  # the kernel takes it modulo that
