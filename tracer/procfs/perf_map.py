"""Functions that a process compiled at run time, by /tmp/perf-PID.map.

The format is perf's (tools/perf/Documentation/jit-interface.txt): a line a function, start and
size in hexadecimal, then its name. Java, Node.js, .NET and Python write it when asked to. The
file is the process's own: nothing in it is trusted, and only an ordinary file of the process's
own user is read.
"""

import bisect
import os
import re
import time
from dataclasses import dataclass, field

from tracer.procfs.regular import open_regular
from tracer.text import decode

_HEX = rb"(?:0x)?([0-9a-fA-F]{1,16})"  # HotSpot writes the 0x, too
_LINE = re.compile(rb"^" + _HEX + rb" " + _HEX + rb" ([^\n]{1,1024})", re.MULTILINE)
_MOST_BYTES = 1 << 26
_AGAIN_S = 1.0  # it grows while the program runs: looked at again after that at the earliest
_MOST_MAPS = 64  # processes whose functions are kept


@dataclass
class _Map:
    """One process's functions, by address; what was compiled last at a place holds."""

    read_s: float = 0.0  # time.monotonic()
    size: int = -1  # bytes of the file
    starts: list[int] = field(default_factory=list)
    functions: list[tuple[int, str]] = field(default_factory=list)  # end, name


class PerfMaps:
    """The maps of a run's processes; each is read when first asked for, and as it grows."""

    def __init__(self) -> None:
        self._maps: dict[int, _Map] = {}

    def at(self, pid: int, address: int) -> tuple[str, int] | None:
        """(name, bytes into it) of the function at an address in a process; None: not known."""
        known = self._maps.get(pid)
        if known is None:
            if len(self._maps) >= _MOST_MAPS:
                del self._maps[next(iter(self._maps))]
            known = self._maps[pid] = _Map()
        found = _find(known, address)
        if found is None and time.monotonic() - known.read_s > _AGAIN_S:
            _read(pid, known)
            found = _find(known, address)
        return found


def _find(known: _Map, address: int) -> tuple[str, int] | None:
    at = bisect.bisect_right(known.starts, address) - 1
    if at < 0 or address >= known.functions[at][0]:
        return None
    return known.functions[at][1], address - known.starts[at]


def _read(pid: int, known: _Map) -> None:
    known.read_s = time.monotonic()
    text = _content(pid, known.size)
    if text is None:
        return
    known.size = len(text)
    functions = parse_perf_map(text)
    known.starts = sorted(functions)
    known.functions = [functions[start] for start in known.starts]


def parse_perf_map(text: bytes) -> dict[int, tuple[int, str]]:
    """By its start, each function's end and raw name; a later line takes an earlier one's place."""
    functions = {}
    for match in _LINE.finditer(text):
        start, size = int(match[1], 16), int(match[2], 16)
        if size:
            functions[start] = (start + size, decode(match[3].strip()))
    return functions


def _content(pid: int, size: int) -> bytes | None:
    """The file, unless it is as long as it was; None where there is none that may be read.

    In the process's own file system as long as it lives (a container has its own /tmp, where
    the process may have another number), then in ours.
    """
    for path in (*_inside(pid), f"/tmp/perf-{pid}.map"):
        try:
            descriptor = open_regular(path)
        except OSError:
            continue
        try:
            status = os.fstat(descriptor)
            owner = _owner(pid)
            if owner not in (None, status.st_uid):
                continue
            if status.st_size == size:
                return None
            return os.pread(descriptor, _MOST_BYTES, 0)
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return None


def _inside(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            numbers = re.search(rb"^NSpid:\t(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return []
    own = int(numbers[1].split()[-1]) if numbers else pid
    return [f"/proc/{pid}/root/tmp/perf-{own}.map"]


def _owner(pid: int) -> int | None:
    """The user a process runs as; None where it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
