"""The headers and sections of an ELF file (elf(5)), of 64 or 32 bits, little-endian.

The file is another user's: nothing in it is trusted. What is read of a file is limited in all: a
hole costs nothing to make, and its whole size to read.
"""

import lzma
import struct
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from tracer.common.types import Structs

LARGEST = 1 << 26  # bytes of any one section
_MOST_READ = 1 << 28  # bytes of one file, however many sections claim some
_MOST_SEGMENTS = 64  # a linker makes four or five to load
_MOST_NAMES = 1 << 20  # bytes of the names of all sections
_MOST_NOTES = 64  # sections of notes that are read; a file has three or four
_LONGEST_ID = 64  # bytes of a build ID; linkers make 8 to 20
SYMTAB, _NOTE, DYNSYM = 2, 7, 11  # SHT_*
_LOAD, _DYNAMIC, _EH_FRAME = 1, 2, 0x6474E550  # PT_LOAD, PT_DYNAMIC, PT_GNU_EH_FRAME
_INIT, _FINI, _INIT_ARRAY, _FINI_ARRAY, _INIT_ARRAYSZ, _FINI_ARRAYSZ = 12, 13, 25, 26, 27, 28
_MOST_CALLED = 256  # functions of such an array; crtbegin.o's are the first
_MOST_DYNAMIC = 1 << 14  # bytes of the dynamic section: 1,024 entries; a file has some thirty
_NT_GNU_BUILD_ID = 3
_OBJECT = 1  # STT_OBJECT
_MOST_TAILS = 64  # names that end alike

_EHDR = np.dtype(
    [("ident", "u1", (16,)), ("type", "<u2"), ("machine", "<u2"), ("version", "<u4")]
    + [(name, "<u8") for name in ("entry", "phoff", "shoff")]
    + [("flags", "<u4")]
    + [(name, "<u2") for name in ("ehsize", "phentsize", "phnum", "shentsize", "shnum", "shstrndx")]
)
_PHDR = np.dtype(
    [(name, "<u4") for name in ("type", "flags")]
    + [(name, "<u8") for name in ("offset", "vaddr", "paddr", "filesz", "memsz", "align")]
)
_SHDR = np.dtype(
    [("name", "<u4"), ("type", "<u4")]
    + [(name, "<u8") for name in ("flags", "addr", "offset", "size")]
    + [("link", "<u4"), ("info", "<u4"), ("addralign", "<u8"), ("entsize", "<u8")]
)
SYM = np.dtype(
    [
        *(("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2")),
        *(("value", "<u8"), ("size", "<u8")),
    ]
)

# The same of 32-bit files; program headers and symbols have their members in another order.
_EHDR_32 = np.dtype(
    [("ident", "u1", (16,)), ("type", "<u2"), ("machine", "<u2"), ("version", "<u4")]
    + [(name, "<u4") for name in ("entry", "phoff", "shoff", "flags")]
    + [(name, "<u2") for name in ("ehsize", "phentsize", "phnum", "shentsize", "shnum", "shstrndx")]
)
_PHDR_32 = np.dtype(
    [
        (name, "<u4")
        for name in ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")
    ]
)
_SHDR_32 = np.dtype([(name, "<u4") for name in _SHDR.names or ()])
_SYM_32 = np.dtype(
    [(name, "<u4") for name in ("name", "value", "size")]
    + [("info", "u1"), ("other", "u1"), ("shndx", "<u2")]
)
# By ident's class: the header, and of each table's dtype the one it has in the file.
_CLASSES = {
    1: (_EHDR_32, {_PHDR: _PHDR_32, _SHDR: _SHDR_32, SYM: _SYM_32}),
    2: (_EHDR, {_PHDR: _PHDR, _SHDR: _SHDR, SYM: SYM}),
}
_IDENT = 6  # bytes: the magic number, the class, the byte order

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes
Opener = Callable[[], int]  # a descriptor to read an ordinary file; raises OSError


class BadElf(ValueError):
    """The file is not the ELF file it should be."""


UNREADABLE = (ValueError, OSError, struct.error, lzma.LZMAError)


class Image:
    """The headers and sections of one little-endian ELF file, of 64 or 32 bits."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._left = _MOST_READ
        ident = self._pread(0, _IDENT)
        if len(ident) < _IDENT or ident[:4] != b"\x7fELF" or ident[5] != 1:
            raise BadElf("not a little-endian ELF file")
        if ident[4] not in _CLASSES:
            raise BadElf("neither 32 nor 64 bits")
        dtype, self._in_file = _CLASSES[ident[4]]
        self.wide = dtype is _EHDR  # 64 bits
        (header,) = np.frombuffer(self._table(dtype.itemsize, 0, 1), dtype)
        if header["phnum"] and header["phentsize"] != self._in_file[_PHDR].itemsize:
            raise BadElf("program headers of an invalid size")
        if header["shnum"] and header["shentsize"] != self._in_file[_SHDR].itemsize:
            raise BadElf("section headers of an invalid size")
        programs = self._array(_PHDR, int(header["phoff"]), int(header["phnum"]))
        self.segments = programs[programs["type"] == _LOAD]
        self._programs = programs
        if len(self.segments) > _MOST_SEGMENTS:
            raise BadElf("more segments than any linker makes")
        self._sections = self._array(_SHDR, int(header["shoff"]), int(header["shnum"]))
        self._name_section = int(header["shstrndx"])

    def symbols(self, kind: int) -> tuple[Structs, bytes]:
        """The symbols of the first section of that type, and their string table."""
        for section in self._sections[self._sections["type"] == kind]:
            if section["link"] < len(self._sections):
                count = int(section["size"]) // self._in_file[SYM].itemsize
                symbols = self._array(SYM, int(section["offset"]), count)
                return symbols, self._content(self._sections[section["link"]])
        return np.zeros(0, SYM), b""

    def objects(self, names: Collection[bytes]) -> dict[bytes, int]:
        """The addresses of data by the symbols' names, as far as they are there.

        .symtab, which may be large, is read only where there is no .dynsym.
        """
        symbols, strings = self.symbols(DYNSYM)
        if len(symbols) <= 1:  # the first is none: a static program that is relocated has it alone
            symbols, strings = self.symbols(SYMTAB)
        symbols = symbols[(symbols["info"] & 0xF == _OBJECT) & (symbols["shndx"] != 0)]
        found: dict[bytes, int] = {}
        for name in names:
            at = -1
            for _ in range(_MOST_TAILS):  # it may be the end of another name as well
                at = strings.find(name + b"\0", at + 1)
                own = symbols[symbols["name"] == at] if at >= 0 else symbols[:0]
                if at < 0 or len(own):
                    break
            if len(own):
                found[name] = int(own["value"][0])
        return found

    def at(self, address: int, size: int) -> bytes:
        """What the file has at an address. Raises BadElf where it has less."""
        for segment in self.segments:
            offset = address - int(segment["vaddr"])
            if offset >= 0 and offset + size <= int(segment["filesz"]):
                data = self._pread(int(segment["offset"]) + offset, size)
                if len(data) == size:
                    return data
        raise BadElf("an address outside of the file")

    def named(self, wanted: bytes) -> bytes:
        """The content of a section, b"" where there is no such section."""
        section = self._named(wanted)
        return b"" if section is None else self._content(section)

    def _named(self, wanted: bytes) -> Any:
        """A section's header; None where there is no such section."""
        if self._name_section < len(self._sections):
            section = self._sections[self._name_section]
            names = self._pread(int(section["offset"]), min(int(section["size"]), _MOST_NAMES))
            for section in self._sections:
                at = int(section["name"])
                if names[at : at + len(wanted) + 1] == wanted + b"\0":
                    return section
        return None

    def frames_section(self) -> tuple[int, int, int] | None:
        """Where .eh_frame is, as `frames_header`: what static programs have."""
        section = self._named(b".eh_frame")
        if section is None:
            return None
        return int(section["offset"]), int(section["addr"]), int(section["size"])

    def frames_header(self) -> tuple[int, int, int] | None:
        """Where .eh_frame_hdr is: offset in the file, address, bytes; None where there is none."""
        for program in self._programs[self._programs["type"] == _EH_FRAME]:
            return int(program["offset"]), int(program["vaddr"]), int(program["filesz"])
        return None

    def entry_points(self) -> list[int]:
        """What a 64-bit file claims that the loader calls: DT_INIT, DT_INIT_ARRAY …"""
        found: dict[int, int] = {}
        for program in self._programs[self._programs["type"] == _DYNAMIC][:1]:
            size = min(int(program["filesz"]), _MOST_DYNAMIC)
            data = self._pread(int(program["offset"]), size)
            for tag, value in struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]):
                if not tag:  # DT_NULL: the end
                    break
                found[tag] = value  # of several the last holds
        called = [found[tag] for tag in (_INIT, _FINI) if tag in found]
        for tag, size_tag in ((_INIT_ARRAY, _INIT_ARRAYSZ), (_FINI_ARRAY, _FINI_ARRAYSZ)):
            if tag in found:
                called += self._called(found[tag], found.get(size_tag, 0))
        return called

    def _called(self, address: int, size: int) -> list[int]:
        """The functions in an array of them, as they are before they are relocated."""
        for segment in self.segments:
            offset = address - int(segment["vaddr"])
            if 0 <= offset < int(segment["filesz"]):
                size = min(size, int(segment["filesz"]) - offset, _MOST_CALLED * 8) // 8 * 8
                data = self._pread(int(segment["offset"]) + offset, size)
                return [value for (value,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8])]
        return []

    def build_id(self) -> str:
        """The build ID in hexadecimal, "" where there is none."""
        for section in self._sections[self._sections["type"] == _NOTE][:_MOST_NOTES]:
            # It is the first note of its section.
            note = self._pread(int(section["offset"]), min(int(section["size"]), 16 + _LONGEST_ID))
            if len(note) >= 16:
                name_size, size, kind = struct.unpack_from("<III", note)
                if (name_size, kind) == (4, _NT_GNU_BUILD_ID) and note[12:16] == b"GNU\0":
                    return note[16 : 16 + size].hex() if size <= len(note) - 16 else ""
        return ""

    def _content(self, section: np.void) -> bytes:
        size = int(section["size"])
        if size > LARGEST:
            raise BadElf("a section of an invalid size")
        return self._pread(int(section["offset"]), size)

    def _array(self, dtype: np.dtype[np.void], at: int, count: int) -> Structs:
        """A table, in the members of 64-bit files."""
        found = self._in_file[dtype]
        table = np.frombuffer(self._table(found.itemsize, at, count), found)
        if found is dtype:
            return table
        wide = np.zeros(count, dtype)
        for name in dtype.names or ():
            wide[name] = table[name]
        return wide

    def _table(self, entry: int, at: int, count: int) -> bytes:
        size = count * entry
        data = self._pread(at, size) if size <= LARGEST else b""
        if len(data) != size:
            raise BadElf("a truncated table")
        return data

    def _pread(self, at: int, size: int) -> bytes:
        if at >= 1 << 63:
            raise BadElf("an invalid offset")
        self._left -= size
        if self._left < 0:
            raise BadElf("more to read than any file needs")
        return self._read(at, size)
