"""Pictures of a run: memory over time, its size, latencies. Drawn by matplotlib.

No pyplot and no window: a Figure and the canvas of its file's format.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tracer.common.errors import Exit, TraceError
from tracer.common.pages import PAGE_SHIFT
from tracer.common.text import printable
from tracer.common.units import clip, latency, size
from tracer.reporting.analysis.axis import Axis, Band, axis_of
from tracer.reporting.analysis.curves import mapped, resident
from tracer.reporting.analysis.density import pixels
from tracer.reporting.analysis.gains import Gains, gains, in_space, without_address
from tracer.reporting.pictures import style
from tracer.reporting.reading.needs import library
from tracer.reporting.reading.run import PAGE, Run, identity
from tracer.reporting.text.overview import head, plural
from tracer.reporting.text.tables import GLYPHS

Part = Literal["all", "map", "resident", "latency"]
Format = Literal["png", "svg"]

WIDTH, DPI = 13.0, 120  # inches, pixels an inch
MOST_MARKS = 20_000  # more points are drawn as density
MOST_SPACES = 6
_HEIGHTS: dict[Part, float] = {"all": 11.6, "map": 8.6, "resident": 3.9, "latency": 4.6}
_LEFT, _RIGHT = 0.085, 0.80  # of the width; names stand on the right
_COLUMNS = (1.075, 1.134, 1.19, 1.245)  # of the table beside the latencies
_EDGE = 0.006  # of the interval: a mark at the start is whole
_FONT = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # names may hold dollars
    "axes.edgecolor": style.RULE,
    "axes.labelcolor": style.MUTED,
    "text.color": style.INK,
    "xtick.color": style.MUTED,
    "ytick.color": style.MUTED,
    "svg.fonttype": "path",  # looks the same without the font
    "svg.hashsalt": "pagefault-report",  # the same run gives the same file
}


def format_of(path: str) -> Format:
    """PNG or SVG, by the name of the file; standard output is PNG. Raises TraceError for others."""
    ending = path.rpartition(".")[2].lower()
    if path == "-" or ending == "png":
        return "png"
    if ending == "svg":
        return "svg"
    raise TraceError(
        f"{printable(path)} is not the name of a PNG or SVG file",
        "use a name that ends in .png or .svg",
        Exit.USAGE,
    )


def picture(run: Run, part: Part = "all", file_format: Format = "png") -> bytes:
    """The picture as a PNG or SVG file."""
    matplotlib = library("matplotlib")
    library("matplotlib.figure")
    with matplotlib.rc_context(_FONT):
        figure = matplotlib.figure.Figure(
            figsize=(WIDTH, _HEIGHTS[part]), dpi=DPI, facecolor=style.PAPER
        )
        _draw(figure, run, part)
        out = io.BytesIO()
        data = {"Date": None} if file_format == "svg" else {"Software": None}
        with warnings.catch_warnings():  # a name in letters the font lacks is shown as boxes
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(out, format=file_format, metadata=data, dpi=DPI)
    return out.getvalue()


def _draw(figure: Any, run: Run, part: Part) -> None:
    top = _title(figure, run)
    bottom = 0.62 / _HEIGHTS[part]
    if part == "all":
        grid = figure.add_gridspec(
            3, 1, height_ratios=[5.4, 1.35, 1.9], left=_LEFT, right=_RIGHT, top=top, bottom=bottom,
            hspace=0.2,
        )  # fmt: skip
        axes = [figure.add_subplot(grid[at]) for at in range(3)]
        _map(axes[0], run)
        axes[0].set_xlabel("")
        _size(axes[1], run)
        _latencies(axes[2], run)
        return
    axes = figure.add_axes((_LEFT, bottom, _RIGHT - _LEFT, top - bottom))
    {"map": _map, "resident": _size, "latency": _latencies}[part](axes, run)


def _title(figure: Any, run: Run) -> float:
    """The head of every picture; returns where the rest may begin."""
    top, height = head(run), figure.get_figheight()
    at = 1 - 0.36 / height
    figure.text(0.02, at, clip(top.what, 96, GLYPHS), fontsize=14, fontweight="bold")
    for text in (top.counts, top.origin):
        at -= 0.23 / height
        figure.text(0.02, at, clip(text, 150, GLYPHS), fontsize=9.5, color=style.MUTED)
    return float(at - 0.52 / height)


# -- memory over time ----------------------------------------------------------------


@dataclass(frozen=True)
class _Scene:
    """What a map shows."""

    points: Gains
    axis: Axis
    left_out: str  # in words


def _scene(run: Run) -> _Scene:
    points = gains(run)
    spaces, counts = np.unique(points.space, return_counts=True)
    said = []
    if len(spaces) > MOST_SPACES:
        most = np.sort(spaces[np.argsort(-counts, kind="stable")[:MOST_SPACES]])
        points = in_space(points, most)
        said.append(f"the {MOST_SPACES} of {len(spaces):,} address spaces that gained most")
    if hidden := without_address(run):
        said.append(f"{plural(hidden, 'page')} that came along with a neighbour are not shown")
    return _Scene(points, axis_of(points), "; ".join(said))


def _map(axes: Any, run: Run) -> None:
    scene = _scene(run)
    points, axis = scene.points, scene.axis
    _time_axis(axes, run)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("address, gaps cut out", labelpad=66)
    _bands(axes, run, axis)
    if not len(points):
        axes.text(0.5, 0.5, "no page gained a frame", transform=axes.transAxes, ha="center")
        return
    seconds = (points.time_ns - run.start_ns) / 1e9
    keys = identity(points.space, points.page)
    if int(points.span.sum(dtype=np.int64)) > MOST_MARKS:
        _dense(axes, run, scene, seconds, keys)
    else:
        _marks(axes, scene, seconds, keys)
    _legend(axes, points)
    if scene.left_out:
        axes.text(1, -0.045, scene.left_out, transform=axes.transAxes, ha="right", va="top",
                  fontsize=8, color=style.MUTED)  # fmt: skip


def _marks(axes: Any, scene: _Scene, seconds: Any, keys: Any) -> None:
    points, axis = scene.points, scene.axis
    y = axis.position(keys)
    many = len(points)
    area = float(np.clip(9000 / max(many, 1), 5, 46))
    tall = points.span > 1
    if tall.any():
        height = axis.step(keys[tall]) * points.span[tall]
        colours = [style.colour(points.label.words[c]) for c in points.label.codes[tall].tolist()]
        axes.vlines(seconds[tall], y[tall], y[tall] + height, colors=colours, lw=2.2)
    for code, word in enumerate(points.label.words):
        rows = (points.label.codes == code) & ~tall
        if rows.any():
            axes.scatter(
                seconds[rows], y[rows], s=area, c=style.colour(word), marker=style.mark(word),
                linewidths=0.4 if many < 300 else 0, edgecolors=style.PAPER, zorder=3,
                alpha=1 if many < 2000 else 0.85,
            )  # fmt: skip


def _dense(axes: Any, run: Run, scene: _Scene, seconds: Any, keys: Any) -> None:
    points, axis = scene.points, scene.axis
    box = axes.get_window_extent()
    width, height = max(1, int(box.width / (1 + 2 * _EDGE))), max(1, int(box.height))
    x, y, label = seconds / max(run.seconds, 1e-9), axis.position(keys), points.label.codes
    tall = np.flatnonzero(points.span > 1)
    if len(tall):  # a huge page is as many points as it has rows of pixels, at most
        steps = np.linspace(0, 1, min(64, height), endpoint=False)
        extent = (axis.step(keys[tall]) * points.span[tall])[:, None] * steps
        x = np.concatenate([x, np.repeat(x[tall], len(steps))])
        y = np.concatenate([y, (y[tall][:, None] + extent).ravel()])
        label = np.concatenate([label, np.repeat(label[tall], len(steps))])
    colours = [style.colour(word) for word in points.label.words]
    image = pixels(x, y, label, colours, width, height)
    axes.imshow(
        image, extent=(0, max(run.seconds, 1e-9), 0, 1), origin="lower", aspect="auto",
        interpolation="nearest", zorder=3,
    )  # fmt: skip
    axes.set_xlim(-_EDGE * run.seconds, (1 + _EDGE) * run.seconds)


def _bands(axes: Any, run: Run, axis: Axis) -> None:
    """Regions as bands, their names on the right, their addresses on the left."""
    for number, band in enumerate(axis.bands):
        if number % 2 == 0:
            axes.axhspan(band.low, band.high, color=style.BAND, lw=0, zorder=0)
    room = axes.get_window_extent().height / DPI * 72  # points
    several = len({band.space for band in axis.bands}) > 1
    shown = _fitting(axis.bands, int(room / 10.5))
    heights = _spread([(band.low + band.high) / 2 for band in shown], 10.5 / room)
    for band, at in zip(shown, heights, strict=True):
        middle = (band.low + band.high) / 2
        axes.annotate(
            "", (1, middle), (1.014, at), xycoords="axes fraction", zorder=1, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style.RULE, "lw": 0.8, "shrinkA": 0,
                        "shrinkB": 0},
        )  # fmt: skip
        name = _short(band.name) or "(not known)"
        axes.text(1.018, at, name, transform=axes.transAxes, fontsize=7.6, va="center")
        axes.text(1.245, at, size(band.pages * PAGE), transform=axes.transAxes, fontsize=7,
                  va="center", ha="right", color=style.MUTED)  # fmt: skip
    _addresses(axes, shown, heights)
    if several:
        _space_names(axes, run, axis)


def _short(name: str) -> str:
    """The end of a path, in the room there is."""
    base = name.rsplit("/", 1)[-1] if name.startswith("/") else name
    return clip(base or name, 23, GLYPHS)


def _fitting(bands: list[Band], most: int) -> list[Band]:
    """As many as there is room for, those with most pages first, in the order of address."""
    chosen = sorted(range(len(bands)), key=lambda at: -bands[at].pages)[: max(1, most)]
    return [bands[at] for at in sorted(chosen)]


def _spread(wanted: list[float], apart: float) -> list[float]:
    """Heights near the wanted ones (ascending), at least `apart` from each other, within 0 to 1."""
    spread: list[float] = []
    for each in wanted:
        spread.append(max(each, spread[-1] + apart) if spread else each)
    limit = 1.0
    for at in range(len(spread) - 1, -1, -1):
        spread[at] = min(spread[at], limit)
        limit = spread[at] - apart
    return spread


def _addresses(axes: Any, shown: list[Band], heights: list[float]) -> None:
    for band, at in zip(shown, heights, strict=True):
        axes.text(
            -0.008, at, f"{band.first << PAGE_SHIFT:x}", transform=axes.transAxes, fontsize=6.4,
            va="center", ha="right", color=style.MUTED, family="DejaVu Sans Mono",
        )  # fmt: skip


def _space_names(axes: Any, run: Run, axis: Axis) -> None:
    """Which process each part of the axis is of."""
    for space in dict.fromkeys(band.space for band in axis.bands):
        inside = [band for band in axis.bands if band.space == space]
        rows = np.flatnonzero(run.faults.space == space)
        name = "a process"
        if len(rows):
            comm = run.faults.comm.words[run.faults.comm.codes[rows[-1]]]
            name = f"{comm or 'process'} {run.faults.pid[rows[-1]]}"
        axes.axhline(inside[0].low, color=style.MUTED, lw=0.8, zorder=2)
        axes.text(0.006, inside[0].low + 0.004, clip(name, 60, GLYPHS), transform=axes.transAxes,
                  fontsize=8.5, fontweight="bold", va="bottom", zorder=5)  # fmt: skip


def _legend(axes: Any, points: Gains) -> None:
    lines = library("matplotlib.lines")
    counts = np.bincount(points.label.codes, points.span, minlength=len(points.label.words)).astype(
        np.int64
    )
    order = [at for at in np.argsort(-counts, kind="stable").tolist() if counts[at]]
    handles = [
        lines.Line2D(
            [], [], ls="", marker=style.mark(points.label.words[at]), ms=6.5, mew=0,
            color=style.colour(points.label.words[at]),
            label=f"{clip(style.label(points.label.words[at]), 32, GLYPHS)} {counts[at]:,}",
        )
        for at in order[:9]
    ]  # fmt: skip
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(handles),
        frameon=False, handletextpad=0.1, columnspacing=1.3, fontsize=8.5, borderaxespad=0.3,
    )  # fmt: skip


# -- how much memory there was --------------------------------------------------------


def _size(axes: Any, run: Run) -> None:
    """What was mapped; what was resident as dots in it, where it was counted."""
    curve = mapped(run).thinned(6000)
    _time_axis(axes, run)
    x = np.r_[0.0, (curve.time_ns - run.start_ns) / 1e9, run.seconds]
    y = np.r_[0, curve.pages, curve.pages[-1:] if len(curve.pages) else 0] * PAGE
    if len(curve.time_ns) and curve.time_ns[0] <= run.start_ns:
        y[0] = curve.pages[0] * PAGE
    axes.fill_between(x, y, step="post", color=style.ACCENT, alpha=0.14, lw=0)
    axes.step(x, y, where="post", color=style.ACCENT, lw=1.4)
    axes.set_ylim(0, max(1, float(y.max())) * 1.12)
    _bytes_axis(axes)
    axes.set_ylabel("mapped")
    lines = ["mapped", f"{size(int(y.max()))} at most", f"{size(int(y[-1]))} at the end"]
    if (counted := resident(run)) is not None:
        counted = counted.thinned(6000)
        x, y = (counted.time_ns - run.start_ns) / 1e9, counted.pages * PAGE
        axes.plot(x, y, ls="", marker="o", ms=3.5, mfc="white", mec=style.INK, mew=0.9)
        lines.append(f"resident (dots): at least {size(int(y.max()))}")
    _aside(axes, lines, curve.how)


def _bytes_axis(axes: Any) -> None:
    """Ticks at round binary sizes."""
    most = axes.get_ylim()[1]
    step = PAGE
    while most / step > 5:
        step *= 2
    axes.set_yticks(np.arange(0, most, step))
    axes.yaxis.set_major_formatter(lambda value, _: size(int(value)) if value else "0")


def _aside(axes: Any, lines: list[str], small: str) -> None:
    """Words to the right of a panel."""
    axes.text(1.018, 0.98, lines[0], transform=axes.transAxes, va="top", fontweight="bold")
    axes.text(1.018, 0.98, "\n" + "\n".join(lines[1:]), transform=axes.transAxes, va="top",
              fontsize=8.5, linespacing=1.5)  # fmt: skip
    words, wrapped = small.split(), [""]
    for word in words:
        if len(wrapped[-1]) + len(word) > 34:
            wrapped.append("")
        wrapped[-1] += (" " if wrapped[-1] else "") + word
    axes.text(1.018, 0.0, "\n".join(wrapped), transform=axes.transAxes, va="bottom", fontsize=7.5,
              color=style.MUTED)  # fmt: skip


def _time_axis(axes: Any, run: Run) -> None:
    span = max(run.seconds, 1e-9)
    axes.set_xlim(-_EDGE * span, (1 + _EDGE) * span)
    axes.set_xlabel("seconds since the start", fontsize=8.5, labelpad=2)
    axes.grid(axis="x", color=style.RULE, lw=0.6, zorder=1)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)


# -- latencies -------------------------------------------------------------------------


def _latencies(axes: Any, run: Run) -> None:
    """A row a kind: how its latencies are distributed, on a logarithmic scale."""
    faults = run.faults
    kinds = np.argsort(-faults.kind.counts(), kind="stable").tolist()
    known = faults.latency_ns >= 0
    rows = [(at, faults.latency_ns[known & (faults.kind.codes == at)]) for at in kinds]
    rows = [(at, values) for at, values in rows if len(values)][:9]
    axes.set_xlabel("latency", fontsize=8.5, labelpad=2)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_yticks([])
    if not rows:
        axes.text(0.5, 0.5, "no latency is known", transform=axes.transAxes, ha="center")
        return
    low = np.log10(max(1, min(int(values.min()) for _, values in rows))) - 0.08
    high = np.log10(max(2, max(int(values.max()) for _, values in rows))) + 0.08
    if high - low < 1:
        low, high = (low + high - 1) / 2, (low + high + 1) / 2
    bins = np.linspace(low, high, 141)
    for row, (at, values) in enumerate(rows):
        _ridge(axes, len(rows) - 1 - row, faults.kind.words[at], values, bins)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.12, len(rows))
    each = (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [step * 10.0**at for at in range(int(low) - 1, int(high) + 1) for step in each]
    ticks = [tick for tick in ticks if low <= np.log10(tick) <= high]
    axes.set_xticks(np.log10(ticks), [_round_latency(tick) for tick in ticks])
    axes.grid(axis="x", color=style.RULE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel("faults by kind", labelpad=66)
    for x, word in zip(_COLUMNS, ("faults", "p50", "p99", "max"), strict=True):
        axes.text(x, 1.0, word, transform=axes.transAxes, ha="right", fontsize=8,
                  color=style.MUTED)  # fmt: skip


def _round_latency(nanoseconds: float) -> str:
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= scale:
            return f"{nanoseconds / scale:g} {unit}"
    return f"{nanoseconds:g} ns"


def _ridge(axes: Any, base: int, kind: str, values: Any, bins: Any) -> None:
    logs = np.log10(np.maximum(values, 1))
    colour = style.colour(kind)
    if len(values) < 40:
        axes.plot(logs, np.full(len(logs), base + 0.3), ls="", marker="o", ms=5, color=colour,
                  alpha=0.75, mew=0)  # fmt: skip
    else:
        counts = np.histogram(logs, bins)[0].astype(float)
        counts = np.convolve(counts, [0.25, 0.5, 0.25], "same")
        shape = np.where(counts > 0, np.maximum(counts / counts.max() * 0.82, 0.02), 0)
        middle = (bins[1:] + bins[:-1]) / 2
        axes.fill_between(middle, base, base + shape, color=colour, alpha=0.85, lw=0, step="mid")
    axes.axhline(base, color=style.RULE, lw=0.6, zorder=0)
    quantiles = np.quantile(values, [0.5, 0.99], method="inverted_cdf").astype(int).tolist()
    axes.vlines(np.log10(max(1, quantiles[0])), base, base + 0.82, color=style.INK, lw=1.1)
    across = axes.get_yaxis_transform()
    axes.text(-0.008, base + 0.3, clip(kind or "(not known)", 14, GLYPHS), transform=across,
              ha="right", va="center", fontweight="bold", fontsize=8.5)  # fmt: skip
    cells = [latency(value, GLYPHS) for value in (*quantiles, int(values.max()))]
    for x, cell in zip(_COLUMNS, (f"{len(values):,}", *cells), strict=True):
        axes.text(x, base + 0.3, cell, transform=across, ha="right", va="center", fontsize=8)
