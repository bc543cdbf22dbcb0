"""FILE.meta.json: the facts of a run that the CSV beside it does not hold.

Written twice, each time whole: at the start with the state "running", so that
a trace that was killed is distinguishable from one that ended, and at the end with
the books. A reader sees the one or the other, never half a file. Room for the
last version is kept, in case the disk is full by then.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

from tracer import __version__
from tracer.common.errors import TraceError
from tracer.common.text import harmless, printable
from tracer.files.output import open_output, replace_file, reserve
from tracer.files.output_file import OutputFile
from tracer.files.paths import Owner
from tracer.model.result import Books, RunInfo
from tracer.outputs.csv import columns

SUFFIX = ".meta.json"
_ROOM = 1 << 15  # bytes: more than a description takes that has no lists
_BY_REGION = ("gained_in", "lost_in")
_SERIES = ("mapped", "resident")
FORMAT = 2  # raised when a field changes its meaning or goes

State = Literal["running", "finished", "failed"]
Json = dict[str, object]


class MetaFile:
    """The description beside a CSV file; belongs to the same owner."""

    def __init__(self, csv_path: str, owner: Owner | None = None, force: bool = False) -> None:
        """Claim the name: raises TraceError(code=Exit.OUTPUT) as `open_output` does."""
        self.path = csv_path + SUFFIX
        self._owner = owner
        self.hasty: Callable[[], bool] = lambda: False  # as OutputFile's
        self._file: OutputFile | None = open_output(self.path, owner, force)
        self._room = -1  # a file without a name that has room for the last version

    def start(self, info: RunInfo) -> None:
        """Write the first version."""
        self._replace(describe(info, "running"))
        self._room = reserve(self.path, _ROOM, self._owner)

    def finish(self, info: RunInfo, books: Books, state: State = "finished") -> None:
        """Write the last version, with the books."""
        self._replace(describe(info, state, books))

    def fail(self, info: RunInfo) -> None:
        """Write that the trace broke off; nothing where it never began."""
        if self._file is None:
            self._replace(describe(info, "failed"))

    def discard(self) -> None:
        """Release the name, where nothing was written yet; harmless otherwise."""
        self._give_room()
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _replace(self, content: Json) -> None:
        """Where the disk is full, in the room that was kept, without what may not fit there."""
        try:
            self._write(content)
        except TraceError:
            if self._room < 0:
                raise
            self._give_room()
            self._write({**content, **{name: describe_series([]) for name in _SERIES}})
        self.discard()  # the claim's own file, which is no longer the one of that name

    def _write(self, content: Json) -> None:
        text = (json.dumps(content, indent=2) + "\n").encode()
        replace_file(self.path, text, self._owner, self.hasty)

    def _give_room(self) -> None:
        room, self._room = self._room, -1
        if room >= 0:
            os.close(room)


def describe(info: RunInfo, state: State, books: Books | None = None) -> Json:
    """The content of FILE.meta.json, ready for json.dumps. docs/csv.md describes it."""
    offset = info.started_wall_ns - info.started_monotonic_ns
    ended = info.ended_monotonic_ns
    content: Json = {
        "format": FORMAT,
        "version": __version__,
        "state": state,
        "host": printable(info.host),
        "kernel": printable(info.kernel),
        "command": [printable(word) for word in info.command],
        "pids": info.pids,
        "exit_status": info.exit_status,
        "probe": {"name": info.probe, "reason": harmless(info.probe_reason)},
        "clock": {
            "time_ns": "CLOCK_MONOTONIC",
            "started_monotonic_ns": info.started_monotonic_ns,
            "started_wall_ns": info.started_wall_ns,
            "started": _iso(info.started_wall_ns),
            "wall_minus_monotonic_ns": offset,
            "wall_moved_ns": info.wall_moved_ns if ended else None,
            "ended_monotonic_ns": ended or None,
            "ended": _iso(ended + offset) if ended else None,
        },
        "snapshots": {"interval_ms": info.snapshot_interval_ms, "taken": info.snapshots},
        "mapped": describe_series(info.mapped),
        "resident": describe_series(info.resident),
        "pages_csv": printable(info.pages_csv) or None,
        "filters": {name: printable(value) for name, value in info.filters.items()},
        "notes": [harmless(note) for note in info.notes],
        "stacks": printable(info.stacks) or None,
        "columns": list(columns(bool(info.stacks))),
        "lost": None,
        "books": None,
        "verdict": None,
    }
    if info.verdict is not None:
        content["verdict"] = {
            **asdict(info.verdict),
            "inexact": [harmless(reason) for reason in info.verdict.inexact],
        }
    if books is not None:
        content["lost"] = books.lost
        # By region they are numbers of this run alone; --pages-csv has them by name.
        counts = {name: value for name, value in asdict(books).items() if name not in _BY_REGION}
        content["books"] = {**counts, "balanced": books.balanced()}
    return content


def describe_series(points: Sequence[tuple[int, int]]) -> Json:
    """How many pages at some moments."""
    return {"time_ns": [time_ns for time_ns, _ in points], "pages": [pages for _, pages in points]}


def _iso(wall_ns: int) -> str:
    seconds, nanoseconds = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
