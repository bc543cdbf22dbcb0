"""Pages without a frame, put away compactly: what is known of them in case they come back.

The page store has blocks for all the memory a process ever touched. A trace
that runs for hours sees much of it unmapped for good; what is left is a row
for each page that had a frame, kept here or, where nobody asked for such
rows, let go.
"""

from collections.abc import Iterator

from tracer.common.types import Structs

RowsOfPages = Structs

WHOLE = -1  # in place of a block's number: all that was left of a space


class Shelf:
    """Rows of pages by space and block.

    With `most`, beyond so many rows everything is dropped, for good:
    `overflowed` says so.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.overflowed = False
        self._rows: dict[int, dict[int, RowsOfPages]] = {}
        self._count = 0

    def put(self, space: int, block: int, rows: RowsOfPages) -> None:
        """Keep the rows of a block of a space (or WHOLE) that has none here."""
        if self.overflowed or not len(rows):
            return
        self._count += len(rows)
        if self.most is not None and self._count > self.most:
            self.overflowed = True
            self._rows.clear()
            return
        self._rows.setdefault(space, {})[block] = rows

    def take(self, space: int, block: int) -> RowsOfPages | None:
        """Give the rows of a block back; None where there are none."""
        blocks = self._rows.get(space)
        rows = blocks.pop(block, None) if blocks else None
        if rows is not None:
            self._count -= len(rows)
        return rows

    def drop(self, space: int) -> None:
        """Let go of all that is kept of a space."""
        self._count -= sum(map(len, self._rows.pop(space, {}).values()))

    def of(self, space: int) -> list[RowsOfPages]:
        """All that is kept of a space, in no order."""
        return list(self._rows.get(space, {}).values())

    def all(self) -> Iterator[RowsOfPages]:
        """All there is."""
        for blocks in self._rows.values():
            yield from blocks.values()

    def __contains__(self, space: int) -> bool:
        return bool(self._rows.get(space))
