"""JIT-compiled functions of a process, parsed from its /tmp/perf-PID.map.

The format is perf's (tools/perf/Documentation/jit-interface.txt): a line a function, start and
size in hexadecimal, then its name. Java, Node.js, .NET and Python write it when asked to, and
append to it as they compile. The content is not trusted.
"""

import os
import re
from array import array
from itertools import islice

import numpy as np

from tracer.common.text import decode
from tracer.common.types import U64

_HEX = rb"(?:0x)?([0-9a-fA-F]{1,16})"  # HotSpot writes the 0x, too
_LINE = re.compile(rb"^" + _HEX + rb" " + _HEX + rb" ([^\n]{1,1024})", re.MULTILINE)
_MOST_BYTES = 1 << 26  # of a file
_MOST_FUNCTIONS = 1 << 20
_MOST_OVERLAPS = 64  # functions before an address that may reach up to it
_LAST = (1 << 64) - 1


class PerfMap:
    """One process's functions, and how far its file has been read.

    The text is kept as it is, and the positions of the functions in it: a million of them take
    a quarter of what they would as Python's objects.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        # Each by start, ascending: where it ends, and where its name is in the text. Of several
        # entries for a start the last one counts.
        self._starts, self._ends, self._names = (np.empty(0, np.uint64) for _ in range(3))

    @property
    def size(self) -> int:
        """Bytes that were read."""
        return len(self._text)

    def read(self, descriptor: int, *, last: bool = False) -> None:
        """Read what was appended to its file; a line perhaps still being written only if `last`."""
        end = min(os.fstat(descriptor).st_size, _MOST_BYTES)
        text = os.pread(descriptor, max(end - self.size, 0), self.size)
        self.add(text if last else text[: text.rfind(b"\n") + 1])

    def add(self, text: bytes) -> None:
        """Append text: whole lines."""
        if not text:
            return
        starts, ends, names = array("Q"), array("Q"), array("Q")
        room = max(_MOST_FUNCTIONS - len(self._starts), 0)
        for match in islice(_LINE.finditer(text), room):
            start, size = int(match[1], 16), int(match[2], 16)
            if size:
                starts.append(start)
                ends.append(min(start + size, _LAST))
                names.append(self.size + match.start(3))
        self._text += text
        self._index(*(np.frombuffer(each, np.uint64) for each in (starts, ends, names)))

    def find(self, address: int) -> tuple[str, int] | None:
        """(name, bytes into it) of the function that was recorded last at an address."""
        if not 0 <= address < _LAST:
            return None
        at = int(np.searchsorted(self._starts, np.uint64(address), side="right"))
        near = slice(max(0, at - _MOST_OVERLAPS), at)
        reaching = self._ends[near] > np.uint64(address)
        if not reaching.any():
            return None
        names = self._names[near][reaching]
        latest = int(names.argmax())
        return self._name(int(names[latest])), address - int(self._starts[near][reaching][latest])

    def _index(self, starts: U64, ends: U64, names: U64) -> None:
        starts = np.concatenate([self._starts, starts])
        ends = np.concatenate([self._ends, ends])
        names = np.concatenate([self._names, names])
        order = np.argsort(starts, kind="stable")  # of equal starts the last recorded stays last
        starts = starts[order]
        kept = np.append(starts[1:] != starts[:-1], np.ones(min(len(starts), 1), bool))
        order = order[kept]
        self._starts, self._ends, self._names = starts[kept], ends[order], names[order]

    def _name(self, at: int) -> str:
        end = self._text.find(b"\n", at, at + 1024)
        return decode(bytes(self._text[at : end if end >= 0 else at + 1024]).strip())
