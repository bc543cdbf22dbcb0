"""Text in columns: whole batches of numbers and names turned into CSV bytes by numpy.

A batch becomes one matrix of 32-bit words, four characters each, one line of
text a matrix row. Cells shorter than their column are padded with NUL, and
`lines` squeezes the NULs out at the end, so no line is ever a Python object.
Digits come four at a time from tables. A cell includes its separator.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]  # (rows, words): one column's cells, NUL-padded
Flags = npt.NDArray[np.bool_]

_COMMA = ord(",")


def decimal(values: npt.NDArray[np.integer], blank: Flags | None = None) -> list[Words]:
    """Non-negative integers in decimal, each followed by a comma; nothing where `blank`."""
    rest = _narrow(values)
    head, tail = _decimal_tables()
    block: list[Words] = []
    rest, low = _split(rest, 1000)
    block.append(_look_up(tail, low, rest))
    while rest.any():
        rest, low = _split(rest, 10_000)
        block.append(_look_up(head, low, rest))
    return _blanked(block[::-1], blank)


def hexadecimal(values: npt.NDArray[np.uint64], blank: Flags | None = None) -> list[Words]:
    """Unsigned integers as 0x…, each followed by a comma; nothing where `blank`."""
    number = np.ascontiguousarray(values)
    if blank is not None:
        number = np.where(blank, np.uint64(0), number)
    first, head, tail = _hexadecimal_tables()
    low, rest = number & np.uint64(0xFFF), number >> np.uint64(12)
    block = [_look_up(tail, low.astype(np.intp), rest)]
    while rest.max(initial=0) >= len(first):
        low, rest = rest & np.uint64(0xFFFF), rest >> np.uint64(16)
        block.append(_look_up(head, low.astype(np.intp), rest))
    block.append(first.take(rest.astype(np.intp)))
    return _blanked(block[::-1], blank)


def words(cells: Sequence[bytes], ids: npt.NDArray[np.integer]) -> list[Words]:
    """`cells[id]` for each of `ids`; cells hold no NUL, and end with their own separator."""
    present = np.zeros(len(cells), bool)
    present[ids] = True
    used: list[int] = np.flatnonzero(present).tolist()
    width = max((len(cells[i]) for i in used), default=0)
    width += -width % 4
    if not width:
        return []
    table = np.array([cells[i] for i in used], f"S{width}").view("<u4").reshape(-1, width // 4)
    place = np.cumsum(present) - 1
    return list(table.take(place.take(ids), axis=0).T)


def lines(columns: Sequence[list[Words]]) -> bytes:
    """The columns side by side as bytes, padding squeezed out."""
    flat = [word for column in columns for word in column]
    matrix = np.empty((len(flat[0]), len(flat)), "<u4")
    for place, word in enumerate(flat):
        matrix[:, place] = word
    text: npt.NDArray[np.uint8] = matrix.view(np.uint8).ravel()
    packed: npt.NDArray[np.uint8] = text[text != 0]
    return packed.tobytes()


def _narrow(values: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """As 32 bits where they suffice: division is several times cheaper."""
    if len(values) and values.max() < 1 << 32:
        return values.astype(np.uint32)
    return values.astype(np.uint64)


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


def _blanked(block: list[Words], blank: Flags | None) -> list[Words]:
    if blank is not None and blank.any():
        if blank.all():
            return [np.full(len(blank), _COMMA, "<u4")]
        for word in block:
            word[blank] = 0
        block[-1][blank] = _COMMA
    return block


@cache
def _decimal_tables() -> tuple[Words, Words]:
    head = _table([f"{n:04d}" for n in range(10_000)])
    tail = _table([f"{n:03d}," for n in range(1000)])
    return head, tail


@cache
def _hexadecimal_tables() -> tuple[Words, Words, Words]:
    first = np.array([f"0x{n:x}" if n else "0x" for n in range(256)], "S4").view("<u4")
    head = _table([f"{n:04x}" for n in range(1 << 16)])
    tail = _table([f"{n:03x}," for n in range(1 << 12)])
    return first, head, tail


def _table(padded: list[str]) -> Words:
    stripped = [digits.lstrip("0") for digits in padded]
    if stripped[0] == ",":
        stripped[0] = "0,"
    return np.array(stripped + padded, "S4").view("<u4")
