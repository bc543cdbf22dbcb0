"""The functions of an ELF file, by offset in the file (elf(5)).

The file is another user's: nothing in it is trusted, and malformed data
counts as "no symbols". Only the few sections needed are read, the symbol
table as one numpy array; a library that parses symbols one by one takes
seconds for a large program. What is read of a file is limited in all: a hole
costs nothing to make, and its whole size to read.
"""

import lzma
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from tracer.common.text import decode
from tracer.common.types import Structs
from tracer.symbolizing.rule import Rule
from tracer.symbolizing.unwind import Unwinding

_LARGEST = 1 << 26  # bytes of any one section
_MOST_READ = 1 << 28  # bytes of one file, however many sections claim some
_MOST_UNPACKING = 1 << 27  # bytes that unpacking takes; what xz -9 makes takes half of that
_MOST_SEGMENTS = 64  # a linker makes four or five to load
_MOST_ALIASES = 64  # names of one function that are compared
_MOST_NAMES = 1 << 20  # bytes of the names of all sections
_MOST_NOTES = 64  # sections of notes that are read; a file has three or four
_LONGEST = 4096  # bytes of a name
_LONGEST_ID = 64  # bytes of a build ID; linkers make 8 to 20
_SYMTAB, _NOTE, _DYNSYM = 2, 7, 11  # SHT_*
_LOAD, _EH_FRAME = 1, 0x6474E550  # PT_LOAD, PT_GNU_EH_FRAME
_FUNC, _IFUNC = 2, 10
_NT_GNU_BUILD_ID = 3

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
_SYM = np.dtype(
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
    1: (_EHDR_32, {_PHDR: _PHDR_32, _SHDR: _SHDR_32, _SYM: _SYM_32}),
    2: (_EHDR, {_PHDR: _PHDR, _SHDR: _SHDR, _SYM: _SYM}),
}
_IDENT = 6  # bytes: the magic number, the class, the byte order

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes
Opener = Callable[[], int]  # a descriptor to read an ordinary file; raises OSError


class BadElf(ValueError):
    """The file is not the ELF file it should be."""


_UNREADABLE = (ValueError, OSError, struct.error, lzma.LZMAError)


@dataclass(frozen=True)
class Functions:
    """Function symbols by ascending address, and how a file's offsets become addresses."""

    segments: Structs  # PT_LOAD program headers
    symbols: Structs
    strings: bytes

    def size(self) -> int:
        """Bytes it takes."""
        return self.symbols.nbytes + len(self.strings)

    def at(self, offset: int) -> tuple[str, int] | None:
        """(name, bytes into the function) of an offset in the file; None where there is none."""
        address = _address(self.segments, offset)
        return None if address < 0 else self._at_address(address)

    def _at_address(self, address: int) -> tuple[str, int] | None:
        values = self.symbols["value"]
        last = int(np.searchsorted(values, np.uint64(address), side="right"))
        if not last:
            return None
        start = int(values[last - 1])
        first = int(np.searchsorted(values, np.uint64(start), side="left"))
        same = [
            symbol
            for symbol in self.symbols[max(first, last - _MOST_ALIASES) : last]
            if not symbol["size"] or address < start + int(symbol["size"])
        ]
        if not same:
            return None
        name = min(_preference(int(s["info"]), self._name(int(s["name"]))) for s in same)[-1]
        return (name, address - start) if name else None

    def _name(self, at: int) -> str:
        name = self.strings[at : at + _LONGEST].partition(b"\0")[0]
        return decode(name.partition(b"@")[0])  # .symtab adds versions: fopen@@GLIBC_2.2.5


def _address(segments: Structs, offset: int) -> int:
    """The address that an offset in the file is loaded at, in the file's own terms; -1: none.

    It has 64 bits, also where a segment is said to reach beyond that.
    """
    for segment in segments:
        start = int(segment["offset"])
        if start <= offset < start + int(segment["filesz"]):
            address = offset - start + int(segment["vaddr"])
            return address if address < 1 << 64 else -1
    return -1


def _preference(info: int, name: str) -> tuple[bool, int, int, str]:
    """Sort key among names of one function: a public one, with few underscores, short."""
    is_local = info >> 4 == 0
    return is_local, len(name) - len(name.lstrip("_")), len(name), name


def functions(open_file: Opener, open_debug: Opener | None = None) -> Functions | None:
    """The functions of a file, or None where it has none or cannot be opened.

    Symbols come from .symtab, else from the separate debug file if there is one (`open_debug`),
    else from .gnu_debugdata, else from .dynsym.
    """
    try:
        descriptor = open_file()
    except OSError:
        return None
    try:
        return _functions(lambda at, size: os.pread(descriptor, size, at), open_debug)
    except _UNREADABLE:
        return None
    finally:
        os.close(descriptor)


def build_id(open_file: Opener) -> str:
    """The build ID of a file in hexadecimal; "" where it has none or cannot be opened."""
    try:
        descriptor = open_file()
    except OSError:
        return ""
    try:
        return _Image(lambda at, size: os.pread(descriptor, size, at)).build_id()
    except _UNREADABLE:
        return ""
    finally:
        os.close(descriptor)


class Rules:
    """The call frame information of a file, by offset in it.

    What is read is read on demand: the file stays open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Raises ValueError or OSError where there is none."""
        self._file = file
        image = _Image(self._read)
        found = image.frames()
        if found is None:
            raise BadElf("no call frame information")
        self._segments = image.segments
        self._frames = Unwinding(self._read, *found)

    def __call__(self, offset: int) -> Rule | None:
        address = _address(self._segments, offset)
        return None if address < 0 else self._frames.rule(address)

    def _read(self, at: int, size: int) -> bytes:
        if not 0 <= at < 1 << 63:
            raise ValueError("an invalid offset")
        return os.pread(self._file.fileno(), size, at)


def unwinding(open_file: Opener) -> Rules | None:
    """The call frame information of a file; None where there is none, or it cannot be opened."""
    try:
        file = os.fdopen(open_file(), "rb", buffering=0)
    except OSError:
        return None
    try:
        return Rules(file)
    except _UNREADABLE:
        file.close()
        return None


def addresses(open_file: Opener, offsets: Sequence[int]) -> list[int] | None:
    """The address of each offset in a file, counted from where it is loaded; -1 where it is not.

    None where the file is no ELF file, or cannot be opened.
    """
    try:
        descriptor = open_file()
    except OSError:
        return None
    try:
        image = _Image(lambda at, size: os.pread(descriptor, size, at))
        start = int(image.segments["vaddr"][0]) if len(image.segments) else 0
        return [max(_address(image.segments, offset) - start, -1) for offset in offsets]
    except _UNREADABLE:
        return None
    finally:
        os.close(descriptor)


def _functions(read: Read, open_debug: Opener | None = None) -> Functions | None:
    image = _Image(read)
    symbols, strings = image.symbols(_SYMTAB)
    if not len(symbols):
        symbols, strings = _separate_symbols(image, open_debug)
    if not len(symbols):
        symbols, strings = image.symbols(_DYNSYM)
    kinds = symbols["info"] & 0xF
    symbols = symbols[((kinds == _FUNC) | (kinds == _IFUNC)) & (symbols["shndx"] != 0)]
    if not len(symbols):
        return None
    return Functions(image.segments, symbols[np.argsort(symbols["value"], kind="stable")], strings)


def _separate_symbols(image: "_Image", open_debug: Opener | None) -> tuple[Structs, bytes]:
    if open_debug is not None:
        descriptor = open_debug()
        try:
            found = _Image(lambda at, size: os.pread(descriptor, size, at)).symbols(_SYMTAB)
        finally:
            os.close(descriptor)
        if len(found[0]):
            return found
    packed = image.named(b".gnu_debugdata")
    if packed:
        data = lzma.LZMADecompressor(memlimit=_MOST_UNPACKING).decompress(packed, _LARGEST)
        return _Image(lambda at, size: data[at : at + size]).symbols(_SYMTAB)
    return np.zeros(0, _SYM), b""


class _Image:
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
                count = int(section["size"]) // self._in_file[_SYM].itemsize
                symbols = self._array(_SYM, int(section["offset"]), count)
                return symbols, self._content(self._sections[section["link"]])
        return np.zeros(0, _SYM), b""

    def named(self, wanted: bytes) -> bytes:
        """The content of a section, b"" where there is no such section."""
        if self._name_section < len(self._sections):
            section = self._sections[self._name_section]
            names = self._pread(int(section["offset"]), min(int(section["size"]), _MOST_NAMES))
            for section in self._sections:
                at = int(section["name"])
                if names[at : at + len(wanted) + 1] == wanted + b"\0":
                    return self._content(section)
        return b""

    def frames(self) -> tuple[int, int, int] | None:
        """Where .eh_frame_hdr is: offset in the file, address, bytes; None where there is none.

        Nor in 32-bit files: unwind rules of 32-bit programs are not needed.
        """
        if self._in_file[_PHDR] is not _PHDR:
            return None
        for program in self._programs[self._programs["type"] == _EH_FRAME]:
            return int(program["offset"]), int(program["vaddr"]), int(program["filesz"])
        return None

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
        if size > _LARGEST:
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
        data = self._pread(at, size) if size <= _LARGEST else b""
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
