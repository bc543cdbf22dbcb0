"""Threads and processes that have ended without a record.

Where the ring is full, EXIT and FREE records are dropped like any other, and for one thread in a
thousand the kernel reports nothing as it is freed (was_freed, bpf/hooks_lifecycle.bpf.h). The state
of a thread, a process and its memory would then be kept for the rest of the trace, so /proc is
checked from time to time for which of them still exist.
"""

from collections.abc import Callable
from typing import NamedTuple

from tracer.accounting.fault_counts import Thread, Threads
from tracer.procfs import stat

_EVERY_NS = 1_000_000_000
_ANYWAY_NS = 60_000_000_000  # though nothing was dropped
_GRACE_NS = 1_000_000_000  # a FREE record comes when the kernel's RCU callbacks have run


class Gone(NamedTuple):
    """A thread that was not in /proc at `time_ns` (CLOCK_MONOTONIC)."""

    tid: int
    thread: Thread
    time_ns: int


class MissedExits:
    """Checks /proc after records were dropped, else each minute; `due` returns those gone."""

    def __init__(
        self, lost: Callable[[], int], exists: Callable[[int, int], bool] = stat.exists
    ) -> None:
        """`lost`: how many records were dropped so far. `exists`: of a process, and its thread."""
        self._lost, self._exists = lost, exists
        self._lost_before = 0
        self._checked_ns = self._asked_ns = 0
        self._gone: list[Gone] = []

    def ask(self, threads: Threads, now_ns: int) -> None:
        """Check which threads are gone, if it is time to, and records of ends may be dropped."""
        if self._gone or now_ns - self._checked_ns < _EVERY_NS:
            return
        self._checked_ns = now_ns
        self._asked_ns = self._asked_ns or now_ns
        lost = self._lost()
        if lost == self._lost_before and now_ns - self._asked_ns < _ANYWAY_NS:
            return
        self._asked_ns = now_ns
        self._lost_before = lost
        self._gone = [
            Gone(tid, thread, now_ns)
            for tid, thread in threads.live.items()
            if not self._exists(thread.tgid, tid)
        ]
        if self._gone:
            # Some may have ended since, and their records have been dropped, too.
            self._lost_before = -1

    def due(self, threads: Threads, read_ns: int) -> list[Gone]:
        """Pop those gone without a record to come, as all up to `read_ns` have been read."""
        if not self._gone or read_ns - self._gone[0].time_ns < _GRACE_NS:
            return []
        gone, self._gone = self._gone, []
        return [each for each in gone if threads.live.get(each.tid) is each.thread]
