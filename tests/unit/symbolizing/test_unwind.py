"""Call frame information: a hand-made table with known answers, the C library's, and garbage."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.opened import opener
from tests.unit.symbolizing.frames import CODE, HEADER, SHIFT, USUAL, image
from tracer.procfs.maps import read_maps
from tracer.symbolizing import elf
from tracer.symbolizing.rule import BARE, KEPT, NO_RULE, UNKNOWN, Cfa, Rule
from tracer.symbolizing.unwind import Frames, SortedTable, Unwinding


def unwinding(data: bytes) -> Unwinding:
    def read(at: int, size: int) -> bytes:
        return data[at : at + size]

    return Unwinding(Frames(read, -SHIFT), SortedTable(read, HEADER - SHIFT, HEADER, 0x100))


def test_through_a_function() -> None:
    found = unwinding(image((CODE, 0x40, USUAL), (CODE + 0x80, 0x10, b"")))
    entered, pushed = Rule(Cfa.RSP, 8), Rule(Cfa.RSP, 16, -16)
    framed, left = Rule(Cfa.RBP, 16, -16), Rule(Cfa.RSP, 8)
    assert found.rule(CODE) == entered
    assert found.rule(CODE + 1) == pushed
    assert found.rule(CODE + 3) == pushed
    assert found.rule(CODE + 4) == framed
    assert found.rule(CODE + 0x1F) == framed
    assert found.rule(CODE + 0x20) == left
    assert found.rule(CODE + 0x21) == framed
    assert found.rule(CODE + 0x3F) == framed
    assert found.rule(CODE + 0x85) == entered


def test_between_functions_there_is_nothing() -> None:
    found = unwinding(image((CODE, 0x40, USUAL), (CODE + 0x80, 0x10, b"")))
    for address in (0, CODE - 1, CODE + 0x40, CODE + 0x7F, CODE + 0x90, 1 << 40):
        assert found.rule(address) == BARE


def test_the_outermost_says_so() -> None:
    found = unwinding(image((CODE, 0x40, b"\x07\x10")))
    assert found.rule(CODE + 5) == Rule(Cfa.OUTERMOST)


def test_a_cfa_reckoned_in_another_way() -> None:
    found = unwinding(image((CODE, 0x40, b"\x0f\x03\x77\x08\x06")))
    assert found.rule(CODE) == Rule(Cfa.NONE)


def test_where_rbx_lies() -> None:
    """In as many words below the CFA as 8 bits can say; elsewhere it is not known."""
    for instructions, rbx in (
        (b"\x83\x03", -24),
        (b"\x83\xfe\x01", -2032),
        (b"\x83\xff\x01", UNKNOWN),  # -2040
        (b"\x05\x03\x02", -16),  # offset_extended
        (b"\x11\x03\x7e", UNKNOWN),  # … _sf: +16
        (b"\x2f\x03\x02", UNKNOWN),  # GNU_negative_offset_extended: +16
        (b"\x83\x03\xc3", KEPT),  # restore
        (b"\x83\x03\x06\x03", KEPT),  # restore_extended
        (b"\x83\x03\x08\x03", KEPT),  # same_value
        (b"\x07\x03", UNKNOWN),  # undefined
        (b"\x09\x03\x00", UNKNOWN),  # in another register
        (b"\x14\x03\x02", UNKNOWN),  # it is the CFA - 16
        (b"\x10\x03\x02\x76\x00", UNKNOWN),  # where rbp points to, which is followed of rbp
        (b"\x10\x03\x05\x77\x08\x06\x23\x08", UNKNOWN),
        (b"\x0a\x83\x03\x0b", KEPT),  # remembered
        (b"\x8c\x03\x85\x02", KEPT),  # of others
    ):
        found = unwinding(image((CODE, 0x40, instructions)))
        assert found.rule(CODE) == Rule(Cfa.RSP, 8, KEPT, rbx), instructions


def test_of_both_registers() -> None:
    saved = b"\x41\x0e\x10\x86\x02\x41\x0e\x18\x83\x03"
    found = unwinding(image((CODE, 0x40, saved + b"\x43\x0d\x06")))
    assert [found.rule(CODE + at) for at in (0, 1, 2, 5)] == [
        Rule(Cfa.RSP, 8),
        Rule(Cfa.RSP, 16, -16),
        Rule(Cfa.RSP, 24, -16, -24),
        Rule(Cfa.RBP, 24, -16, -24),
    ]


def test_the_cfa_by_rbx() -> None:
    found = unwinding(image((CODE, 0x40, b"\x0c\x03\x20\x83\x04\x86\x02")))
    assert found.rule(CODE) == Rule(Cfa.RBX, 0x20, -16, -32)


def test_the_cfa_by_a_stack_pointer_on_the_stack() -> None:
    """As OpenSSL has it: breg7 N, deref, plus_uconst 8. Nothing else is."""
    usual = b"\x83\x02\x86\x03"
    for expression, expected in (
        (b"\x77\x98\x01\x06\x23\x08", Rule(Cfa.AT_RSP, 152, -24, -16)),
        (b"\x77\x78\x06\x23\x08", Rule(Cfa.AT_RSP, -8, -24, -16)),
        (b"\x77\x08\x06\x23\x10", NO_RULE),
        (b"\x77\x08\x06\x38\x22", NO_RULE),  # lit8, plus
        (b"\x77\x08\x06", NO_RULE),
        (b"\x77\x08\x06\x23\x08\x06", NO_RULE),
        (b"\x77", NO_RULE),
        (b"\x76\x08\x06\x23\x08", NO_RULE),
        (b"\x76\x08\x06", Rule(Cfa.AT_RBP, 8, -24, -16)),
        (b"", NO_RULE),
    ):
        cfa = b"\x0f" + bytes([len(expression)]) + expression
        found = unwinding(image((CODE, 0x40, usual + cfa), (CODE + 0x40, 1, cfa + b"\x90\x02")))
        assert found.rule(CODE) == expected, expression
        assert found.rule(CODE + 0x40) == NO_RULE  # the return address is not where a call puts it


@pytest.mark.parametrize("header", [b"", b"\x02\x1b\x03\x3b" + bytes(8), b"\x01\x1b\xff\xff"])
def test_no_table_to_search_in(header: bytes) -> None:
    with pytest.raises(ValueError):
        SortedTable(lambda at, size: header[at : at + size], 0, 0, len(header))


@given(st.binary(max_size=200), st.integers(0, 0x200), st.integers(0, 0x90))
def test_garbage_is_no_rule(junk: bytes, at: int, address: int) -> None:
    """Entries come from files that anyone may have written."""
    data = bytearray(image((CODE, 0x40, USUAL), (CODE + 0x80, 0x10, b"")))
    here = HEADER - SHIFT + 12 + at
    data[here : here + len(junk)] = junk
    found = unwinding(bytes(data))
    rule = found.rule(CODE + address)
    assert rule is None or isinstance(rule, Rule)


def test_the_c_library() -> None:
    (path,) = {
        mapping.path
        for mapping in read_maps(int(Path("/proc/self").readlink().name))
        if Path(mapping.path).name.startswith("libc.so")
    }
    functions, rules = elf.functions(opener(path)), elf.unwinding(opener(path))
    assert functions is not None
    assert rules is not None
    known = 0
    for segment in functions.segments:
        for offset in range(int(segment["offset"]), int(segment["offset"]) + 0x40000, 0x100):
            found = functions.at(offset)
            if found and ".cold" in found[0]:
                continue  # a part of a function, entered with its frame made
            code = rules(offset - found[1]) if found else None
            if code is not None and code.rule.cfa != Cfa.OUTERMOST:
                known += 1
                assert code.rule == Rule(Cfa.RSP, 8), hex(offset)
    assert known > 200
    assert elf.unwinding(opener("/proc/self/maps")) is None
