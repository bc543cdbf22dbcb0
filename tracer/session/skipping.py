"""The rest of the ring, once there is no time left: records are counted, not described."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.types import U8, Structs
from tracer.join.join import Placing
from tracer.session.gaps import Gaps
from tracer.session.lifecycle import Lifecycle
from tracer.session.parts import Parts
from tracer.session.script import Script
from tracer.wire.records import Mark, RecordType

_SKIPPED = 1 << 16  # records at once of those only counted
_LIFE = [kind.value for kind in RecordType if RecordType.FORK <= kind <= RecordType.RENAME]
_NOT_COUNTED = np.uint8(Mark.FAILED | Mark.FOREIGN)


class Skipping:
    """Reads the rest of the ring for its counts alone."""

    def __init__(self, parts: Parts, gaps: Gaps, life: Lifecycle) -> None:
        self._layout = parts.layout
        self._ring = parts.ring
        self._spaces = parts.spaces
        self._threads = parts.threads
        self._join = parts.join
        self._gaps, self._life = gaps, life
        self._unread = gaps.unread

    def skip(self) -> None:
        """Read the rest of the ring for its counts alone: there is no time for more.

        Faults are counted in `Gaps.unread`, each on its thread. Lifecycle records are followed
        only as far as that needs, and for the ends of known spaces: they are in `other` there,
        with the rest.
        """
        script = Script(Placing(self._join))
        while len(records := self._ring.peek(_SKIPPED)):
            self._skip(records, script)
            self._ring.advance()
        self._ring.advance()  # past what was discarded
        self._spaces.ended()  # there is no time for those without a record
        self._life.close_ended(script.ended)

    def _skip(self, records: U8, script: Script) -> None:
        types = records[:, 0].copy()
        life = np.flatnonzero(np.isin(types, _LIFE))
        tasks = records[life].view(self._layout.task).ravel()
        at = np.flatnonzero(types == RecordType.FAULT)
        faults = records[at].view(self._layout.fault).ravel()
        failed = int(((faults["marks"] & Mark.FAILED) != 0).sum())
        counted = (faults["marks"] & _NOT_COUNTED) == 0
        self._unread.failed += failed
        self._unread.foreign += len(faults) - int(counted.sum()) - failed
        at, faults = at[counted], faults[counted]
        self._unread.faults += len(faults)
        self._unread.other += int((types != RecordType.FAULT).sum())
        columns = [faults[name] for name in ("tid", "tgid", "count")]
        start = begin = 0
        for end in [*self._renumbered(tasks), len(tasks)]:
            # All faults up to the record that gives an id to another thread.
            until = int(np.searchsorted(at, life[end])) if end < len(tasks) else len(at)
            mine = [column[start:until] for column in columns]
            self._skip_lives(tasks[begin:end], mine, script)
            start, begin = until, end

    def _renumbered(self, tasks: Structs) -> list[int]:
        """Which lifecycle records give the id of a thread, past or present, to another one."""
        forks = tasks["type"] == RecordType.FORK
        execs = (tasks["type"] == RecordType.EXEC) & (tasks["child_tid"] != tasks["tid"])
        cuts, seen = [], set(self._threads.live)
        for index in np.flatnonzero(forks | execs).tolist():
            child = int(tasks["child_tid"][index])
            if execs[index] or child in seen:
                cuts.append(index)
            seen.add(child)
        return cuts

    def _skip_lives(
        self, tasks: Structs, faults: Sequence[npt.NDArray[Any]], script: Script
    ) -> None:
        """Count lifecycle records that reuse no id but the first one's, and faults meanwhile.

        So their order does not matter but for this: threads begin before they fault, and end
        after it.
        """
        names = ("type", "tgid", "tid", "count", "child_tgid", "child_tid", "task", "group_dead")
        lives = list(zip(*(tasks[name].tolist() for name in names), strict=True))
        threads = self._threads
        for kind, tgid, tid, count, child_tgid, child_tid, _, _ in lives:
            if kind == RecordType.FORK:
                threads.reach(tid, count)
                threads.begin(child_tid, child_tgid, 0)
            elif kind == RecordType.EXEC:
                threads.become_leader(child_tid, tid)
                threads.restart(tid, tgid, count)
                threads.reach(tid, count)
        if len(faults[0]):
            threads.record(*faults)
        for index, (kind, tgid, tid, count, _, _, task, dead) in enumerate(lives):
            if kind == RecordType.EXIT:
                threads.meet(tid, tgid)
                threads.end(tid, count, task)
            elif kind == RecordType.FREE and threads.free(tid, count, task) is not None:
                threads.let_go(tid)
            space = self._spaces.of(tgid) if dead or kind == RecordType.EXEC else None
            if space is not None:
                missed = self._gaps.missed_in(space)
                self._spaces.lifecycle(tasks[index])
                if space.ended_ns is not None:
                    self._life.space_ended(space.number, missed, script)
