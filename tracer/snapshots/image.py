"""An address space's pagemap entries as of one reading, in blocks of 64 pages.

Empty blocks are not kept, so sparse memory costs only what is used, and two
images are compared at the speed of memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tracer.common.pages import PAGE_SIZE
from tracer.common.types import U64, Bools
from tracer.procfs.entries import PFN_MASK, PRESENT, SWAPPED
from tracer.procfs.pagemap import frames, present, swapped

SHIFT = 6
BLOCK = 1 << SHIFT  # pages
_INSIDE = np.uint64(BLOCK - 1)
_KEPT = np.uint64(PRESENT | SWAPPED | PFN_MASK)
_RUN = 8  # contiguous blocks that are worth a range


@dataclass(frozen=True, eq=False)
class Image:
    """`numbers`: which blocks (page number / 64), ascending; `words`: shape (n, 64).

    A word is the page's entry, reduced to whether the page is present or swapped, and its
    frame: 0 where it is neither.
    """

    numbers: U64
    words: U64

    @classmethod
    def nothing(cls) -> "Image":
        """Of an address space without pages."""
        return cls(np.empty(0, np.uint64), np.empty((0, BLOCK), np.uint64))

    @classmethod
    def read(cls, pieces: Iterable[tuple[int, U64]]) -> "Image":
        """From (number of the first page, entries), ascending; `entries` are overwritten."""
        parts = [_blocks(first, entries) for first, entries in pieces if len(entries)]
        if not parts:
            return cls.nothing()
        numbers = np.concatenate([each for each, _ in parts])
        words = np.concatenate([each for _, each in parts])
        heads = np.flatnonzero(np.diff(numbers, prepend=~np.uint64(0)))
        if len(heads) < len(numbers):  # two pieces of one block
            numbers, words = numbers[heads], np.bitwise_or.reduceat(words, heads, axis=0)
        # Without PRESENT or SWAPPED no other bit is set.
        some = words.any(axis=1)
        return cls(numbers, words) if some.all() else cls(numbers[some], words[some])

    @classmethod
    def of(cls, pages: U64, where: U64, away: U64) -> "Image":
        """Of `pages` present in the frames `where` (physical addresses), and `away` in swap."""
        numbers = np.unique(np.concatenate([pages, away]) >> np.uint64(SHIFT))
        words = np.zeros((len(numbers), BLOCK), np.uint64)
        for some, entries in (
            (away, np.uint64(SWAPPED)),
            (pages, where // np.uint64(PAGE_SIZE) | np.uint64(PRESENT)),
        ):
            rows = np.searchsorted(numbers, some >> np.uint64(SHIFT))
            words[rows, (some & _INSIDE).astype(np.int64)] = entries
        return cls(numbers, words)

    def words_of(self, pages: U64) -> U64:
        """The word of each page."""
        if not len(self.numbers):
            return np.zeros(len(pages), np.uint64)
        blocks = pages >> np.uint64(SHIFT)
        rows = np.minimum(np.searchsorted(self.numbers, blocks), len(self.numbers) - 1)
        found = self.words[rows, (pages & _INSIDE).astype(np.int64)]
        return np.where(self.numbers[rows] == blocks, found, np.uint64(0))

    def part(self, numbers: U64) -> "Image":
        """Only the blocks `numbers` (ascending)."""
        chosen = np.isin(self.numbers, numbers, assume_unique=True)
        return self if chosen.all() else Image(self.numbers[chosen], self.words[chosen])

    def differing(self, before: "Image") -> U64:
        """The numbers of the blocks that differ from `before`."""
        if np.array_equal(self.numbers, before.numbers):
            return np.asarray(self.numbers[(self.words != before.words).any(axis=1)])
        both, mine, theirs = np.intersect1d(
            self.numbers, before.numbers, assume_unique=True, return_indices=True
        )
        other = both[(self.words[mine] != before.words[theirs]).any(axis=1)]
        alone = np.setxor1d(self.numbers, before.numbers, assume_unique=True)
        return np.union1d(other, alone)

    def ranges(self) -> list[tuple[int, int]]:
        """Addresses [start, end) of long runs of contiguous blocks, ascending."""
        if not len(self.numbers):
            return []
        cuts = np.flatnonzero(np.diff(self.numbers) != 1) + 1
        first, last = np.r_[0, cuts], np.r_[cuts, len(self.numbers)] - 1
        long = last - first >= _RUN - 1
        size = BLOCK * PAGE_SIZE
        starts, ends = self.numbers[first[long]].tolist(), self.numbers[last[long]].tolist()
        return [(start * size, (end + 1) * size) for start, end in zip(starts, ends, strict=True)]

    @cached_property
    def resident(self) -> int:
        """How many pages are present."""
        return int(np.count_nonzero(self.words >= np.uint64(PRESENT)))

    @cached_property
    def pages(self) -> U64:
        """Virtual page numbers of the pages present, ascending."""
        return self._numbers(present(self.words))

    @cached_property
    def frames(self) -> U64:
        """The physical address of each of `pages`."""
        return frames(self.words[present(self.words)])

    @cached_property
    def swapped(self) -> U64:
        """Virtual page numbers of pages in swap (or behind another non-present entry)."""
        return self._numbers(swapped(self.words))

    def _numbers(self, chosen: Bools) -> U64:
        rows, columns = np.nonzero(chosen)
        return np.asarray((self.numbers[rows] << np.uint64(SHIFT)) + columns.astype(np.uint64))


def _blocks(first: int, entries: U64) -> tuple[U64, U64]:
    """The numbers and the words of the blocks of the pages from page `first` on."""
    entries &= _KEPT
    before = first % BLOCK
    if before or len(entries) % BLOCK:
        whole = np.zeros((before + len(entries) + BLOCK - 1) >> SHIFT << SHIFT, np.uint64)
        whole[before : before + len(entries)] = entries
        entries = whole
    words = entries.reshape(-1, BLOCK)
    return np.arange(first >> SHIFT, (first >> SHIFT) + len(words), dtype=np.uint64), words
