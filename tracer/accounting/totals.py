"""The kernel's fault count of the targets, by its own sums: unlike records, these are not dropped.

Threads that ended are added up in the kernel (bpf/shared.h: struct totals). Here those that
live at the end are added, and what threads had counted before they were traced is subtracted.
While threads are listed, the kernel notes which begin and end; so each is in exactly one sum.
Where that cannot be determined, the sum is a lower bound.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from tracer.probes.answers import Slot, Watch
from tracer.probes.program import Program
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.procfs.stat import Life

_READS = 8  # reads of a process's thread list, until there are no new ones
_ROUNDS = 20  # until no more faults complete

Id = tuple[int, int]  # process, thread


@dataclass(frozen=True)
class KernelCount:
    """Faults by the kernel's count of the targets' threads, for as long as they were traced."""

    faults: int
    blind: int  # of them, those without an exception; counted for `perf` only
    at_least: str = ""  # why there may be more; "" if exact


@dataclass
class Totals:
    """Follows one trace: `attach` adds each target, `close` removes all, then `settle` sums up."""

    program: Program
    blind: bool  # whether the probe sees exceptions only
    _base: int = 0  # what attached threads had counted before
    _there: int = 0  # how many threads these were
    _dead: set[Id] = field(default_factory=set)  # threads that ended before the trace
    _found: dict[Id, Life] = field(default_factory=dict)  # at the end
    _ended: set[Id] = field(default_factory=set)  # of these and others: in the kernel's sums
    _doubts: list[str] = field(default_factory=list)

    # -- the beginning ---------------------------------------------------------

    def attach(self, pid: int, add: Callable[[], None]) -> None:
        """Make a running process a target by `add`; note what its threads had counted.

        A thread's count is read once it is a target. For one that faulted in between, the count
        in its slot is used instead, for one that ended the count the kernel noted.
        """
        self.program.watch(Watch.ON)
        try:
            add()
            threads = _threads_of(pid)
        finally:
            self.program.watch(Watch.OFF)
        slots, watched = dict(self.program.slots()), self.program.watched()
        # A dead thread has passed its exit hook, before the trace.
        self._dead |= {(pid, tid) for tid, each in threads.items() if each.dead}
        bases = {tid: each.faults for tid, each in threads.items() if not each.dead}
        for (tgid, tid), thread in watched.items():
            if tgid == pid and thread.begun:
                bases.pop(tid, None)
            elif tgid == pid:
                known = threads.get(tid)
                bases[tid] = min(thread.base, known.faults if known is not None else thread.base)
        for tid, base in bases.items():
            slot = slots.get(tid)
            self._base += min(base, slot.first) if slot is not None else base
            # With no fault yet it may be just starting, and get a record of that.
            self._there += base > 0

    # -- the end -----------------------------------------------------------------

    def close(self) -> None:
        """Remove all targets, and note the counts of living threads."""
        program = self.program
        program.watch(Watch.ON)
        listed = {pid: _threads_of(pid) for pid in program.targets()}
        found = {(pid, tid): each for pid, of in listed.items() for tid, each in of.items()}
        self._found = {thread: each for thread, each in found.items() if thread not in self._dead}
        program.clear_targets()
        program.wait_for_handlers()
        program.watch(Watch.OVER)
        watched = program.watched()
        left = {thread for thread, _ in program.leaving().values()}
        for thread, each in self._found.items():
            # An exit takes a while, and its hook fires near its end.
            if each.exiting and thread in left:
                self._ended.add(thread)
        for thread, noted in watched.items():
            if noted.ended:
                self._ended.add(thread)
            elif noted.begun:  # its slot has its count
                self._found.setdefault(thread, Life(0, exiting=False, dead=False))

    def settle(self, read: Callable[[], None]) -> KernelCount:
        """Return the kernel's count, once `read` has read the records of faults under way."""
        before: list[tuple[int, Slot]] | None = None
        for _ in range(_ROUNDS):
            slots = self.program.slots()
            if slots == before:
                break
            read()
            before = slots
        else:
            self._doubts.append("faults continued while the trace was ending")
        return self._sum(slots)

    def _sum(self, every: list[tuple[int, Slot]]) -> KernelCount:
        totals, leaving = self.program.totals(), self.program.leaving()
        slots = {tid: slot for tid, slot in every if slot.task not in leaving}
        left = {slot.task: slot for _, slot in every if slot.task in leaving}
        faults = totals.faults - totals.base - self._base
        blind = totals.blind - totals.base - self._base
        living = self._found.keys() - self._ended
        for thread in living:
            slot = slots.get(thread[1])
            count = max(self._found[thread].faults, slot.seen if slot is not None else 0)
            faults += count
            blind += _blind(count, slot)
        for task, (thread, counted) in leaving.items():
            found = self._found[thread].faults if thread in self._ended & self._found.keys() else 0
            slot = left.get(task)
            count = max(counted, found, slot.seen if slot is not None else 0)
            faults += count - counted
            blind += _blind(count, slot)
        self._doubt(len(living) < self._there + totals.begun - totals.ended)
        return KernelCount(faults, max(blind, 0) if self.blind else 0, "; ".join(self._doubts))

    def _doubt(self, lacking: bool) -> None:
        """Note what may have kept a thread, or its end, from being counted."""
        if lacking:
            self._doubts.append("threads alive at the end were not found")
        if self.program.counters()["unlisted"]:
            self._doubts.append("some threads or processes could not be recorded")
        if skipped := self.program.missed_lifecycle_events():
            self._doubts.append(f"it skipped the handlers that follow threads {skipped} times")


def _blind(count: int, slot: Slot | None) -> int:
    """How far a thread's count has grown since a fault was last seen; all of it if none was."""
    if slot is None:
        return count
    grown = count - slot.seen
    return grown - 1 if grown and slot.open else grown


def _threads_of(pid: int) -> dict[int, Life]:
    """The threads of a process, from a list that may change meanwhile."""
    found: dict[int, Life] = {}
    with contextlib.suppress(ProcessGone):
        for _ in range(_READS):
            new = [tid for tid in stat.threads(pid) if tid not in found]
            if not new:
                break
            for tid in new:
                with contextlib.suppress(ProcessGone):
                    found[tid] = stat.life(pid, tid)
    return found
