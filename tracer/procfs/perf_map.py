"""Functions that a process compiled at run time, by /tmp/perf-PID.map.

The format is perf's (tools/perf/Documentation/jit-interface.txt): a line a function, start and
size in hexadecimal, then its name. Java, Node.js, .NET and Python write it when asked to, and
append to it as they compile; it does not say when. The file is the process's own: nothing in it
is trusted, and only an ordinary file of the process's own user, or root's, is read.
"""

import bisect
import os
import re
import time
from dataclasses import dataclass, field
from itertools import islice

from tracer.procfs.regular import reopened
from tracer.procfs.roots import OURS, Roots, Whose
from tracer.text import decode

_HEX = rb"(?:0x)?([0-9a-fA-F]{1,16})"  # HotSpot writes the 0x, too
_LINE = re.compile(rb"^" + _HEX + rb" " + _HEX + rb" ([^\n]{1,1024})", re.MULTILINE)
_MOST_BYTES = 1 << 26  # of a file
_MOST_IN_ALL = 1 << 27  # of the files whose functions are kept
_MOST_MAPS = 64  # processes whose functions are kept
AGAIN_S = 0.2  # it grows while the program runs: looked at again after that at the earliest
_MOST_FUNCTIONS = 1 << 20  # of a process
_MOST_READINGS = 10_000  # of one process's file
_MOST_OVERLAPS = 64  # functions before an address that may reach up to it

# By its start: its end, where in the file it is told of (a later line holds), its name.
Functions = dict[int, tuple[int, int, str]]


@dataclass
class _Map:
    """One process's functions, and how far its file has been read."""

    pid: int  # by its own namespace
    user: int | None = None  # whom the process runs as; None: it was gone when first asked about
    read_s: float = 0.0  # time.monotonic()
    readings: int = 0
    ended: bool = False  # and read since
    file: tuple[int, int] | None = None  # st_dev, st_ino of what was read
    size: int = 0  # bytes of it that were read
    functions: Functions = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)  # ascending

    def find(self, address: int) -> tuple[str, int] | None:
        """(name, bytes into it) of the function that was told of last at an address."""
        last, found = -1, None
        at = bisect.bisect_right(self.starts, address)
        for start in self.starts[max(0, at - _MOST_OVERLAPS) : at]:
            end, line, name = self.functions[start]
            if address < end and line > last:
                last, found = line, (name, address - start)
        return found

    def add(self, text: bytes) -> None:
        """What comes next in the file."""
        room = _MOST_FUNCTIONS - len(self.functions)
        more = parse_perf_map(text, self.size, max(room, 0))
        self.size += len(text)
        self.starts = sorted([*self.starts, *(more.keys() - self.functions.keys())])
        self.functions |= more


class PerfMaps:
    """The maps of a run's processes; each is read when it is asked for, as far as it has grown."""

    def __init__(self, proc: str = "/proc", folder: str = "/tmp") -> None:
        """`proc`: where procfs is mounted; `folder`: where the maps are."""
        self._roots = Roots(proc)
        self._folder = folder
        self._maps: dict[int, _Map] = {}

    def at(self, pid: int, address: int) -> tuple[str, int] | None:
        """(name, bytes into it) of the function at an address in a process; None: not known."""
        known = self._maps.get(pid)
        if known is None:
            if len(self._maps) >= _MOST_MAPS:
                del self._maps[next(iter(self._maps))]
            known = self._maps[pid] = _Map(pid)
        if self._due(pid, known):  # also what is known there may have been replaced
            self._read(pid, known)
        return known.find(address)

    def hurry(self) -> None:
        """Whatever is asked next, its map is read again, however lately it was."""
        for known in self._maps.values():
            known.read_s = 0.0

    def ended(self, pid: int) -> bool:
        """Whether a process is gone, and no more will be known of it than is now."""
        known = self._maps.get(pid)
        return known is not None and known.ended

    def _due(self, pid: int, known: _Map) -> bool:
        if known.ended or known.readings >= _MOST_READINGS:
            return False
        return time.monotonic() - known.read_s > AGAIN_S or not self._lives(pid)

    def _lives(self, pid: int) -> bool:
        return os.path.exists(f"{self._roots.proc}/{pid}")

    def _read(self, pid: int, known: _Map) -> None:
        """Read what was appended; all of it where it is another file, or was cut."""
        known.read_s = time.monotonic()
        known.readings += 1
        known.ended = not self._lives(pid)  # before it is read: afterwards nothing is appended
        self._ask(pid, known)
        # A container has its own /tmp, in which the process goes by the number it has there:
        # what has that number in ours is another's.
        places: list[Whose] = [pid, OURS] if known.pid == pid else [pid]
        for whose in places:
            try:
                handle = self._roots.open(whose, f"{self._folder}/perf-{known.pid}.map", links=True)
            except OSError:
                continue
            try:
                if self._append(handle, known):
                    break
            except OSError:
                continue
            finally:
                os.close(handle)
        while len(self._maps) > 1 and sum(each.size for each in self._maps.values()) > _MOST_IN_ALL:
            del self._maps[next(each for each in self._maps if each != pid)]

    def _append(self, handle: int, known: _Map) -> bool:
        """Take what is new in a file; False where it is not to be trusted."""
        status = os.fstat(handle)
        users = (0, os.geteuid() if known.user is None else known.user)
        if status.st_uid not in users:
            return False
        file = status.st_dev, status.st_ino
        if known.ended and known.file not in (None, file):
            return False  # a later process's
        descriptor = reopened(handle)
        try:
            if file != known.file or status.st_size < known.size:
                known.file, known.size = file, 0
                known.functions, known.starts = {}, []
            text = os.pread(descriptor, _MOST_BYTES - known.size, known.size)
        finally:
            os.close(descriptor)
        # A line that is being written is left for the next time.
        known.add(text if known.ended else text[: text.rfind(b"\n") + 1])
        return True

    def _ask(self, pid: int, known: _Map) -> None:
        """A living process's number in its own namespace, and its effective user."""
        try:
            with open(f"{self._roots.proc}/{pid}/status", "rb") as file:
                text = file.read()
        except OSError:
            return
        numbers = re.search(rb"^NSpid:\t(.*)$", text, re.MULTILINE)
        users = re.search(rb"^Uid:\t\d+\t(\d+)", text, re.MULTILINE)
        known.pid = int(numbers[1].split()[-1]) if numbers else pid
        known.user = int(users[1]) if users else known.user


def parse_perf_map(text: bytes, at: int = 0, most: int = _MOST_FUNCTIONS) -> Functions:
    """The functions in a part of a map that is at byte `at` of the file; names are raw."""
    functions = {}
    for match in islice(_LINE.finditer(text), most):
        start, size = int(match[1], 16), int(match[2], 16)
        if size:
            functions[start] = (start + size, at + match.start(), decode(match[3].strip()))
    return functions
