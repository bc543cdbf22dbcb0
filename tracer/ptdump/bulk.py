"""Lines of `ptdump -g` for very many pages at once, formatted in numpy.

Within a region all lines are equally long, so the lines of 16 MiB of addresses
are a matrix of characters. It is filled in once; from then on only what differs
is written over: the first digits of the addresses, the frames, and the rows of
pages that are in another state. The lines are those of `dump.line`, character
by character; a test compares the two.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tracer.common.pages import PAGE_SIZE
from tracer.common.types import U8, U64, Index
from tracer.procfs.entries import PFN_MASK, PRESENT, read_into
from tracer.procfs.maps import Mapping
from tracer.ptdump.dump import FRAME_END, Endings, OpenDump, frame_text, tail

_DIGITS = 3  # hex digits of a page's number that select its row in the matrix
_ROWS = 16**_DIGITS
_BLOCK = _ROWS * PAGE_SIZE
_ZEROS = "000"  # the end of every page's address
_FRAME = 19  # the column where a frame's text may begin, right of the longest address
_LOW = FRAME_END - len(_ZEROS) - 4  # where the four digits of a frame number's low half are
_HALF, _HALF_MASK = np.uint64(16), np.uint64(0xFFFF)  # bits of a frame number in one table
_SPARSE = 256  # pages in one block that are not worth the matrix
_STATE = 62  # the shift of PRESENT and SWAPPED
_PRESENT = PRESENT >> _STATE
_UNKNOWN = 0xFF  # state of a row that is like none of the texts

Words = U64
Rows = Index | slice


def blocks(opened: OpenDump, encoding: str, errors: str) -> Iterator[memoryview]:
    """The dump's lines, some thousand at a time, encoded; the next ones overwrite them."""
    digits, endings = Digits(), Endings()
    entries = np.empty(_ROWS, np.uint64)
    for mapping in opened.mappings:
        lines = None
        start = mapping.start
        while start < mapping.end:
            end = min(mapping.end, start - start % _BLOCK + _BLOCK)
            part = entries[: (end - start) // PAGE_SIZE]
            read_into(opened.descriptor, opened.dump.pid, start, part.data.cast("B"))
            if len(part) < _SPARSE or start < _BLOCK:
                text = endings.lines(mapping, start, part.tolist(), opened.dump.visible)
                yield memoryview(text.encode(encoding, errors))
            else:
                lines = lines or Lines(mapping, opened.dump.visible, digits, encoding, errors)
                yield lines.of(start, part)
            start = end


class Digits:
    """Hexadecimal text by value, for the 65,536 values of half a frame number."""

    def __init__(self) -> None:
        values = np.arange(1 << 16, dtype=np.uint32)
        shifts = np.arange(12, -1, -4, dtype=np.uint32)
        four = np.frombuffer(b"0123456789abcdef", np.uint8)[values[:, None] >> shifts & 15]
        right = np.full((1 << 16, 12), ord(" "), np.uint8)  # 0x and no zeros in front
        for count in range(1, 5):
            longer = 16 ** (count - 1) if count > 1 else 0
            right[longer:, -count:] = four[longer:, -count:]
            right[longer:, -count - 2 : -count] = ord("0"), ord("x")
        self.rows = four[:_ROWS, -_DIGITS:]
        self.low = _words(four, "<u4")  # after a high half
        self.high = _words(right[:, 4:], "<u8")
        self.no_high, self.alone = _words(right[:, :8], "<u8"), _words(right[:, 8:], "<u4")


def _words(texts: U8, dtype: str) -> npt.NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(texts).view(dtype).ravel()


class Lines:
    """Lines of one mapping, made in one matrix."""

    def __init__(
        self, mapping: Mapping, visible: bool, digits: Digits, encoding: str, errors: str
    ) -> None:
        """`encoding` and `errors`: how text becomes bytes."""
        self._visible, self._digits = visible, digits
        self._texts = [
            np.frombuffer(self._text(mapping, state).encode(encoding, errors), np.uint8)
            for state in range(4)
        ]
        width = len(self._texts[0])
        self._matrix = np.empty((_ROWS, width), np.uint8)
        self._matrix[:] = self._texts[0]
        self._states = np.zeros(_ROWS, np.uint8)  # which text each row shows now
        self._prefix = ""
        self._high = self._field("<u8", _LOW - 8)
        self._low = self._field("<u4", _LOW)

    def _text(self, mapping: Mapping, state: int) -> str:
        """A line without its address and the digits of its frame."""
        frame = frame_text(state << _STATE, visible=False)
        if self._visible and state & _PRESENT:
            frame = _ZEROS
        return f"{frame:>{FRAME_END}}{tail(mapping, state << _STATE, PAGE_SIZE)}\n"

    def _field(self, dtype: str, column: int) -> npt.NDArray[np.unsignedinteger]:
        """Some characters of each row as one number."""
        matrix = self._matrix
        return np.ndarray(_ROWS, dtype, matrix.data, column, (matrix.shape[1],))

    def of(self, start: int, entries: Words) -> memoryview:
        """The lines of the pages from `start` on that `entries` describes: within 16 MiB.

        Not of the first 16 MiB of all, where addresses differ in length.
        """
        first = start % _BLOCK // PAGE_SIZE
        used = slice(first, first + len(entries))
        self._put_prefix(f"{start // _BLOCK:#x}")
        self._put_states(used, (entries >> np.uint64(_STATE)).astype(np.uint8))
        if self._visible:
            self._put_frames(used, entries)
        return self._matrix[used].data.cast("B")

    def _put_prefix(self, prefix: str) -> None:
        end = len(prefix)
        if end != len(self._prefix):
            self._matrix[:, end : end + _DIGITS] = self._digits.rows
            self._matrix[:, end + _DIGITS : end + _DIGITS + len(_ZEROS)] = ord("0")
            self._matrix[:, end + _DIGITS + len(_ZEROS) : _FRAME] = ord(" ")
        if prefix != self._prefix:
            self._matrix[:, :end] = np.frombuffer(prefix.encode("ascii"), np.uint8)
            self._prefix = prefix

    def _put_states(self, used: slice, states: U8) -> None:
        """Write the rows over whose state is not what they show."""
        other = np.flatnonzero(self._states[used] != states)
        if not len(other):
            return
        for state in np.unique(states[other]).tolist():
            rows = other[states[other] == state] + used.start
            self._matrix[rows, _FRAME:] = self._texts[state][_FRAME:]
        self._states[used] = states

    def _put_frames(self, used: slice, entries: Words) -> None:
        rows: Rows = used
        present = (self._states[used] & _PRESENT) != 0
        there = np.arange(used.start, used.stop)
        if not present.all():
            rows = there = there[present]
            entries = entries[present]
        numbers = entries & np.uint64(PFN_MASK)
        high, low = numbers >> _HALF, numbers & _HALF_MASK
        digits = self._digits
        highs, lows = digits.high[high & _HALF_MASK], digits.low[low]
        if not high.all():
            short = high == 0
            highs = np.where(short, digits.no_high[low], highs)
            lows = np.where(short, digits.alone[low], lows)
        self._high[rows], self._low[rows] = highs, lows
        for index in np.flatnonzero((numbers == 0) | (high > _HALF_MASK)).tolist():
            row = used.start + index if rows is used else int(there[index])
            text = frame_text(int(entries[index]), visible=True).rjust(FRAME_END - _FRAME)
            self._matrix[row, _FRAME:FRAME_END] = np.frombuffer(text.encode("ascii"), np.uint8)
            self._states[row] = _UNKNOWN
