"""Code objects of CPython as the kernel sends them: function, file, and the line of an instruction.

A code object comes once, in the ring of copies (bpf/shared.h: struct python_code). Its texts are
the start of str objects, as Include/cpython/unicodeobject.h lays them out; its lines are a location
table (CPython's InternalDocs/code_objects.md, before 3.14 Objects/locations.md). All of it is the
target's: whatever it says, reading it ends, and is as long as the table.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tracer.wire.shared import PYTHON_TEXT

_CODE = struct.Struct("<QQIIIII4x40x")  # struct python_code
_TEXT = struct.Struct("<16xQ8xI")  # PyASCIIObject: length, state
_COMPACT, _ASCII = 0x20, 0x40  # of its state
_SHORTER_SINCE = 0x030C  # version in which the object became 8 bytes shorter
_ENCODINGS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
_MOST_CODES = 1 << 16  # that are kept; then the oldest are forgotten
_MOST_BYTES = 1 << 25  # of them
_LARGEST_TABLE = 1 << 17
_MOST_LINE = 1 << 31
_CUT = "…"
_NO_STACK = bytes(8)
_TEXTS = 2 * PYTHON_TEXT
_BEGINS, _MOST_BITS = 0x80, 36  # of a location table: an entry's first byte; of a number
# Location table: kinds of an entry, by its code
_ONE_LINE, _NO_COLUMNS, _LONG, _NONE = 10, 13, 14, 15


class Code(NamedTuple):
    """A code object; texts are raw, "" where they could not be read."""

    function: str  # co_qualname
    file: str  # co_filename
    first_line: int
    table: bytes  # co_linetable, as far as it came

    @property
    def is_made(self) -> bool:
        """Whether it is the interpreter's own: what calls __init__() since 3.13."""
        return not self.first_line and self.function == self.file == "__init__"

    @property
    def size(self) -> int:
        """Characters and bytes that it has."""
        return len(self.function) + len(self.file) + len(self.table)

    def line(self, position: int) -> int:
        """The line of an instruction, in code units from the first; 0 where there is none."""
        if position < 0:  # nothing of it has run yet
            return self.first_line
        line, start = self.first_line, 0
        for units, by, known in _entries(self.table):
            line += by
            if start <= position < start + units:
                return line if known and 0 < line < _MOST_LINE else 0
            start += units
        return 0


def _entries(table: bytes) -> Iterator[tuple[int, int, bool]]:
    """Of each entry: code units, how many lines further it is, and whether it has a line at all."""
    at, end = 0, len(table)
    while at < end:
        first = table[at]
        kind, units = first >> 3 & 0xF, (first & 7) + 1
        at += 1
        by = 0
        if kind in (_LONG, _NO_COLUMNS):
            value, _ = _number(table, at)
            by = -(value >> 1) if value & 1 else value >> 1
        elif _ONE_LINE <= kind < _NO_COLUMNS:
            by = kind - _ONE_LINE
        yield units, by, kind != _NONE
        while at < end and not table[at] & _BEGINS:  # columns
            at += 1


def _number(table: bytes, at: int) -> tuple[int, int]:
    """A number in groups of six bits, the lowest first; and where it ends."""
    value = shift = 0
    while at < len(table) and shift < _MOST_BITS:
        byte = table[at]
        at += 1
        value |= (byte & 0x3F) << shift
        shift += 6
        if not byte & 0x40:
            break
    return value, at


def _text(data: bytes, version: int) -> str:
    """A str object by its first bytes; "" where it is none."""
    length, state = _TEXT.unpack_from(data)
    encoding = _ENCODINGS.get(state >> 2 & 7)
    if not state & _COMPACT or encoding is None:
        return ""
    head = 48 if version < _SHORTER_SINCE else 40
    if not state & _ASCII:
        head = 72 if version < _SHORTER_SINCE else 56
    width = state >> 2 & 7
    room = (len(data) - head) // width
    text = data[head : head + min(length, room) * width].decode(encoding, "replace")
    return text + _CUT if length > room else text


class Codes:
    """The code objects of a run, by the kernel's number for them."""

    def __init__(self) -> None:
        self._codes: dict[int, Code] = {}
        self._bytes = 0  # of them

    def __len__(self) -> int:
        return len(self._codes)

    def get(self, number: int) -> Code | None:
        """None where it has not come, or was forgotten."""
        code = self._codes.pop(number, None)
        if code is not None:
            self._codes[number] = code  # the last used at the end, as the kernel keeps them
        return code

    def receive(self, record: bytes) -> None:
        """Add a record of the ring, which is_code()."""
        if len(record) < _CODE.size:
            return
        _, number, version, first_line, lines, offset, size = _CODE.unpack_from(record)
        body = record[_CODE.size :]
        if offset:  # the rest of a table
            known = self._codes.get(number)
            if known is not None and len(known.table) == offset and offset < _LARGEST_TABLE:
                self._put(number, known._replace(table=known.table + body[_TEXTS:][:size]))
            return
        if len(body) < _TEXTS:
            return
        file, function = (_text(body[at : at + PYTHON_TEXT], version) for at in (0, PYTHON_TEXT))
        self._put(number, Code(function, file, first_line, body[_TEXTS:][: min(size, lines)]))

    def _put(self, number: int, code: Code) -> None:
        before = self._codes.pop(number, None)
        self._bytes += code.size - (before.size if before is not None else 0)
        self._codes[number] = code
        while len(self._codes) > _MOST_CODES or self._bytes > _MOST_BYTES:
            oldest = self._codes.pop(next(iter(self._codes)))
            self._bytes -= oldest.size


def is_code(record: bytes) -> bool:
    """Whether a record of the ring of copies is a code object."""
    return record[:8] == _NO_STACK
