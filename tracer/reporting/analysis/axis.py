"""An axis of addresses with the gaps cut out: where in a picture each page is.

Memory is a few islands in 2^47 bytes. Pages near each other stay to scale;
what lies between the islands is cut out, and a large island does not squeeze
the small ones to nothing: its height goes with the square root of its size.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.common.types import U64, Bools, Floats, Index
from tracer.reporting.analysis.gains import Gains
from tracer.reporting.reading.run import SPACE_SHIFT, identity

MOST_SEGMENTS = 160
_KEPT = 0.3  # gaps are kept while they are less than this part of what they separate
_U1 = np.uint64(1)
_SPACE = np.uint64(SPACE_SHIFT)


@dataclass(frozen=True)
class Band:
    """A region's part of the axis: `low` to `high`, from 0 to 1; pages as numbers, half-open."""

    low: float
    high: float
    space: int
    name: str
    first: int
    last: int
    pages: int  # different pages that gained a frame


@dataclass(frozen=True)
class Axis:
    """Where pages are on an axis from 0 to 1."""

    starts: U64  # by segment, in order: identities of the first page …
    ends: U64  # … and of the one after the last
    low: Floats
    high: Floats
    bands: list[Band]

    def position(self, keys: U64) -> Floats:
        """Where the pages are, by identity (`run.identity`); NaN where they are not on the axis."""
        if not len(self.starts):
            return np.full(len(keys), np.nan)
        at = np.searchsorted(self.starts, keys, side="right") - 1
        inside = (at >= 0) & (keys < self.ends[at])
        size = (self.ends[at] - self.starts[at]).astype(np.float64)
        part = ((keys - self.starts[at]).astype(np.float64) + 0.5) / size
        position = self.low[at] + part * (self.high[at] - self.low[at])
        return np.where(inside, position, np.nan)

    def step(self, keys: U64) -> Floats:
        """The height of one page there."""
        at = np.maximum(np.searchsorted(self.starts, keys, side="right") - 1, 0)
        height = self.high[at] - self.low[at]
        return np.asarray(height / (self.ends[at] - self.starts[at]).astype(np.float64))


def axis_of(points: Gains, most: int = MOST_SEGMENTS) -> Axis:
    """The axis that has room for every point."""
    first = identity(points.space, points.page)
    tall = np.flatnonzero(points.span > 1)
    last = first[tall] + (points.span[tall] - 1).astype(np.uint64)
    keys, at = np.unique(np.concatenate([first, last]), return_index=True)
    if not len(keys):
        nothing = np.empty(0, np.uint64)
        return Axis(nothing, nothing, np.empty(0), np.empty(0), [])
    region = np.concatenate([points.region.codes, points.region.codes[tall]])[at]
    pages = np.ones(len(keys), np.int64)
    inside = np.zeros(len(keys), np.int64)  # a huge page's first and last are one piece
    begin, end = np.searchsorted(keys, first[tall]), np.searchsorted(keys, last)
    pages[begin] = points.span[tall] - 1
    np.add.at(inside, begin, 1)
    np.add.at(inside, end, -1)
    cut = _cuts(keys, region, np.cumsum(inside)[:-1] > 0, most)
    begin, end = np.r_[0, cut], np.r_[cut, len(keys)]
    starts, ends = keys[begin], keys[end - 1] + _U1
    low, high = _heights(starts, ends)
    names = [points.region.words[code] for code in region[begin].tolist()]
    gained = np.minimum(np.add.reduceat(pages, begin), (ends - starts).astype(np.int64))
    bands = _bands(starts, ends, low, high, names, gained.tolist())
    return Axis(starts, ends, low, high, bands)


def _cuts(
    keys: U64,
    region: npt.NDArray[np.int32],
    whole: Bools,
    most: int,
) -> Index:
    """Before which keys a new segment begins: at wide gaps, and where another region does.

    Never where `whole` says that the gap before the next key lies within a page.
    """
    gap = (keys[1:] - keys[:-1] - _U1).astype(np.float64)
    gap[whole] = 0
    other = region[1:] != region[:-1]
    by_size = np.argsort(gap, kind="stable")
    kept = np.cumsum(gap[by_size]) <= _KEPT * len(keys) + 16
    wide = np.ones(len(gap), np.bool_)
    wide[by_size[kept]] = False
    cut = (wide | other) & ~whole
    if cut.sum() >= most:  # the widest gaps are what counts
        cut = np.zeros(len(gap), np.bool_)
        cut[by_size[len(gap) - most + 1 :]] = True
        cut &= ~whole
    return np.flatnonzero(cut) + 1


def _heights(starts: U64, ends: U64) -> tuple[Floats, Floats]:
    """Low and high end of each segment, with room between those that do not touch."""
    size = np.sqrt((ends - starts).astype(np.float64))
    size = size / size.sum() + 0.35 / len(size)  # the least share that can be seen
    touching = np.r_[True, starts[1:] == ends[:-1]]
    other_space = np.r_[False, starts[1:] >> _SPACE != starts[:-1] >> _SPACE]
    room = np.where(touching, 0.0, min(0.004, 0.2 / len(size))) + np.where(other_space, 0.03, 0.0)
    total = size.sum() + room.sum()
    high = np.cumsum(size + room) / total
    return high - size / total, high


def _bands(
    starts: U64,
    ends: U64,
    low: Floats,
    high: Floats,
    names: list[str],
    pages: list[int],
) -> list[Band]:
    """Neighbouring segments of one name are one band."""
    bands: list[Band] = []
    for at, name in enumerate(names):
        space, first = divmod(int(starts[at]), 1 << SPACE_SHIFT)
        last = int(ends[at]) - (space << SPACE_SHIFT)
        before = bands[-1] if bands else None
        if before and (before.space, before.name) == (space, name):
            bands[-1] = Band(
                before.low, float(high[at]), space, name, before.first, last,
                before.pages + pages[at],
            )  # fmt: skip
        else:
            bands.append(Band(float(low[at]), float(high[at]), space, name, first, last, pages[at]))
    return bands
