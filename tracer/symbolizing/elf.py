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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from tracer.common.text import decode
from tracer.common.types import Structs
from tracer.symbolizing.calls import ends_in_call
from tracer.symbolizing.elf_image import (
    DYNSYM,
    LARGEST,
    SYM,
    SYMTAB,
    UNREADABLE,
    BadElf,
    Image,
    Read,
)
from tracer.symbolizing.rule import ENTERED, Cfa, CodeRule, Rule
from tracer.symbolizing.unwind import Frames, ListedTable, SortedTable, Unwinding

_MOST_UNPACKING = 1 << 27  # bytes that unpacking takes; what xz -9 makes takes half of that
_MOST_ALIASES = 64  # names of one function that are compared
_LONGEST = 4096  # bytes of a name
_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_EXECUTABLE, _PAGE = 1, 4096  # PF_X
_LAST_ADDRESS = (1 << 64) - 1
_FUNC, _IFUNC = 2, 10

Opener = Callable[[], int]  # a descriptor to read an ordinary file; raises OSError


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
        address = address_of(self.segments, offset)
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


def address_of(segments: Structs, offset: int) -> int:
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
    except UNREADABLE:
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
        return Image(lambda at, size: os.pread(descriptor, size, at)).build_id()
    except UNREADABLE:
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
        image = Image(self._read)
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

    def _entries(self, image: "Image") -> frozenset[int]:
        """The addresses where _init and _fini, or what stands in for them, have pushed nothing yet.

        They have no call frame information, but where they begin, and behind an endbr64, the return
        address is on top of the stack.
        """
        found = []
        with contextlib.suppress(*UNREADABLE):
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


def _unwinding_of(image: "Image", read: Callable[[int, int], bytes]) -> Unwinding:
    """By the table of .eh_frame_hdr, else by the entries of .eh_frame, else nothing at all."""
    with contextlib.suppress(*UNREADABLE):
        if (found := image.frames_header()) is not None:
            at, address, size = found
            return Unwinding(Frames(read, at - address), SortedTable(read, at, address, size))
    with contextlib.suppress(*UNREADABLE):
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
    except UNREADABLE:
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
        image = Image(lambda at, size: os.pread(descriptor, size, at))
        start = int(image.segments["vaddr"][0]) if len(image.segments) else 0
        return [max(address_of(image.segments, offset) - start, -1) for offset in offsets]
    except UNREADABLE:
        return None
    finally:
        os.close(descriptor)


def _functions(read: Read, open_debug: Opener | None = None) -> Functions | None:
    image = Image(read)
    symbols, strings = image.symbols(SYMTAB)
    if not len(symbols):
        symbols, strings = _separate_symbols(image, open_debug)
    if not len(symbols):
        symbols, strings = image.symbols(DYNSYM)
    kinds = symbols["info"] & 0xF
    symbols = symbols[((kinds == _FUNC) | (kinds == _IFUNC)) & (symbols["shndx"] != 0)]
    if not len(symbols):
        return None
    return Functions(image.segments, symbols[np.argsort(symbols["value"], kind="stable")], strings)


def _separate_symbols(image: "Image", open_debug: Opener | None) -> tuple[Structs, bytes]:
    if open_debug is not None:
        descriptor = open_debug()
        try:
            found = Image(lambda at, size: os.pread(descriptor, size, at)).symbols(SYMTAB)
        finally:
            os.close(descriptor)
        if len(found[0]):
            return found
    packed = image.named(b".gnu_debugdata")
    if packed:
        data = lzma.LZMADecompressor(memlimit=_MOST_UNPACKING).decompress(packed, LARGEST)
        return Image(lambda at, size: data[at : at + size]).symbols(SYMTAB)
    return np.zeros(0, SYM), b""
