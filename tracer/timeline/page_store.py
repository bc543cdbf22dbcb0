"""A value of each column for every page of every address space, in flat arrays.

Pages are kept in blocks of 64, so that sparse memory costs only what is used, and a batch of
pages is looked up with array operations. A page's index into the columns is called its slot.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.fields import FEW, distinct, runs
from tracer.common.pages import page_range
from tracer.common.types import I64, U32, U64, Bools, Ids, Index
from tracer.timeline.archive import Archive, RowsOfPages

Slots = I64

_SHIFT = 6
_BLOCK = 1 << _SHIFT
_MANY = 2048  # from so many look-ups on, finding the distinct ones pays


class PageStore:
    """Columns by name; a new page has 0 in each, or its value in `blank`."""

    def __init__(
        self,
        columns: Mapping[str, type],
        blank: Mapping[str, int],
        most_archived: int | None = None,
    ) -> None:
        self.columns: dict[str, npt.NDArray[Any]] = {
            name: np.empty(0, dtype) for name, dtype in columns.items()
        }
        self._blank = dict(blank)
        self.archive = Archive(most_archived)
        self._row = np.dtype([("page", np.uint64), *columns.items()])
        self._blocks: dict[int, _Blocks] = {}  # by space
        self._first = np.empty(0, np.uint64)  # by place: the block's first page
        self._owner = np.empty(0, np.uint32)  # by place: its space
        self._marked = np.empty(0, np.bool_)  # by place: changed since `marked` last cleared it
        self._used = 0
        self._free: list[int] = []

    def slots(self, space: int, pages: U64) -> Slots:
        """The slots of `pages` (virtual page numbers), made where new."""
        blocks = self._blocks.get(space)
        if blocks is None:
            blocks = self._blocks[space] = _Blocks(space)
        if len(pages) <= FEW:
            return np.array(
                [
                    self._place(blocks, page >> _SHIFT) << _SHIFT | page & (_BLOCK - 1)
                    for page in pages.tolist()
                ],
                np.int64,
            )
        number = (pages >> np.uint64(_SHIFT)).view(np.int64)
        inside = (pages & np.uint64(_BLOCK - 1)).view(np.int64)
        heads = runs(number)  # pages close in time are mostly close in memory
        places = self._places(blocks, number[heads])
        times = np.diff(heads, append=len(number))
        return np.asarray((np.repeat(places, times) << _SHIFT) + inside)

    def slot(self, space: int, page: int) -> int:
        """The slot of one page, made where new."""
        blocks = self._blocks.get(space)
        if blocks is None:
            blocks = self._blocks[space] = _Blocks(space)
        return self._place(blocks, page >> _SHIFT) << _SHIFT | page & (_BLOCK - 1)

    def known(self, space: int, first: int, last: int) -> list[int]:
        """The slots of the pages [first, last) whose blocks exist; for few pages."""
        blocks: dict[int, int] = self._blocks.get(space) or {}
        found: list[int] = []
        while first < last:
            number = first >> _SHIFT
            until = min(last, (number + 1) << _SHIFT)
            place = blocks.get(number)
            if place is not None:
                slot = place << _SHIFT | first & (_BLOCK - 1)
                found += range(slot, slot + until - first)
            first = until
        return found

    def page_at(self, at: int) -> int:
        """The virtual page number behind a slot."""
        return int(self._first[at >> _SHIFT]) + (at & (_BLOCK - 1))

    def mark_one(self, at: int) -> None:
        """`mark` of one slot."""
        self._marked[at >> _SHIFT] = True

    def all(self, space: int) -> Slots:
        """The slots of a space's blocks, in address order."""
        blocks: dict[int, int] = self._blocks.get(space) or {}
        return _expand([blocks[number] for number in sorted(blocks)])

    def range(self, space: int, start: int, end: int) -> Slots:
        """The slots of pages in [start, end) (addresses) whose blocks exist, in address order."""
        return self.ranges([(space, start, end)])[0]

    def ranges(self, wanted: Sequence[tuple[int, int, int]]) -> tuple[Slots, Index]:
        """`range` of many, concatenated, and which of them each slot is of."""
        places: list[int] = []
        counts = []
        bounds = [page_range(start, end) for _, start, end in wanted]
        for (space, *_), (first_page, last_page) in zip(wanted, bounds, strict=True):
            blocks: dict[int, int] = self._blocks.get(space) or {}
            found = _within(blocks, first_page, last_page)
            places += [blocks[number] for number in found]
            counts.append(len(found) * _BLOCK)
        if not places:
            return np.empty(0, np.int64), np.empty(0, np.intp)
        at, which = _expand(places), np.repeat(np.arange(len(wanted)), counts)
        # An address beyond all pages may be beyond what the arrays hold, too.
        first = np.array([start for start, _ in bounds], np.uint64)
        last = np.array([min(end, 1 << 52) for _, end in bounds], np.uint64)
        pages = self.pages_at(at)
        inside = (pages >= first[which]) & (pages < last[which])
        return at[inside], which[inside]

    def pages_at(self, at: Slots) -> U64:
        """The virtual page numbers behind slots."""
        inside = (at & (_BLOCK - 1)).astype(np.uint64)
        return np.asarray(self._first[at >> _SHIFT] + inside)

    def spaces_at(self, at: Slots) -> U32:
        """The spaces behind slots."""
        return np.asarray(self._owner[at >> _SHIFT])

    def release(self, space: int) -> None:
        """Free the blocks of a space for reuse."""
        self._vacate(list(self._blocks.pop(space, {}).values()))

    def blocks(self, space: int, numbers: U64 | None = None) -> tuple[list[int], Slots]:
        """A space's blocks, or those of `numbers` it has: their numbers, slots of shape (n, 64)."""
        blocks: dict[int, int] = self._blocks.get(space) or {}
        wanted = blocks if numbers is None else numbers.tolist()
        found = [number for number in wanted if number in blocks]
        return found, _expand([blocks[number] for number in found]).reshape(-1, _BLOCK)

    def mark(self, at: Slots) -> None:
        """Mark the blocks of these slots as changed."""
        self._marked[at >> _SHIFT] = True

    def is_marked(self, at: Slots) -> Bools:
        """Whether each of these slots' blocks is marked."""
        return np.asarray(self._marked[at >> _SHIFT])

    def marked(self, space: int, *, clear: bool = False) -> U64:
        """The numbers of a space's marked blocks, ascending; `clear`: and clear the marks.

        A new block is marked.
        """
        blocks: dict[int, int] = self._blocks.get(space) or {}
        places = np.fromiter(blocks.values(), np.int64, len(blocks))
        places = places[self._marked[places]]
        if clear:
            self._marked[places] = False
        return np.sort(self._first[places] >> np.uint64(_SHIFT))

    def put_away(self, space: int, number: int, rows: Slots) -> None:
        """Archive a block's slots `rows`; looking up a page of it restores it."""
        self.archive.put(space, number, self.rows(rows))
        self._vacate([self._blocks[space].pop(number)])

    def rows(self, at: Slots) -> RowsOfPages:
        """`page` (virtual page number) and every column of these slots."""
        rows = np.empty(len(at), self._row)
        rows["page"] = self.pages_at(at)
        for name, column in self.columns.items():
            rows[name] = column[at]
        return rows

    def _vacate(self, places: list[int]) -> None:
        for name, column in self.columns.items():
            column.reshape(-1, _BLOCK)[places] = self._blank.get(name, 0)
        self._free += places

    def _places(self, blocks: "_Blocks", numbers: Slots) -> Slots:
        """The places of many blocks, made where new."""
        inverse = None
        if len(numbers) > _MANY:
            numbers, inverse = np.unique(numbers, return_inverse=True)
        each = numbers.tolist()
        found = list(map(blocks.get, each))
        if None in found:
            new = [number for number, place in zip(each, found, strict=True) if place is None]
            self._make(blocks, list(dict.fromkeys(new)))
            found = list(map(blocks.get, each))
        places = np.array(found, np.int64)
        return places if inverse is None else np.asarray(places[inverse])

    def _place(self, blocks: "_Blocks", number: int) -> int:
        place = blocks.get(number)
        if place is None:
            self._make(blocks, [number])
            place = blocks[number]
        return place

    def _make(self, blocks: "_Blocks", numbers: list[int]) -> None:
        """Allocate places for these new blocks; restore archived pages."""
        reused = min(len(numbers), len(self._free))
        places = [self._free.pop() for _ in range(reused)]
        places += range(self._used, self._used + len(numbers) - reused)
        self._used += len(numbers) - reused
        while self._used > len(self._first):
            self._grow()
        blocks.update(zip(numbers, places, strict=True))
        self._first[places] = np.array(numbers, np.uint64) << np.uint64(_SHIFT)
        self._owner[places] = blocks.space
        self._marked[places] = True
        if blocks.space not in self.archive:
            return
        for number, place in zip(numbers, places, strict=True):
            rows = self.archive.pop(blocks.space, number)
            if rows is not None:
                at = place * _BLOCK + (rows["page"] & np.uint64(_BLOCK - 1)).astype(np.int64)
                for name, column in self.columns.items():
                    column[at] = rows[name]

    def _grow(self) -> None:
        places = max(16, len(self._first) * 2)
        for name, old in self.columns.items():
            new = np.zeros(places * _BLOCK, old.dtype)  # uses memory only where it is written
            new[: len(old)] = old
            if blank := self._blank.get(name, 0):
                new[len(old) :] = blank
            self.columns[name] = new
        first = np.zeros(places, np.uint64)
        first[: len(self._first)] = self._first
        self._first = first
        self._owner = np.append(self._owner, np.zeros(places - len(self._owner), np.uint32))
        self._marked = np.append(self._marked, np.zeros(places - len(self._marked), np.bool_))


class _Blocks(dict[int, int]):
    """One space's blocks: number -> place, the block's index in the arrays."""

    def __init__(self, space: int) -> None:
        super().__init__()
        self.space = space


def _within(blocks: Mapping[int, int], first: int, last: int) -> list[int]:
    """The numbers of those blocks that have pages in [first, last), ascending."""
    if last <= first or not blocks:
        return []
    low, high = first >> _SHIFT, (last - 1) >> _SHIFT
    if high - low < len(blocks):
        return [number for number in range(low, high + 1) if number in blocks]
    return sorted(number for number in blocks if low <= number <= high)


def _expand(places: list[int]) -> Slots:
    if not places:
        return np.empty(0, np.int64)
    starts = np.array(places, np.int64)[:, None] * _BLOCK
    return np.asarray((starts + np.arange(_BLOCK)).ravel())


def run_of(at: Slots) -> I64 | slice:
    """The same slots as a slice, where they are contiguous: written several times faster."""
    first, last = int(at[0]), int(at[-1])
    if last - first == len(at) - 1 and (at[1:] > at[:-1]).all():
        return slice(first, last + 1)
    return at


def distinct_spaces(spaces: Ids) -> list[int]:
    """Each of them once."""
    if len(spaces) <= FEW:
        return list(dict.fromkeys(spaces.tolist()))
    return distinct(spaces)
