"""JIT-compiled functions, by /tmp/perf-PID.map: which file is trusted, and what it said when.

Its owner and age are checked here: only a regular file of the process's own user, or root's,
that was written since the process started is handed on to be read
(tracer.symbolizing.perf_map). It grows while the program runs, without notice; so its size is
checked again and again, and what was appended between two checks was compiled between them, or
a moment earlier (docs/decisions/0014-perf-maps.md).
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tracer.procfs.regular import reopened
from tracer.procfs.roots import OURS, Roots, Whose
from tracer.symbolizing.helper import Asked, Question
from tracer.symbolizing.history import NEVER, Change, Period, dumps
from tracer.symbolizing.lookup import Found, found_of, number_of
from tracer.symbolizing.messages import BadMessage

AGAIN_S = 0.2  # a path is resolved again after that at the earliest …
_ABSENT_AGAIN_S = 0.04  # … and where there was none
_CHECK_S = 0.01  # between two checks of a file
_MOST_MAPS = 64  # processes whose maps are known
_MOST_CHECKS = 10_000  # of one process's file that find it changed
_MOST_ADDRESSES = 1 << 14  # of one process
_AT_ONCE = 4096  # new addresses in a question
_START_TIME = 22  # the field of /proc/PID/stat (proc(5))
_SLACK_S = 0.1  # a process's start is in ticks of 10 ms, and so is the clock of files

TOO_OFTEN = "it has changed too often"
_HIGHEST = (1 << 64) - 1
_LAST_NS = (1 << 63) - 1


@dataclass
class _Map:
    """One process's file, as far as it is known and has been read. Times: CLOCK_MONOTONIC."""

    pid: int  # by its own namespace
    user: int | None = None  # whom the process runs as; None: it was gone when first asked about
    start_s: float | None = None  # when it started, by time.time(); None: likewise
    ended: bool = False  # and its map checked since
    handle: int | None = None  # O_PATH: it can be read when its container has gone
    resolved_s: float = 0.0  # when its path was, by time.monotonic()
    resolved_ns: int = NEVER  # the same, before it was
    file: tuple[int, int] | None = None  # st_dev, st_ino
    state: tuple[int, int] = (0, 0)  # st_size, st_mtime_ns
    checked_ns: int = NEVER  # before the last check
    due_s: float = 0.0  # the next one, by time.monotonic()
    periods: list[Period] = field(default_factory=list)  # of each check that found it changed
    dumped: bool = False  # it is written anew each time, and lists what there was then
    sizes: list[tuple[int, int]] = field(default_factory=list)  # number and size, not read yet
    fresh: bool = True  # it is to be read from its beginning
    started: int = 0  # by which process it is read, as the helper counts them
    histories: dict[int, list[Change]] = field(default_factory=dict)  # by address
    read: int = 0  # the check up to which they are known
    asked: dict[int, None] = field(default_factory=dict)  # addresses, to be asked for
    under_way: bool = False  # a question
    sent: tuple[list[int], list[int], int] = ([], [], 0)  # of the question: new, old, check

    def close(self) -> None:
        """Close the file."""
        handle, self.handle = self.handle, None
        if handle is not None:
            os.close(handle)


class PerfMaps:
    """The maps of a run's processes; each is read when it is asked for, as far as it has grown."""

    def __init__(self, helper: Asked, proc: str = "/proc", folder: str = "/tmp") -> None:
        """`proc`: where procfs is mounted; `folder`: where the maps are."""
        self._helper = helper
        self._roots = Roots(proc)
        self._folder = folder
        self._maps: dict[int, _Map] = {}  # the last asked about at the end
        self._begun_s = time.time()
        self._over = False
        self.failed: dict[int, str] = {}  # processes, and why their maps are not read any more
        # Of a map's checks, of which its process's code may be behind by seconds.
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, pids: Iterable[int]) -> None:
        """Check these processes' maps from now on, in a thread, until `close`.

        What reads the faults may be behind them by seconds: the checks are to be in time.
        """
        for pid in pids:
            self._map(pid)
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._check_all, daemon=True)
            self._thread.start()

    def at(self, pid: int, address: int) -> Found:
        """(name, bytes into it) of the function that was last at an address; None: not known."""
        self.ask(pid, [address])
        history = self.history(pid, address)
        return history[-1][1:] if history and history[-1][1] else None

    def ask(self, pid: int, addresses: Iterable[int], until_ns: int = NEVER) -> None:
        """Ask for functions that are not known yet, and check whether the map has grown.

        The file is opened now, if it is there: its process may end any moment. `until_ns`: a
        check before that is no recent one.
        """
        known = self._map(pid)
        with self._lock:
            self._check(pid, known, until_ns)
        room = _MOST_ADDRESSES - len(known.histories) - len(known.asked)
        for address in addresses:
            if address not in known.asked and self.history(pid, address) is None and room > 0:
                known.asked[address] = None
                room -= 1
        self._ask(pid, known)

    def history(self, pid: int, address: int) -> list[Change] | None:
        """What came to be at an address, by the checks that found it; None: not known yet."""
        known = self._maps.get(pid)
        if known is None or not 0 <= address <= _HIGHEST:
            return None if known is None else []
        return known.histories.get(address)

    def periods(self, pid: int) -> list[Period]:
        """When each of the checks in a history was, from the first, 1.

        Of a map that is written anew each
        time the period is that between two of these times, and the same for all checks in one.
        """
        known = self._maps.get(pid)
        if known is None:
            return []
        return dumps(known.periods) if known.dumped else known.periods

    def known_until(self, pid: int) -> int:
        """Until when the histories say all there is (CLOCK_MONOTONIC, ns).

        A map that is not there yet, or is written anew, says nothing of now: only the next one
        does, if there is one before the trace is over.
        """
        known = self._maps.get(pid)
        if known is None:
            return NEVER
        with self._lock:
            read_all = known.read == len(known.periods)
            silent = known.dumped or not known.read
            if read_all and pid not in self.failed and (known.ended or (silent and self._over)):
                return _LAST_NS
            if silent:
                return known.periods[known.read - 1].by_ns if known.read else NEVER
            return known.checked_ns if read_all else known.periods[known.read].before_ns

    def asking(self, pid: int) -> bool:
        """Whether there is a question under way about a process."""
        known = self._maps.get(pid)
        return known is not None and known.under_way

    def conclude(self) -> None:
        """Note that the trace is over: no map is expected any more."""
        self._over = True

    def hurry(self) -> None:
        """Check the maps again at the next question, however recent the last check."""
        for known in self._maps.values():
            known.resolved_s = 0.0
            known.due_s = 0.0

    def ended(self, pid: int, address: int) -> bool:
        """Whether a process is gone, and what is known of that address is final."""
        known = self._maps.get(pid)
        if known is None or not known.ended:
            return False
        return pid in self.failed or (
            known.read == len(known.periods) and self.history(pid, address) is not None
        )

    def close(self) -> None:
        """Close the files."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        for known in self._maps.values():
            known.close()

    def _check_all(self) -> None:
        while not self._closed.wait(_CHECK_S):
            with self._lock:
                for pid, known in list(self._maps.items()):
                    self._check(pid, known)

    def _map(self, pid: int) -> _Map:
        with self._lock:
            known = self._maps.pop(pid, None)
            if known is None:
                known = _Map(pid)
                if len(self._maps) >= _MOST_MAPS:
                    self._maps.pop(next(iter(self._maps))).close()
            self._maps[pid] = known
        return known

    # -- questions and answers ---------------------------------------------------------------

    def _ask(self, pid: int, known: _Map) -> None:
        if pid in self.failed:
            known.histories.update((address, []) for address in known.asked)
            known.asked.clear()
        elif (known.asked or known.sizes) and not known.under_way:
            known.under_way = True
            make, answered = partial(self._make, pid, known), partial(self._answered, pid, known)
            self._helper.ask(Question(("perf map", pid), make, answered))

    def _make(self, pid: int, known: _Map, started: int) -> tuple[dict[str, Any], list[int]]:
        with self._lock:
            return self._made(pid, known, started)

    def _made(self, pid: int, known: _Map, started: int) -> tuple[dict[str, Any], list[int]]:
        number = len(known.periods)
        if known.started not in (0, started) and known.periods:
            # That process has read nothing of it: what is there now came by the last check.
            known.fresh, known.sizes = True, [(number, known.state[0])]
        known.started = started
        descriptors = []
        if known.sizes and known.handle is not None:
            try:
                descriptors = [reopened(known.handle)]
            except OSError:
                known.sizes = []
        new = list(known.asked)[:_AT_ONCE]
        old = list(known.histories) if descriptors else []
        question = {"ask": "perf_map", "pid": pid, "new": new, "old": old, "after": known.read}
        question |= {"fresh": known.fresh, "last": known.ended, "sizes": known.sizes}
        known.sent = new, old, number
        known.sizes, known.fresh = [], False
        return question, descriptors

    def _answered(self, pid: int, known: _Map, answer: Any, why: str) -> None:
        known.under_way = False
        new, old, number = known.sent
        why = why or str(answer.get("why", ""))
        if why:
            self._fail(pid, known, why)
            return
        if answer.get("forgotten"):
            known.fresh, known.sizes = True, [(number, known.state[0])]
            self._ask(pid, known)
            return
        changes = _changes_of(answer, number)
        if len(changes) != len(new) + len(old):
            raise BadMessage("so many were not asked about")
        known.dumped |= bool(answer["dumped"])
        for address, history in zip(new, changes, strict=False):
            known.asked.pop(address, None)
            known.histories[address] = history
        for address, history in zip(old, changes[len(new) :], strict=True):
            known.histories[address] += history
        known.read = number
        if known.asked:
            self._ask(pid, known)

    def _fail(self, pid: int, known: _Map, why: str) -> None:
        self.failed[pid] = why
        with self._lock:
            known.close()
            known.sizes = []
        self._ask(pid, known)

    # -- the file ----------------------------------------------------------------------------

    def _check(self, pid: int, known: _Map, until_ns: int = NEVER) -> None:
        """See whether the file has changed; open it where that is not done yet."""
        if known.ended or pid in self.failed:
            return
        lives = os.path.exists(f"{self._roots.proc}/{pid}")  # before: later nothing is appended
        if lives and time.monotonic() < known.due_s and known.checked_ns >= until_ns:
            return
        known.due_s = time.monotonic() + _CHECK_S / 2
        now_ns = time.monotonic_ns()
        known.ended = not lives
        if lives and known.start_s is None:
            self._read_process(pid, known)
        again_s = AGAIN_S if known.handle is not None else _ABSENT_AGAIN_S
        before_ns = known.resolved_ns
        if not lives or time.monotonic() - known.resolved_s > again_s:
            known.resolved_s, known.resolved_ns = time.monotonic(), now_ns
            self._resolve(pid, known)
        if known.handle is not None:
            status = os.fstat(known.handle)
            file = status.st_dev, status.st_ino
            state = status.st_size, status.st_mtime_ns
            if file != known.file or state != known.state or known.ended:
                if file == known.file:
                    before_ns = known.checked_ns
                else:
                    known.fresh = True
                known.file, known.state = file, state
                known.periods.append(Period(before_ns, time.monotonic_ns()))
                known.sizes.append((len(known.periods), status.st_size))
                if len(known.periods) > _MOST_CHECKS:
                    self.failed[pid] = TOO_OFTEN
        known.checked_ns = now_ns if known.handle is not None else known.resolved_ns

    def _resolve(self, pid: int, known: _Map) -> None:
        # A container has its own /tmp, in which the process goes by the number it has there:
        # what has that number in ours is another's.
        roots: list[Whose] = [pid, OURS] if known.pid == pid else [pid]
        for whose in roots:
            try:
                handle = self._roots.open(whose, f"{self._folder}/perf-{known.pid}.map", links=True)
            except OSError:
                continue
            if self._is_its(handle, known):
                known.close()
                known.handle = handle
                return
            os.close(handle)

    def _is_its(self, handle: int, known: _Map) -> bool:
        """Whether a file is to be trusted to be the process's."""
        status = os.fstat(handle)
        users = (0, os.geteuid() if known.user is None else known.user)
        if status.st_uid not in users or (known.ended and known.file is not None):
            return False  # another's; or a later process's
        since = self._begun_s if known.start_s is None else known.start_s
        if status.st_mtime < since - _SLACK_S:
            return False  # left by an earlier process that had its number
        try:
            os.close(reopened(handle))
        except OSError:
            return False
        return True

    def _read_process(self, pid: int, known: _Map) -> None:
        """Read a living process's pid in its own namespace, its effective user and its start."""
        with contextlib.suppress(OSError):
            with open(f"{self._roots.proc}/{pid}/status", "rb") as file:
                text = file.read()
            numbers = re.search(rb"^NSpid:\t(.*)$", text, re.MULTILINE)
            users = re.search(rb"^Uid:\t\d+\t(\d+)", text, re.MULTILINE)
            known.pid = int(numbers[1].split()[-1]) if numbers else pid
            known.user = int(users[1]) if users else known.user
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"{self._roots.proc}/{pid}/stat", "rb") as file:
                ticks = int(file.read().rpartition(b")")[2].split()[_START_TIME - 3])
            booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
            known.start_s = booted_s + ticks / os.sysconf("SC_CLK_TCK")


def _changes_of(answer: Any, most: int) -> list[list[Change]]:
    """The history of each address as answered; raises BadMessage where it makes no sense."""
    found = iter(found_of(answer))
    changes = []
    for numbers in answer["numbers"]:
        history = []
        for number, each in zip(numbers, found, strict=False):
            if each is None or not 0 < number_of(number) <= most:
                raise BadMessage("no such check")
            history.append((number, *each))
        if len(history) != len(numbers):
            raise BadMessage("fewer names than numbers")
        changes.append(history)
    return changes
