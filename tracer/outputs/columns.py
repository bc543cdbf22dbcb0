"""Text in columns: whole batches of numbers and names turned into CSV bytes by numpy.

Every cell of a column is right-justified in the same number of words, four or
eight characters each, with NUL in front; digits come four at a time from
tables, those that are the same in all rows once for all. A cell includes its
separator. tracer.outputs.lines lays the columns side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.fields import alike
from tracer.common.types import U64, Bools, Integers

Words = npt.NDArray[np.unsignedinteger]  # one for each row, or a single one for all
Tables = Words  # of all numbers with leading zeros, then the same without

_COMMA = np.uint32(int.from_bytes(b"\0\0\0,", "little"))
_SEVEN = np.uint64(10_000_000)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a batch, from its leftmost word to its rightmost."""

    words: list[Words]
    width: int  # characters of the longest cell, from its first to the end
    lengths: Integers | None = None  # characters of each row's cell; None: `width`, all of them

    @property
    def size(self) -> int:
        """Characters the words take, NULs included."""
        return sum(word.itemsize for word in self.words)


def decimal(values: Integers, blank: int | None = None) -> Column:
    """Non-negative integers in decimal, each followed by a comma; nothing for the value `blank`."""
    if (value := alike(values)) is not None:
        return constant(b"," if value == blank else b"%d," % value)
    number, empty = _without(values, blank)
    least, most = _extremes(number)
    if least == most:
        return _repeated(b"%d," % most, empty)
    same, digits = _shared(least, most, (3, 7, 11), 10)
    if digits:
        words = _below(number - number.dtype.type(same * 10**digits), digits)
        words += constant(b"%d" % same).words[::-1]
    elif most < 1 << 32:
        words = _digits(number.astype(np.uint32), [])
    else:
        words = _long_digits(number.astype(np.uint64))
    return _column(words, len(str(most)), _lengths(number, least, most, 10), empty)


def hexadecimal(values: U64, blank: int | None = None) -> list[Column]:
    """Unsigned integers as 0x…, each followed by a comma; nothing for the value `blank`.

    Two columns, since the digits may be ragged behind the 0x.
    """
    if (value := alike(values)) is not None:
        return [constant(b"," if value == blank else b"%#x," % value)]
    number, empty = _without(values, blank)
    least, most = _extremes(number)
    if least == most:
        return [_repeated(b"%#x," % most, empty)]
    head, tail = _hexadecimal_tables()
    same, digits = _shared(least, most, (7, 11), 16)
    if digits:
        rest = (number & np.uint64((1 << 4 * digits) - 1)).astype(np.intp)
        words = [_padded(tail, rest & 0xFFF)]
        words += [_padded(head, rest >> shift & 0xFFFF) for shift in range(12, 4 * digits, 16)]
        words += constant(b"%x" % same).words[::-1]
    else:
        rest = number >> np.uint64(12)
        words = [_look_up(tail, number & np.uint64(0xFFF), rest)]
        while rest.any():
            low, rest = rest & np.uint64(0xFFFF), rest >> np.uint64(16)
            words.append(_look_up(head, low, rest))
    lengths = _lengths(number, least, most, 16)
    return [_repeated(b"0x", empty, b""), _column(words, len(f"{most:x}"), lengths, empty)]


def strings(cells: Sequence[bytes], ids: Integers) -> Column:
    """`cells[id]` for each of `ids`; cells hold no NUL, and end with their own separator."""
    if alike(ids) is not None or (len(ids) and (ids == ids[0]).all()):
        return constant(cells[int(ids[0])])
    present = np.zeros(len(cells), bool)
    present[ids] = True
    used: list[int] = np.flatnonzero(present).tolist()
    width = max((len(cells[i]) for i in used), default=0)
    room = width + -width % (8 if width > 4 else 4)
    cells_used = b"".join(cells[i].rjust(room, b"\0") for i in used)
    table = np.frombuffer(cells_used, "<u8" if width > 4 else "<u4").reshape(len(used), -1)
    row = _select(np.cumsum(present) - 1, ids)
    sizes = np.array([len(cells[i]) for i in used], np.intp)
    lengths = None if (sizes == width).all() else _select(sizes, row)
    return Column([_select(part, row) for part in np.ascontiguousarray(table.T)], width, lengths)


def constant(cell: bytes) -> Column:
    """The same cell in every row."""
    if len(cell) <= 4:
        return Column([np.frombuffer(cell.rjust(4, b"\0"), "<u4")], len(cell))
    padded = cell.rjust(len(cell) + -len(cell) % 8, b"\0")
    return Column(list(np.frombuffer(padded, "<u8").reshape(-1, 1)), len(cell))


def _without(values: Integers, blank: int | None) -> tuple[Integers, Bools | None]:
    """A contiguous copy with the largest other value in place of `blank`, and where that was."""
    number = values.copy()
    if blank is None:
        return number, None
    empty = number == number.dtype.type(blank)
    if not empty.any():
        return number, None
    number[empty] = number.max(where=~empty, initial=0)
    return number, empty


def _extremes(number: Integers) -> tuple[int, int]:
    most = int(number.max(initial=0))
    return int(number.min(initial=most)), most


def _shared(least: int, most: int, groups: Sequence[int], base: int) -> tuple[int, int]:
    """(the leading digits all have, how many of `groups` follow them); nothing shared: (0, 0)."""
    for digits in groups:
        same = least // base**digits
        if same and same == most // base**digits:
            return same, digits
    return 0, 0


def _lengths(number: Integers, least: int, most: int, base: int) -> Integers | None:
    """Characters of each cell: its digits and the comma; None where all have as many."""
    count = str if base == 10 else "{:x}".format
    low, high = len(count(least)), len(count(most))
    if low == high:
        return None
    lengths = np.full(len(number), low + 1, np.uint8)
    for digits in range(low, high):
        lengths += (number >= number.dtype.type(base**digits)).view(np.uint8)
    return lengths


def _below(number: Integers, digits: int) -> list[Words]:
    """The last 3, 7 or 11 digits of numbers that have no more, least significant first."""
    head, tail = _decimal_tables()
    highest: list[Words] = []
    if digits == 11:
        long = number.astype(np.uint64)
        above = long // _SEVEN
        number = long - above * _SEVEN
        highest = [_padded(head, above)]
    rest = number.astype(np.uint32)
    if digits == 3:
        return [_padded(tail, rest)]
    high = rest // np.uint32(1000)
    return [_padded(tail, rest - high * np.uint32(1000)), _padded(head, high), *highest]


def _long_digits(number: U64) -> list[Words]:
    """As `_digits`. Division is several times cheaper in 32 bits: seven digits come off at once."""
    head, tail = _decimal_tables()
    high: npt.NDArray[np.unsignedinteger] = number // _SEVEN
    low = (number - high * _SEVEN).astype(np.uint32)
    if high.max() < 1 << 32:
        high = high.astype(np.uint32)
    thousands = low // np.uint32(1000)
    units = low - thousands * np.uint32(1000)
    words = [_look_up(tail, units, high | thousands), _look_up(head, thousands, high)]
    return _digits(high, words)


def _digits(rest: npt.NDArray[np.unsignedinteger], words: list[Words]) -> list[Words]:
    """Append the words of `rest`, least significant first; a comma ends the very first."""
    head, tail = _decimal_tables()
    while not words or rest.any():
        table, by = (head, 10_000) if words else (tail, 1000)
        divisor = rest.dtype.type(by)
        higher = rest // divisor
        words.append(_look_up(table, rest - higher * divisor, higher))
        rest = higher
    return words


def _look_up(table: Tables, low: Integers, rest: Integers) -> Words:
    """The digits of `low`, with leading zeros where there are others in front."""
    first = rest == 0
    if not first.any():
        return _padded(table, low)
    return _select(table, low.astype(np.intp) + first * np.intp(len(table) // 2))


def _padded(table: Tables, low: Integers) -> Words:
    """The digits of `low`, leading zeros and all; a single word where all are the same."""
    if len(low) and (low == low[0]).all():
        return table[int(low[0]) :][:1]
    return _select(table, low)


def _select(table: npt.NDArray[Any], at: Integers) -> npt.NDArray[Any]:
    """table[at]; quicker, since nothing is out of range."""
    return table.take(at.astype(np.intp, copy=False), mode="clip")


def _column(
    words: list[Words], digits: int, lengths: Integers | None, empty: Bools | None
) -> Column:
    """The column of `words`, least significant first, with a lone comma where `empty`."""
    width = digits + 1
    if empty is not None:
        there = (~empty).view(np.uint8)
        words = [word * there for word in words]
        words[0] |= empty.view(np.uint8) * _COMMA
        lengths = np.where(empty, 1, width if lengths is None else lengths)
    return Column(words[::-1], width, lengths)


def _repeated(cell: bytes, empty: Bools | None, instead: bytes = b",") -> Column:
    """The same cell in every row, but `instead` where `empty`."""
    if empty is None:
        return constant(cell)
    if empty.all():
        return constant(instead)
    return strings([cell, instead], empty.astype(np.intp))


@cache
def _decimal_tables() -> tuple[Tables, Tables]:
    head = _tables([f"{n:04d}" for n in range(10_000)])
    tail = _tables([f"{n:03d}," for n in range(1000)])
    return head, tail


@cache
def _hexadecimal_tables() -> tuple[Tables, Tables]:
    head = _tables([f"{n:04x}" for n in range(1 << 16)])
    tail = _tables([f"{n:03x}," for n in range(1 << 12)])
    return head, tail


def _tables(padded: list[str]) -> Tables:
    stripped = [digits.lstrip("0") for digits in padded]
    if stripped[0] == ",":
        stripped[0] = "0,"
    return _packed(padded + stripped)


def _packed(cells: list[str]) -> Words:
    return np.frombuffer("".join(cell.rjust(4, "\0") for cell in cells).encode(), "<u4")
