"""JIT-compiled functions of a process, parsed from its /tmp/perf-PID.map, with their history.

The format is perf's (tools/perf/Documentation/jit-interface.txt): a line a function, start and
size in hexadecimal, then its name. Node.js, .NET and Python append to it as they compile; HotSpot
writes all of it anew (CodeCache::write_perf_map). It has no timestamps: an entry's time is the
number of the check at which it was there first. The content is not trusted.
"""

import os
import re
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice

import numpy as np

from tracer.common.text import decode
from tracer.common.types import U64
from tracer.symbolizing.history import Change

_HEX = rb"(?:0x)?([0-9a-fA-F]{1,16})"  # HotSpot writes the 0x, too
_LINE = re.compile(rb"^" + _HEX + rb" " + _HEX + rb" ([^\n]{1,1024})", re.MULTILINE)
_MOST_BYTES = 1 << 26  # of a file, and of its lines in all
_MOST_FUNCTIONS = 1 << 20
_MOST_OVERLAPS = 1 << 12  # functions that may reach up to an address; with more it has no name
_MOST_CHANGES = 64  # of one address
_COMPARED = 1 << 16  # bytes at each end of what was read, by which a rewritten file is recognized
_LAST = (1 << 64) - 1
_ALWAYS = np.uint64(_LAST)  # the number of no check

TOO_MUCH = "it is too large"


class PerfMap:
    """One process's functions, and how far its file has been read.

    The text is kept as it is, and the positions of the functions in it: a million of them take
    a quarter of what they would as Python's objects.
    """

    def __init__(self) -> None:
        self._text = bytearray()  # all that was ever read, but for what a rewritten file repeats
        self._read = 0  # bytes of the file as it is now
        self._digest = b""  # of its beginning and end
        self.why = ""  # why no more is read
        self.dumped = False  # it is written anew each time, and is silent about what came between
        # By start, ascending, then as they were written: where each ends, its name in the text,
        # and the checks at which it was there first and was gone.
        self._starts, self._ends, self._names, self._since, self._until = (
            np.empty(0, np.uint64) for _ in range(5)
        )
        self._reach = np.empty(0, np.uint64)  # the furthest end of each and all before it

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self._text)

    def read(
        self, descriptor: int, sizes: Sequence[tuple[int, int]], *, last: bool = False
    ) -> None:
        """Read its file up to the last of `sizes`: (check, bytes it had then), ascending.

        A line that perhaps is still being written is read only if it is the `last` time. What
        was read before and is another now was rewritten, and so was all of it.
        """
        if not sizes or self.why:
            return
        number, end = sizes[-1]
        if end > _MOST_BYTES:
            self.why = TOO_MUCH
            return
        if end < self._read or _digest(descriptor, self._read) != self._digest:
            text = os.pread(descriptor, end, 0)
            text = text if last else text[: text.rfind(b"\n") + 1]
            self._rewrite(text, number)
            self.dumped = True
        else:
            begin = self._read
            text = os.pread(descriptor, end - begin, begin)
            text = text if last else text[: text.rfind(b"\n") + 1]
            self.add(text, [(check, size - begin) for check, size in sizes])
            self._read += len(text)
            self.dumped |= text.startswith(b"0x")
        self._digest = _digest(descriptor, self._read)

    def add(self, text: bytes, sizes: Sequence[tuple[int, int]] = ((0, _LAST),)) -> None:
        """Append text: whole lines. `sizes`: up to which byte of it was there at which check."""
        if not text or not self._has_room(text):
            return  # all of it or nothing: an entry that was not read may replace one that was
        checks = np.array([check for check, _ in sizes], np.uint64)
        bounds = np.array([max(size, 0) for _, size in sizes], np.uint64)
        base = self.size
        parsed, ends = self._parse(text, base)
        which = np.minimum(np.searchsorted(bounds, ends), len(bounds) - 1)
        self._text += text
        self._append(*parsed, checks[which])

    def changes(self, addresses: U64, after: int = -1) -> list[list[Change] | None]:
        """What came to be at each address after a check, in order; None: nothing did.

        An address with more history than is kept has one nameless change.
        """
        result: list[list[Change] | None] = [None] * len(addresses)
        at = np.searchsorted(self._starts, addresses, side="right")
        low = np.searchsorted(self._reach, addresses, side="right")
        for index in np.flatnonzero(low < at).tolist():
            found = self._changes(int(addresses[index]), slice(int(low[index]), int(at[index])))
            result[index] = [each for each in found if each[0] > after] or None
        return result

    def _changes(self, address: int, near: slice) -> list[Change]:
        if near.stop - near.start > _MOST_OVERLAPS:
            return [(int(self._since[near].max()), "", 0)]
        covering = np.flatnonzero(self._ends[near] > np.uint64(address)) + near.start
        # As it was written: what is at an address is what was recorded last of it.
        covering = covering[np.argsort(self._names[covering], kind="stable")]
        if len(covering) > _MOST_CHANGES:
            return [(int(self._since[covering].max()), "", 0)]
        found: list[tuple[int, int, Change]] = []
        for order, each in enumerate(covering.tolist()):
            into = address - int(self._starts[each])
            since, until = int(self._since[each]), int(self._until[each])
            found.append((since, order + 1, (since, self._name(int(self._names[each])), into)))
            if until != _LAST:
                found.append((until, 0, (until, "", 0)))  # before what takes its place
        return [change for _, _, change in sorted(found, key=lambda each: each[:2])]

    # -- reading -----------------------------------------------------------------------------

    def _rewrite(self, text: bytes, number: int) -> None:
        """Replace all: what is in the text and was there before stays as it is."""
        live = np.flatnonzero(self._until == _ALWAYS).tolist()
        old = {
            (int(self._starts[at]), int(self._ends[at]), self._raw(int(self._names[at]))): at
            for at in live
        }
        fresh = bytearray()
        for match in islice(_LINE.finditer(text), _MOST_FUNCTIONS + 1):
            start, size = int(match[1], 16), int(match[2], 16)
            key = start, min(start + size, _LAST), match[3].strip()
            if old.pop(key, None) is None:
                fresh += match[0] + b"\n"
        self._until[np.array(list(old.values()), np.int64)] = np.uint64(number)
        self.add(bytes(fresh), [(number, _LAST)])
        self._read = len(text)

    def _has_room(self, text: bytes) -> bool:
        lines = len(self._starts) + text.count(b"\n")
        if self.size + len(text) > _MOST_BYTES or lines > _MOST_FUNCTIONS:
            self.why = TOO_MUCH
        return not self.why

    def _parse(self, text: bytes, base: int) -> tuple[tuple[U64, U64, U64], U64]:
        """(starts, ends, where the names are) of the functions, and where their lines end."""
        starts, ends, names, lines = array("Q"), array("Q"), array("Q"), array("Q")
        for match in _LINE.finditer(text):
            start, size = int(match[1], 16), int(match[2], 16)
            if size:
                starts.append(start)
                ends.append(min(start + size, _LAST))
                names.append(base + match.start(3))
                lines.append(match.end())
        numbers = [np.frombuffer(each, np.uint64) for each in (starts, ends, names, lines)]
        return (numbers[0], numbers[1], numbers[2]), numbers[3]

    def _append(self, starts: U64, ends: U64, names: U64, since: U64) -> None:
        until = np.full(len(starts), _ALWAYS)
        starts = np.concatenate([self._starts, starts])
        order = np.argsort(starts, kind="stable")
        self._starts = starts[order]
        self._ends = np.concatenate([self._ends, ends])[order]
        self._names = np.concatenate([self._names, names])[order]
        self._since = np.concatenate([self._since, since])[order]
        self._until = np.concatenate([self._until, until])[order]
        self._reach = np.maximum.accumulate(self._ends)

    def _raw(self, at: int) -> bytes:
        end = self._text.find(b"\n", at, at + 1024)
        return bytes(self._text[at : end if end >= 0 else at + 1024]).strip()

    def _name(self, at: int) -> str:
        return decode(self._raw(at))


def _digest(descriptor: int, size: int) -> bytes:
    """Distinguishes the first `size` bytes of a file, as far as their beginning and end do."""
    if not size:
        return b""
    first = os.pread(descriptor, min(size, _COMPARED), 0)
    last = os.pread(descriptor, min(size, _COMPARED), max(size - _COMPARED, 0))
    return blake2b(first + last).digest()
