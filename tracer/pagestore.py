"""A value of each column for every page of every address space, in flat arrays.

Pages are kept in blocks of 512 (one page table's worth), so that sparse
memory costs what is used of it, and a batch of pages is looked up with
array operations. A page's index into the columns is called its slot.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int64]

_SHIFT = 9
_BLOCK = 1 << _SHIFT


class PageStore:
    """Columns by name; a new page has 0 in each, or what `blank` says."""

    def __init__(self, columns: Mapping[str, type], blank: Mapping[str, int]) -> None:
        self.columns: dict[str, npt.NDArray[Any]] = {
            name: np.empty(0, dtype) for name, dtype in columns.items()
        }
        self._blank = dict(blank)
        self._blocks: dict[int, dict[int, int]] = {}  # space -> number of a block -> its place
        self._first = np.empty(0, np.uint64)  # by place: the block's first page
        self._used = 0
        self._free: list[int] = []

    def slots(self, space: int, pages: U64) -> Slots:
        """The slots of `pages` (virtual page numbers), made where new."""
        blocks = self._blocks.setdefault(space, {})
        number = pages >> np.uint64(_SHIFT)
        inside = (pages & np.uint64(_BLOCK - 1)).astype(np.int64)
        if len(pages) and (number == number[0]).all():
            return np.asarray(self._place(blocks, int(number[0])) * _BLOCK + inside)
        numbers, inverse = np.unique(number, return_inverse=True)
        places = np.array([self._place(blocks, number) for number in numbers.tolist()], np.int64)
        return np.asarray(places[inverse] * _BLOCK + inside)

    def all(self, space: int) -> Slots:
        """The slots of a space's blocks, in address order."""
        blocks = self._blocks.get(space, {})
        return _expand([blocks[number] for number in sorted(blocks)])

    def range(self, space: int, start: int, end: int) -> Slots:
        """The slots of pages in [start, end) (addresses) whose blocks exist, in address order."""
        first, last = start >> 12, (end + 4095) >> 12
        blocks = self._blocks.get(space, {})
        if last <= first or not blocks:
            return np.empty(0, np.int64)
        low, high = first >> _SHIFT, (last - 1) >> _SHIFT
        if high - low < len(blocks):
            numbers = [number for number in range(low, high + 1) if number in blocks]
        else:
            numbers = sorted(number for number in blocks if low <= number <= high)
        at = _expand([blocks[number] for number in numbers])
        pages = self.pages_at(at)
        return np.asarray(at[(pages >= first) & (pages < last)])

    def pages_at(self, at: Slots) -> U64:
        """The virtual page numbers behind slots."""
        inside = (at & (_BLOCK - 1)).astype(np.uint64)
        return np.asarray(self._first[at >> _SHIFT] + inside)

    def release(self, space: int) -> None:
        """Forget a space; its blocks serve others."""
        for place in self._blocks.pop(space, {}).values():
            for name, column in self.columns.items():
                column[place * _BLOCK : (place + 1) * _BLOCK] = self._blank.get(name, 0)
            self._free.append(place)

    def _place(self, blocks: dict[int, int], number: int) -> int:
        place = blocks.get(number)
        if place is None:
            if self._free:
                place = self._free.pop()
            else:
                place, self._used = self._used, self._used + 1
                if self._used > len(self._first):
                    self._grow()
            blocks[number] = place
            self._first[place] = number << _SHIFT
        return place

    def _grow(self) -> None:
        places = max(16, len(self._first) * 2)
        for name, old in self.columns.items():
            new = np.full(places * _BLOCK, self._blank.get(name, 0), old.dtype)
            new[: len(old)] = old
            self.columns[name] = new
        first = np.zeros(places, np.uint64)
        first[: len(self._first)] = self._first
        self._first = first


def _expand(places: list[int]) -> Slots:
    if not places:
        return np.empty(0, np.int64)
    starts = np.array(places, np.int64)[:, None] * _BLOCK
    return np.asarray((starts + np.arange(_BLOCK)).ravel())
