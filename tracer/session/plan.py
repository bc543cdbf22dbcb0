"""What is traced and how, where rows go, and the result of a trace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tracer.common.deadline import DRAIN_S
from tracer.common.errors import TraceError
from tracer.model.result import Books, PageTable
from tracer.outputs.base import Output
from tracer.outputs.filters import RowFilter
from tracer.session.recorder import Recorder
from tracer.snapshots.snapshots import Snapshot
from tracer.target.command import Command


@dataclass
class Plan:
    """What to trace and how."""

    pids: list[int] = field(default_factory=list)
    command: Command | None = None
    children: bool = True
    duration_s: float | None = None
    drain_s: float = DRAIN_S  # CPU time for what is left at the end
    snapshot_interval_ms: int = 1000
    range: tuple[int, int] | None = None
    min_latency_ns: int = 0
    symbols: bool = False
    stacks: bool = False
    rules: Path | None = None  # the folder of unwind rules across runs; None: begin without
    jcmd: str = ""  # by which JVMs are asked for their perf maps; "": they are not
    native: bool = False  # stacks have the C frames of an interpreter, too
    row_filter: RowFilter = field(default_factory=RowFilter)
    every_page: bool = True  # keep a row of each page that ever had a frame, not of the first few


class Screen(Protocol):
    """A picture of the trace while it runs."""

    @property
    def fds(self) -> Sequence[int]:
        """Descriptors that wake the trace when readable: a keyboard."""

    def show(self, recorder: Recorder) -> None:
        """The ring has just been read: there may be time for a picture."""

    def snapshot_taken(self, recorder: Recorder, space: int, shot: Snapshot) -> None:
        """A snapshot of a space was taken."""


class Meanwhile(Protocol):
    """A line that says how much is left, once the trace is to end."""

    def show(self, records: int) -> None:
        """`records` have not been read yet; called often."""

    def erase(self) -> None:
        """Something else is to be printed."""


@dataclass
class Outputs:
    """Where rows go: `live` at once, as picked; `log` all, once a snapshot could confirm them.

    `count` gets all at once. `failed` is called with an output that failed, which then gets
    nothing more; without it the trace ends. `screen` shows the recorder's state, `meanwhile`
    how many records are left at the end.
    """

    live: list[Output] = field(default_factory=list)
    log: list[Output] = field(default_factory=list)
    count: list[Output] = field(default_factory=list)
    failed: Callable[[Output, TraceError], None] | None = None
    screen: Screen | None = None
    meanwhile: Meanwhile | None = None


@dataclass
class Result:
    """The result of a trace."""

    books: Books
    # By space and address, in several tables; None: more than could be kept, or no time: a note
    # says which.
    pages: list[PageTable] | None
    started_ns: int
    ended_ns: int
    snapshots: int
    exit_status: int | None  # of the command; None while it runs, and without one
    notes: list[str]
    stdout_closed: bool  # the reader of the lines went away
    stalled: bool  # an output's reader stalled; a note says what it lacks
    mapped: list[tuple[int, int]]  # CLOCK_MONOTONIC, pages with a frame in each space
    resident: list[tuple[int, int]]  # CLOCK_MONOTONIC, distinct frames
