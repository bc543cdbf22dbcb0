"""Functions out of ELF files: hand-made ones with known answers, the C library, and garbage."""

import ctypes
import hashlib
import lzma
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.answering import Here, lookup
from tests.unit.opened import opener
from tracer.callstacks.symbols import Symbols
from tracer.common.text import printable
from tracer.model.rows import NO_REGION, Region
from tracer.procfs.kallsyms import parse_kallsyms, read_kallsyms
from tracer.procfs.maps import read_maps
from tracer.spaces.code_files import CodeFiles
from tracer.symbolizing import elf
from tracer.symbolizing.elf_image import BadElf
from tracer.symbolizing.rule import BARE, CodeRule

SYMTAB, STRTAB, NOTE, DYNSYM, PROGBITS = 2, 3, 7, 11, 1
LOCAL, GLOBAL, WEAK = 0x02, 0x12, 0x22  # STT_FUNC
OBJECT = 0x11
BUILD_ID = bytes(range(20))

Symbol = tuple[str, int, int, int]  # name, info, value, size


def make_elf(
    *tables: tuple[int, list[Symbol]], build_id: bool = True, packed: bytes = b"", bits: int = 64
) -> bytes:
    """An ELF file whose bytes 0x1000… are mapped at 0x401000…"""
    wide = bits == 64
    sections: list[tuple[bytes, int, bytes, int]] = [(b"", 0, b"", 0)]
    for kind, symbols in tables:
        strings, table = b"\0", bytes(24 if wide else 16)
        for symbol, info, value, size in symbols:
            if wide:
                table += struct.pack("<IBBHQQ", len(strings), info, 0, 1, value, size)
            else:
                table += struct.pack("<IIIBBH", len(strings), value, size, info, 0, 1)
            strings += symbol.encode("utf-8", "surrogateescape") + b"\0"
        sections.append((b".sym", kind, table, len(sections) + 1))
        sections.append((b".str", STRTAB, strings, 0))
    if build_id:
        note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + BUILD_ID
        sections.append((b".note.gnu.build-id", NOTE, note, 0))
    if packed:
        sections.append((b".gnu_debugdata", PROGBITS, packed, 0))
    sections.append((b".shstrtab", STRTAB, b"", 0))
    names = b"".join(name + b"\0" for name, *_ in sections)
    sections[-1] = (b".shstrtab", STRTAB, names, 0)

    body, headers, at, name_at = b"", b"", 64 + 56 if wide else 52 + 32, 0
    for name, kind, content, link in sections:
        headers += struct.pack(
            "<IIQQQQIIQQ" if wide else "<10I",
            name_at,
            kind,
            0,
            0,
            at + len(body),
            len(content),
            link,
            0,
            1,
            0,
        )
        body += content
        name_at += len(name) + 1
    segment = (0x1000, 0x401000, 0, 0x1000, 0x1000)
    sizes = (64, 56, 1, 64) if wide else (52, 32, 1, 40)
    if wide:
        program = struct.pack("<IIQQQQQQ", 1, 5, *segment, 0x1000)
    else:
        program = struct.pack("<8I", 1, *segment, 5, 0x1000)
    header = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", 2, 62 if wide else 3, 1,
                          0, sizes[0], at + len(body), 0, *sizes,
                          len(sections), len(sections) - 1)  # fmt: skip
    return header + program + body + headers


FULL: list[Symbol] = [
    ("first@@VERSION_1", GLOBAL, 0x401100, 0x40),
    ("__alias", GLOBAL, 0x401200, 0x10),
    ("alias", WEAK, 0x401200, 0x10),
    ("a_local", LOCAL, 0x401200, 0x10),
    ("data", OBJECT, 0x401300, 0x10),
    ("endless", LOCAL, 0x401400, 0),
]
FEW: list[Symbol] = [("exported", GLOBAL, 0x401100, 0x40)]


def read(path: Path, content: bytes, debug: Path | None = None) -> elf.Functions | None:
    path.write_bytes(content)
    return elf.functions(opener(path), opener(debug) if debug is not None else None)


@pytest.mark.parametrize("bits", [64, 32])
def test_functions_by_offset(tmp_path: Path, bits: int) -> None:
    found = read(tmp_path / "x", make_elf((DYNSYM, FEW), (SYMTAB, FULL), bits=bits))
    assert found
    assert found.at(0x1100) == ("first", 0)
    assert found.at(0x113F) == ("first", 0x3F)
    assert found.at(0x1140) is None  # behind its end
    assert found.at(0x1208) == ("alias", 8)
    assert found.at(0x1300) is None
    assert found.at(0x1FFF) == ("endless", 0xBFF)
    assert found.at(0x10FF) is None
    assert found.at(0x2000) is None  # not mapped
    assert found.at(0x401100) is None
    assert elf.build_id(opener(tmp_path / "x")) == BUILD_ID.hex()
    os.truncate(tmp_path / "x", 0x2000)
    rules = elf.unwinding(opener(tmp_path / "x"))
    assert (rules is not None) == (bits == 64)
    if rules is not None:  # without call frame information
        assert [rules(at) for at in (0, 0x1208)] == [None, CodeRule(BARE, False, True)]


def test_a_stripped_file_has_its_exports(tmp_path: Path) -> None:
    found = read(tmp_path / "x", make_elf((DYNSYM, FEW)))
    assert found
    assert found.at(0x1100) == ("exported", 0)


def test_a_separate_debug_file_is_found_by_build_id(tmp_path: Path) -> None:
    debug = tmp_path / BUILD_ID.hex()[:2] / f"{BUILD_ID.hex()[2:]}.debug"
    debug.parent.mkdir()
    debug.write_bytes(make_elf((SYMTAB, FULL)))
    found = read(tmp_path / "x", make_elf((DYNSYM, FEW)), debug)
    assert found
    assert found.at(0x1100) == ("first", 0)
    (tmp_path / "y").write_bytes(make_elf((DYNSYM, FEW), build_id=False))
    names = ["", "x", "y", "x"]
    files = lookup(lambda number: opener(tmp_path / names[number])(), tmp_path)
    assert files.function(1, 0x1100) == ("first", 0)
    assert files.function(2, 0x1100) == ("exported", 0)
    debug.unlink()
    debug.mkdir()  # nothing but an ordinary file is one
    assert files.function(3, 0x1100) == ("exported", 0)


def test_mini_debug_info(tmp_path: Path) -> None:
    packed = lzma.compress(make_elf((SYMTAB, FULL)))
    found = read(tmp_path / "x", make_elf((DYNSYM, FEW), packed=packed))
    assert found
    assert found.at(0x1100) == ("first", 0)
    assert read(tmp_path / "y", make_elf((DYNSYM, FEW), packed=b"no xz")) is None


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    assert elf.functions(opener(tmp_path)) is None
    assert elf.functions(opener(tmp_path / "no")) is None
    os.mkfifo(tmp_path / "fifo")
    assert elf.functions(opener(tmp_path / "fifo")) is None  # and does not wait for a writer


WHOLE = {bits: make_elf((DYNSYM, FEW), (SYMTAB, FULL), bits=bits) for bits in (64, 32)}
OFFSETS = st.integers(0, len(WHOLE[64]) - 1)


@given(st.sampled_from([64, 32]), st.lists(st.tuples(OFFSETS, st.binary(min_size=1, max_size=9))),
       OFFSETS)  # fmt: skip
def test_garbage_never_raises(bits: int, changes: list[tuple[int, bytes]], length: int) -> None:
    data = bytearray(WHOLE[bits])
    for at, patch in changes:
        data[at : at + len(patch)] = patch
    data = data[:length] if length % 2 else data

    def pread(at: int, size: int) -> bytes:
        return bytes(data[at : at + size])

    try:
        found = elf._functions(pread)
    except BadElf:
        return
    if found:
        for offset in range(0x1000, 0x1500, 16):
            found.at(offset)


def test_the_c_library_against_the_dynamic_linker() -> None:
    libc = ctypes.CDLL(None)
    mappings = read_maps(os.getpid())
    files = CodeFiles()
    regions = [
        Region(m.start, m.end, m.perms, m.offset, m.name, file=files.see(os.getpid(), m, anew=True))
        for m in mappings
    ]
    checked = 0
    symbols = Symbols(regions, lookup(files.open))
    for name in ("getpid", "fopen", "qsort", "strtol", "syscall"):
        address = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
        assert address
        at = next(i for i, r in enumerate(regions) if r.start <= address < r.end)
        if "libc" in regions[at].name:  # otherwise the linker gave a PLT entry
            assert symbols.name(address + 1 + regions[at].shift - (1 << 64), at) == f"{name}+0x1"
            checked += 1
    assert checked


REGIONS = [
    Region(0, 0, "", 0, ""),
    Region(0x7000, 0x9000, "r-xp", 0x1000, "/opt/no\x1b[2Jfile"),
    Region(0xA000, 0xB000, "rwxp", 0, "[anon]"),
    Region(0xC000, 0xD000, "r-xp", 0, "/bin/true (deleted)"),
]


def names(ips: list[int], regions: list[int], kernel: tuple[list[int], list[str]]) -> list[str]:
    """Looked up as by the join: an address that is not in its region is in none."""
    symbols = Symbols(REGIONS, lookup(), lambda: kernel)
    inside = [
        number if REGIONS[number].start <= ip < REGIONS[number].end else 0
        for ip, number in zip(ips, regions, strict=True)
    ]
    addresses = np.array(ips, dtype=np.uint64)
    offsets = addresses + np.array([REGIONS[number].shift for number in inside], dtype=np.uint64)
    found, complete = symbols.names(addresses, np.array(inside, dtype=np.uint32), offsets)
    assert complete
    return found


def test_what_has_no_symbol_has_its_offset_as_name() -> None:
    ips = [0, 0x7010, 0xA040, 0xC004, 0x5, 0x7010, (1 << 63) + 5]
    assert names(ips, [0, 1, 2, 3, 0, 2, 0], ([], [])) == [
        *("", "no\x1b[2Jfile+0x1010", "[anon]+0x40", "true (deleted)+0x4"),
        *("0x5", "0x7010", "0x8000000000000005"),
    ]
    assert names([], [], ([], [])) == []


def test_what_is_not_known_yet_has_its_offset_as_name(tmp_path: Path) -> None:
    """As long as the file is being read elsewhere; nobody waits for it."""
    (tmp_path / "x").write_bytes(make_elf((SYMTAB, FULL)))
    asked = Here()
    asked.silent = True
    region = Region(0x1000, 0x2000, "r-xp", 0x1000, "/opt/x", file=1)
    files = lookup(lambda _: opener(tmp_path / "x")(), asked=asked)
    symbols = Symbols([NO_REGION, region], files)
    at = np.array([0x1100, 0x1100, 0x1208], np.uint64)
    inside = np.ones(3, np.uint32)
    assert symbols.names(at, inside, at) == (["x+0x1100", "x+0x1100", "x+0x1208"], False)
    asked.silent = False
    assert symbols.names(at, inside, at) == (["first+0x0", "first+0x0", "alias+0x8"], True)
    assert [each["ask"] for each in asked.asked] == ["build_id", "functions"]
    files.failed[1] = "it took too long"
    late = np.array([0x1FFF, 0x2FFF], np.uint64)
    assert symbols.names(late, inside[:2], late)[0] == [
        *("endless+0xbff", "x+0x2fff (no symbols: it took too long)"),
    ]


def test_other_work_is_done_while_an_answer_is_waited_for(tmp_path: Path) -> None:
    """But not where nothing is waited for: that work may ask something itself."""
    (tmp_path / "x").write_bytes(make_elf((SYMTAB, FULL)))
    asked, calls = Here(), list[bool]()
    files = lookup(lambda _: opener(tmp_path / "x")(), asked=asked)

    def meanwhile() -> None:
        calls.append(files.wait_briefly(0))
        asked.silent = len(calls) < 3

    files.meanwhile = meanwhile
    asked.silent, asked.since_s = True, 1e12
    files.ask("functions", 1, [0x1100])
    assert not files.wait_briefly(0)
    assert calls == []
    assert files.wait_briefly(60.0)
    assert calls == [False, False, False]
    assert files.function(1, 0x1100) == ("first", 0)


def test_the_digest_of_a_file_s_content(tmp_path: Path) -> None:
    content = make_elf((SYMTAB, FULL)) + bytes((1 << 20) + 5)
    (tmp_path / "x").write_bytes(content)
    files = lookup(lambda _: opener(tmp_path / "x")())
    files.ask("digest", 1, [0])
    assert files.digest(1) == hashlib.sha256(content).digest()
    assert lookup().digest(1) == b""  # there is no such file


def test_names_in_a_file_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines"
    path.write_bytes(make_elf((SYMTAB, [("\udcff\x1b]0;", GLOBAL, 0x401100, 0x40)])))
    region = Region(0x1000, 0x2000, "r-xp", 0x1000, str(path).replace("\n", "\\012"), file=1)
    name = Symbols([NO_REGION, region], lookup(lambda _: opener(path)())).name(0x1102, 1)
    assert (name, printable(name)) == ("\udcff\x1b]0;+0x2", r"\xff\x1b]0;+0x2")
    other = Symbols([NO_REGION, region], lookup())
    assert other.name(0x1102, 1) == r"two\012lines+0x1102"


def test_kernel_functions() -> None:
    text = (
        b"ffffffff81000000 T _text\nffffffff81000100 t helper\nffffffff82000000 D data\n"
        b"ffffffffc0000000 t in_module\t[mod]\n"
    )
    kernel = parse_kallsyms(text)
    ips = [0xFFFFFFFF81000108, 0xFFFFFFFFC0000001, 0xFFFFFFFF80FFFFFF, 0xFFFFFFFFC8000000]
    assert names(ips, [0] * 4, kernel) == [
        *("helper+0x8", "in_module [mod]+0x1", "0xffffffff80ffffff", "0xffffffffc8000000"),
    ]
    inside = np.ones(4, np.uint32)  # as [vsyscall] is, in each process's list
    symbols = Symbols(REGIONS, lookup(), lambda: kernel)
    addresses = np.array(ips, np.uint64)
    assert symbols.names(addresses, inside, addresses)[0][0] == "helper+0x8"
    hidden = parse_kallsyms(b"0000000000000000 T _text\n")
    assert hidden == ([], [])


@pytest.mark.skipif(not Path("/proc/kallsyms").exists(), reason="this kernel has no kallsyms")
def test_the_running_kernel() -> None:
    addresses, found = read_kallsyms()
    assert addresses == sorted(addresses)
    assert not found or any(name == "handle_mm_fault" for name in found)
