"""A finished run: its faults in the order of time, its pages, its call stacks, its facts."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.common.types import I64, PAGE_BITS, U32, U64, Bools
from tracer.reporting.reading.callstacks import SUFFIX, CallStacks, read_callstacks
from tracer.reporting.reading.columns import Table, Words, read_header, read_table, wrong
from tracer.reporting.reading.facts import LATEST_NS, Facts, read_facts
from tracer.reporting.reading.schema import FAULTS, PAGES

PAGE = 4096


SPACE_SHIFT = 45


def identity(space: npt.NDArray[Any], page: U64) -> U64:
    """A number for each page of each address space: 19 bits of space, 45 of page."""
    inside = page & np.uint64((1 << SPACE_SHIFT) - 1)
    return np.asarray(inside | space.astype(np.uint64) << np.uint64(SPACE_SHIFT))


@dataclass(frozen=True)
class Faults:
    """One element a fault, in the order of completion; columns as docs/csv.md names them."""

    time_ns: I64
    pid: U32
    space: U32
    tid: U32
    comm: Words
    address: U64
    access: Words
    cause: Words
    kind: Words
    major: Bools
    latency_ns: I64  # -1 where not known
    present: Bools  # there was a frame afterwards
    replaced: Bools  # there had been another before
    pages: U32  # that gained a frame
    region: Words
    perms: Words
    symbol: Words
    stack: U32  # its call stack in Run.callstacks; 0 where not known

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def page(self) -> U64:
        """Virtual page numbers."""
        return self.address >> PAGE_BITS

    def select(self, rows: npt.NDArray[Any]) -> "Faults":
        """The rows chosen, by number or by flag."""
        values: dict[str, Any] = {
            name: value.select(rows) if isinstance(value, Words) else value[rows]
            for name, value in vars(self).items()
        }
        return Faults(**values)


@dataclass(frozen=True)
class Pages:
    """One element a page that had a frame at some time; columns as docs/csv.md names them."""

    space: U32
    pid: U32
    page: U64  # virtual page number
    region: Words
    perms: Words
    first_ns: I64
    source: Words
    kind: Words
    present: Bools  # at the end
    gains: U32
    losses: U32
    last_ns: I64  # when it last changed; -1 where not recorded
    loss: Words
    latest: Words  # where its latest frame came from

    def __len__(self) -> int:
        return len(self.page)


@dataclass(frozen=True)
class Run:
    """All there is of one run."""

    path: str
    faults: Faults
    pages: Pages | None
    facts: Facts
    notes: list[str] = field(default_factory=list)  # of what these files lack
    callstacks: CallStacks | None = None
    stackless: str = ""  # why there are none, and how to get them

    @property
    def start_ns(self) -> int:
        """When tracing began: CLOCK_MONOTONIC; where not recorded, when the first fault began."""
        if self.facts.started_ns is not None:
            return self.facts.started_ns
        if not len(self.faults):
            return 0
        return int(self.faults.time_ns[0]) - max(0, int(self.faults.latency_ns[0]))

    @property
    def end_ns(self) -> int:
        """When tracing ended; where not recorded, when the last fault was done."""
        latest = int(self.faults.time_ns[-1]) if len(self.faults) else self.start_ns
        return max(latest, self.facts.ended_ns or 0)

    @property
    def seconds(self) -> float:
        """The interval traced."""
        return (self.end_ns - self.start_ns) / 1e9


def load(
    csv_path: str,
    pages_path: str | None = None,
    stacks_path: str | None = None,
    *,
    wants_stacks: bool = False,
    wants_pages: bool = False,
) -> Run:
    """Read FILE.csv, its meta file, and the files of pages and of call stacks.

    Those are the ones given, or those that the meta file names; call stacks are in
    FILE.csv.stacks.csv, too.

    Raises TraceError(code=Exit.INPUT) where one of them is not what it should be, and, before
    the faults are read, where it `wants_stacks` or `wants_pages` and there are none.
    """
    facts = read_facts(csv_path)
    with_stacks = "stack" in read_header(csv_path, FAULTS, "--csv")
    stacks_file, stackless = _stacks_file(with_stacks, csv_path, stacks_path, facts.stacks)
    if wants_stacks and stacks_file is None:
        raise TraceError(stackless, code=Exit.INPUT)
    beside = os.path.join(os.path.dirname(csv_path), facts.pages_csv)
    if pages_path is None and facts.pages_csv and os.path.isfile(beside):
        pages_path = beside
    if wants_pages and pages_path is None:
        raise no_pages()
    table = read_table(csv_path, FAULTS, "--csv")
    callstacks = None
    if stacks_file is not None:
        callstacks = _callstacks(table, stacks_file)
    elif with_stacks:
        table.numbers["stack"] = np.zeros(table.rows, np.uint32)
    faults, notes = _faults(table, csv_path)
    if not facts.there:
        name = printable(os.path.basename(csv_path))
        what = "host, kernel, command and dropped events"
        notes.append(f"there is no {name}.meta.json: {what} not known")
    elif facts.state != "finished":
        notes.append("the trace did not end cleanly: the CSV may lack faults")
    pages = None
    if pages_path is not None:
        pages, more = _pages(read_table(pages_path, PAGES, "--pages-csv"), pages_path)
        notes += more
    if callstacks is not None:
        notes += callstacks.notes
    elif "stack" in table.numbers:
        notes.append(stackless)
    return Run(csv_path, faults, pages, facts, notes, callstacks, stackless)


def no_pages() -> TraceError:
    """The error of a report that needs a file of pages."""
    return TraceError(
        "memory mapped at the end is in the pages file, and there is none",
        "trace with --pages-csv, or give the file to --pages",
        Exit.INPUT,
    )


def _stacks_file(
    recorded: bool, csv_path: str, given: str | None, named: str
) -> tuple[str | None, str]:
    """The file of the call stacks; without, the second says why."""
    name = printable(os.path.basename(csv_path))
    if not recorded:
        return None, f"{name} has no call stacks: trace with --stacks to record them"
    beside = os.path.join(os.path.dirname(csv_path), named)
    paths = [beside] * bool(named) + [csv_path + SUFFIX]
    path = given or next(filter(os.path.isfile, paths), None)
    if path is None:
        return None, f"call stacks file {name}{SUFFIX} not found; name it with --stacks"
    return path, ""


def _callstacks(table: Table, path: str) -> CallStacks:
    """Read them, and make the column of the faults theirs."""
    stack = table.numbers["stack"]
    found = read_callstacks(path)
    table.numbers["stack"] = found.numbers(stack)
    if strange := int(((stack > 0) & (table.numbers["stack"] == 0)).sum()):
        found.notes.append(
            f"{strange:,} faults have call stacks that {printable(os.path.basename(path))} does "
            "not have: it was cut off, or is of another run"
        )
    return found


def _faults(table: Table, path: str) -> tuple[Faults, list[str]]:
    number, word = table.numbers, table.words
    _check_times(number["time_ns"], number["latency_ns"], path)
    nothing = Words([""], np.zeros(table.rows, np.int32))
    columns: dict[str, Any] = {
        **{"present": number.pop("frame"), "replaced": number.pop("frame_before")},
        **{"symbol": nothing, "stack": np.zeros(table.rows, np.uint32), **number, **word},
    }
    faults = Faults(**columns)
    if (np.diff(faults.time_ns) < 0).any():  # threads overtake each other between batches
        faults = faults.select(np.argsort(faults.time_ns, kind="stable"))
    return faults, table.notes


def _check_times(time_ns: I64, latency_ns: I64, path: str) -> None:
    """Raise TraceError where these can be no faults' times; then sums of them fit in int64."""
    odd = np.flatnonzero(_strange(time_ns) | (latency_ns < -1) | (latency_ns > time_ns))
    if len(odd):
        row = int(odd[0])  # line 1 is the header, and no cell holds a line's end
        fault = f"line {row + 2} has a latency_ns larger than its time_ns"
        if time_ns[row] < 0 or latency_ns[row] < -1:
            fault = f"line {row + 2} has a time below 0"
        elif time_ns[row] >= LATEST_NS:
            fault = f"line {row + 2} has a time of more than a hundred years"
        raise wrong(path, fault, "--csv")
    if latency_ns.sum(dtype=np.float64) >= 1 << 62:
        raise wrong(path, "its faults took more than a hundred years in all", "--csv")


def _strange(time_ns: I64) -> Bools:
    """Which are no times of a clock that began when the machine did."""
    return (time_ns < 0) | (time_ns >= LATEST_NS)


def _pages(table: Table, path: str) -> tuple[Pages, list[str]]:
    number, word = table.numbers, table.words
    last_ns = number.get("last_time_ns", np.full(table.rows, -1, np.int64))
    odd = np.flatnonzero(_strange(number["first_time_ns"]) | (_strange(last_ns) & (last_ns != -1)))
    if len(odd):
        fault = f"line {int(odd[0]) + 2} has a time below 0, or of more than a hundred years"
        raise wrong(path, fault, "--pages-csv")
    pages = Pages(
        space=number["space"],
        pid=number["pid"],
        gains=number["gains"],
        losses=number["losses"],
        page=number["page"] >> PAGE_BITS,
        region=word["region"],
        perms=word["perms"],
        first_ns=number["first_time_ns"],
        source=word["first_source"],
        kind=word["first_kind"],
        present=number["last_frame"],
        last_ns=last_ns,
        loss=word["last_loss"],
        latest=word["last_source"],
    )
    return pages, table.notes
