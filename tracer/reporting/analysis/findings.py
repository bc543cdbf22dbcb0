"""Access order, huge-page coverage, working set and latencies of a run's faults."""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64, Index
from tracer.reporting.reading.codes import Codes
from tracer.reporting.reading.run import Faults, Run, identity

HUGE = 512  # 4 KiB pages in a huge page
WINDOW = 16  # pages that fault-around maps at most by default, and so the next fault's distance
_ANONYMOUS = ("anon", "cow", "huge", "swap", "zero")
_LOWEST, _HIGHEST = 8, 34  # latencies are sorted into octaves from 256 ns to 17 s


@dataclass(frozen=True)
class Steps:
    """How a thread went through a region: gained pages next above, next below, elsewhere."""

    up: int = 0
    down: int = 0
    jumps: int = 0

    @property
    def word(self) -> str:
        """The pattern in a word or two."""
        total = self.up + self.down + self.jumps
        if total < 4:
            return "–"
        for count, word in ((self.up, "upwards"), (self.down, "downwards"), (self.jumps, "random")):
            if count >= 0.9 * total:
                return word
            if count >= 0.6 * total:
                return f"mostly {word}"
        return "mixed"


def steps(run: Run, region: Codes, count: int) -> list[Steps]:
    """For each region: how the faults that gained a frame follow one another, thread by thread."""
    gained = np.flatnonzero(run.faults.pages > 0)
    faults = run.faults.select(gained) if len(gained) < len(run.faults) else run.faults
    region = region[gained]
    keys = faults.tid.astype(np.int64) * max(1, count) + region
    if len(keys) and (keys != keys[0]).any():
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
    else:
        order = np.arange(len(keys))
    page = faults.page[order].astype(np.int64)
    reach = np.maximum(faults.pages[order].astype(np.int64), WINDOW)
    same = keys[1:] == keys[:-1]
    step = np.diff(page)
    up = same & (step > 0) & (step <= reach[:-1])
    down = same & (step < 0) & (-step <= reach[1:])
    where = region[order][1:]
    counts = [
        np.bincount(where[chosen], minlength=count).tolist()
        for chosen in (up, down, same & ~up & ~down)
    ]
    return [Steps(*each) for each in zip(*counts, strict=True)]


@dataclass(frozen=True)
class Coverage:
    """How much of the anonymous memory gained by faults came as huge pages."""

    huge: int  # pages
    small: int
    full_blocks: int  # aligned 2 MiB that were filled page by page, and might have been huge

    @property
    def share(self) -> float:
        """0 to 1; 0 where there is none."""
        return self.huge / (self.huge + self.small) if self.huge + self.small else 0.0


def coverage(faults: Faults) -> Coverage:
    """Huge-page coverage of the memory gained by faults."""
    anonymous = faults.kind.mask(*_ANONYMOUS) & (faults.pages > 0)
    huge = anonymous & (faults.pages >= HUGE)
    small = anonymous & ~huge
    pages = np.unique(identity(faults.space[small], faults.page[small]))
    filled = np.unique(pages // np.uint64(HUGE), return_counts=True)[1] if len(pages) else pages
    return Coverage(
        huge=int(faults.pages[huge].sum(dtype=np.int64)),
        small=int(faults.pages[small].sum(dtype=np.int64)),
        full_blocks=int((filled == HUGE).sum()),
    )


@dataclass(frozen=True)
class Slice:
    """A part of the interval."""

    start_ns: int
    end_ns: int
    faults: int
    gained: int  # pages
    touched: int  # different pages that faulted


def working_set(run: Run, count: int = 10) -> list[Slice]:
    """The interval in `count` equal parts, and what was touched in each."""
    faults = run.faults
    edges = np.linspace(run.start_ns, run.end_ns, count + 1).astype(np.int64)
    edges[0], edges[-1] = run.start_ns, run.end_ns  # a float holds 53 bits
    cuts = np.searchsorted(faults.time_ns, edges[1:-1], side="left").tolist()
    keys = identity(faults.space, faults.page)
    bounds = zip([0, *cuts], [*cuts, len(faults)], strict=True)
    return [
        Slice(
            start_ns=int(edges[at]),
            end_ns=int(edges[at + 1]),
            faults=stop - start,
            gained=int(faults.pages[start:stop].sum(dtype=np.int64)),
            touched=len(np.unique(keys[start:stop])),
        )
        for at, (start, stop) in enumerate(bounds)
    ]


def octaves(latency_ns: I64) -> list[tuple[int, int]]:
    """(lower edge in ns, faults) for each octave from the first with a fault to the last."""
    known = latency_ns[latency_ns >= 0]
    if not len(known):
        return []
    exponent = np.frexp(known.astype(np.float64))[1] - 1
    counts = np.bincount(np.clip(exponent, _LOWEST, _HIGHEST) - _LOWEST)
    first = int(np.flatnonzero(counts)[0])
    return [(1 << (at + _LOWEST), int(counts[at])) for at in range(first, len(counts))]


def slowest(faults: Faults, most: int) -> Index:
    """The rows of the slowest faults, the slowest first."""
    most = min(most, len(faults))
    if not most:
        return np.empty(0, np.intp)
    rows = np.argpartition(faults.latency_ns, len(faults) - most)[len(faults) - most :]
    rows = rows[np.argsort(-faults.latency_ns[rows], kind="stable")]
    return rows[faults.latency_ns[rows] >= 0]
