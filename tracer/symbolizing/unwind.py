"""Unwind rules of an ELF file, from its call frame information.

Of .eh_frame (Linux Standard Base, chapter 10; DWARF 4, 6.4) just what shows whether a walk by
frame pointers was right at an address: what the canonical frame address (CFA) is computed
from, and whether the frame pointer is the caller's still. The file is another user's: what
is malformed gives None. Nothing of it is kept: its table of functions may claim megabytes,
and many files' are at hand.
"""

import bisect
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from tracer.symbolizing.rule import RBP, Rule

_RETURN = 16

_MOST_ENTRIES = 1 << 22
_AT_ONCE = 64  # entries of the table that are read together
_LONGEST = 1 << 16  # bytes of one entry
_LONGEST_COMMON = 1 << 10  # of one that others refer to; compilers make some twenty
# Bytes of a file's entries in all, each byte perhaps an instruction to follow: hundreds of
# thousands of addresses that are looked up.
_MOST_FOLLOWED = 1 << 28

# Pointer encodings (LSB, 10.5.1)
_SDATA4, _UDATA4, _SDATA8, _UDATA8, _PCREL = 0x0B, 0x03, 0x0C, 0x04, 0x10
_SIZES = {0x00: 8, _SDATA4: 4, _UDATA4: 4, _SDATA8: 8, _UDATA8: 8, 0x02: 2, 0x0A: 2}


Read = Callable[[int, int], bytes]  # (offset, size) -> bytes


class Unwinding:
    """The call frame information of one file."""

    def __init__(self, read: Read, frames_at: int, address: int, size: int) -> None:
        """`frames_at`, `address`, `size`: .eh_frame_hdr in the file, in memory, its bytes.

        Raises ValueError where there is no table to search in.
        """
        self._read = read
        self._shift = frames_at - address  # of the segment that both sections are in
        self._address = address
        self._left = _MOST_FOLLOWED
        header = read(frames_at, min(size, 16))
        if len(header) < 12 or header[:1] != b"\1" or header[2:4] != b"\x03\x3b":
            raise ValueError("no sorted table of frames")
        skip = 4 + _SIZES.get(header[1] & 0x0F, len(header))
        self._count = int.from_bytes(header[skip : skip + 4], "little")
        self._table = frames_at + skip + 4
        if self._count > _MOST_ENTRIES or skip + 4 + 8 * self._count > size:
            raise ValueError("a truncated table")
        if not self._count or len(self._entries(self._count - 1, 1)) != 2:
            raise ValueError("a table without entries")

    def rule(self, address: int) -> Rule | None:
        """The rule at an address (in the file's own terms); None where there is none."""
        try:
            where = self._find(address - self._address)
            return None if where is None else self._at(self._address + where, address)
        except (ValueError, LookupError, struct.error, OSError):
            return None

    def _find(self, wanted: int) -> int | None:
        """Where the entry is whose function begins last at or before; both from the header on."""
        low, high = 0, self._count
        while high - low > _AT_ONCE:
            middle = (low + high) // 2
            low, high = (middle, high) if self._entries(middle, 1)[0] <= wanted else (low, middle)
        words = self._entries(low, high - low)
        at = bisect.bisect_right(words[::2], wanted) - 1
        return None if at < 0 else int(words[2 * at + 1])

    def _entries(self, first: int, count: int) -> tuple[int, ...]:
        """Of the table: where each function begins, and where its entry is, by turns."""
        data = self._read(self._table + 8 * first, 8 * count)
        return struct.unpack(f"<{len(data) // 4}i", data)

    def _at(self, where: int, address: int) -> Rule | None:
        """By the frame description entry at address `where`."""
        body = self._entry(where)
        cie_at = where + 4 - struct.unpack_from("<i", body)[0]
        cie = _parse_cie(self._entry(cie_at, _LONGEST_COMMON))
        reader = _Reader(body, 4)
        start = reader.pointer(cie.encoding, where + 4)
        length = reader.pointer(cie.encoding & 0x0F, 0)
        if not start <= address < start + length:
            return None
        if cie.augmented:
            reader.at += reader.uleb()
        initial = _run(cie, _Reader(cie.instructions, 0), _State(), None, 0, 1 << 64)
        return _run(cie, reader, initial, initial, start, address).rule()

    def _entry(self, where: int, longest: int = _LONGEST) -> bytes:
        """What follows the length of the entry at an address."""
        (length,) = struct.unpack("<I", self._read(where + self._shift, 4))
        if not 4 <= length <= longest:
            raise ValueError("an entry of an invalid length")
        self._left -= length
        if self._left < 0:
            raise ValueError("the limit for reading one file was reached")
        return self._read(where + self._shift + 4, length)


@dataclass(frozen=True, slots=True)
class _State:
    register: int = -1
    offset: int = 0
    rbp_saved: bool = False
    return_undefined: bool = False

    def rule(self) -> Rule:
        return Rule(self.register, self.offset, not self.rbp_saved, self.return_undefined)


@dataclass(frozen=True, slots=True)
class _Cie:
    code_unit: int
    data_unit: int
    encoding: int
    augmented: bool
    instructions: bytes


class _Reader:
    """Little-endian numbers out of bytes, one after another."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize("<" + kind)
        return int(value)

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("an unterminated number")

    def sleb(self) -> int:
        start = self.at
        value = self.uleb()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def pointer(self, encoding: int, section_at: int) -> int:
        """An encoded pointer; `section_at` is the address of the bytes' begin."""
        address = section_at + self.at
        kind = {0x00: "Q", 0x02: "H", 0x03: "I", 0x04: "Q", 0x0A: "h", 0x0B: "i", 0x0C: "q"}
        value = self.number(kind[encoding & 0x0F])
        if encoding & 0x70 == _PCREL:
            value += address
        elif encoding & 0x70:
            raise ValueError("a pointer of an unknown encoding")
        return value


def _parse_cie(body: bytes) -> _Cie:
    if struct.unpack_from("<I", body)[0]:
        raise ValueError("no common information entry (CIE)")
    reader = _Reader(body, 4)
    version = reader.byte()
    end = body.index(b"\0", reader.at)
    augmentation = body[reader.at : end]
    reader.at = end + 1
    code_unit, data_unit = reader.uleb(), reader.sleb()
    if version == 1:
        reader.byte()
    else:
        reader.uleb()
    encoding = 0
    if augmentation[:1] == b"z":
        length = reader.uleb()
        after = reader.at + length
        for letter in augmentation[1:]:
            if letter == ord("R"):
                encoding = reader.byte()
            elif letter == ord("L"):
                reader.byte()
            elif letter == ord("P"):
                kind = reader.byte()
                reader.at += _SIZES[kind & 0x0F]
        reader.at = after
    elif augmentation:
        raise ValueError("an unknown augmentation")
    return _Cie(code_unit, data_unit, encoding, augmentation[:1] == b"z", body[reader.at :])


def _run(
    cie: _Cie, reader: _Reader, state: _State, initial: _State | None, start: int, address: int
) -> _State:
    """The state that the instructions from `start` on leave at `address`."""
    kept: list[_State] = []
    location = start
    while reader.at < len(reader.data):
        code = reader.byte()
        high, low = code & 0xC0, code & 0x3F
        step = 0
        if high == 0x40:
            step = low * cie.code_unit
        elif high == 0x80:
            reader.uleb()
            state = _saved(state, low)
        elif high == 0xC0:
            state = _restored(state, low, initial)
        elif low in (0x02, 0x03, 0x04):  # advance_loc1, 2, 4
            step = reader.number({2: "B", 3: "H", 4: "I"}[low]) * cie.code_unit
        elif low in (0x05, 0x11, 0x14, 0x15, 0x2F, 0x09):  # offset_extended and its like, register
            register = reader.uleb()
            reader.uleb()
            state = _saved(state, register)
        elif low == 0x06:  # restore_extended
            state = _restored(state, reader.uleb(), initial)
        elif low == 0x07:  # undefined
            if reader.uleb() == _RETURN:
                state = replace(state, return_undefined=True)
        elif low == 0x08:  # same_value
            if reader.uleb() == RBP:
                state = replace(state, rbp_saved=False)
        elif low == 0x0A:  # remember_state
            kept.append(state)
        elif low == 0x0B:  # restore_state
            state = kept.pop()
        elif low in (0x0C, 0x12):  # def_cfa, def_cfa_sf
            register = reader.uleb()
            offset = reader.uleb() if low == 0x0C else reader.sleb() * cie.data_unit
            state = replace(state, register=register, offset=offset)
        elif low == 0x0D:  # def_cfa_register
            state = replace(state, register=reader.uleb())
        elif low in (0x0E, 0x13):  # def_cfa_offset, def_cfa_offset_sf
            offset = reader.uleb() if low == 0x0E else reader.sleb() * cie.data_unit
            state = replace(state, offset=offset)
        elif low == 0x0F:  # def_cfa_expression
            length = reader.uleb()
            reader.at += length
            state = replace(state, register=-1)
        elif low in (0x10, 0x16):  # expression, val_expression
            state = _saved(state, reader.uleb())
            length = reader.uleb()
            reader.at += length
        elif low == 0x2E:  # GNU_args_size
            reader.uleb()
        elif low:
            raise ValueError("an unknown instruction")
        if step:
            location += step
            if location > address:
                return state
    return state


def _saved(state: _State, register: int) -> _State:
    return replace(state, rbp_saved=True) if register == RBP else state


def _restored(state: _State, register: int, initial: _State | None) -> _State:
    if register != RBP:
        return state
    return replace(state, rbp_saved=initial is not None and initial.rbp_saved)
