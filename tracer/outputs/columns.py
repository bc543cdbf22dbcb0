"""Text in columns: whole batches of numbers and names turned into CSV bytes by numpy.

Every cell of a column is right-justified in the same number of 32-bit words,
four characters each, with NUL in front; digits come four at a time from
tables. `lines` lays the columns side by side and squeezes the NULs out, so
no line is ever a Python object. A cell includes its separator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

_COMMA = int.from_bytes(b"\0\0\0,", "little")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a batch: word for word, each an array with an element a row."""

    words: list[Words]
    width: int  # the longest cell, from its first character to the end

    @property
    def spare(self) -> int:
        """NULs in front of the longest cell."""
        return 4 * len(self.words) - self.width


def decimal(values: npt.NDArray[np.integer], blank: Flags | None = None) -> Column:
    """Non-negative integers in decimal, each followed by a comma; nothing where `blank`."""
    most = int(values.max(initial=0))
    # Division is several times cheaper in 32 bits.
    rest: npt.NDArray[np.integer] = values.astype(np.uint32 if most < 1 << 32 else np.uint64)
    head, tail = _decimal_tables()
    rest, low = _split(rest, 1000)
    words = [_look_up(tail, low, rest)]
    while rest.any():
        rest, low = _split(rest, 10_000)
        words.append(_look_up(head, low, rest))
    return _column(words, len(str(most)) + 1, blank)


def hexadecimal(values: npt.NDArray[np.uint64], blank: Flags | None = None) -> Column:
    """Unsigned integers as 0x…, each followed by a comma; nothing where `blank`."""
    number = values.copy() if blank is None else np.where(blank, np.uint64(0), values)
    first, head, tail = _hexadecimal_tables()
    low, rest = number & np.uint64(0xFFF), number >> np.uint64(12)
    words = [_look_up(tail, low.astype(np.intp), rest)]
    while rest.max(initial=0) >= len(first):
        low, rest = rest & np.uint64(0xFFFF), rest >> np.uint64(16)
        words.append(_look_up(head, low.astype(np.intp), rest))
    top = int(rest.max(initial=0))
    width = 4 * len(words) + len(f"0x{top:x}" if top else "0x")
    words.append(first.take(rest.astype(np.intp)))
    return _column(words, width, blank)


def strings(cells: Sequence[bytes], ids: npt.NDArray[np.integer]) -> Column:
    """`cells[id]` for each of `ids`; cells hold no NUL, and end with their own separator."""
    present = np.zeros(len(cells), bool)
    present[ids] = True
    used: list[int] = np.flatnonzero(present).tolist()
    width = max((len(cells[i]) for i in used), default=0)
    room = width + -width % 4
    table = np.frombuffer(b"".join(cells[i].rjust(room, b"\0") for i in used), "<u4")
    place = (np.cumsum(present) - 1).take(ids)
    return Column(list(table.reshape(len(used), -1).take(place, axis=0).T), width)


def lines(columns: Sequence[Column]) -> bytes:
    """The columns side by side as bytes, padding squeezed out."""
    rows = len(columns[0].words[0])
    spill = [0, *(column.spare for column in columns[1:])]
    ends = np.cumsum([4 * len(c.words) - s for c, s in zip(columns, spill, strict=True)]).tolist()
    stride: int = ends[-1]
    text = np.empty(rows * stride, np.uint8)
    # From right to left: the NULs every cell of a column has in front lie over the end of the
    # column before, which is written after it. Fewer gaps make the squeezing faster.
    for column, end in zip(columns[::-1], ends[::-1], strict=True):
        start = end - 4 * len(column.words)
        for place, word in enumerate(column.words):
            at = start + 4 * place
            np.ndarray((rows,), "<u4", text.data, at, (stride,))[:] = word
    packed: npt.NDArray[np.uint8] = text[text != 0]
    return packed.tobytes()


def _split(
    number: npt.NDArray[np.integer], by: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.intp]]:
    divisor = number.dtype.type(by)
    rest = number // divisor
    return rest, (number - rest * divisor).astype(np.intp)


def _look_up(table: Words, low: npt.NDArray[np.intp], rest: npt.NDArray[np.integer]) -> Words:
    """The table's first half drops leading zeros; its second, for where more precedes, does not."""
    low += (rest != 0) * np.intp(len(table) // 2)
    return table.take(low)


def _column(words: list[Words], width: int, blank: Flags | None) -> Column:
    """The column of `words`, least significant first, with a lone comma where `blank`."""
    if blank is not None and blank.any():
        if blank.all():
            return Column([np.full(len(blank), _COMMA, "<u4")], 1)
        for word in words:
            word[blank] = 0
        words[0][blank] = _COMMA
    return Column(words[::-1], width)


@cache
def _decimal_tables() -> tuple[Words, Words]:
    head = _table([f"{n:04d}" for n in range(10_000)])
    tail = _table([f"{n:03d}," for n in range(1000)])
    return head, tail


@cache
def _hexadecimal_tables() -> tuple[Words, Words, Words]:
    first = _packed([f"0x{n:x}" if n else "0x" for n in range(256)])
    head = _table([f"{n:04x}" for n in range(1 << 16)])
    tail = _table([f"{n:03x}," for n in range(1 << 12)])
    return first, head, tail


def _table(padded: list[str]) -> Words:
    stripped = [digits.lstrip("0") for digits in padded]
    if stripped[0] == ",":
        stripped[0] = "0,"
    return _packed(stripped + padded)


def _packed(cells: list[str]) -> Words:
    return np.frombuffer("".join(cell.rjust(4, "\0") for cell in cells).encode(), "<u4")
