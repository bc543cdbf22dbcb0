"""Rows to the outputs, and what to do where writing to one of them fails."""

import numpy as np

from tracer.common.deadline import Stalled
from tracer.common.errors import TraceError
from tracer.model.rows import ROW, Names, Rows
from tracer.outputs.base import Output
from tracer.session.ending import Ending
from tracer.session.pending_rows import PendingRows
from tracer.session.plan import Outputs, Plan
from tracer.snapshots.snapshots import Snapshot

_MOST_PENDING = 1 << 17  # rows kept for a snapshot; then one is taken early
_MOST_PENDING_AT_END = 1 << 19  # then they are written without one
_NO_ROWS = Rows.from_records(np.empty(0, ROW))


class Delivery:
    """Rows to the outputs: shown at once, logged once a snapshot could confirm them."""

    def __init__(
        self, plan: Plan, outputs: Outputs, names: Names, ending: Ending, notes: list[str]
    ) -> None:
        self._plan, self._outputs, self._names = plan, outputs, names
        self._ending, self._notes = ending, notes
        self.pending = PendingRows()
        self.stdout_closed = False
        self.stalled = False

    def crowded(self) -> bool:
        return len(self.pending) > _MOST_PENDING

    def deliver(self, rows: Rows) -> None:
        if not len(rows):
            return
        for output in self._outputs.count:
            output.write(rows, self._names)
        picked = self._plan.row_filter.choose(rows, self._names)
        self._ending.say_nothing()
        try:
            self._write(self._outputs.live, picked)
        except BrokenPipeError:
            self._reader_gone()
        self.pending.add(rows)

    def _write(self, outputs: list[Output], rows: Rows) -> None:
        for output in list(outputs):
            try:
                output.write(rows, self._names)
            except Stalled as error:
                outputs.remove(output)
                self.stalled = True
                self._notes.append(
                    f"{error} ends early: it is not being read, and an immediate end was requested"
                )
            except TraceError as error:
                if self._outputs.failed is None:
                    raise
                outputs.remove(output)
                self._outputs.failed(output, error)
                if self._plan.command is None:  # which runs on, and so do the other outputs
                    self._ending.drain.begin()

    def _reader_gone(self) -> None:
        """The reader of the lines has gone: go on only if there is something else to write."""
        self.stdout_closed = True
        self._outputs.live.clear()
        if self._plan.command is None and not self._outputs.log:
            self._ending.drain.begin()

    def _log_reader_gone(self) -> None:
        """The reader of the CSV has gone; a command runs on, and so do the lines."""
        self._outputs.log.clear()
        if self._plan.command is None:
            self._ending.drain.begin()

    def release(self, shots: dict[int, Snapshot]) -> None:
        """Write the rows that this round of snapshots confirms or not."""
        for rows in self.pending.release(shots):
            self.log(rows)

    def log(self, rows: Rows) -> None:
        try:
            self._write(self._outputs.log, rows)
        except BrokenPipeError:
            self._log_reader_gone()

    def log_named(self) -> None:
        """Write the rows that waited for symbol names."""
        self.log(_NO_ROWS)

    def make_room(self) -> None:
        """Write the pending rows without a snapshot where there are too many."""
        if len(self.pending) > _MOST_PENDING_AT_END:
            self.release({})
