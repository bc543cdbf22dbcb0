"""Display filters: --region, --perms, --kind. The log has every fault regardless."""

import fnmatch
from dataclasses import dataclass, field, replace

import numpy as np

from tracer.common.types import Bools
from tracer.model.result import Books, PageTable
from tracer.model.rows import Kind, Names, Region, Rows


@dataclass
class RowFilter:
    """Empty means everything. `seen` and `shown` count rows tested and rows that passed."""

    regions: tuple[str, ...] = ()  # substrings of the name, or patterns with * and ?
    perms: str = ""  # letters that must all be there: "rwx", "w", "p"
    kinds: frozenset[Kind] = frozenset()
    seen: int = 0
    shown: int = 0
    _passes: list[bool] = field(default_factory=list)  # by region

    def __bool__(self) -> bool:
        return bool(self.regions or self.perms or self.kinds)

    def choose(self, rows: Rows, names: Names) -> Rows:
        """The rows to show."""
        self.seen += len(rows)
        if self:
            keep = self.region_mask(names)[rows["region"]]
            if self.kinds:
                keep &= np.isin(rows["kind"], [kind.value for kind in self.kinds])
            rows = rows[keep]
        self.shown += len(rows)
        return rows

    def choose_pages(self, pages: PageTable, names: Names) -> PageTable:
        """The pages of the regions to show."""
        if not self:
            return pages
        keep = self.region_mask(names)[pages.region]
        if self.kinds:
            keep &= np.isin(pages.first_kind, [kind.value for kind in self.kinds])
        return pages.select(keep)

    def choose_books(self, books: Books, names: Names) -> Books:
        """The books with frames by region for the regions to show; all other counts stay whole."""
        if not self:
            return books
        keep = self.region_mask(names)
        return replace(
            books,
            gained_in={region: n for region, n in books.gained_in.items() if keep[region]},
            lost_in={region: n for region, n in books.lost_in.items() if keep[region]},
        )

    def region_mask(self, names: Names) -> Bools:
        """Which of names.regions to show."""
        for region in names.regions[len(self._passes) :]:
            self._passes.append(self.wants(region))
        return np.array(self._passes, np.bool_)

    def wants(self, region: Region) -> bool:
        """Whether to show a region."""
        if any(letter not in region.perms for letter in self.perms):
            return False
        return not self.regions or any(_matches(region.name, want) for want in self.regions)


def _matches(name: str, want: str) -> bool:
    if any(char in want for char in "*?"):
        return fnmatch.fnmatchcase(name, want)
    return want in name
