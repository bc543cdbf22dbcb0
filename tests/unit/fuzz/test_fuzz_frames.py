"""Call frame information made to cost time or memory, or to lead astray.

The helper has ten seconds of processor time for a question, and may have hundreds of files.
"""

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.fuzz.mutation import EDGES, every
from tests.unit.fuzz.test_fuzz_elf import well_formed
from tests.unit.symbolizing.frames import (
    CIE,
    CODE,
    FRAMES,
    HEADER,
    SECTION,
    SHIFT,
    USUAL,
    entry,
    function,
    image,
    listed_file,
    with_frames,
)
from tracer.symbolizing import elf
from tracer.symbolizing.cfi import Cie, cie_of
from tracer.symbolizing.rule import BARE, ENTERED, NO_RULE, Cfa, CodeRule, Rule
from tracer.symbolizing.unwind import Frames, ListedTable, SortedTable, Unwinding

SECONDS = 60.0  # of processor time: a guard, no budget; without limits it is hours
ASKED = 4096  # offsets in a question (lookup.py)
HUGE = 1 << 28


@contextmanager
def soon() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


class Made:
    """A file in memory."""

    def __init__(self, data: bytes, hole: int = 0) -> None:
        self.fd = os.memfd_create("frames")
        os.write(self.fd, data)
        if hole:
            os.ftruncate(self.fd, hole)

    def open(self) -> int:
        return os.dup(self.fd)

    def rules(self) -> elf.Rules:
        found = elf.unwinding(self.open)
        assert found is not None
        return found

    def __del__(self) -> None:
        os.close(self.fd)


def listed(frames: bytes, size: int | None = None, hole: int = 0, code: int = 0x3000) -> elf.Rules:
    return Made(listed_file(frames, size, code), hole).rules()


def rule(rules: elf.Rules, offset: int) -> Rule | None:
    code = rules(offset)
    assert code is None or well_formed(code)
    return None if code is None else code.rule


def common(augmentation: bytes = b"R\x1b", rest: bytes = b"\x0c\x07\x08\x90\x01") -> bytes:
    """A CIE whose augmentation, in letters and values by turns, is another."""
    letters = b"z" + augmentation[::2] + b"\0"
    values = augmentation[1::2]
    return entry(struct.pack("<IB", 0, 1) + letters + b"\1\x78\x10" + bytes([len(values)]) + values)


# -- many of them -------------------------------------------------------------------------------


def test_millions_of_small_functions() -> None:
    """Those that are not listed may cover any address, so there is no rule where none is found."""
    cie = entry(CIE)
    small = struct.pack("<IIiI", 12, 0, 0, 0)
    many = bytearray(small * (1 << 20))
    at = len(cie)
    numbers = memoryview(many).cast("I")
    for number in range(1 << 20):
        numbers[4 * number + 1] = at + 4 + 16 * number
    del numbers
    with soon():
        rules = listed(cie + bytes(many) * 2, HUGE, HUGE + SECTION)
        codes = rules.ask(range(CODE, CODE + ASKED))
    assert rules.size() <= 16 << 20
    assert {code.rule for code in codes if code} == {NO_RULE}
    assert not any(code.bare_page for code in codes if code)


def test_a_section_of_holes() -> None:
    """Zeros are its end; what claims to be 4 GiB is skipped, not read."""
    for words in (b"", entry(CIE) + struct.pack("<Ii", 0xFFFFFF00, 4)):
        with soon():
            assert rule(listed(words, 1 << 40, 1 << 41), CODE) in (BARE, NO_RULE)


def test_entries_that_are_far_apart() -> None:
    """64 KiB are read of each, 4,000 times; the file is 16 MiB on disk."""
    made = Made(listed_file(entry(CIE), HUGE), HUGE + SECTION)
    for at in range(len(entry(CIE)), HUGE - 8, 0x10000):
        os.pwrite(made.fd, struct.pack("<Ii", 0x10000 - 4, at + 4), SECTION + at)
    with soon():
        assert rule(made.rules(), CODE) == BARE


@pytest.mark.parametrize("size", [13, 1000])
def test_each_function_has_a_cie_of_its_own(size: int) -> None:
    own = entry(CIE.ljust(size, b"\x40"))
    one = own + function(len(own), 0, 0, 0)
    with soon():
        rules = listed(one * ((24 << 20) // len(one)))
        rules.ask(range(CODE, CODE + ASKED))


def test_a_cie_that_is_none() -> None:
    """It is parsed once, not for each function."""
    bad = entry(struct.pack("<I", 0) + b"\x01zR" + b"\x01" * 900)
    many = b"".join(function(at, 0, 0, 0) for at in range(len(bad), len(bad) + 20 * 200_000, 20))
    with soon():
        assert rule(listed(bad + many), CODE) == BARE


@pytest.mark.parametrize("instructions", [b"\x0a\x0b", b"\x0e\x08", b"\x10\x06\x00", b"\x40"])
def test_long_functions_that_all_are_asked_for(instructions: bytes) -> None:
    """200 times 64 KiB of instructions: some are followed, the others have no rule."""
    frames = bytearray(entry(CIE))
    for number in range(200):
        at = SECTION + len(frames)
        long = instructions * (64_000 // len(instructions))
        frames += function(at, SECTION, CODE + 20 * number, 20, long)
    rules = listed(bytes(frames))
    with soon():
        codes = rules.ask(range(CODE, CODE + 4000))
    assert codes[0] is not None
    assert codes[0].rule != NO_RULE
    assert all(code == codes[0] for code in codes[:1200])  # most of one function's addresses: once
    assert codes[-1] == CodeRule(NO_RULE, False, False)
    (again,) = rules.ask([CODE + 3999])
    assert again == codes[0]


def table_of(*functions: tuple[int, int, bytes]) -> elf.Rules:
    """The rules of a file with a table."""
    assert len(functions) <= (FRAMES - HEADER - 12) // 8
    frames = image(*functions)
    data = bytearray(with_frames()[:0x1000] + frames)
    program = 64 + 56
    struct.pack_into("<QQ", data, program + 32, *[12 + 8 * len(functions)] * 2)
    return Made(bytes(data)).rules()


def test_states_are_remembered_to_a_depth() -> None:
    deep = table_of((CODE, 0x40, b"\x0a" * 64 + b"\x41"), (CODE + 0x40, 0x40, b"\x0a" * 65))
    assert rule(deep, CODE) == ENTERED
    late = table_of((CODE, 0x40, b"\x48" + b"\x0a" * 65))  # from there on, in whatever order
    assert [rule(late, CODE + at) for at in (7, 8, 7, 9)] == [ENTERED, NO_RULE] * 2
    assert rule(deep, CODE + 0x40) == NO_RULE
    assert rule(table_of((CODE, 0x40, b"\x0b")), CODE) == NO_RULE  # none was remembered


# -- what refers elsewhere ----------------------------------------------------------------------


@pytest.mark.parametrize("distance", [4, -4, 8, 1 << 30, -(1 << 31), (1 << 31) - 1])
def test_a_cie_that_is_elsewhere(distance: int) -> None:
    """Of itself, of the next one, outside of the file."""
    frames = bytearray(entry(CIE) + function(SECTION + 24, SECTION, CODE, 0x40))
    at = len(entry(CIE))
    struct.pack_into("<i", frames, at + 4, distance)
    assert rule(listed(bytes(frames)), CODE) == BARE
    data = bytearray(with_frames())
    struct.pack_into("<i", data, FRAMES + len(entry(CIE)) + 4, distance)
    assert rule(Made(bytes(data)).rules(), CODE) == NO_RULE


@pytest.mark.parametrize("where", [-(1 << 31), -HEADER - 1, -1, 0, 0x100000, (1 << 31) - 1])
def test_a_table_that_leads_outside(where: int) -> None:
    data = bytearray(with_frames())
    struct.pack_into("<i", data, HEADER + 12 + 4, where)
    rules = Made(bytes(data)).rules()
    assert rule(rules, CODE) == NO_RULE
    assert rule(rules, CODE + 0x80) == ENTERED


def test_a_header_that_is_outside() -> None:
    """There is nothing to search in, and no section without section headers."""
    for at in (0x100000, (1 << 63) - 1, (1 << 64) - 1):
        data = bytearray(with_frames())
        struct.pack_into("<Q", data, 64 + 56 + 8, at)
        assert rule(Made(bytes(data)).rules(), CODE) == BARE


@pytest.mark.parametrize("length", [0, 1, 3, 4, 8, 0xFFFF, 0x10000, 0xFFFFFFF0, 0xFFFFFFFF])
def test_a_length_that_is_wrong(length: int) -> None:
    data = bytearray(with_frames())
    struct.pack_into("<I", data, FRAMES + len(entry(CIE)), length)
    assert rule(Made(bytes(data)).rules(), CODE) == NO_RULE
    frames = bytearray(entry(CIE) + function(SECTION + 24, SECTION, CODE, 0x40) + bytes(4))
    struct.pack_into("<I", frames, len(entry(CIE)), length)
    assert rule(listed(bytes(frames)), CODE) in (BARE, NO_RULE)


def test_functions_that_overlap() -> None:
    """The last that begins before an address is asked, as the C library's unwinder does."""
    outer, inner = (CODE, 0x1000, b"\x0e\x20"), (CODE + 0x100, 0x10, b"\x0e\x30")
    rules = table_of(outer, inner)
    assert rule(rules, CODE) == Rule(Cfa.RSP, 0x20)
    assert rule(rules, CODE + 0x100) == Rule(Cfa.RSP, 0x30)
    assert rules(CODE + 0x200) == CodeRule(BARE, False, False)


def test_offsets_that_no_rule_can_have() -> None:
    """They made the answer one that the tracer does not accept, for all of the offsets."""
    far = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    for instructions in (b"\x0e" + far, b"\x0c\x06" + far, b"\x12\x07" + far, b"\x13" + far):
        assert rule(table_of((CODE, 0x40, instructions)), CODE) in (NO_RULE, ENTERED)
    for instructions in (b"\x86" + far, b"\x11\x06" + far, b"\x2f\x06" + far, b"\x86\x00"):
        found = rule(table_of((CODE, 0x40, instructions)), CODE)
        assert found == Rule(Cfa.RSP, 8, -1)
    for instructions in (b"\x83" + far, b"\x11\x03" + far, b"\x2f\x03" + far, b"\x83\xff\x01"):
        found = rule(table_of((CODE, 0x40, instructions)), CODE)
        assert found == Rule(Cfa.RSP, 8, 0, -1)
    expression = b"\x0f\x0d\x77" + far + b"\x06\x23\x08"
    assert rule(table_of((CODE, 0x40, expression)), CODE) in (NO_RULE, Rule(Cfa.AT_RSP, -1))
    expression = b"\x0f\x0b\x76" + far + b"\x06"
    assert rule(table_of((CODE, 0x40, expression)), CODE) in (NO_RULE, Rule(Cfa.AT_RBP, -1))


def test_addresses_of_the_last_bytes() -> None:
    """A start that is negative, or beyond 64 bits: addresses wrap."""
    for encoding, form in ((0x00, "<q"), (0x04, "<q"), (0x0C, "<q"), (0x1C, "<q"), (0x0A, "<h")):
        cie = common(bytes((ord("R"), encoding)))
        for start in (-1, -(1 << 15), (1 << 15) - 1):
            body = struct.pack("<I", len(cie) + 4) + 2 * struct.pack(form, start) + b"\0"
            rules = listed(cie + entry(body))
            assert rule(rules, CODE) in (BARE, NO_RULE, Rule(Cfa.NONE), Rule(Cfa.RSP, 8))


# -- at random ----------------------------------------------------------------------------------

INSTRUCTIONS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=3),
        st.sampled_from([b"\x0a", b"\x0b", b"\x41", b"\x0e\x10", b"\x86\x02", b"\x0c\x06\x10"]),
        st.sampled_from([b"\x83\x03", b"\xc3", b"\x0c\x03\x10", b"\x0f\x05\x77\x08\x06\x23\x08"]),
        st.tuples(st.sampled_from(b"\x0f\x10\x16\x09\x14"), st.binary(max_size=12)).map(
            lambda each: bytes([each[0], len(each[1])]) + each[1]
        ),
    ),
    max_size=20,
).map(b"".join)
FUNCTIONS = st.lists(st.tuples(st.integers(1, 0x400), INSTRUCTIONS), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(FUNCTIONS, st.integers(0, 0x200))
def test_a_table_and_a_list_agree(functions: list[tuple[int, bytes]], gap: int) -> None:
    placed = []
    start = CODE
    for size, instructions in functions:
        placed.append((start, size, instructions))
        start += size + gap
    data = image(*placed)

    def read(at: int, size: int) -> bytes:
        return data[at : at + size]

    end = SHIFT + len(data)
    frames = Frames(read, -SHIFT)
    by_table = Unwinding(frames, SortedTable(read, HEADER - SHIFT, HEADER, 12 + 8 * len(functions)))
    by_list = Unwinding(frames, ListedTable(frames, FRAMES, end - FRAMES))
    for address in {at + d for at, size, _ in placed for d in (0, 1, size // 2, size - 1, size)}:
        found = by_table.rule(address)
        assert found == by_list.rule(address)
        assert well_formed(CodeRule(found, False, False))
        page = address & ~0xFFF
        covered = any(at < page + 0x1000 and at + size > page for at, size, _ in placed)
        assert (
            by_table.covers(page, page + 0x1000) == by_list.covers(page, page + 0x1000) == covered
        )


def test_entries_at_random() -> None:
    """Whole entries, so that what follows them is found; words of theirs are at some edge."""

    def check(random: Random) -> None:
        frames = bytearray(entry(CIE))
        for _ in range(random.randrange(1, 8)):
            at = len(frames)
            kind = random.random()
            if kind < 0.6:
                start, size = random.randrange(CODE, CODE + 0x2000), random.choice(EDGES)
                cie = random.choice([0, 0, 0, at, random.randrange(at + 1)])
                frames += function(at, cie, start - SECTION, size & 0xFFFFFFFF, USUAL)
            elif kind < 0.8:
                frames += common(random.randbytes(random.randrange(6)), random.randbytes(9))
            else:
                frames += entry(random.randbytes(random.randrange(4, 40)))
            if random.random() < 0.3:
                number = random.choice(EDGES) & 0xFFFFFFFF
                struct.pack_into("<I", frames, at + 4 * random.randrange(2), number)
        with soon():
            rules = listed(bytes(frames), random.choice([None, None, *EDGES[:20]]))
            for code in rules.ask(range(CODE, CODE + 0x2000, 0x40)):
                assert code is None or well_formed(code)

    every("entries", 500, check)


@given(st.binary(max_size=40))
def test_a_cie_at_random(body: bytes) -> None:
    """It is read, or it is one of the errors that its readers expect."""
    for content in (body, bytes(4) + b"\1z" + body, bytes(4) + b"\1zR\0" + body):
        with suppress(ValueError, LookupError, struct.error):
            assert isinstance(cie_of(content), Cie)
