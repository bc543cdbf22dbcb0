"""The data behind the live view: fed by the trace, queried by moment in time."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tracer.common.fields import distinct
from tracer.common.pages import PAGE_SHIFT
from tracer.common.types import I64, PAGE_BITS, U32, U64, Structs
from tracer.live.history import MOST, History
from tracer.live.pages import Changes, Table, empty
from tracer.live.rates import Rates
from tracer.live.slowest import Slowest
from tracer.model.rows import ROW, Kind, Names, RowRecords, Rows

AreaIndices = I64  # indices of areas

_MOST_LINES = 4096
_LINES_A_BATCH = 64  # more are not readable
_MOST_LAYOUTS = 512
_MOST_AREAS = 1 << 17  # in all layouts together
_MOST_UNASSIGNED = 64  # batches …
_MOST_UNASSIGNED_FAULTS = 1 << 20  # … or, when there is no time, so many faults of 16 bytes
_UNASSIGNED = np.dtype([("space", "<u4"), ("address", "<u8"), ("region", "<u4")])
_MOST_PENDING = 1 << 18  # changes that may wait to be merged


@dataclass(frozen=True, slots=True)
class Area:
    """A mapping of one address space: [start, end) in bytes; `name` is raw."""

    space: int
    pid: int
    start: int
    end: int
    perms: str
    name: str

    @property
    def pages(self) -> int:
        """How many pages it has."""
        return (self.end - self.start) >> PAGE_SHIFT

    @property
    def key(self) -> tuple[int, int]:
        """What stays the same while it grows."""
        return self.space, self.start


@dataclass
class Counts:
    """Counts of the whole run, as far as it has come."""

    faults: int = 0
    lost: int = 0  # events dropped: the ring was full
    missed: int = 0  # by the threads' counts; the books at the end say why
    lost_other: int = 0


class Code(Protocol):
    """Counts by call stack (tracer.outputs.callers.Callers)."""

    def leading(self, count: int) -> list[tuple[int, int, list[str]]]:
        """The stacks that gained most memory: bytes, faults, frames in printable words."""


@dataclass(frozen=True)
class Facts:
    """What the picture is made from."""

    what: str  # the command or the pids, printable
    host: str
    kernel: str
    probe: str
    started_ns: int


@dataclass(frozen=True)
class Moment:
    """The areas and pages at one time."""

    time_ns: int
    areas: tuple[Area, ...]
    tables: dict[int, Table]  # by space

    def table(self, area: Area) -> Table:
        """The pages of an area that ever had a frame."""
        table = self.tables.get(area.space)
        if table is None:
            return empty()
        low, high = np.searchsorted(
            table["page"], np.array([area.start >> PAGE_SHIFT, area.end >> PAGE_SHIFT], np.uint64)
        )
        return np.asarray(table[low:high])


class Model:
    """Receives faults, page changes and layouts as they come."""

    def __init__(self, facts: Facts, names: Names, most: int = MOST) -> None:
        self.facts = facts
        self.names = names
        self.counts = Counts()
        self.ended = False
        self.callers: Code | None = None  # where call stacks are recorded
        self.busy = False  # the map lags, for lack of time
        self.latest_ns = facts.started_ns
        self.rates = Rates(facts.started_ns)
        self.history = History(most)
        self.faults_in: dict[tuple[int, int], int] = {}  # by Area.key
        self.version = 0  # grows whenever there is something new to show
        self._slowest = Slowest()
        self._lines: deque[RowRecords] = deque()
        self._line_count = 0
        self._layouts: list[tuple[int, tuple[Area, ...]]] = []
        self._pending: list[Changes] = []
        self._pending_count = 0
        self._unassigned: list[Structs] = []  # faults whose areas are not known yet
        self._unassigned_count = 0
        self._stamps: dict[tuple[int, int], int] = {}  # by Area.key: when its pages last changed
        self._settled = 0
        self._touched: dict[tuple[int, int], tuple[int, int]] = {}
        self._scrubbed: tuple[tuple[int, int], Moment] | None = None

    # -- what comes in --------------------------------------------------------------

    def write(self, rows: Rows, names: Names) -> None:
        """Receive a batch of faults, in order of time."""
        if not len(rows):
            return
        self.version += 1
        self.counts.faults += len(rows)
        self.latest_ns = max(self.latest_ns, int(rows["time_ns"][-1]))
        self.rates.faults(rows, coarse=self.busy)
        self._slowest.add(rows)
        unassigned = np.empty(len(rows), _UNASSIGNED)
        for name in _UNASSIGNED.names or ():
            unassigned[name] = rows[name]
        self._unassigned.append(unassigned)
        self._unassigned_count += len(rows)
        late = len(self._unassigned) > _MOST_UNASSIGNED and not self.busy
        if late or self._unassigned_count > _MOST_UNASSIGNED_FAULTS:
            self._assign()
            self._unassigned, self._unassigned_count = [], 0
        self._lines.append(rows[-_LINES_A_BATCH:].records())
        self._line_count += len(self._lines[-1])
        while self._line_count - len(self._lines[0]) >= _MOST_LINES:
            self._line_count -= len(self._lines.popleft())

    def change(self, changes: Changes, *, initial: bool = False) -> None:
        """Receive changes of pages; `initial`: those present before tracing began."""
        if not len(changes):
            return
        self.version += 1
        if initial:
            changes["time_ns"] = 0
        self._pending.append(changes)
        self._pending_count += len(changes)
        if self._pending_count > _MOST_PENDING:
            self.settle()

    def settle(self) -> None:
        """Merge all the changes that have come."""
        if self._pending:
            pending, self._pending, self._pending_count = self._pending, [], 0
            changes = np.concatenate(pending) if len(pending) > 1 else pending[0]
            self.history.add(changes)
            self._stamp(changes)

    def _stamp(self, changes: Changes) -> None:
        """Note which areas these are in, and where."""
        areas = self._layouts[-1][1] if self._layouts else ()
        found = areas_of(changes["space"], changes["page"] << PAGE_BITS, areas)
        self._settled += 1
        for at in set(found.tolist()) - {-1}:
            key = areas[at].key
            self._stamps[key] = self._settled
            pages = changes["page"][found == at]
            low, high = self._touched.get(key, (1 << 64, 0))
            self._touched[key] = min(low, int(pages.min())), max(high, int(pages.max()))

    def stamp(self, area: Area, moment: Moment) -> tuple[int, int]:
        """What an area's pages at a moment depend on: as long as it is the same, they are."""
        if moment.tables is self.history.now:
            return self._stamps.get(area.key, 0), 0
        return self.version, moment.time_ns

    def pop_touched(self) -> dict[tuple[int, int], tuple[int, int]]:
        """By Area.key the first and the last page that changed since this was asked last."""
        touched, self._touched = self._touched, {}
        return touched

    def frames(self, time_ns: int, mapped: int, gained: int, released: int) -> None:
        """Record how many pages have a frame, and the frames gained and released so far."""
        self.rates.frames(time_ns, mapped, gained, released)

    def resident(self, time_ns: int, pages: int) -> None:
        """Record how many distinct frames there were at the last count."""
        self.rates.resident(time_ns, pages)

    def set_areas(self, time_ns: int, areas: tuple[Area, ...]) -> None:
        """Set the mappings as of now."""
        self.latest_ns = max(self.latest_ns, time_ns)
        self._assign()
        if self._layouts and self._layouts[-1][1] == areas:
            self._unassigned, self._unassigned_count = [], 0  # where nothing is mapped any more
            return
        self.version += 1
        self._settled += 1
        known = set(self._layouts[-1][1]) if self._layouts else set()
        self._layouts.append((time_ns, areas))
        # Changes outside of the areas then known were not tracked.
        for area in areas:
            if area not in known:
                self._stamps[area.key] = self._settled
                self._touched[area.key] = 0, 1 << 64
        if len(self._stamps) > 2 * len(areas):
            self._stamps = {area.key: self._stamps[area.key] for area in areas}
        self._assign()
        self._unassigned, self._unassigned_count = [], 0
        held = sum(len(each) for _, each in self._layouts)
        if len(self._layouts) > _MOST_LAYOUTS or held > _MOST_AREAS:
            # Every second one of the older half goes.
            half = len(self._layouts) // 2
            self._layouts = [*self._layouts[:half:2], *self._layouts[half:]]
        shown = {area.space for _, each in self._layouts for area in each}
        self.history.forget([space for space in self.history.now if space not in shown])

    # -- what is shown ---------------------------------------------------------------

    @property
    def start_ns(self) -> int:
        """The earliest moment that can be shown."""
        first = self._layouts[0][0] if self._layouts else self.facts.started_ns
        return max(self.facts.started_ns, self.history.start_ns, min(first, self.latest_ns))

    def now(self) -> Moment:
        """The latest picture."""
        if not self.busy:
            self.settle()
        areas = self._layouts[-1][1] if self._layouts else ()
        return Moment(self.latest_ns, areas, self.history.now)

    def at(self, time_ns: int) -> Moment:
        """The picture as it was then."""
        self.settle()
        key = time_ns, self.version
        if self._scrubbed is not None and self._scrubbed[0] == key:
            return self._scrubbed[1]
        before = [areas for since, areas in self._layouts if since <= time_ns]
        areas = before[-1] if before else (self._layouts[0][1] if self._layouts else ())
        spaces = {area.space for area in areas}
        moment = Moment(time_ns, areas, self.history.at(time_ns, spaces))
        self._scrubbed = key, moment
        return moment

    def lines(
        self,
        until_ns: int,
        count: int,
        wanted: Callable[[RowRecords], RowRecords] = lambda rows: rows,
    ) -> RowRecords:
        """The last `count` faults by then, of those still kept that `wanted` selects."""
        found: list[RowRecords] = []
        left = count
        for batch in reversed(self._lines):
            late = int(batch["time_ns"][-1]) > until_ns
            rows = wanted(batch[batch["time_ns"] <= until_ns] if late else batch)[-left:]
            if len(rows):
                found.append(rows)
                left -= len(rows)
            if left <= 0:
                break
        kept = np.empty(count - left, ROW)  # np.concatenate would compare field by field
        end = len(kept)
        for rows in found:
            kept[end - len(rows) : end] = rows
            end -= len(rows)
        return kept

    def slowest(
        self,
        until_ns: int,
        count: int,
        wanted: Callable[[RowRecords], RowRecords] = lambda rows: rows,
    ) -> RowRecords:
        """The slowest faults by then."""
        return self._slowest.until(until_ns, count, wanted)

    def kinds(self) -> list[Kind]:
        """The kinds that occurred, most frequent first."""
        totals = self.rates.totals(self.latest_ns)
        seen = [kind for kind in Kind if totals[kind]]
        return sorted(seen, key=lambda kind: -totals[kind])

    def _assign(self) -> None:
        """Count the faults by area, as far as their areas are known by now."""
        if not self._layouts or not self._unassigned:
            return
        rows, areas = np.concatenate(self._unassigned), self._layouts[-1][1]
        found = areas_of(rows["space"], rows["address"], areas)
        pairs = (found << 32) + rows["region"]
        for pair, count in _counted(pairs[found >= 0]):
            area = areas[pair >> 32]
            region = self.names.regions[pair & 0xFFFFFFFF].name
            # What was mapped there before is another file's, or none's.
            if region == area.name or not (region.startswith("/") or area.name.startswith("/")):
                self.faults_in[area.key] = self.faults_in.get(area.key, 0) + count
        self._unassigned = [rows[found < 0]]
        self._unassigned_count = len(self._unassigned[0])


def _counted(values: AreaIndices) -> list[tuple[int, int]]:
    """The different values, and how often each is there; runs of one value are quick."""
    if not len(values):
        return []
    heads = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    runs = np.diff(np.append(heads, len(values)))
    found, which = np.unique(values[heads], return_inverse=True)
    counts = np.bincount(which, weights=runs).astype(np.int64)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def areas_of(spaces: U32, addresses: U64, areas: Sequence[Area]) -> AreaIndices:
    """Which of `areas` each address of a space lies in; -1 where in none. Shapes (n,)."""
    found = np.full(len(spaces), -1, np.int64)
    for space in distinct(spaces):
        mine = [(area.start, area.end, at) for at, area in enumerate(areas) if area.space == space]
        if not mine:
            continue
        starts, ends, numbers = (
            np.array(each, np.uint64) for each in zip(*sorted(mine), strict=True)
        )
        chosen = np.flatnonzero(spaces == space)
        address = addresses[chosen]
        at = np.searchsorted(starts, address, side="right").astype(np.int64) - 1
        inside = (at >= 0) & (address < ends[np.maximum(at, 0)])
        found[chosen[inside]] = numbers[at[inside]].astype(np.int64)
    return found
