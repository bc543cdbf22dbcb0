"""Lines of `ptdump -g` for very many pages at once, formatted in numpy.

Within a region all lines are equally long, so a block of them is a matrix of
characters: a template, and columns written over it. The lines are those of
`ptdump.line`, character by character; a test compares the two.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tracer.procfs.entries import HELD, PAGE_SIZE, PFN_MASK, PRESENT, read_entries
from tracer.procfs.maps import Mapping
from tracer.ptdump import FRAME_END, Look, frame_text, tail

_CHUNK_PAGES = 1 << 15
_FRAME_WIDTH = 16  # room for 52 bits of physical address
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_POWERS = np.array([16**digits for digits in range(1, 16)], dtype=np.uint64)

Characters = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.intp]


def blocks(look: Look) -> Iterator[str]:
    """The dump's lines, some ten thousand to a string."""
    step = _CHUNK_PAGES * PAGE_SIZE
    for mapping in look.mappings:
        for start in range(mapping.start, mapping.end, step):
            count = min(step, mapping.end - start) // PAGE_SIZE
            entries = read_entries(look.descriptor, look.dump.pid, start, count)
            yield block(mapping, start, np.frombuffer(entries, np.uint64), look.dump.visible)


def block(mapping: Mapping, start: int, entries: Words, visible: bool) -> str:
    """Lines, each with its newline, of the pages from `start` on that `entries` describes."""
    matrix = np.empty((len(entries), len(_template(mapping, 0))), dtype=np.uint8)
    held = entries & np.uint64(HELD)
    most, *others = np.unique(held).tolist()
    matrix[:] = _template(mapping, most)
    for state in others:
        matrix[held == state] = _template(mapping, state)
    addresses = np.uint64(start) + np.arange(len(entries), dtype=np.uint64) * np.uint64(PAGE_SIZE)
    _put_addresses(matrix, addresses)
    if visible:
        rows = np.flatnonzero(entries & np.uint64(PRESENT))
        _put_frames(matrix, rows, (entries[rows] & np.uint64(PFN_MASK)) * np.uint64(PAGE_SIZE))
    return matrix.tobytes().decode("utf-8")


def _template(mapping: Mapping, state: int) -> Characters:
    """A line with no address, and the frame of a page that has none or whose frame is hidden."""
    text = f"{frame_text(state, visible=False):>{FRAME_END}}{tail(mapping, state, PAGE_SIZE)}\n"
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _put_addresses(matrix: Characters, addresses: Words) -> None:
    for digits, rows in _by_length(addresses):
        _put(matrix, rows, 0, _hexadecimal(addresses[rows], digits))


def _put_frames(matrix: Characters, rows: Indices, frames: Words) -> None:
    for digits, which in _by_length(frames):
        texts = _hexadecimal(frames[which], digits)
        # Over the template's "hidden", which may be longer.
        field = np.full((len(which), _FRAME_WIDTH), ord(" "), dtype=np.uint8)
        field[:, -texts.shape[1] :] = texts
        _put(matrix, rows[which], FRAME_END - _FRAME_WIDTH, field)


def _put(matrix: Characters, rows: Indices, column: int, texts: Characters) -> None:
    columns = slice(column, column + texts.shape[1])
    if len(rows) == len(matrix):
        matrix[:, columns] = texts
    else:
        matrix[rows, columns] = texts


def _by_length(values: Words) -> Iterator[tuple[int, Indices]]:
    """Hexadecimal digits -> which values take that many."""
    digits = np.searchsorted(_POWERS, values, side="right") + 1
    for length in np.unique(digits).tolist():
        yield length, np.flatnonzero(digits == length)


def _hexadecimal(values: Words, digits: int) -> Characters:
    """Each value as 0x… of exactly `digits` digits, one row each."""
    texts = np.empty((len(values), 2 + digits), dtype=np.uint8)
    texts[:, 0], texts[:, 1] = ord("0"), ord("x")
    for column in range(digits):
        shift = np.uint64(4 * (digits - 1 - column))
        texts[:, 2 + column] = _HEX[(values >> shift) & np.uint64(15)]
    return texts
