"""JIT-compiled functions, by /tmp/perf-PID.map: which file is trusted, and when it is read.

Its owner is checked here: only a regular file of the process's own user, or root's, is
handed on to be read (tracer.symbolizing.perf_map). It grows while the program runs, without
notice; so it is polled.
"""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tracer.procfs.regular import reopened
from tracer.procfs.roots import OURS, Roots, Whose
from tracer.symbolizing.helper import Asked, Question
from tracer.symbolizing.lookup import Found, found_of, number_of

AGAIN_S = 0.2  # a map is polled again after that at the earliest
_MOST_MAPS = 64  # processes whose maps are known
_MOST_CHECKS = 10_000  # of one process's file
_MOST_FOUND = 1 << 16  # functions of one process that are remembered
_AT_ONCE = 4096  # addresses in a question


@dataclass
class _Map:
    """One process's file, as far as it is known and has been read."""

    pid: int  # by its own namespace
    user: int | None = None  # whom the process runs as; None: it was gone when first asked about
    checked_s: float = 0.0  # time.monotonic()
    checks: int = 0
    ended: bool = False  # and its map read since
    file: tuple[int, int] | None = None  # st_dev, st_ino
    size: int = 0  # of the file, when last checked
    fresh: bool = True  # it is to be read from its beginning
    descriptor: int | None = None  # to read what is new in it
    started: int = 0  # by which process it is read, as the helper counts them
    found: dict[int, tuple[str, int]] = field(default_factory=dict)  # by address
    unknown: set[int] = field(default_factory=set)  # addresses that are not in it, as far as read
    asked: dict[int, None] = field(default_factory=dict)  # addresses, to be asked for, and …
    sent: list[int] = field(default_factory=list)  # … of these in the question under way

    def pop_descriptor(self) -> int | None:
        """Return the descriptor; the caller owns it now."""
        descriptor, self.descriptor = self.descriptor, None
        return descriptor

    def close(self) -> None:
        """Close the file."""
        if (descriptor := self.pop_descriptor()) is not None:
            os.close(descriptor)


class PerfMaps:
    """The maps of a run's processes; each is read when it is asked for, as far as it has grown."""

    def __init__(self, helper: Asked, proc: str = "/proc", folder: str = "/tmp") -> None:
        """`proc`: where procfs is mounted; `folder`: where the maps are."""
        self._helper = helper
        self._roots = Roots(proc)
        self._folder = folder
        self._maps: dict[int, _Map] = {}  # the last asked about at the end
        self.failed: dict[int, str] = {}  # processes, and why their maps are not read any more

    def at(self, pid: int, address: int) -> Found:
        """(name, bytes into it) of the function at an address in a process; None: not known yet."""
        known = self._map(pid)
        if address not in known.found:
            self.ask(pid, [address])
        return known.found.get(address)

    def ask(self, pid: int, addresses: Iterable[int]) -> None:
        """Ask for functions that are not known yet.

        The file is opened now, if it is there and has changed: its process may end any moment.
        """
        known = self._map(pid)
        if pid not in self.failed and self._due(pid, known):
            self._check(pid, known)
        waits = bool(known.asked)
        known.asked |= dict.fromkeys(
            each for each in addresses if each not in known.found and each not in known.unknown
        )
        if known.asked and not waits:
            answered = partial(self._answered, pid, known)
            self._helper.ask(Question(("perf map", pid), partial(self._make, pid, known), answered))

    def hurry(self) -> None:
        """Check the map again at the next question, however recent the last check."""
        for known in self._maps.values():
            known.checked_s = 0.0

    def ended(self, pid: int, address: int) -> bool:
        """Whether a process is gone, and what is known of that address is final."""
        known = self._maps.get(pid)
        return known is not None and known.ended and address in known.unknown

    def close(self) -> None:
        """Close the files."""
        for known in self._maps.values():
            known.close()

    def _map(self, pid: int) -> _Map:
        known = self._maps.pop(pid, None)
        if known is None:
            known = _Map(pid)
            if len(self._maps) >= _MOST_MAPS:
                self._maps.pop(next(iter(self._maps))).close()
        self._maps[pid] = known
        return known

    # -- questions and answers ---------------------------------------------------------------

    def _make(self, pid: int, known: _Map, started: int) -> tuple[dict[str, Any], list[int]]:
        if known.started != started:  # that process has read nothing of it yet
            if known.started:
                known.file, known.ended = None, False
                self._check(pid, known)
            known.started = started
        known.sent = list(known.asked)[:_AT_ONCE]
        question = {"ask": "perf_map", "pid": pid, "addresses": known.sent}
        question |= {"fresh": known.fresh, "last": known.ended}
        descriptor = known.pop_descriptor()
        if descriptor is not None:
            known.fresh = False
        return question, [] if descriptor is None else [descriptor]

    def _answered(self, pid: int, known: _Map, answer: Any, why: str) -> None:
        if why:
            self.failed[pid] = why
            known.close()
            known.ended, known.sent = True, list(known.asked)
            found: list[Found] = [None] * len(known.sent)
        else:
            found = found_of(answer)
            if number_of(answer["size"]) == 0 < known.size:  # it has been forgotten there
                known.file, known.size, known.fresh = None, 0, True
        if len(known.found) + len(known.unknown) > _MOST_FOUND:
            known.found.clear()
            known.unknown.clear()
        for address, function in zip(known.sent, found, strict=True):
            known.asked.pop(address, None)
            if function is not None:
                known.found[address] = function
            else:
                known.unknown.add(address)
        if known.asked:
            more, known.asked = known.asked, {}
            self.ask(pid, more)

    # -- the file ----------------------------------------------------------------------------

    def _due(self, pid: int, known: _Map) -> bool:
        if known.ended or known.checks >= _MOST_CHECKS:
            return False
        return time.monotonic() - known.checked_s > AGAIN_S or not self._lives(pid)

    def _lives(self, pid: int) -> bool:
        return os.path.exists(f"{self._roots.proc}/{pid}")

    def _check(self, pid: int, known: _Map) -> None:
        """Open what is to be read; from its beginning where it is another file, or was cut."""
        known.checked_s = time.monotonic()
        known.checks += 1
        known.ended = not self._lives(pid)  # before it is read: afterwards nothing is appended
        self._read_status(pid, known)
        # A container has its own /tmp, in which the process goes by the number it has there:
        # what has that number in ours is another's.
        roots: list[Whose] = [pid, OURS] if known.pid == pid else [pid]
        for whose in roots:
            try:
                handle = self._roots.open(whose, f"{self._folder}/perf-{known.pid}.map", links=True)
            except OSError:
                continue
            try:
                if self._is_its(handle, known):
                    return
            except OSError:
                continue
            finally:
                os.close(handle)

    def _is_its(self, handle: int, known: _Map) -> bool:
        """Whether a file is to be trusted to be the process's; if it has changed, it is opened."""
        status = os.fstat(handle)
        users = (0, os.geteuid() if known.user is None else known.user)
        if status.st_uid not in users:
            return False
        file = status.st_dev, status.st_ino
        if known.ended and known.file not in (None, file):
            return False  # a later process's
        another = file != known.file or status.st_size < known.size
        if another or status.st_size > known.size or known.ended:
            descriptor = reopened(handle)
            known.close()
            known.descriptor = descriptor
            known.unknown.clear()
        if another:
            known.fresh = True
            known.found.clear()
        known.file, known.size = file, status.st_size
        return True

    def _read_status(self, pid: int, known: _Map) -> None:
        """Read a living process's pid in its own namespace, and its effective user."""
        try:
            with open(f"{self._roots.proc}/{pid}/status", "rb") as file:
                text = file.read()
        except OSError:
            return
        numbers = re.search(rb"^NSpid:\t(.*)$", text, re.MULTILINE)
        users = re.search(rb"^Uid:\t\d+\t(\d+)", text, re.MULTILINE)
        known.pid = int(numbers[1].split()[-1]) if numbers else pid
        known.user = int(users[1]) if users else known.user
