"""The result of a trace: its books, its page table, its facts, its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from tracer.common.types import I64, U8, U32, U64, Bools


@dataclass
class Books:
    """The counts that must balance. All are faults or pages over the whole run."""

    traced: int = 0  # fault rows recorded, failed ones not included
    failed: int = 0  # rows of kind `failed`: the kernel does not count them
    foreign: int = 0  # rows by threads that are no targets (counted on their own account)
    kernel: int = 0  # min_flt + maj_flt of the same threads over the same interval
    kernel_at_least: bool = False  # it is a lower bound
    kernel_reason: str = ""  # why, in words
    lost: int = 0  # events dropped because the ring was full
    missed: int = 0  # gaps in the threads' counts: seen by no hook; less dropped and filtered
    skipped: int = 0  # calls of the probe's handlers that the kernel says it skipped
    missed_reason: str = ""  # why, in words; "" when nothing was missed
    blind_faults: int = 0  # of these, without an exception of their own: `perf` cannot see them
    under_way: int = 0  # of these, faults that had begun before the trace
    blind: bool = False  # whether these two are all that was missed
    lost_other: int = 0  # dropped records of threads, mappings and neighbours
    unfollowed: int = 0  # thread events that may be unreported: `kernel` may lack some
    filtered: int = 0  # left out by --range, --min-latency
    failed_lost: int = 0  # like `lost`, of faults that failed: outside the equation
    failed_filtered: int = 0  # like `filtered`, of these
    foreign_lost: int = 0  # like `lost`, of faults by threads that are no targets: outside, too
    foreign_filtered: int = 0  # like `filtered`, of these
    conflict: int = 0  # faults that pagemap contradicts without an explanation
    gained: int = 0  # pages that gained a frame
    given_up: int = 0  # pages whose frame was released
    # Unobserved calls that filled memory, some of it released before a snapshot: the two above, and
    # what came by `populate`, are bounds then.
    unseen_fills: int = 0
    # Pages present at the end, in each space that has them, and less those at the first snapshots.
    mapped: int | None = None  # None: unknown, likewise below
    mapped_change: int | None = None
    # Distinct frames, whoever shares them: at the end, less those at the start, and at most.
    resident: int | None = None
    resident_growth: int | None = None
    resident_peak: int | None = None  # the highest count: there may have been more in between
    gained_by: dict[str, int] = field(default_factory=dict)  # source (Source.name.lower()) -> pages
    lost_by: dict[str, int] = field(default_factory=dict)
    gained_in: dict[int, int] = field(default_factory=dict)  # index into Names.regions -> pages
    lost_in: dict[int, int] = field(default_factory=dict)

    def balanced(self) -> bool:
        """Whether every fault the kernel counted is a row, filtered, dropped or a named miss."""
        return self.unaccounted() == 0 and self.conflict == 0 and not self.kernel_at_least

    def unaccounted(self) -> int:
        """The kernel's count less ours: 0 where the books balance."""
        ours = self.traced - self.foreign + self.filtered + self.lost + self.missed
        return self.kernel - ours


@dataclass(frozen=True, slots=True)
class Checked:
    """A budget and the result of checking it."""

    budget: str  # as given
    actual: int | None  # a count, bytes or nanoseconds; None where the run has no such value
    shown: str  # the same for people
    broken: bool
    unknown: bool = False  # the value is not known, nor whether it breaks the budget


@dataclass(frozen=True, slots=True)
class Verdict:
    """What --strict and --fail-if say of a run; `status` is 0 where nothing is wrong."""

    strict: bool  # whether --strict was given
    inexact: tuple[str, ...]  # what makes the record incomplete, with --strict or without
    budgets: tuple[Checked, ...]
    status: int


@dataclass
class RunInfo:
    """Facts about a run, for FILE.meta.json and the head of the summary."""

    host: str
    kernel: str
    command: list[str]  # [] when attached to processes
    pids: list[int]
    probe: str
    probe_reason: str  # why this one
    probe_brief: str  # the same in a few words
    started_monotonic_ns: int
    started_wall_ns: int  # CLOCK_REALTIME at the same moment
    ended_monotonic_ns: int = 0
    wall_moved_ns: int = 0  # how far CLOCK_REALTIME was set meanwhile
    snapshot_interval_ms: int = 0
    snapshots: int = 0
    filters: dict[str, str] = field(default_factory=dict)
    exit_status: int | None = None  # the command's, as a shell would show it
    mapped: list[tuple[int, int]] = field(default_factory=list)  # time_ns, pages with a frame
    resident: list[tuple[int, int]] = field(default_factory=list)  # time_ns, distinct frames
    pages_csv: str = ""  # --pages-csv, as seen from the directory of --csv
    stacks: str = ""  # FILE.stacks.csv, as seen from there; "" where no call stacks were recorded
    notes: list[str] = field(default_factory=list)  # one sentence each: what the reader should know
    verdict: Verdict | None = None  # set at the end


@dataclass
class PageTable:
    """The page timeline at the end of a run: one element a page, arrays of equal length."""

    space: U32
    pid: U32
    page: U64  # virtual address of the page
    region: U32  # index into Names.regions
    # CLOCK_MONOTONIC when it first gained a frame; a snapshot's time where no fault is recorded
    first_time_ns: I64
    first_source: U8  # sources.Source
    first_kind: U8  # rows.Kind; UNKNOWN unless the source is a fault
    first_fault: U64  # ROW.number of that fault; 0 where none
    first_frame: U64  # physical address
    last_frame: U64  # NO_FRAME when not present at the end
    last_source: U8
    confirmed: U8  # rows.Confirmed of the first gain
    gains: U32
    losses: U32
    last_loss: U8  # sources.Loss of the latest release; 0 where none
    last_time_ns: I64  # CLOCK_MONOTONIC when a frame was last gained or released

    def select(self, chosen: Bools) -> "PageTable":
        """The selected pages."""
        return PageTable(**{name: column[chosen] for name, column in vars(self).items()})


_COLUMNS = [each.name for each in fields(PageTable)]


def joined(tables: Sequence[PageTable]) -> PageTable:
    """The tables concatenated."""
    if len(tables) == 1:
        return tables[0]
    columns: dict[str, Any] = dict.fromkeys(_COLUMNS, np.empty(0, np.int64))
    if tables:
        for name in _COLUMNS:
            columns[name] = np.concatenate([vars(table)[name] for table in tables])
    return PageTable(**columns)
