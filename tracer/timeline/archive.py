"""The history of pages without a frame, stored compactly in case they gain one again.

The page store has blocks for all the memory a process ever touched. In a trace
that runs for hours much of it is unmapped permanently; what is left is a row
for each page that had a frame, kept here or, where such rows are not
requested, dropped.
"""

from collections.abc import Iterator

from tracer.common.types import Structs

RowsOfPages = Structs

WHOLE = -1  # in place of a block's number: the rest of a space


class Archive:
    """Rows of pages by space and block.

    Beyond `most` rows, if given, all are dropped permanently:
    `overflowed` is set.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.overflowed = False
        self._rows: dict[int, dict[int, RowsOfPages]] = {}
        self._count = 0

    def put(self, space: int, block: int, rows: RowsOfPages) -> None:
        """Store the rows of a block of a space (or WHOLE), which has none here yet."""
        if self.overflowed or not len(rows):
            return
        self._count += len(rows)
        if self.most is not None and self._count > self.most:
            self.overflowed = True
            self._rows.clear()
            return
        self._rows.setdefault(space, {})[block] = rows

    def pop(self, space: int, block: int) -> RowsOfPages | None:
        """Pop the rows of a block; None where there are none."""
        blocks = self._rows.get(space)
        rows = blocks.pop(block, None) if blocks else None
        if rows is not None:
            self._count -= len(rows)
        return rows

    def drop(self, space: int) -> None:
        """Drop all rows of a space."""
        self._count -= sum(map(len, self._rows.pop(space, {}).values()))

    def of(self, space: int) -> list[RowsOfPages]:
        """All rows of a space, in no order."""
        return list(self._rows.get(space, {}).values())

    def all(self) -> Iterator[RowsOfPages]:
        """All rows of all spaces."""
        for blocks in self._rows.values():
            yield from blocks.values()

    def __contains__(self, space: int) -> bool:
        return bool(self._rows.get(space))
