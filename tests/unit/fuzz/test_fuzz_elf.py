"""ELF files that make no sense: no answer or some, in a bounded number of bytes read."""

import json
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.unit.answering import lookup
from tests.unit.callstacks.test_symbols import BUILD_ID, DYNSYM, FEW, FULL, NOTE, SYMTAB, make_elf
from tests.unit.fuzz.mutation import EDGES, every, mutated
from tests.unit.opened import opener
from tests.unit.pythons_data import V312, V314, python_elf
from tests.unit.symbolizing.frames import (
    CODE,
    with_entry_points,
    with_frames,
    with_listed_frames,
)
from tests.unit.symbolizing.frames import image as frames_image
from tracer.callstacks.symbols import Symbols
from tracer.symbolizing import elf, elf_image, python_runtime, server
from tracer.symbolizing import lookup as lookup_module
from tracer.symbolizing.rule import BARE, NO_RULE, Cfa, CodeRule, Rule

MEGABYTE = 1 << 20
HEADER, PROGRAM, SECTION = 64, 56, 64  # bytes, of 64-bit files


class File:
    """A file in memory, which counts what is read of it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("elf")
        self.read_bytes = 0

    def write(self, data: bytes | bytearray, size: int | None = None) -> None:
        """`data`, and a hole up to `size` bytes."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, data, 0)
        if size is not None:
            os.ftruncate(self.fd, size)
        self.read_bytes = 0

    def open(self) -> int:
        return os.dup(self.fd)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        data = os_pread(fd, size, at)
        self.read_bytes += len(data)
        return data


os_pread = os.pread


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> Iterator[File]:
    made = File()
    monkeypatch.setattr(os, "pread", made.pread)
    yield made
    os.close(made.fd)


def asked(file: File, random: Random) -> list[object]:
    """All that the tracer asks of a file; each answer is of its kind, whatever the file holds."""
    offsets = [*range(0x1000, 0x1500, 0x110), *range(0x2000, 0x5000, 0x710)]
    offsets += random.sample(EDGES, 6)
    offsets += [max(0, edge - random.randrange(0x100)) for edge in random.sample(EDGES, 3)]
    answers: list[object] = []
    found = elf.functions(file.open)
    for offset in offsets if found is not None else ():
        assert found is not None
        name = found.at(offset)
        assert name is None or (isinstance(name[0], str) and name[1] >= 0)
        answers.append(name)
    identity = elf.build_id(file.open)
    assert len(identity) <= 128
    assert not set(identity) - set("0123456789abcdef")
    rules = elf.unwinding(file.open)
    for code in rules.ask(offsets) if rules is not None else ():
        assert code is None or well_formed(code)
        answers.append(code)
    pythons = python_runtime.runtimes(file.open, offsets)
    sent = json.loads(json.dumps([server._sent_runtime(each) for each in pythons]))
    assert lookup_module._runtimes(sent) == pythons
    answers += [each for each in pythons if each]
    addresses = elf.addresses(file.open, offsets)
    assert all(-1 <= address < 1 << 64 for address in addresses or ())
    return answers


def well_formed(code: CodeRule) -> bool:
    """Whether the tracer would accept it as an answer."""
    sent = json.loads(json.dumps(server._sent(code)))
    return lookup_module._rules([sent]) == [code]


PACKED = lzma.compress(make_elf((SYMTAB, FULL)), preset=0)
FILES: dict[str, Callable[[], bytes]] = {
    "symbols": lambda: make_elf((DYNSYM, FEW), (SYMTAB, FULL)),
    "32 bits": lambda: make_elf((DYNSYM, FEW), (SYMTAB, FULL), bits=32),
    "packed": lambda: make_elf((DYNSYM, FEW), packed=PACKED),
    "frames": with_frames,
    "listed": with_listed_frames,
    "entry points": with_entry_points,
    "python": lambda: python_elf(V314),
    "old python": lambda: python_elf(V312),
    "real": lambda: Path("/bin/true").read_bytes(),
}


def tables(whole: bytes) -> list[list[tuple[int, int]]]:
    """The fields of the headers, of the programs and sections, of frames and dynamic entries."""
    header, others = elf_image._CLASSES[whole[4]]
    found = [fields(header, 0)]
    (values,) = np.frombuffer(whole, header, 1)
    for dtype, start, count in (
        (others[elf_image._PHDR], int(values["phoff"]), int(values["phnum"])),
        (others[elf_image._SHDR], int(values["shoff"]), int(values["shnum"])),
    ):
        found.append([])
        for at in range(start, start + count * dtype.itemsize, dtype.itemsize):
            found[-1] += fields(dtype, at)
    for program in np.frombuffer(
        whole, others[elf_image._PHDR], int(values["phnum"]), int(values["phoff"])
    ):
        if program["type"] == elf_image._EH_FRAME:
            at, size = int(program["offset"]), int(program["filesz"])
            header_of_frames = [(at + byte, 1) for byte in range(4)] + [(at + 4, 4), (at + 8, 4)]
            found += [header_of_frames, [(at + 12, size - 12)], [(at + size, 8 * size)]]
        if program["type"] == elf_image._DYNAMIC:
            at, size = int(program["offset"]), int(program["filesz"])
            found.append([(each, 8) for each in range(at, at + size, 8)])
    if b"\0_PyRuntime\0" in whole and len(whole) < MEGABYTE:  # one of ours
        found.append([(at, 8) for at in (*range(0x1000, 0x1400, 8), 0x1800)])
    return [table for table in found if table]


def fields(dtype: np.dtype[np.void], start: int) -> list[tuple[int, int]]:
    """First byte and bytes of each member."""
    members: Mapping[str, Any] = dtype.fields or {}
    return [(start + int(each[1]), each[0].itemsize) for each in members.values()]


@pytest.mark.parametrize("kind", FILES)
def test_mutants(kind: str, file: File) -> None:
    whole = FILES[kind]()
    members = tables(whole)
    file.write(whole)
    assert any(asked(file, Random(0)))

    def check(random: Random) -> None:
        file.write(mutated(random, whole, members), random.choice([None, None, 1 << 41]))
        asked(file, random)
        # Each of the five questions is asked anew; a hole is read as if it were written.
        assert file.read_bytes <= 5 * elf_image._MOST_READ

    every(f"elf {kind}", 500 if kind == "real" else 800, check)


# -- what failed once ---------------------------------------------------------------------------


def test_a_segment_that_ends_behind_the_last_address(file: File) -> None:
    """Its addresses were looked up as numbers of 64 bits, which 2**64 is not."""
    data = bytearray(make_elf((SYMTAB, FULL)))
    struct.pack_into("<Q", data, HEADER + 16, (1 << 64) - 0x1000)  # p_vaddr; 0x1000 from there
    file.write(data)
    found = elf.functions(file.open)
    assert found is not None
    assert found.at(0x1FFF) == ("endless", (1 << 64) - 1 - 0x401400)
    struct.pack_into("<QQ", data, HEADER + 32, (1 << 63) - 1, (1 << 63) - 1)  # p_filesz, p_memsz
    file.write(data)
    found = elf.functions(file.open)
    assert found is not None
    assert [found.at(at) for at in (0x2000, 1 << 40)] == [None, None]
    assert elf.addresses(file.open, [0x1FFF, 0x2000]) == [0xFFF, -1]


def with_sections(kind: int, count: int, size: int) -> bytes:
    """`count` sections of one type that all are the same `size` bytes behind the headers."""
    content = bytearray(make_elf()[:HEADER])
    struct.pack_into("<Q", content, 40, HEADER)
    struct.pack_into("<HHHHH", content, 54, PROGRAM, 0, SECTION, count, 0)
    at = HEADER + SECTION * count
    return bytes(content + struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, at, size, 0, 0, 1, 0) * count)


def test_many_notes_that_claim_one_hole(file: File) -> None:
    """65,534 times 64 MiB, of 4 MiB on disk: hours to read, for a build ID that is not there."""
    file.write(with_sections(NOTE, 65_534, 1 << 26), 1 << 30)
    assert elf.build_id(file.open) == ""
    assert elf.functions(file.open) is None
    assert elf.addresses(file.open, [0]) == [-1]
    assert file.read_bytes < 16 * MEGABYTE  # the section headers, three times


def test_a_table_and_names_in_a_hole(file: File) -> None:
    """The largest that are read are read once."""
    for kind in (SYMTAB, DYNSYM):
        file.write(with_sections(kind, 65_534, 1 << 26), 1 << 30)
        assert elf.functions(file.open) is None
        assert file.read_bytes <= elf_image._MOST_READ


def test_a_build_id_as_long_as_its_section(file: File) -> None:
    """It would be kept for each file, and be in each row of the call stacks."""
    whole = make_elf((SYMTAB, FULL))
    at = whole.index(b"GNU\0" + BUILD_ID) - 8
    for size, expected in ((20, BUILD_ID.hex()), (64, None), (65, ""), (1 << 26, "")):
        data = bytearray(whole)
        struct.pack_into("<I", data, at, size)
        headers = struct.unpack_from("<Q", whole, 40)[0]
        for section in range(headers, len(whole), SECTION):
            if struct.unpack_from("<I", whole, section + 4)[0] == NOTE:
                struct.pack_into("<Q", data, section + 32, 16 + size)
        file.write(data, 1 << 30)
        found = elf.build_id(file.open)
        assert found == expected or (expected is None and len(found) == 128)


def test_packed_symbols_that_need_much_memory(file: File) -> None:
    """A dictionary of 1.5 GiB is a number in five bytes of what is packed."""
    plain = make_elf((SYMTAB, FULL))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]
    packed = bytearray(lzma.compress(plain, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters))
    # The block header (.xz format, 3.1): its size, flags, filter 0x21 of one byte, its CRC.
    assert packed[12:16] == bytes([2, 0, 0x21, 1])
    for dictionary, known in ((8, True), (28, True), (39, False), (40, False)):
        packed[16] = dictionary
        packed[20:24] = struct.pack("<I", zlib.crc32(packed[12:20]))
        file.write(make_elf(packed=bytes(packed)))
        assert (elf.functions(file.open) is not None) is known


def test_a_file_made_to_use_memory(tmp_path: Path) -> None:
    """Huge sparse tables, one endless name, many names of one address."""
    path = tmp_path / "x"
    content = make_elf((SYMTAB, FULL))
    headers = struct.unpack_from("<Q", content, 40)[0]
    for section, size in ((1, 1 << 40), (2, 1 << 40), (1, 1 << 27), (2, 1 << 27)):
        data = bytearray(content)
        struct.pack_into("<Q", data, headers + section * 64 + 32, size)
        path.write_bytes(data)
        os.truncate(path, 1 << 41)
        assert elf.functions(opener(path)) is None


def test_long_names_and_many_names_of_one_function(tmp_path: Path) -> None:
    path = tmp_path / "x"
    many = [(f"n{n}", 0x12, 0x401100, 0x40) for n in range(5_000)]
    path.write_bytes(make_elf((SYMTAB, [("x" * 100_000, 0x12, 0x401200, 0x10), *many])))
    found = elf.functions(opener(path))
    assert found
    named = found.at(0x1208)
    assert named
    assert len(named[0]) <= 4096
    assert found.at(0x1100)


def test_devices_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """To open one may do something: rewind a tape, start a watchdog."""
    opened = []
    real = os.open

    def spy(path: str, flags: int, *rest: Any, **more: Any) -> int:
        if not flags & os.O_PATH:
            opened.append(path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    assert elf.functions(opener("/dev/null")) is None
    assert elf.functions(opener("/dev/tty")) is None
    assert opened == []


# -- call frame information -----------------------------------------------------------------


def test_a_dynamic_section_in_a_hole(file: File) -> None:
    """Of what it claims to have a part is read, and two instructions of what it names."""
    data = bytearray(with_entry_points())
    struct.pack_into("<QQ", data, HEADER + PROGRAM + 32, *[1 << 40] * 2)  # p_filesz, p_memsz
    file.write(data, 1 << 41)
    assert rule_at(file, CODE + 0x440) == Rule(Cfa.RSP, 8)
    assert file.read_bytes < elf_image._MOST_DYNAMIC + (1 << 17)  # with the list of frames
    data[0x800:0x810] = bytes(16)
    file.write(data, 1 << 41)
    assert rule_at(file, CODE + 0x440) == BARE


def rule_at(file: File, offset: int) -> Rule | None:
    rules = elf.unwinding(file.open)
    assert rules is not None
    code = rules(offset)
    return None if code is None else code.rule


def test_a_table_of_functions_in_a_hole(file: File) -> None:
    """32 MiB of each of the files that are at hand: nothing of it is kept."""
    data = bytearray(with_frames())
    entries = 1 << 22
    struct.pack_into("<QQ", data, HEADER + PROGRAM + 32, 12 + 8 * entries, 12 + 8 * entries)
    struct.pack_into("<I", data, 0x2008, entries)
    file.write(data, 1 << 30)
    rules = elf.unwinding(file.open)
    assert rules is not None
    assert file.read_bytes < 4096
    for offset in range(0x1000, 0x1100, 4):
        rules(offset)
    assert file.read_bytes < 128 * 1024
    struct.pack_into("<I", data, 0x2008, entries + 1)
    file.write(data, 1 << 30)
    assert rule_at(file, 0x1000) == BARE


def test_a_header_that_is_cut_off(file: File) -> None:
    """Its count lies behind its end: a struct.error, where ValueError is promised."""
    whole = with_frames()
    for encoding in (0x00, 0x0F, 0xFF):
        for end in range(0x2000, 0x2014):
            data = bytearray(whole[:end])
            data[0x2001:0x2002] = bytes([encoding])
            file.write(data)
            assert rule_at(file, 0x1000) == BARE


def endless(steps: int) -> bytes:
    """A function of so many bytes of instructions, each of which changes the state."""
    return bytes([0x0E, 0x08]) * (steps // 2)


def test_functions_of_many_instructions(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lookup follows all of them, so there is a limit to what is followed in a file."""
    frames = frames_image(*((at, 0x40, endless(60_000)) for at in (CODE, CODE + 0x40)))
    file.write(with_frames()[:0x1000] + frames)
    rules = elf.unwinding(file.open)
    assert rules is not None
    at_once, in_all = [], []
    monkeypatch.setattr(rules._unwinding._frames, "_left_at_once", 150_000)
    for at in (CODE, CODE + 0x40) * 2:  # the last one that was followed is kept
        at_once.append(rules.at_address(at))
    rules.renew()
    monkeypatch.setattr(rules._unwinding._frames, "_left", 150_000)
    for at in (CODE, CODE + 0x40) * 2:
        rules.renew()
        in_all.append(rules.at_address(at))
    followed = Rule(Cfa.RSP, 8)
    assert at_once == in_all == [followed, followed, NO_RULE, followed]


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.callstacks.symbols._MOST_KNOWN", 100)
    symbols = Symbols([], lookup(), lambda: ([], []))
    for ip in range(1000):
        symbols.name((1 << 63) + ip, 0)
    assert len(symbols._known) <= 100
