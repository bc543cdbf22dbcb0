"""What a file says of its code, by offset: the rule, whether a call ends there, bare pages."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readelf_rows import compare
from tests.unit.answering import lookup
from tests.unit.opened import opener
from tests.unit.symbolizing.frames import (
    CIE,
    CODE,
    ENDBR64,
    FINI,
    INIT,
    SECTION,
    entry,
    function,
    listed_file,
    with_dynamic,
)
from tracer.symbolizing import elf
from tracer.symbolizing import lookup as lookup_module
from tracer.symbolizing.calls import ends_in_call
from tracer.symbolizing.messages import BadMessage
from tracer.symbolizing.rule import BARE, ENTERED, NO_RULE, Cfa, CodeRule, Rule

PAGE = 4096
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
# Every form of a call, by the bytes that as makes of it.
CALLS = {
    "call rel32": "e8 00 01 02 03",
    "call *%rax": "ff d0",
    "call *%r11": "41 ff d3",
    "call *(%rax)": "ff 10",
    "call *8(%rax)": "ff 50 08",
    "call *(%rsp)": "ff 14 24",
    "call *8(%rsp)": "ff 54 24 08",
    "call *(%rax,%rbx,8)": "ff 14 d8",
    "call *8(%r12,%rax,8)": "41 ff 54 c4 08",
    "call *0x1234(%rax)": "ff 90 34 12 00 00",
    "call *0x1234(%rip)": "ff 15 34 12 00 00",
    "call *0x1234(%rsp)": "ff 94 24 34 12 00 00",
    "call *0x1234(,%rax,8)": "ff 14 c5 34 12 00 00",
    "notrack call *%rax": "3e ff d0",
    "addr32 call rel32": "67 e8 00 01 02 03",
}
OTHERS = {
    "jmp *%rax": "ff e0",
    "jmp *8(%rax)": "ff 60 08",
    "push (%rax)": "ff 30",
    "push 8(%rsp)": "ff 74 24 08",
    "jmp rel32": "e9 00 01 02 03",
    "ret": "c3",
    "ff d0 and another": "ff d0 90",
    "without the displacement": "ff 50",
    "without the index": "ff 14",
}


def test_what_ends_in_a_call() -> None:
    for before in (b"", b"\x90", bytes(8)):
        for name, text in CALLS.items():
            assert ends_in_call(before + bytes.fromhex(text)), name
        for name, text in OTHERS.items():
            assert not ends_in_call(before + bytes.fromhex(text)), name
    assert not ends_in_call(b"")
    assert not ends_in_call(b"\xff")


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_every_call_of_the_loader() -> None:
    """As objdump decodes it; of the other instructions few look like calls."""
    rules = elf.unwinding(opener(LOADER))
    assert rules is not None
    lines = subprocess.run(
        ["objdump", "-d", "-w", str(LOADER)], capture_output=True, text=True, timeout=60
    ).stdout.splitlines()
    calls = others = alike = 0
    for line in lines:
        if not (found := re.match(r" +([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t?(.*)", line)):
            continue
        last = int(found[1], 16) + len(found[2].split()) - 1
        code = rules(last)  # the loader's code is in the file where it is in memory
        assert code is not None
        if re.search(r"\bcall\b", found[3]):
            calls += 1
            assert code.after_call, line
        else:
            others += 1
            alike += code.after_call
    assert calls > 1000
    assert alike * 200 < others


def test_a_call_at_the_first_byte_of_a_segment() -> None:
    """What is before it in the file is not before it in memory."""
    data = bytearray(listed_file(b"", code=0x100))
    data[CODE - 4 : CODE + 2] = b"\xe8\1\2\3\4\x90"
    data[CODE + 8 : CODE + 10] = b"\xff\xd0"
    rules = rules_of(data)
    assert [rules.ask([at]) for at in (CODE - 1, CODE + 0x100)] == [[None], [None]]
    bare, after_call = CodeRule(BARE, False, True), CodeRule(BARE, True, True)
    assert rules.ask([CODE, CODE + 9, CODE + 8, CODE + 9]) == [bare, after_call, bare, after_call]


def test_a_nop_is_as_good_as_a_call_where_there_is_no_unwind_information() -> None:
    """Go's goroutines return to behind the one that goexit begins with; nothing has called that."""
    frames = entry(CIE)
    frames += function(SECTION + len(frames), SECTION, CODE + 16, 16)
    data = bytearray(listed_file(frames))
    data[CODE : CODE + 32] = bytes(32)
    data[CODE + 8] = data[CODE + 20] = 0x90
    rules = rules_of(data)
    assert rules(CODE + 8) == CodeRule(BARE, True, False)
    assert [rules(CODE + at) for at in (7, 9)] == [CodeRule(BARE, False, False)] * 2
    covered = rules(CODE + 20)
    assert covered is not None
    assert not covered.after_call


def rules_of(data: bytes | bytearray) -> elf.Rules:
    fd = os.memfd_create("code")
    os.write(fd, data)
    rules = elf.unwinding(lambda: os.dup(fd))
    os.close(fd)
    assert rules is not None
    return rules


def with_functions(*functions: tuple[int, int]) -> elf.Rules:
    frames = entry(CIE)
    for start, size in functions:
        frames += function(SECTION + len(frames), SECTION, start, size)
    return rules_of(listed_file(frames))


def test_bare_pages() -> None:
    """Of three: one has a function's last byte, one is bare, one has the first of another."""
    rules = with_functions((CODE + 16, PAGE - 15), (CODE + 3 * PAGE - 1, 1))
    covered, bare = CodeRule(BARE, False, False), CodeRule(BARE, False, True)
    assert rules(CODE) == covered
    assert rules(CODE + 16) == CodeRule(ENTERED, False, False)
    assert rules(CODE + PAGE) == CodeRule(ENTERED, False, False)
    assert rules(CODE + PAGE + 1) == covered
    assert rules(CODE + 2 * PAGE - 1) == covered
    assert rules(CODE + 2 * PAGE) == covered
    assert rules(CODE + 3 * PAGE - 1) == CodeRule(ENTERED, False, False)
    assert rules(CODE + 3 * PAGE) is None
    rules = with_functions((CODE, PAGE), (CODE + 2 * PAGE, 1))
    assert [rules(CODE + PAGE + at) for at in (0, PAGE - 1)] == [bare, bare]
    assert rules(CODE + 2 * PAGE + 1) == covered
    rules = with_functions((CODE, PAGE))
    assert [rules(CODE + PAGE), rules(CODE + 3 * PAGE - 1)] == [bare, bare]


def test_a_page_of_two_segments() -> None:
    """It is mapped twice, and what is in either is in the file's page."""
    frames = entry(CIE)
    frames += function(SECTION + len(frames), SECTION, 0x7800, 0x10)
    data = bytearray(listed_file(frames, code=0x800))
    struct.pack_into("<H", data, 56, 2)  # e_phnum
    struct.pack_into("<IIQQQQQQ", data, 64 + 56, 1, 5, 0x1800, 0x7800, 0, 0x100, 0x100, 0x1000)
    rules = rules_of(data)
    assert rules(CODE) == CodeRule(BARE, False, False)
    assert rules(0x1800) == CodeRule(ENTERED, False, False)


def test_what_cannot_be_followed_is_no_rule() -> None:
    frames = entry(CIE) + function(SECTION + 24, SECTION, CODE, 0x40, b"\x0f\x02\x77\x08")
    assert rules_of(listed_file(frames))(CODE) == CodeRule(NO_RULE, False, False)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("header", [True, False], ids=["table", "list"])
def test_a_static_program_without_symbols(tmp_path: Path, header: bool) -> None:
    source, made = tmp_path / "x.c", tmp_path / "x"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("x") < 0; }\n')
    flag = "-Wl,--eh-frame-hdr" if header else "-Wl,--no-eh-frame-hdr"
    built = subprocess.run(["gcc", "-static", "-s", flag, "-o", made, source], timeout=60)
    if built.returncode:
        pytest.skip("there is no static C library")
    rules = elf.unwinding(opener(made))
    assert rules is not None
    assert (rules.size() == 0) == header
    found = compare(str(made))
    assert found.different == []
    assert found.rows > 5_000
    assert sum(found.kinds.values()) < 20


# -- where the file's initialization begins -----------------------------------------------------

COVERED = CodeRule(BARE, False, False)  # by no entry, in a page that has one
OF_ENTERED = CodeRule(ENTERED, False, False)


def test_init_and_fini_have_pushed_nothing_yet() -> None:
    """By their first byte alone, and the one behind an endbr64; their pages are not bare."""
    data = with_dynamic(listed_file(b""), (INIT, CODE + 0x10), (FINI, CODE + PAGE + 0x20))
    data[CODE + PAGE + 0x20 : CODE + PAGE + 0x24] = ENDBR64
    rules = rules_of(data)
    for at in range(0, 2 * PAGE, 4):
        expected = OF_ENTERED if at in (0x10, PAGE + 0x20, PAGE + 0x24) else COVERED
        assert rules(CODE + at) == expected, hex(at)
    assert rules(CODE + 0x11) == COVERED
    assert rules(CODE + 2 * PAGE) == CodeRule(BARE, False, True)
    assert rules.at_address(CODE + 0x10) == ENTERED


def test_what_an_entry_says_of_init_holds() -> None:
    """Also where that is no rule."""
    frames = entry(CIE) + function(SECTION + 24, SECTION, CODE, 0x40, b"\x0e\x20")
    assert rules_of(with_dynamic(listed_file(frames), (INIT, CODE)))(CODE) == CodeRule(
        Rule(Cfa.RSP, 0x20), False, False
    )
    frames = entry(CIE) + function(SECTION + 24, SECTION, CODE, 0x40, b"\x0f\x02\x77\x08")
    rules = rules_of(with_dynamic(listed_file(frames), (INIT, CODE)))
    assert rules(CODE) == CodeRule(NO_RULE, False, False)


def test_init_of_a_segment_that_is_elsewhere() -> None:
    """It is an address, and the rules are by offset."""
    data = with_dynamic(listed_file(b""), (INIT, CODE + 0x70010))
    struct.pack_into("<Q", data, 64 + 16, CODE + 0x70000)  # p_vaddr
    data[CODE + 0x10 : CODE + 0x14] = ENDBR64
    rules = rules_of(data)
    found = [at for at in range(CODE, CODE + PAGE) if rules(at) == OF_ENTERED]
    assert found == [CODE + 0x10, CODE + 0x14]


@pytest.mark.parametrize(
    "address",
    [0, CODE - 1, CODE + 3 * PAGE, SECTION, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1],
)
def test_init_that_is_in_no_code(address: int) -> None:
    rules = rules_of(with_dynamic(listed_file(b""), (INIT, address), (FINI, address)))
    assert rules._entered == frozenset()
    assert rules(CODE) == rules(CODE + 3 * PAGE - 1) == CodeRule(BARE, False, True)


@pytest.mark.parametrize("left", [1, 3, 4, 5])
def test_init_at_the_end_of_the_code(left: int) -> None:
    """What is behind the segment is not read, nor another function's beginning."""
    data = with_dynamic(listed_file(b"", code=0x100), (INIT, CODE + 0x100 - left))
    data[CODE + 0x100 - left : CODE + 0x104 - left] = ENDBR64
    rules = rules_of(data)
    at = CODE + 0x100 - left
    assert sorted(rules._entered) == ([at, at + 4] if left == 5 else [at])


def test_a_dynamic_section_that_is_none() -> None:
    init = INIT, CODE
    for entries, size, found in (
        ([(0, 0), init], None, []),  # it ends before
        ([init], 15, []),  # a part of an entry
        ([init], 16, [CODE]),
        ([init, (0, 0)], (1 << 64) - 1, [CODE]),  # so many are not read
        ([(INIT, CODE + 8), init], None, [CODE]),  # the last holds, as for the loader
        ([(1, 1)] * 0x7F, None, []),
        ([], None, []),
    ):
        rules = rules_of(with_dynamic(listed_file(b""), *entries, size=size))
        assert sorted(rules._entered) == found
    for at in (1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        data = with_dynamic(listed_file(b""), init)
        struct.pack_into("<Q", data, 64 + 56 + 8, at)  # p_offset
        assert rules_of(data)._entered == frozenset()
    # The code that it names is not in the file.
    data = with_dynamic(listed_file(b""), (INIT, CODE + (1 << 41)))
    struct.pack_into("<Q", data, 64 + 32, 1 << 62)  # p_filesz
    rules = rules_of(data)
    assert rules(CODE + (1 << 41)) is None


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_init_of_python() -> None:
    """As crti.o makes it: `sub $8, %rsp`, perhaps behind an endbr64."""
    path = Path(sys.executable).resolve()
    rules = elf.unwinding(opener(path))
    assert rules is not None
    dumped = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True).stdout
    wanted = {int(each, 16) for each in re.findall(r"\((?:INIT|FINI)\) +0x([0-9a-f]+)", dumped)}
    if not wanted:
        pytest.skip("it has no such code")
    assert wanted <= rules._entered
    assert all(rules.at_address(address) == ENTERED for address in wanted)
    assert rules.at_address(max(rules._entered) + 5) != ENTERED


def test_answers_are_validated() -> None:
    good = [1, 8, 0, 0, False, False]
    assert lookup_module._rules([good, None]) == [CodeRule(ENTERED, False, False), None]
    assert lookup_module._rules([[7, 0, 0, 0, True, True]]) == [CodeRule(BARE, True, True)]
    for cfa in (Cfa.RBX, Cfa.AT_RSP):
        for rbx in (0, -1, -8, -8 * 254):
            found = lookup_module._rules([[int(cfa), 8, -16, rbx, False, False]])
            assert found == [CodeRule(Rule(cfa, 8, -16, rbx), False, False)]
    plain = [False, False]
    bad: list[object] = [[], good[:3], good[1:], [*good, 1], 7, "text"]
    bad += [[-1, 8, 0, 0, *plain], [11, 8, 0, 0, *plain], [1, 1 << 31, 0, 0, *plain]]
    bad += [[1, 8, 1 << 15, 0, *plain], [1, "8", 0, 0, *plain], [1, 8, 0, 0, 0, False]]
    bad += [[1, 8, 0, 0, False, None], [1, 8, 0, 0, False, True], [1.0, 8, 0, 0, *plain]]
    bad += [[[1], 8, 0, 0, *plain], [1, 8, 0, "0", *plain]]
    bad += [[1, 8, 0, rbx, *plain] for rbx in (8, 1, -2, -9, -8 * 255, -(1 << 63), 1 << 63)]
    for each in bad:
        with pytest.raises((BadMessage, ValueError)):
            lookup_module._rules([each])


def test_a_digest_is_one() -> None:
    good = "0f" * 32
    assert lookup_module._digest(good) == [good]
    for each in ("", good[1:], good + "0", good.upper(), 7, None, [good]):
        assert lookup_module._digest(each) == [""]


def test_through_the_helper() -> None:
    """The answers of a Server are those of the file, in the order of the offsets."""
    rules = elf.unwinding(opener(LOADER))
    assert rules is not None
    offsets = [*range(0x3000, 0x9000, 7), 0, 1 << 40]
    offsets.reverse()
    asked = lookup(lambda number: opener(LOADER)())
    asked.ask("rules", 1, offsets)
    found = [asked.rule(1, offset) for offset in offsets]
    assert found == [rules(offset) for offset in offsets]
    assert None in found
    assert any(code.after_call for code in found if code)
