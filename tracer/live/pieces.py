"""What a picture needs of each area: worked out when its pages change, not once a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tracer.common.pages import PAGE_SHIFT
from tracer.live.arrange import Row, Stat, chunks_of, of_kind, rows_of, stat_of
from tracer.live.cells import draw
from tracer.live.model import Area, Model, Moment
from tracer.live.pages import Table
from tracer.live.theme import Charset
from tracer.model.rows import Kind

Cells = tuple[list[str], list[str]]  # glyphs and styles


@dataclass
class Piece:
    """One area in the picture, with what was found out about it so far."""

    key: tuple[object, ...]  # what all of it depends on
    stat: Stat
    moment: Moment
    kind: Kind | None
    _rows: list[Row] | None = None
    _width: tuple[int, int] = (0, 0)  # of the rows, and pages a cell
    _chunks: dict[int, list[int]] = field(default_factory=dict)
    _cells: dict[tuple[int, int], tuple[int, Cells]] = field(default_factory=dict)

    def _table(self) -> Table:
        return of_kind(self.moment.table(self.stat.area), self.kind)

    def row_count(self, pages: int) -> int:
        """About how many rows of so many pages it takes, its pages of every kind."""
        found = self._chunks.get(pages)
        if found is None:
            half = self._chunks.get(pages // 2) if pages % 2 == 0 else None
            if half is not None:
                found = list(dict.fromkeys(chunk // 2 for chunk in half))
            else:
                area = self.stat.area
                found = chunks_of(self.moment.table(area), area, pages)
            self._chunks[pages] = found
        gaps = sum(b - a > 1 for a, b in pairwise(found)) if len(found) > 1 else 1
        return len(found) + gaps

    def rows(self, width: int, zoom: int) -> list[Row]:
        """Its lines, of `width` cells of `zoom` pages each."""
        if self._rows is None or self._width != (width, zoom):
            if self._width != (width, zoom):
                self._cells = {}
            self._width = width, zoom
            self._rows = rows_of(self.stat.area, self._table(), width, zoom)
        return self._rows

    def cells(self, row: Row, zoom: int, now_ns: int, charset: Charset) -> Cells:
        """The cells of one of `rows`; old pages no longer change their colour."""
        until, cells = self._cells.get((row.first, zoom), (0, ([], [])))
        if now_ns >= until:
            end = min(row.first + row.cells * zoom, self.stat.area.end >> PAGE_SHIFT)
            glyphs, styles, until = draw(self._table(), row.first, end, zoom, now_ns, charset)
            cells = glyphs, styles
            self._cells[row.first, zoom] = until, cells
        return cells

    def reuse(self, before: "Piece", touched: tuple[int, int] | None) -> None:
        """Keep what was drawn before these pages (the first and the last) changed."""
        first, last = touched or (1 << 64, 0)
        self._width = before._width
        self._cells = {
            (at, zoom): (until, cells)
            for (at, zoom), (until, cells) in before._cells.items()
            if at > last or at + zoom * len(cells[0]) <= first
        }
        if before.stat.known == self.stat.known:  # and so the same pages
            self._chunks = before._chunks
            self._rows = before._rows if self.kind is None else None


class Pieces:
    """The areas of the last picture."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], Piece] = {}

    def of(
        self, model: Model, moment: Moment, areas: Sequence[Area], kind: Kind | None
    ) -> list[Piece]:
        """A piece for each area; those in which nothing has changed as they were."""
        made: dict[tuple[int, int], Piece] = {}
        touched = model.pop_touched()
        is_now = moment.tables is model.history.now
        for area in areas:
            faults = model.faults_in.get(area.key, 0)
            key = area, kind, is_now, model.stamp(area, moment), faults
            piece = self._last.get(area.key)
            if piece is None or piece.key != key:
                before, stat = piece, stat_of(moment.table(area), area, faults, kind)
                piece = Piece(key, stat, moment, kind)
                if is_now and before is not None and before.key[:3] == key[:3]:
                    piece.reuse(before, touched.get(area.key))
            piece.moment = moment
            made[area.key] = piece
        self._last = made
        return list(made.values())
