"""One picture: which panels there are at a size, and what is in them."""

from dataclasses import dataclass
from functools import cached_property

from tracer.live import panels
from tracer.live.arrange import Row, Stat, chosen, fitting_zoom, ordered
from tracer.live.canvas import Canvas
from tracer.live.model import Model, Moment, areas_of
from tracer.live.pieces import Piece
from tracer.live.theme import FAINT, GREY, Look
from tracer.live.view import Fitted, View
from tracer.outputs import units
from tracer.rows import RowRecords

LEAST_WIDTH, LEAST_HEIGHT = 80, 24
_WIDE = 110  # from here on the panels stand beside the map
_SIDE = 40
_FITTED_NS = 1_000_000_000


@dataclass
class Shot:
    """What a picture is made from, worked out once for all panels."""

    model: Model
    view: View
    moment: Moment
    now_ns: int  # that of the picture, by which ages are told
    pieces: list[Piece]  # in the order they are shown
    look: Look
    output: list[str]  # the command's last lines, printable
    command: bool  # it takes keys

    @cached_property
    def stats(self) -> list[Stat]:
        """What is in the areas, in that order."""
        return [piece.stat for piece in self.pieces]

    @cached_property
    def several(self) -> bool:
        """Whether regions of more than one process are shown."""
        return len({stat.area.space for stat in self.stats}) > 1

    def wanted(self, rows: RowRecords) -> RowRecords:
        """The faults that pass the view's filters."""
        view = self.view
        if view.kind is not None:
            rows = rows[rows["kind"] == view.kind]
        if view.only is not None or view.find:
            areas = [stat.area for stat in self.stats]
            rows = rows[areas_of(rows["space"], rows["address"], areas) >= 0]
        return rows


def compose(
    model: Model,
    view: View,
    width: int,
    height: int,
    look: Look,
    now_ns: int | None = None,
    output: list[str] | None = None,
) -> Canvas:
    """The whole picture at a size in cells. `now_ns`: CLOCK_MONOTONIC, while the trace runs.

    `output` is what a command with keys of its own has said; None: there is none.
    """
    canvas = Canvas(width, height)
    if width < 40 or height < 10:
        canvas.put(0, 0, "this window is too small", "bold")
        return canvas
    shot = _shot(model, view, look, now_ns, output)
    panels.title(canvas, shot)
    panels.totals(canvas, 1, shot)
    bottom = height - 1
    panels.footer(canvas, bottom, shot)
    if view.help:
        panels.help_page(canvas, 2, bottom - 2, shot)
    elif width >= _WIDE:
        _beside(canvas, shot, 2, bottom)
    else:
        _stacked(canvas, shot, 2, bottom)
    return canvas


def _shot(
    model: Model, view: View, look: Look, now_ns: int | None, output: list[str] | None
) -> Shot:
    moment = model.now() if view.at_ns is None else model.at(view.at_ns)
    now = moment.time_ns
    if view.at_ns is None and now_ns is not None and not model.ended:
        now = max(now, now_ns)
    areas = chosen(moment.areas, view.find, view.only)
    pieces = view.pieces.of(model, moment, areas, view.kind)
    return Shot(
        model,
        view,
        moment,
        now,
        ordered(pieces, view.sort, now),
        look,
        output or [],
        output is not None,
    )


def _beside(canvas: Canvas, shot: Shot, top: int, bottom: int) -> None:
    """Map on the left, figures on the right, lines below."""
    said = min(len(shot.output), 4) + 1 if shot.output else 0
    lines = min(max((bottom - top) // 4, 4), 12)
    split = canvas.width - _SIDE
    below = bottom - lines - 1
    _map(canvas, shot, 0, top, split - 1, below - said)
    if said:
        panels.output(canvas, 0, below - said, split - 1, below, shot)
    kinds = max(min((below - top) // 2, 12), 4)
    panels.rates(canvas, split, top, _SIDE, top + kinds, shot)
    panels.slowest(canvas, split, top + kinds, _SIDE, below, shot)
    panels.lines(canvas, 0, below, canvas.width, bottom, shot)


def _stacked(canvas: Canvas, shot: Shot, top: int, bottom: int) -> None:
    """Figures above, map in the middle, lines below: 80 columns."""
    figures = 5 if bottom - top < 26 else 7
    half = canvas.width // 2
    panels.rates(canvas, 0, top, half - 1, top + figures, shot)
    panels.slowest(canvas, half, top, canvas.width - half, top + figures, shot)
    lines = 4 if bottom - top < 26 else 8
    said = min(len(shot.output), 2) + 1 if shot.output else 0
    below = bottom - lines
    _map(canvas, shot, 0, top + figures, canvas.width, below - said)
    if said:
        panels.output(canvas, 0, below - said, canvas.width, below, shot)
    panels.lines(canvas, 0, below, canvas.width, bottom, shot)


def _map(canvas: Canvas, shot: Shot, x: int, y: int, width: int, end: int) -> None:
    """The page map or the table of regions in rows y to end, a title first."""
    view = shot.view
    view.listed = [stat.area.key for stat in shot.stats]
    height = max(end - y - 1, 1)
    if view.code:
        panels.code(canvas, x, y, width, end, shot)
        return
    if view.table:
        view.lines, view.page = len(shot.stats), max(height - 1, 1)
        _keep_in_sight(view, [stat.area.key for stat in shot.stats])
        panels.table(canvas, x, y, width, end, shot)
        return
    label = 34 if width < 100 else 38
    cells = max(width - label, 8)
    zoom = view.zoom or _fitted(shot, cells, height)
    rows: list[tuple[Piece, Row]] = []
    for piece in shot.pieces:
        rows += [(piece, row) for row in piece.rows(cells, zoom)]
    view.shown_zoom, view.lines, view.page = zoom, len(rows), height
    _keep_in_sight(view, [piece.stat.area.key for piece, _ in rows])
    panels.map_title(canvas, x, y, width, shot, zoom, len(rows), height)
    for number, (piece, row) in enumerate(rows[view.top : view.top + height]):
        at = y + 1 + number
        panels.region_label(canvas, x, at, label - 1, piece.stat, row, shot, first=number == 0)
        if row.gap:
            size = units.size(row.gap << 12)
            canvas.put(x + label, at, f"{shot.look.gap * 3} {size} untouched ", FAINT, cells)
            continue
        canvas.cells(x + label, at, *piece.cells(row, zoom, shot.now_ns, shot.look))
    if not rows:
        canvas.put(x + 2, y + 1, "no region is mapped, or none passes the filter (Esc)", GREY)


def _fitted(shot: Shot, cells: int, height: int) -> int:
    """The zoom with which the map fits; of the same regions looked for once a second."""
    view, now = shot.view, shot.now_ns
    key = [stat.area for stat in shot.stats], cells, height, view.at_ns
    known = view.fitted
    if known is None or known.key != key or not known.until_ns - _FITTED_NS < now < known.until_ns:
        zoom = fitting_zoom(shot.pieces, cells, height)
        known = view.fitted = Fitted(key, now + _FITTED_NS, zoom)
    return known.zoom


def _keep_in_sight(view: View, keys: list[tuple[int, int]]) -> None:
    """Scroll so that the selected region's first line shows, if it was just chosen."""
    view.top = max(min(view.top, len(keys) - view.page), 0)
    if view.keeps and view.selected in keys:
        at = keys.index(view.selected)
        if not view.top <= at < view.top + view.page:
            view.top = max(min(at - view.page // 3, len(keys) - view.page), 0)
