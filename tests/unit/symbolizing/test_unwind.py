"""Call frame information: a hand-made table with known answers, the C library's, and garbage."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.opened import opener
from tracer.procfs.maps import read_maps
from tracer.symbolizing import elf
from tracer.symbolizing.rule import RBP, RSP, Rule
from tracer.symbolizing.unwind import Unwinding

HEADER, FRAMES, CODE = 0x2000, 0x2100, 0x1000  # addresses; the file has them 0x1000 lower
SHIFT = 0x1000

# As gcc makes them: CFA is rsp + 8, the return address lies below it.
CIE = struct.pack("<I", 0) + b"\x01zR\0" + b"\x01\x78\x10" + b"\x01\x1b" + b"\x0c\x07\x08\x90\x01"
USUAL = (
    b"\x41\x0e\x10\x86\x02"  # push %rbp: CFA is rsp + 16, rbp lies at CFA - 16
    b"\x43\x0d\x06"  # mov %rsp, %rbp
    b"\x0a\x5c\x0c\x07\x08\xc6"  # remember; an early leave: rbp is the caller's again
    b"\x41\x0b"  # after it: as remembered
)


def entry(body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<I", len(body)) + body


def image(*functions: tuple[int, int, bytes]) -> bytes:
    """A file from address 0x1000 on: the table, then the entries of (start, size, instructions)."""
    frames = entry(CIE)
    table = []
    for start, size, instructions in functions:
        at = FRAMES + len(frames)
        table.append((start, at))
        here = at + 8
        body = struct.pack("<IiI", at + 4 - FRAMES, start - here, size) + b"\0" + instructions
        frames += entry(body)
    header = b"\x01\x1b\x03\x3b" + struct.pack("<iI", FRAMES - HEADER - 4, len(table))
    for start, at in sorted(table):
        header += struct.pack("<ii", start - HEADER, at - HEADER)
    data = bytes(HEADER - SHIFT) + header
    return data.ljust(FRAMES - SHIFT, b"\0") + frames


def unwinding(data: bytes) -> Unwinding:
    return Unwinding(lambda at, size: data[at : at + size], HEADER - SHIFT, HEADER, 0x100)


def test_through_a_function() -> None:
    found = unwinding(image((CODE, 0x40, USUAL), (CODE + 0x80, 0x10, b"")))
    entered, pushed = Rule(RSP, 8, True), Rule(RSP, 16, False)
    framed, left = Rule(RBP, 16, False), Rule(RSP, 8, True)
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
        assert found.rule(address) is None


def test_the_outermost_says_so() -> None:
    found = unwinding(image((CODE, 0x40, b"\x07\x10")))
    rule = found.rule(CODE + 5)
    assert rule is not None
    assert rule.outermost


def test_a_cfa_reckoned_in_another_way() -> None:
    found = unwinding(image((CODE, 0x40, b"\x0f\x03\x77\x08\x06")))
    rule = found.rule(CODE)
    assert rule is not None
    assert rule.register == -1


@pytest.mark.parametrize("header", [b"", b"\x02\x1b\x03\x3b" + bytes(8), b"\x01\x1b\xff\xff"])
def test_no_table_to_search_in(header: bytes) -> None:
    with pytest.raises(ValueError):
        Unwinding(lambda at, size: header[at : at + size], 0, 0, len(header))


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
            rule = rules(offset - found[1]) if found else None
            if rule is not None and not rule.outermost:
                known += 1
                assert (rule.register, rule.offset, rule.keeps_rbp) == (RSP, 8, True), hex(offset)
    assert known > 200
    assert elf.unwinding(opener("/proc/self/maps")) is None
