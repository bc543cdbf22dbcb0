"""From the ring to joined rows: reads every record once, in order, and updates the state.

The records of a batch are followed in order (lifecycle.py, calls.py), and its faults looked up on
the way; then all faults are described at once, and they and the effects of the calls in between
are applied to the timeline.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from tracer.common.fields import Columns, distinct
from tracer.common.types import U8, Structs
from tracer.join.fills import BY_TIME, Fill
from tracer.join.join import Placing, Renamed
from tracer.join.neighbours import match_windows
from tracer.model.rows import Rows
from tracer.session.buffers import Buffers
from tracer.session.calls import Calls
from tracer.session.comparison import Comparison
from tracer.session.gaps import Gaps
from tracer.session.lifecycle import Lifecycle
from tracer.session.parts import Parts
from tracer.session.script import Script
from tracer.session.skipping import Skipping
from tracer.spaces.syscalls import (
    Effect,
    decode,
    plain_releases,
)
from tracer.timeline.schedule import Action, action_of, together
from tracer.wire.batches import RawBatch, decode_batch
from tracer.wire.records import Mark, RecordType

_BATCH = 1 << 14  # records read at once
_SMALLEST_BATCH, _SMALLEST_LEARNING = 1 << 10, 1 << 8
_MOST_BETWEEN = 1 << 12  # records of a batch handled one by one: the end waits for it
_LONG_NS = 200_000_000  # for a batch
_LEARNING_NS = 20_000_000  # … where the kernel waits for unwind rules
_CALL, _SYSCALL = RecordType.CALL.value, RecordType.SYSCALL.value
_CALLS = [_CALL, _SYSCALL]
_RELEASE = -1  # no record's type: a SYSCALL record of a call that only releases
_STACKS = [RecordType.STACK.value, RecordType.PYTHON.value]
_BESIDE = [RecordType.WINDOW.value, *_STACKS]  # they belong to a fault's record
_IN_ONE = [RecordType.FAULT.value, *_BESIDE]  # those that are decoded all at once
_NOT_COUNTED = np.uint8(Mark.FAILED | Mark.FOREIGN)
_RESCUE_EVERY = 16  # records handled one by one: the clock is read that often
_PATIENCE_NS = 1_000_000_000  # how long a window waits for its fault


class Recorder:
    """Follows the records of one trace in order, and turns its faults into rows."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._layout, self._ring, self._join = parts.layout, parts.ring, parts.join
        self._spaces, self._threads, self._changed = parts.spaces, parts.threads, parts.changed
        self.gaps, self.buffers = Gaps(parts), Buffers(parts)
        self.calls = Calls(parts, self.buffers)
        self.life = Lifecycle(parts, self.gaps, self.calls)
        self.skipping = Skipping(parts, self.gaps, self.life)
        self.comparison = Comparison(parts, self.gaps)
        self.traced = self.failed = self.foreign = 0
        self._windows: Structs = np.empty(0, parts.layout.window)
        self._batch = _BATCH
        self._learner = parts.learner
        self._limits = (
            (_LONG_NS, _SMALLEST_BATCH)
            if parts.learner is None
            else (_LEARNING_NS, _SMALLEST_LEARNING)
        )

    def cycle(
        self, enough: Callable[[], bool] = lambda: False, done: Callable[[], None] = lambda: None
    ) -> Iterator[Rows]:
        """Everything the ring holds now, as batches of rows, or until `enough`.

        `done` is called where all that was read has been processed.

        What comes meanwhile waits for the next call: a target may be faster than the tracer,
        and the trace must end all the same.
        """
        left = self._ring.pending()
        while not enough():
            self.buffers.rescue()
            now = time.monotonic_ns()
            records = self._peek()
            count = len(records)
            if count:
                batch = decode_batch(records, self._layout.fault)
                self._ring.advance()
                yield from self._process(batch)
                done()
            else:
                self._ring.advance()
                self.buffers.feed_sideband(now)
                self.life.end_of_batch(Script(Placing(self._join)), now)
            left -= count
            if not count or left <= 0:
                return
            took = time.monotonic_ns() - now
            # Many short-lived processes: output must not be late, nor the rules for stacks.
            long, smallest = self._limits
            if took > long:
                self._batch = max(self._batch // 2, smallest)
            elif took < long // 4:
                self._batch = min(self._batch * 2, _BATCH)

    def _peek(self) -> U8:
        """The next records, as many as make a batch that is processed soon."""
        records = self._ring.peek(self._batch)
        if len(records) > _MOST_BETWEEN:
            between = np.flatnonzero(~np.isin(records[:, 0], _IN_ONE))
            if len(between) > _MOST_BETWEEN:
                return self._ring.peek(int(between[_MOST_BETWEEN]))
        return records

    # -- a batch ---------------------------------------------------------------------

    def _process(self, batch: RawBatch) -> Iterator[Rows]:
        rest, types, faults = batch.rest, batch.types, batch.faults
        self.life.learn_children(rest[types == RecordType.FORK])
        self.buffers.feed_sideband(batch.last_ns)
        if self._join.stacks is not None:
            records = rest[np.isin(types, _STACKS)].view(self._layout.stack).ravel()
            if self._learner is not None:
                self._learner.turn()
            self._join.stacks.learn(records)
        windows = rest[types == RecordType.WINDOW].view(self._layout.window).ravel()
        windows = np.concatenate([self._windows, windows])
        matched = match_windows(faults, windows)
        self._windows = _recent(windows[matched < 0])  # their faults are in the next batch
        script = self._follow(batch)
        if len(faults):
            yield from self._describe(script, windows[matched >= 0])
        else:
            for due in together(script.actions):
                self.calls.apply(due)
        self.life.end_of_batch(script, batch.last_ns)
        self._spaces.advance(batch.last_ns)

    def _follow(self, batch: RawBatch) -> Script:
        """Follow lifecycle records and calls in order; look up the faults on the way.

        Their effects on pages are applied later: faults are described all at once.
        """
        script, faults = Script(Placing(self._join)), batch.faults
        kinds = batch.types.astype(np.int16)
        made = np.flatnonzero(np.isin(kinds, _CALLS))
        records = batch.rest[made].view(self._layout.syscall).ravel()
        plain, releases = plain_releases(records)
        releases_left, calls = iter(releases), iter(decode(records[~plain]))
        kinds[made[plain]] = _RELEASE
        others = np.flatnonzero(~np.isin(kinds, _BESIDE))
        filled = self.calls.filled_by(batch.rest[kinds == RecordType.FILLED])
        filled_until = filling = 0  # of the FILLED records: applied, and read so far
        for count, (index, kind) in enumerate(
            zip(others.tolist(), kinds[others].tolist(), strict=True)
        ):
            if not count % _RESCUE_EVERY:
                self.buffers.rescue()
            if filling > filled_until and kind != RecordType.FILLED:
                self.calls.fill(filled, filled_until, filling, script)
                filled_until = filling
            if kind == _RELEASE:
                self.calls.release(next(releases_left), script)
                continue
            if kind == _CALL:
                self.calls.begin(next(calls))
                continue
            if kind == _SYSCALL:
                change = self.calls.complete(next(calls))
                if change is not None:
                    script.effects.append(change)
                continue
            raw = batch.rest[index]
            if kind == RecordType.FILLED:
                filling += 1
                continue
            record, before = raw.view(self._layout.task)[0], int(batch.before[index])
            # A reused thread id: what came before is the old thread's.
            reused = kind == RecordType.FORK and int(record["child_tid"]) in self._threads.live
            if reused or self._cuts(kind, record, faults[len(script.placing) :]):
                self._segment(script, faults[len(script.placing) : before])
                self._settle(kind, record, script)
            elif kind == RecordType.RENAME:
                tid = int(record["tid"])
                known = self._join.comms.get(tid, 0)
                script.renamed.append(Renamed(before - len(script.placing), tid, known))
            self.life.follow(kind, record, script)
        if filling > filled_until:
            self.calls.fill(filled, filled_until, filling, script)
        self._segment(script, faults[len(script.placing) :])
        return script

    def _cuts(self, kind: int, record: np.void, faults: Columns) -> bool:
        """Whether the spaces of the faults before this record must be looked up first.

        `faults` are those since the last such record.
        """
        if kind == RecordType.FORK:
            return bool(record["child_tgid"] != record["tgid"])
        if kind == RecordType.EXIT:
            return bool(record["group_dead"])
        if kind == RecordType.RENAME:
            return self._leaves_home(int(record["tgid"]), faults)
        return kind == RecordType.EXEC

    def _leaves_home(self, tgid: int, faults: Columns) -> bool:
        """Whether a process may be in exec: it has faults in memory that is not its own yet.

        exec sets the new name as it switches to the new memory (begin_new_exec(), fs/exec.c):
        earlier faults there only set it up.
        """
        home = self._spaces.of(tgid)
        if home is None or home.mm is None:
            return True
        return bool(((faults["tgid"] == tgid) & (faults["mm"] != np.uint64(home.mm))).any())

    def _segment(self, script: Script, faults: Columns) -> None:
        """Add the faults between two lifecycle records, and the effects of calls meanwhile."""
        start, times = len(script.placing), np.empty(0, np.uint64)
        if len(faults):
            counted = (faults["marks"] & _NOT_COUNTED) == 0
            columns = [faults[name] for name in ("tid", "tgid", "count")]
            if not counted.all():
                columns = [column[counted] for column in columns]
            self._threads.record(*columns)
            times = script.placing.add(faults, script.renamed)
        effects = script.effects
        effects.sort(key=BY_TIME)
        if script.fills:
            each_alone = [
                each.parts(effects, faults) if isinstance(each, Fill) else [each]
                for each in effects
            ]
            effects = sorted(itertools.chain.from_iterable(each_alone), key=BY_TIME)
        done = np.array([change.time_ns for change in effects], np.uint64)
        at = (np.searchsorted(times, done) + start).tolist()
        for before, change in zip(at, effects, strict=True):
            if isinstance(change, Fill):
                fill = partial(self.calls.populate, change)
                script.actions.append(Action(before, (change.range_(),), fill))
            else:
                script.actions.append(action_of(before, change))
        script.effects, script.renamed, script.fills = [], [], False

    def _settle(self, kind: int, record: np.void, script: Script) -> None:
        """Look up the mappings of the faults so far, in the spaces a lifecycle record changes."""
        if kind in (RecordType.FORK, RecordType.EXEC):
            spaces = self._spaces.at(int(record["mm"])), self._spaces.of(int(record["tgid"]))
            script.placing.settle([space.number for space in spaces if space is not None])

    def _describe(self, script: Script, windows: Structs) -> Iterator[Rows]:
        """Describe the batch's faults; apply them and the actions in between to the timeline."""
        placed = script.placing.placed()
        batch = self._join.describe(placed, windows)
        rows = batch.rows
        at = [batch.row_at(action.at) for action in script.actions]
        for due in batch.schedule.play(script.actions, at):
            self.calls.apply(due)
        for action in batch.schedule.idle:
            if action.begun_ns and isinstance(action.what, Effect):
                self.calls.over(action.what)
        marks = placed.faults["marks"]
        traced = int(((marks & Mark.FAILED) == 0).sum())
        self.traced += traced
        self.failed += len(rows) - traced
        self.foreign += int(((marks & _NOT_COUNTED) == Mark.FOREIGN).sum())
        alive = {space.number for space in self._spaces.alive()}
        self._changed.update(alive.intersection(distinct(rows["space"])))
        yield rows


def _recent(windows: Structs) -> Structs:
    """Without those so old that their fault's record must have been dropped."""
    if not len(windows):
        return windows
    young = windows["time_ns"] + np.uint64(_PATIENCE_NS) > windows["time_ns"].max()
    return np.asarray(windows[young])
