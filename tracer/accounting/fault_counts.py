"""The kernel's fault count of each thread: the proof that no fault was missed.

`task->min_flt + maj_flt` grows by one for each fault the kernel accounts
(mm_account_fault, mm/memory.c), on the thread that ran it, before the fault's
hooks fire. Every record carries its thread's count; steps of one prove
that nothing was missed in between, a gap says how much was.
"""

from dataclasses import dataclass

import numpy as np

from tracer.common.fields import FEW
from tracer.common.types import U32, U64


@dataclass
class Thread:
    """One thread's interval: `first` faults were counted before it began, `last` by its end."""

    tgid: int
    first: int
    last: int
    seen: int = 0  # records of counted faults
    ended: bool = False
    met: bool = False  # found in /proc before a record of its start: that may follow
    task: int = 0  # struct task_struct *, once it has ended: ids are reused

    @property
    def counted(self) -> int:
        return self.last - self.first

    @property
    def missed(self) -> int:
        """Counted by the kernel and without a record (including filtered and dropped ones)."""
        return self.counted - self.seen


class Threads:
    """Every thread of the targets, including those that have ended, by thread id.

    Ids are reused: an ended thread's sums are kept when a new one gets its id.
    """

    def __init__(self) -> None:
        self.live: dict[int, Thread] = {}
        self.past_counted = 0
        self.past_seen = 0
        self._of: dict[int, set[int]] = {}  # by process: its threads among `live`
        self._past_missed: dict[int, int] = {}  # by process: of its ended threads

    def begin(self, tid: int, tgid: int, count: int) -> None:
        """A thread starts being traced at `count` faults (0 for one just created)."""
        known = self.live.get(tid)
        if known is not None and known.met and not known.ended:
            known.met = False
            return
        self._retire(tid)
        self._add(tid, Thread(tgid, count, count))

    def reach(self, tid: int, count: int) -> None:
        """Raise a thread's count to `count`, the kernel's at some moment of the trace."""
        thread = self.live.get(tid)
        if thread is not None:
            thread.last = max(thread.last, count)

    def meet(self, tid: int, tgid: int) -> None:
        """Add a thread without a record of its start (io_uring's workers have none)."""
        if tid not in self.live:
            self._add(tid, Thread(tgid, 0, 0, met=True))

    def end(self, tid: int, count: int, task: int = 0) -> None:
        """The thread `task` is exiting at `count`; faults during its exit may still follow."""
        self.reach(tid, count)
        if tid in self.live:
            self.live[tid].ended = True
            self.live[tid].task = task

    def free(self, tid: int, count: int, task: int = 0) -> Thread | None:
        """The ended thread `task` is freed; `count` was its last. Its id may be reused.

        Returns the thread if known.
        """
        thread = self.live.get(tid)
        if thread is None or not thread.ended or thread.task != task:
            return None
        self.reach(tid, count)
        return thread

    def let_go(self, tid: int) -> None:
        """Drop a thread that has no more records, keeping its sums."""
        self._retire(tid)

    def become_leader(self, old_tid: int, tid: int) -> None:
        """exec by a thread that was not the leader: it gets the leader's id, keeps its count.

        `old_tid` 0: not recorded. It is the one thread of the process `tid` that has not ended.
        """
        if not old_tid:
            living = [id for id, each in self.live.items() if each.tgid == tid and not each.ended]
            old_tid = living[0] if len(living) == 1 else tid
        if old_tid == tid or old_tid not in self.live:
            return
        self._retire(tid)
        self._add(tid, self._remove(old_tid))

    def restart(self, tid: int, tgid: int, count: int) -> None:
        """A waiting target reached its exec: its interval begins here."""
        if tid not in self.live:
            self.begin(tid, tgid, count)

    def record(
        self,
        tids: U32,
        tgids: U32,
        counts: U64,
    ) -> None:
        """Add records of counted faults, in order: threads, processes, counts after each fault."""
        if tids.size <= FEW:
            # One by one: for few, plain Python costs less than numpy.
            columns = tids.tolist(), tgids.tolist(), counts.tolist()
            for tid, tgid, count in zip(*columns, strict=True):
                self._record(tid, tgid, count, count, 1)
            return
        if (tids == tids[0]).all():
            self._record(
                int(tids[0]), int(tgids[0]), int(counts.min()), int(counts.max()), tids.size
            )
            return
        ids, first_at, inverse, times = np.unique(
            tids, return_index=True, return_inverse=True, return_counts=True
        )
        lowest = np.full(ids.size, np.iinfo(np.uint64).max, np.uint64)
        highest = np.zeros(ids.size, np.uint64)
        np.minimum.at(lowest, inverse, counts)
        np.maximum.at(highest, inverse, counts)
        every = ids, tgids[first_at], lowest, highest, times
        for each in zip(*(column.tolist() for column in every), strict=True):
            self._record(*each)

    def _record(self, tid: int, tgid: int, low: int, high: int, times: int) -> None:
        """`times` records of a thread, at counts from `low` to `high`."""
        thread = self.live.get(tid)
        if thread is None:
            # Its start has no record: an io_uring worker, or the record was dropped. It was
            # made under trace, and a new thread's count is 0 (copy_mm(), kernel/fork.c).
            thread = Thread(tgid, 0, 0)
            self._add(tid, thread)
        elif low <= thread.first and thread.ended and tid == tgid:
            # exec by another thread: it has the leader's id now; its record is to come.
            self.become_leader(0, tid)
            thread = self.live[tid]
        elif low <= thread.first:
            # Counted after the base was read, before it was stored: part of the trace.
            thread.first = low - 1
        thread.seen += times
        thread.last = max(thread.last, high)

    def missed_by(self, tgid: int) -> int:
        """Faults that the kernel counted for this process's threads and no record has.

        Including filtered and dropped ones.
        """
        past = self._past_missed.get(tgid, 0)
        return past + sum(self.live[tid].missed for tid in self._of.get(tgid, ()))

    def forget(self, tgid: int) -> None:
        """Drop what a process missed, once it and its threads have ended."""
        if tgid not in self._of:
            self._past_missed.pop(tgid, None)

    def _add(self, tid: int, thread: Thread) -> None:
        self.live[tid] = thread
        self._of.setdefault(thread.tgid, set()).add(tid)

    def _remove(self, tid: int) -> Thread:
        """Raises KeyError where there is none of that id."""
        thread = self.live.pop(tid)
        mates = self._of[thread.tgid]
        mates.discard(tid)
        if not mates:
            del self._of[thread.tgid]
        return thread

    def _retire(self, tid: int) -> None:
        if tid not in self.live:
            return
        thread = self._remove(tid)
        self.past_counted += thread.counted
        self.past_seen += thread.seen
        if thread.missed:
            self._past_missed[thread.tgid] = self._past_missed.get(thread.tgid, 0) + thread.missed

    @property
    def counted(self) -> int:
        """The kernel's count of all threads."""
        return self.past_counted + sum(thread.counted for thread in self.live.values())

    @property
    def seen(self) -> int:
        """How many of those have a record."""
        return self.past_seen + sum(thread.seen for thread in self.live.values())
