"""Text in columns: whole batches of numbers and names turned into CSV bytes by numpy.

Every cell of a column is right-justified in the same number of words, four or
eight characters each, with NUL in front; digits come four at a time from
tables. `lines` lays the columns side by side and squeezes the NULs out, so
no line is ever a Python object. A cell includes its separator.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.unsignedinteger]  # one for each row, or a single one for all
Flags = npt.NDArray[np.bool_]
Tables = tuple[Words, Words]  # without and with leading zeros

BLOCK = 2048  # lines put together at once: they stay in a core's own cache
_COMMA = np.uint32(int.from_bytes(b"\0\0\0,", "little"))
_SEVEN = np.uint64(10_000_000)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a batch, from its leftmost word to its rightmost."""

    words: list[Words]
    width: int  # characters of the longest cell, from its first to the end

    @property
    def size(self) -> int:
        """Characters the words take, NULs included."""
        return sum(word.itemsize for word in self.words)


def decimal(values: npt.NDArray[np.integer], blank: int | None = None) -> Column:
    """Non-negative integers in decimal, each followed by a comma; nothing for the value `blank`."""
    number, empty = _without(values, blank)
    most = int(number.max(initial=0))
    if empty is None and most == number.min(initial=most):
        return _constant(b"%d," % most)
    if most < 1 << 32:
        words = _digits(number.astype(np.uint32), [])
    else:
        words = _long_digits(number.astype(np.uint64))
    return _column(words, len(str(most)) + 1, empty)


def hexadecimal(values: npt.NDArray[np.uint64], blank: int | None = None) -> Column:
    """Unsigned integers as 0x…, each followed by a comma; nothing for the value `blank`."""
    number, empty = _without(values, blank)
    most = int(number.max(initial=0))
    if empty is None and most == number.min(initial=most):
        return _constant(b"%#x," % most)
    first, head, tail = _hexadecimal_tables()
    rest = number >> np.uint64(12)
    top = most >> 12
    words = [_look_up(tail, number & np.uint64(0xFFF), rest)]
    while top >= len(first):
        low, rest = rest & np.uint64(0xFFFF), rest >> np.uint64(16)
        top >>= 16
        words.append(_look_up(head, low, rest))
    width = 4 * len(words) + len(f"0x{top:x}" if top else "0x")
    words.append(first.take(rest.astype(np.intp)))
    return _column(words, width, empty)


def strings(cells: Sequence[bytes], ids: npt.NDArray[np.integer]) -> Column:
    """`cells[id]` for each of `ids`; cells hold no NUL, and end with their own separator."""
    present = np.zeros(len(cells), bool)
    present[ids] = True
    used: list[int] = np.flatnonzero(present).tolist()
    if len(used) == 1:
        return _constant(cells[used[0]])
    width = max((len(cells[i]) for i in used), default=0)
    room = width + -width % (8 if width > 4 else 4)
    cells_used = b"".join(cells[i].rjust(room, b"\0") for i in used)
    table = np.frombuffer(cells_used, "<u8" if width > 4 else "<u4").reshape(len(used), -1)
    place = (np.cumsum(present) - 1).take(ids)
    return Column(list(table.take(place, axis=0).T), width)


def lines(columns: Sequence[Column], rows: int) -> Iterator[memoryview]:
    """The columns side by side as text, padding squeezed out: whole lines at a time."""
    widths = [columns[0].size, *(column.width for column in columns[1:])]
    ends: list[int] = np.cumsum(widths).tolist()
    stride = ends[-1]
    words = _placed(columns, ends)
    text = np.empty(min(rows, BLOCK) * stride, np.uint8)
    for start in range(0, rows, BLOCK):
        count = min(rows - start, BLOCK)
        for word, at in words:
            cells = word[start : start + count] if len(word) == rows else word
            np.ndarray((count,), word.dtype, text.data, at, (stride,))[:] = cells
        block = text[: count * stride]
        yield block[block != 0].data


def _placed(columns: Sequence[Column], ends: Sequence[int]) -> list[tuple[Words, int]]:
    """Every word and where in its line it goes, in the order of writing.

    From right to left: the NULs that all cells of a column have in front lie over the end of
    the column before, which is written after it. Fewer gaps make the squeezing faster.
    """
    placed = []
    for column, end in zip(columns[::-1], ends[::-1], strict=True):
        at = end - column.size
        for word in column.words:
            placed.append((word, at))
            at += word.itemsize
    return placed


def _without(
    values: npt.NDArray[np.integer], blank: int | None
) -> tuple[npt.NDArray[np.integer], Flags | None]:
    """A contiguous copy with 0 in place of `blank`, and where that was, if anywhere."""
    number = values.copy()
    if blank is None:
        return number, None
    empty = number == number.dtype.type(blank)
    if not empty.any():
        return number, None
    number[empty] = 0
    return number, empty


def _long_digits(number: npt.NDArray[np.uint64]) -> list[Words]:
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


def _look_up(table: Tables, low: npt.NDArray[np.integer], rest: npt.NDArray[np.integer]) -> Words:
    """The digits of `low`, with leading zeros where there are others in front."""
    stripped, padded = table
    index = low.astype(np.intp)
    more = rest != 0
    if more.all():
        return padded.take(index)
    if not more.any():
        return stripped.take(index)
    return np.where(more, padded.take(index), stripped.take(index))


def _column(words: list[Words], width: int, empty: Flags | None) -> Column:
    """The column of `words`, least significant first, with a lone comma where `empty`."""
    if empty is not None:
        if empty.all():
            return _constant(b",")
        keep = empty.astype(np.uint32) - np.uint32(1)  # all bits, or none where empty
        words = [word & keep for word in words]
        words[0] |= ~keep & _COMMA
    return Column(words[::-1], width)


def _constant(cell: bytes) -> Column:
    """The same cell in every row."""
    padded = cell.rjust(len(cell) + -len(cell) % 4, b"\0")
    return Column(list(np.frombuffer(padded, "<u4").reshape(-1, 1)), len(cell))


@cache
def _decimal_tables() -> tuple[Tables, Tables]:
    head = _tables([f"{n:04d}" for n in range(10_000)])
    tail = _tables([f"{n:03d}," for n in range(1000)])
    return head, tail


@cache
def _hexadecimal_tables() -> tuple[Words, Tables, Tables]:
    first = _packed([f"0x{n:x}" if n else "0x" for n in range(256)])
    head = _tables([f"{n:04x}" for n in range(1 << 16)])
    tail = _tables([f"{n:03x}," for n in range(1 << 12)])
    return first, head, tail


def _tables(padded: list[str]) -> Tables:
    stripped = [digits.lstrip("0") for digits in padded]
    if stripped[0] == ",":
        stripped[0] = "0,"
    return _packed(stripped), _packed(padded)


def _packed(cells: list[str]) -> Words:
    return np.frombuffer("".join(cell.rjust(4, "\0") for cell in cells).encode(), "<u4")
