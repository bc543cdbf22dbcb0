"""One picture: which panels there are at a size, and what is in them."""

from tracer.common import units
from tracer.common.pages import PAGE_SHIFT
from tracer.live import panels
from tracer.live.arrange import Row, chosen, fitting_zoom, ordered
from tracer.live.canvas import Canvas
from tracer.live.model import Model
from tracer.live.pieces import Piece
from tracer.live.scene import Scene
from tracer.live.theme import FAINT, GREY, Charset
from tracer.live.view import Fitted, View

LEAST_WIDTH, LEAST_HEIGHT = 80, 24
_WIDE = 110  # from here on the panels stand beside the map
_SIDE = 40
_FITTED_NS = 1_000_000_000


def compose(
    model: Model,
    view: View,
    width: int,
    height: int,
    charset: Charset,
    now_ns: int | None = None,
    output: list[str] | None = None,
) -> Canvas:
    """The whole picture at a size in cells. `now_ns`: CLOCK_MONOTONIC, while the trace runs.

    `output` is what a command with keys of its own has said; None: there is none.
    """
    canvas = Canvas(width, height)
    if width < 40 or height < 10:
        canvas.put(0, 0, "window too small: needs 40x10", "bold")
        return canvas
    scene = _scene(model, view, charset, now_ns, output)
    panels.title(canvas, scene)
    panels.totals(canvas, 1, scene)
    bottom = height - 1
    panels.footer(canvas, bottom, scene)
    if view.help:
        panels.help_page(canvas, 2, bottom - 2, scene)
    elif width >= _WIDE:
        _beside(canvas, scene, 2, bottom)
    else:
        _stacked(canvas, scene, 2, bottom)
    return canvas


def _scene(
    model: Model, view: View, charset: Charset, now_ns: int | None, output: list[str] | None
) -> Scene:
    moment = model.now() if view.at_ns is None else model.at(view.at_ns)
    now = moment.time_ns
    if view.at_ns is None and now_ns is not None and not model.ended:
        now = max(now, now_ns)
    areas = chosen(moment.areas, view.find, view.only)
    pieces = view.pieces.of(model, moment, areas, view.kind)
    return Scene(
        model,
        view,
        moment,
        now,
        ordered(pieces, view.sort, now),
        charset,
        output or [],
        output is not None,
    )


def _beside(canvas: Canvas, scene: Scene, top: int, bottom: int) -> None:
    """Map on the left, figures on the right, lines below."""
    said = min(len(scene.output), 4) + 1 if scene.output else 0
    lines = min(max((bottom - top) // 4, 4), 12)
    split = canvas.width - _SIDE
    below = bottom - lines - 1
    _map(canvas, scene, 0, top, split - 1, below - said)
    if said:
        panels.output(canvas, 0, below - said, split - 1, below, scene)
    kinds = max(min((below - top) // 2, 12), 4)
    panels.rates(canvas, split, top, _SIDE, top + kinds, scene)
    panels.slowest(canvas, split, top + kinds, _SIDE, below, scene)
    panels.lines(canvas, 0, below, canvas.width, bottom, scene)


def _stacked(canvas: Canvas, scene: Scene, top: int, bottom: int) -> None:
    """Figures above, map in the middle, lines below: 80 columns."""
    figures = 5 if bottom - top < 26 else 7
    half = canvas.width // 2
    panels.rates(canvas, 0, top, half - 1, top + figures, scene)
    panels.slowest(canvas, half, top, canvas.width - half, top + figures, scene)
    lines = 4 if bottom - top < 26 else 8
    said = min(len(scene.output), 2) + 1 if scene.output else 0
    below = bottom - lines
    _map(canvas, scene, 0, top + figures, canvas.width, below - said)
    if said:
        panels.output(canvas, 0, below - said, canvas.width, below, scene)
    panels.lines(canvas, 0, below, canvas.width, bottom, scene)


def _map(canvas: Canvas, scene: Scene, x: int, y: int, width: int, end: int) -> None:
    """The page map or the table of regions in rows y to end, a title first."""
    view = scene.view
    view.listed = [stat.area.key for stat in scene.stats]
    height = max(end - y - 1, 1)
    if view.code:
        panels.code(canvas, x, y, width, end, scene)
        return
    if view.table:
        view.lines, view.page = len(scene.stats), max(height - 1, 1)
        _keep_in_sight(view, [stat.area.key for stat in scene.stats])
        panels.table(canvas, x, y, width, end, scene)
        return
    label = 34 if width < 100 else 38
    cells = max(width - label, 8)
    zoom = view.zoom or _fitted(scene, cells, height)
    rows: list[tuple[Piece, Row]] = []
    for piece in scene.pieces:
        rows += [(piece, row) for row in piece.rows(cells, zoom)]
    view.shown_zoom, view.lines, view.page = zoom, len(rows), height
    _keep_in_sight(view, [piece.stat.area.key for piece, _ in rows])
    panels.map_title(canvas, x, y, width, scene, zoom, len(rows), height)
    for number, (piece, row) in enumerate(rows[view.top : view.top + height]):
        at = y + 1 + number
        panels.region_label(canvas, x, at, label - 1, piece.stat, row, scene, first=number == 0)
        if row.gap:
            size = units.size(row.gap << PAGE_SHIFT)
            canvas.put(x + label, at, f"{scene.charset.gap * 3} {size} untouched ", FAINT, cells)
            continue
        canvas.cells(x + label, at, *piece.cells(row, zoom, scene.now_ns, scene.charset))
    if not rows:
        what = "no region is mapped, or none matches the filter (Esc: clear)"
        canvas.put(x + 2, y + 1, what, GREY)


def _fitted(scene: Scene, cells: int, height: int) -> int:
    """The zoom with which the map fits; for the same regions it is computed once a second."""
    view, now = scene.view, scene.now_ns
    key = [stat.area for stat in scene.stats], cells, height, view.at_ns
    known = view.fitted
    if known is None or known.key != key or not known.until_ns - _FITTED_NS < now < known.until_ns:
        zoom = fitting_zoom(scene.pieces, cells, height)
        known = view.fitted = Fitted(key, now + _FITTED_NS, zoom)
    return known.zoom


def _keep_in_sight(view: View, keys: list[tuple[int, int]]) -> None:
    """Scroll so that the selected region's first line shows, if it was just chosen."""
    view.top = max(min(view.top, len(keys) - view.page), 0)
    if view.keeps and view.selected in keys:
        at = keys.index(view.selected)
        if not view.top <= at < view.top + view.page:
            view.top = max(min(at - view.page // 3, len(keys) - view.page), 0)
