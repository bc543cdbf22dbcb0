"""Counts of pages gained and released; and the watcher of each change, for the live view."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tracer.common.fields import FEW
from tracer.common.types import I64, U8, U32, U64, Bools, Ids


@dataclass
class Tally:
    """Pages gained and released over the whole run: by source, by cause, and by region."""

    gained: I64 = field(default_factory=lambda: np.zeros(32, np.int64))
    released: I64 = field(default_factory=lambda: np.zeros(32, np.int64))
    gained_in: dict[int, int] = field(default_factory=dict)  # region -> pages
    released_in: dict[int, int] = field(default_factory=dict)

    @property
    def events(self) -> int:
        """Pages gained and released so far: grows with every change."""
        return int(self.gained.sum() + self.released.sum())

    @property
    def mapped(self) -> int:
        """Pages with a frame now, counted in each space that has it; with those from the start."""
        return int(self.gained.sum() - self.released.sum())

    @staticmethod
    def count(into: dict[int, int], regions: U32, chosen: Bools | bool = True) -> None:
        """Add one for each of `regions` that is `chosen`."""
        if isinstance(chosen, np.ndarray) and not chosen.all():
            regions = regions[chosen]
        if len(regions) <= FEW:
            for region in regions.tolist():
                into[region] = into.get(region, 0) + 1
        elif (regions == regions[0]).all():
            region = int(regions[0])
            into[region] = into.get(region, 0) + len(regions)
        else:
            for each, times in zip(*np.unique(regions, return_counts=True), strict=True):
                into[int(each)] = into.get(int(each), 0) + int(times)

    @staticmethod
    def uncount(of: dict[int, int], regions: U32) -> None:
        """Subtract one for each of `regions`."""
        for region in regions.tolist():
            of[region] = of.get(region, 0) - 1


class Watcher(Protocol):
    """Is called for pages that gain or release frames: arrays of one length, or one for all."""

    def gained(
        self,
        spaces: Ids,
        pages: U64,
        times: I64 | int,
        frames: U64,
        kinds: U8 | int,
        sources: U8,
    ) -> None:
        """These pages (virtual page numbers) have frames now (physical addresses)."""

    def released(self, spaces: Ids, pages: U64, times: I64 | int, causes: U8 | int) -> None:
        """These released theirs, each for a cause (Loss); NONE: they never had one."""

    def came_and_went(
        self,
        spaces: Ids,
        pages: U64,
        times: I64,
        frames: U64,
        kinds: U8,
        sources: U8,
        released_ns: I64,
        causes: U8,
    ) -> None:
        """Each gained a frame and released it, one page perhaps many times in turn."""
