"""Memory over time, as far as the files record it: mapped, and resident."""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64
from tracer.reporting.reading.run import Faults, Run, identity


@dataclass(frozen=True)
class Curve:
    """Pages over time: `pages[i]` from `time_ns[i]` on. `how` says what is known of it."""

    time_ns: I64
    pages: I64
    how: str

    def at(self, time_ns: I64) -> I64:
        """The value at each time; 0 before the first point."""
        at = np.searchsorted(self.time_ns, time_ns, side="right") - 1
        return (
            np.where(at >= 0, self.pages[np.maximum(at, 0)], 0)
            if len(self.pages)
            else (np.zeros(len(time_ns), np.int64))
        )

    def thinned(self, most: int) -> "Curve":
        """At most some `most` points: of each stretch the lowest, the highest and the last."""
        count = len(self.time_ns)
        if count <= most:
            return self
        edges = np.linspace(0, count, most // 3 + 1).astype(np.int64)[:-1]
        lengths = np.diff(np.append(edges, count))
        at = np.repeat(np.arange(len(edges)), lengths)
        low = np.lexsort((self.pages, at))[edges]
        high = np.lexsort((-self.pages, at))[edges]
        keep = np.unique(np.concatenate([low, high, edges + lengths - 1]))
        return Curve(self.time_ns[keep], self.pages[keep], self.how)


def mapped(run: Run) -> Curve:
    """Pages with a frame, in each space that has them: by the tracer's counts, else by gains.

    A page counts from its first frame to its last. Whether it was released in
    between only a snapshot shows: it finds so many fewer, and each page that is
    gained once more afterwards is taken to be one of them.
    """
    times, change, how = _changes(run)
    pages = np.cumsum(change)
    snapshots, seen = run.facts.mapped_ns, run.facts.mapped_pages
    if not len(snapshots):
        return Curve(times, pages, how)
    away = _upto(times, pages, snapshots) - seen  # at each snapshot
    back = _back(run, snapshots)
    moments = np.unique(np.concatenate([times, snapshots, back]))
    latest = np.searchsorted(snapshots, moments, side="right") - 1
    returned = np.searchsorted(back, moments, side="right")
    returned -= np.searchsorted(back, snapshots[latest], side="right")
    still = away[latest] - np.minimum(returned, np.maximum(away[latest], 0))
    counted = _upto(times, pages, moments) - np.where(latest >= 0, still, 0)
    return Curve(
        moments,
        np.maximum(counted, 0),
        f"{len(snapshots)} count{'s' * (len(snapshots) > 1)} by the tracer, plus faults since",
    )


def resident(run: Run) -> Curve | None:
    """Distinct frames, as they were counted; None where they were not."""
    times, pages = run.facts.resident_ns, run.facts.resident_pages
    if not len(times):
        return None
    return Curve(times, pages, f"{len(times)} count{'s' * (len(times) > 1)} of distinct frames")


def _upto(times: I64, pages: I64, moments: I64) -> I64:
    """The last of `pages` at each moment; 0 before the first."""
    at = np.searchsorted(times, moments, side="right")
    return np.concatenate([[0], pages]).astype(np.int64)[at]


def _back(run: Run, snapshots: I64) -> I64:
    """When a fault gained a page that had been gained before the last snapshot, in order."""
    faults = run.faults
    single = np.flatnonzero((faults.pages == 1) & ~faults.replaced)
    keys = identity(faults.space[single], faults.page[single])
    times = faults.time_ns[single]
    if run.pages is not None:  # the first gain of some was no fault of their own
        keys = np.concatenate([identity(run.pages.space, run.pages.page), keys])
        times = np.concatenate([run.pages.first_ns, times])
    order = np.lexsort((times, keys))
    keys, times = keys[order], times[order]
    again = keys[1:] == keys[:-1]
    now, before = times[1:][again], times[:-1][again]
    latest = np.searchsorted(snapshots, now, side="right") - 1
    return np.sort(now[(latest >= 0) & (before < snapshots[latest])])


def _net(faults: Faults) -> I64:
    """Net pages of each fault. A second gain of a page means that it was released before."""
    net = faults.pages.astype(np.int64) - ((faults.pages > 0) & faults.replaced)
    single = np.flatnonzero(faults.pages == 1)
    keys = identity(faults.space[single], faults.page[single])
    again = np.ones(len(single), np.bool_)
    again[np.unique(keys, return_index=True)[1]] = False
    net[single[again]] = 0
    return net


def _changes(run: Run) -> tuple[I64, I64, str]:
    """When the number of pages changed, in order, and by how much."""
    pages = run.pages
    if pages is None:
        net = _net(run.faults)
        changed = net != 0
        return run.faults.time_ns[changed], net[changed], "gained by faults; releases are not known"
    there = pages.source.mask("initial")
    first = np.where(there, run.start_ns, pages.first_ns)
    gone = ~pages.present & (pages.last_ns >= 0)
    times = np.concatenate([first, pages.last_ns[gone]])
    change = np.concatenate([np.ones(len(first), np.int64), -np.ones(int(gone.sum()), np.int64)])
    order = np.argsort(times, kind="stable")
    return times[order], change[order], "each page counted from its first frame to its last"
