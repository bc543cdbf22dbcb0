"""The functions of an ELF file, by offset in the file (elf(5)).

The file is another user's: nothing in it is trusted, and malformed data
counts as "no symbols". Only the few sections needed are read, the symbol
table as one numpy array; a library that parses symbols one by one takes
seconds for a large program. What is read of a file is limited in all: a hole
costs nothing to make, and its whole size to read.
"""

import contextlib
import lzma
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from tracer.common.text import decode
from tracer.common.types import Structs
from tracer.symbolizing.calls import ends_in_call
from tracer.symbolizing.rule import ENTERED, Cfa, CodeRule, Rule
from tracer.symbolizing.unwind import Frames, ListedTable, SortedTable, Unwinding

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
_LOAD, _DYNAMIC, _EH_FRAME = 1, 2, 0x6474E550  # PT_LOAD, PT_DYNAMIC, PT_GNU_EH_FRAME
_INIT, _FINI, _INIT_ARRAY, _FINI_ARRAY, _INIT_ARRAYSZ, _FINI_ARRAYSZ = 12, 13, 25, 26, 27, 28
_MOST_CALLED = 256  # functions of such an array; crtbegin.o's are the first
_MOST_DYNAMIC = 1 << 14  # bytes of the dynamic section: 1,024 entries; a file has some thirty
_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_EXECUTABLE, _PAGE = 1, 4096  # PF_X
_LAST_ADDRESS = (1 << 64) - 1
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
    """What a file says of its code, by offset in it: unwind rules, calls.

    What is read is read on demand: the file stays open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Raises ValueError or OSError where it is no 64-bit ELF file."""
        self._file = file
        image = _Image(self._read)
        if not image.wide:
            raise BadElf("unwind rules of 32-bit programs are not needed")
        self._code = [
            (int(each["offset"]), int(each["offset"]) + int(each["filesz"]), int(each["vaddr"]))
            for each in image.segments[image.segments["flags"] & _EXECUTABLE != 0]
        ]
        self._unwinding = _unwinding_of(image, self._read)
        self._entered = self._entries(image)
        self._bare: tuple[int, bool] = (-1, False)  # of the last page without a rule

    def __call__(self, offset: int) -> CodeRule | None:
        """None where no code is."""
        found = [each for each in self._code if each[0] <= offset < each[1]]
        if not found:
            return None
        start, _, address = found[0]
        address += offset - start
        first = max(start, offset - 6)  # the longest call has 7 bytes
        try:
            code = self._read(first, offset + 1 - first)
        except (ValueError, OSError):  # no file is that long
            return None
        if len(code) != offset + 1 - first or address > _LAST_ADDRESS:
            return None
        rule = self.at_address(address)
        bare = rule.cfa == Cfa.FRAME and self._bare_page(offset - offset % _PAGE)
        # A nop is before where Go's goexit is returned to.
        nop = rule.cfa == Cfa.FRAME and code[-1:] == b"\x90"
        return CodeRule(rule, nop or ends_in_call(code), bare)

    def ask(self, offsets: Sequence[int]) -> list[CodeRule | None]:
        """The answers to one question. In order of the offsets entries are read once."""
        self.renew()
        found = {offset: self(offset) for offset in sorted(set(offsets))}
        return [found[offset] for offset in offsets]

    def renew(self) -> None:
        """What is read for one question is limited: the next one begins."""
        self._unwinding.renew()

    def at_address(self, address: int) -> Rule:
        """The rule alone; the address is the file's own (p_vaddr)."""
        rule = self._unwinding.rule(address)
        return ENTERED if rule.cfa == Cfa.FRAME and address in self._entered else rule

    def size(self) -> int:
        """Bytes it takes."""
        return self._unwinding.size()

    def _bare_page(self, page: int) -> bool:
        """Whether FRAME holds for all code of a page of the file, by whatever segment."""
        if self._bare[0] != page:
            covered = False
            for start, end, address in self._code:
                low, high = max(page, start), min(page + _PAGE, end)
                if low < high:
                    shift = address - start
                    covered = (
                        covered
                        or any(low + shift <= at < high + shift for at in self._entered)
                        or self._unwinding.covers(low + shift, high + shift)
                    )
            self._bare = page, not covered
        return self._bare[1]

    def _entries(self, image: "_Image") -> frozenset[int]:
        """The addresses where _init and _fini, or what stands in for them, have pushed nothing yet.

        They have no call frame information, but where they begin, and behind an endbr64, the return
        address is on top of the stack.
        """
        found = []
        with contextlib.suppress(*_UNREADABLE):
            for address in image.entry_points():
                for start, end, lowest in self._code:
                    if lowest <= address < lowest + end - start:
                        at = address - lowest + start
                        found.append(address)
                        size = len(_ENDBR64)
                        if end - at > size and self._read(at, size) == _ENDBR64:
                            found.append(address + size)
                        break
        return frozenset(found)

    def _read(self, at: int, size: int) -> bytes:
        if not 0 <= at < 1 << 63:
            raise ValueError("an invalid offset")
        return os.pread(self._file.fileno(), size, at)


def _unwinding_of(image: "_Image", read: Callable[[int, int], bytes]) -> Unwinding:
    """By the table of .eh_frame_hdr, else by the entries of .eh_frame, else nothing at all."""
    with contextlib.suppress(*_UNREADABLE):
        if (found := image.frames_header()) is not None:
            at, address, size = found
            return Unwinding(Frames(read, at - address), SortedTable(read, at, address, size))
    with contextlib.suppress(*_UNREADABLE):
        if (found := image.frames_section()) is not None:
            at, address, size = found
            frames = Frames(read, at - address)
            return Unwinding(frames, ListedTable(frames, address, size))
    return Unwinding()


def unwinding(open_file: Opener) -> Rules | None:
    """What a file says of its code; None where it is no 64-bit ELF file, or cannot be opened."""
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
                count = int(section["size"]) // self._in_file[_SYM].itemsize
                symbols = self._array(_SYM, int(section["offset"]), count)
                return symbols, self._content(self._sections[section["link"]])
        return np.zeros(0, _SYM), b""

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
