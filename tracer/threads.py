"""The kernel's own count, thread by thread: the proof that no fault was missed.

`task->min_flt + maj_flt` grows by one for each fault the kernel accounts
(mm_account_fault, mm/memory.c), on the thread that ran it, before the fault's
hooks fire. Every record carries its thread's count; steps of one prove
that nothing was missed in between, a gap says how much was.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class Thread:
    """One thread's interval: `first` faults were counted before it began, `last` by its end."""

    tgid: int
    first: int
    last: int
    seen: int = 0  # records of counted faults
    ended: bool = False

    @property
    def counted(self) -> int:
        return self.last - self.first

    @property
    def missed(self) -> int:
        """Counted by the kernel, in no record of ours (filtered and lost ones among them)."""
        return self.counted - self.seen


class Threads:
    """Every thread of the targets, those that came and went included, by thread id.

    Numbers are reused: an ended thread's sums are kept when a new one takes its id.
    """

    def __init__(self) -> None:
        self.live: dict[int, Thread] = {}
        self.past_counted = 0
        self.past_seen = 0

    def begin(self, tid: int, tgid: int, count: int) -> None:
        """A thread starts being traced at `count` faults (0 for one just created)."""
        self._retire(tid)
        self.live[tid] = Thread(tgid, count, count)

    def reach(self, tid: int, count: int) -> None:
        """The kernel's count was `count` at some moment of the trace."""
        thread = self.live.get(tid)
        if thread is not None:
            thread.last = max(thread.last, count)

    def end(self, tid: int, count: int) -> None:
        """The thread is ending at `count`; faults on its very way out may still follow."""
        self.reach(tid, count)
        if tid in self.live:
            self.live[tid].ended = True

    def become_leader(self, old_tid: int, tid: int) -> None:
        """exec by a thread that was not the leader: it takes the leader's id, keeps its count."""
        if old_tid == tid or old_tid not in self.live:
            return
        self._retire(tid)
        self.live[tid] = self.live.pop(old_tid)

    def restart(self, tid: int, tgid: int, count: int) -> None:
        """A waiting target reached its exec: its interval begins here."""
        if tid not in self.live:
            self.begin(tid, tgid, count)

    def record(
        self,
        tids: npt.NDArray[np.uint32],
        tgids: npt.NDArray[np.uint32],
        counts: npt.NDArray[np.uint64],
    ) -> None:
        """Counted faults' records, in order: their threads and their threads' counts after them."""
        if not tids.size:
            return
        ids, first_at, inverse, times = np.unique(
            tids, return_index=True, return_inverse=True, return_counts=True
        )
        lowest = np.full(ids.size, np.iinfo(np.uint64).max, np.uint64)
        highest = np.zeros(ids.size, np.uint64)
        np.minimum.at(lowest, inverse, counts)
        np.maximum.at(highest, inverse, counts)
        for index, tid in enumerate(ids.tolist()):
            low = int(lowest[index])
            thread = self.live.get(tid)
            if thread is None:
                # One whose start we did not see: an io_uring worker, or a lost record.
                tgid = int(tgids[first_at[index]])
                thread = self.live[tid] = Thread(tgid, low - 1, low - 1)
            elif low <= thread.first:
                # Counted after the base was read, before it was stored: ours all the same.
                thread.first = low - 1
            thread.seen += int(times[index])
            thread.last = max(thread.last, int(highest[index]))

    def _retire(self, tid: int) -> None:
        thread = self.live.pop(tid, None)
        if thread is not None:
            self.past_counted += thread.counted
            self.past_seen += thread.seen

    @property
    def counted(self) -> int:
        """What the kernel counted for all of them."""
        return self.past_counted + sum(thread.counted for thread in self.live.values())

    @property
    def seen(self) -> int:
        """How many of those have a record."""
        return self.past_seen + sum(thread.seen for thread in self.live.values())
