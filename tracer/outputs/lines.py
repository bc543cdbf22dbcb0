"""Columns side by side as text (tracer.outputs.columns): no line is ever a Python object.

Where all cells of each column are as long, a block of lines is a matrix of
characters. Else what begins with a ragged column and ends before the next is a
piece of each line, and all lines' pieces are put to their offsets in one assignment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.common.types import U8, Index, Integers
from tracer.outputs.columns import Column, Words, constant

BLOCK = 4096  # lines put together at once: they stay in a core's own cache
_SLACK = 8  # in front of a line, for the NULs of its first word

Text = U8
Offsets = Index


def lines(columns: Sequence[Column], rows: int) -> Iterator[memoryview]:
    """The columns side by side: whole lines at a time."""
    columns = _merged(columns)
    ends: list[int] = (_SLACK + np.cumsum([column.width for column in columns])).tolist()
    positioned, pieces = _positioned(columns, ends), _pieces(columns, ends)
    if pieces is not None:
        starts, offsets = _offsets(pieces, ends[-1] - _SLACK, rows)
    stride, count = ends[-1], min(rows, BLOCK)
    matrix = np.empty((count, stride), np.uint8)
    matrix[:] = _common(positioned, stride)
    words = _written(positioned)
    out = np.empty(count * stride, np.uint8)
    for start in range(0, rows, BLOCK):
        part = slice(start, min(start + BLOCK, rows))
        count = part.stop - start
        for word, at in words:
            cells = word[part] if len(word) == rows else word
            np.ndarray((count,), word.dtype, matrix.data, at, (stride,))[:] = cells
        if pieces is None:
            text = matrix[:count, _SLACK:].ravel()
            yield text[text != 0].data
        else:
            base = starts[start]
            for piece, at_all in zip(pieces[::-1], offsets, strict=True):
                _put(matrix[:count], piece, at_all[part] - base, out)
            yield out[: int(starts[part.stop] - base)].data


def _merged(columns: Sequence[Column]) -> list[Column]:
    """The columns, constant neighbours joined into one."""
    merged: list[Column] = []
    cells = b""
    for column in columns:
        if column.lengths is None and all(len(word) == 1 for word in column.words):
            cells += b"".join(word.tobytes() for word in column.words).lstrip(b"\0")
            continue
        merged += [constant(cells)] if cells else []
        merged.append(column)
        cells = b""
    return [*merged, constant(cells)] if cells else merged


def _positioned(columns: Sequence[Column], ends: Sequence[int]) -> list[tuple[Words, int]]:
    """Every word and where in its line it goes, in the order of writing.

    From right to left: the NULs that all cells of a column have in front lie over the end of
    the column before, which is written after it.
    """
    positioned = []
    for column, end in zip(columns[::-1], ends[::-1], strict=True):
        at = end - column.size
        for word in column.words:
            positioned.append((word, at))
            at += word.itemsize
    return positioned


def _common(positioned: Sequence[tuple[Words, int]], stride: int) -> Text:
    """A line with the words that are the same in all."""
    line = np.zeros(stride, np.uint8)
    for word, at in positioned:
        if len(word) == 1:
            line[at : at + word.itemsize] = word.view(np.uint8)
    return line


def _written(positioned: Sequence[tuple[Words, int]]) -> list[tuple[Words, int]]:
    """The words to write in every block: those that differ, and what these lie over."""
    written: list[tuple[Words, int]] = []
    reached = 1 << 62  # so far down do the words go that are written to the right of the next
    for word, at in positioned:
        if len(word) > 1 or at + word.itemsize > reached:
            written.append((word, at))
            reached = min(reached, at)
    return written


@dataclass(frozen=True, slots=True)
class _Piece:
    """Columns of each line in one: [start, end) of the matrix; how much of it each line has."""

    start: int
    end: int
    short: Integers | None  # characters that each line's lacks in front


def _pieces(columns: Sequence[Column], ends: Sequence[int]) -> list[_Piece] | None:
    """The lines cut before every ragged column.

    A piece that lacks something has NULs in front, which lie over the end of the piece before
    until that is written. None where they would reach past the beginning of a line.
    """
    if columns[0].lengths is not None:
        return None
    starts = [0, *(at for at, column in enumerate(columns) if column.lengths is not None)]
    pieces, before = [], 0  # the least that a line has in front
    for first, last in zip(starts, [*starts[1:], len(columns)], strict=True):
        column = columns[first]
        short = None if column.lengths is None else column.width - column.lengths
        start, end = ends[first] - column.width, ends[last - 1]
        most = 0 if short is None else int(short.max())
        if most > before:
            return None
        pieces.append(_Piece(start, end, short))
        before += end - start - most
    return pieces


def _offsets(pieces: list[_Piece], width: int, rows: int) -> tuple[Offsets, list[Offsets]]:
    """Where each line begins, and where each piece of it goes: from the last piece to the first."""
    lengths = np.full(rows, width, np.intp)
    for piece in pieces:
        if piece.short is not None:
            lengths -= piece.short
    starts = np.zeros(rows + 1, np.intp)
    np.cumsum(lengths, out=starts[1:])
    offsets, end = [], starts[1:]
    for piece in pieces[::-1]:
        at = end - (piece.end - piece.start)
        offsets.append(at)
        end = at if piece.short is None else at + piece.short
    return starts, offsets


def _put(matrix: Text, piece: _Piece, at: Offsets, out: Text) -> None:
    """Copy the piece of each of the matrix's lines to its offset in `out`."""
    count, stride = matrix.shape
    width = piece.end - piece.start
    # Every offset in `out` that such a piece fits in: an array of overlapping cells.
    cells = np.ndarray((len(out) - width + 1,), f"V{width}", out.data, 0, (1,))
    cells[at] = np.ndarray((count,), f"V{width}", matrix.data, piece.start, (stride,))
