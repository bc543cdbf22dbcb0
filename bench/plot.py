"""The picture of the comparison: bars of the time per fault, as SVG. Drawn by matplotlib."""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cost import UNTRACED, lost, summary
from tracer.reporting.pictures import style

_OURS, _FLOOR, _OTHERS = style.ACCENT, "#b9c2cc", "#e69f00"
_FONT: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": style.INK,
    "svg.fonttype": "path",  # looks the same without the font
    "svg.hashsalt": "pagefault-trace",  # the same figures give the same file
}


def draw(data: dict[str, Any], file_format: str = "svg") -> bytes:
    """The picture of `bench.cost`'s results."""
    names = [name for name in data["cells"] if name != UNTRACED]
    names.sort(key=lambda name: summary(data, name, "wall_ns")[1].median)
    with matplotlib.rc_context(_FONT):
        height = 1.55 + 0.52 * len(names)
        figure = Figure(figsize=(9.6, height), facecolor=style.PAPER)
        axes = figure.add_axes((0.335, 0.62 / height, 0.475, 1 - 1.5 / height))
        _bars(axes, data, names)
        _words(figure, data, height)
        out = io.BytesIO()
        metadata = {"Date": None} if file_format == "svg" else {}
        figure.savefig(out, format=file_format, metadata=metadata, dpi=110)
    return out.getvalue()


def _bars(axes: Axes, data: dict[str, Any], names: list[str]) -> None:
    longest = max(summary(data, name, "wall_ns")[1].high for name in names)
    for at, name in enumerate(names):
        by = summary(data, name, "wall_ns")[1]
        axes.barh(at, by.median, height=0.56, color=_colour(name), zorder=2)
        axes.plot([by.low, by.high], [at, at], color=style.INK, linewidth=1.1, zorder=3)
        text = f"{by.median:.2f}×"
        axes.annotate(
            text, (max(by.median, by.high), at), (6, 0), textcoords="offset points",
            va="center", fontweight="bold" if _is_ours(name) else "normal", zorder=5,
            bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip
        axes.annotate(
            data["titles"][name], (0, at), (-10, 0), textcoords="offset points",
            xycoords=("axes fraction", "data"), ha="right", va="center",
            fontweight="bold" if _is_ours(name) else "normal",
        )  # fmt: skip
        axes.annotate(
            _lost(data, name), (1, at), (14, 0), textcoords="offset points",
            xycoords=("axes fraction", "data"), va="center", color=style.MUTED,
        )  # fmt: skip
    axes.set_xlim(0, longest * 1.2)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks([])
    axes.axvline(1, color=style.MUTED, linewidth=1, zorder=4)
    axes.tick_params(axis="x", length=0, colors=style.MUTED)
    axes.xaxis.grid(True, color=style.RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("time a fault takes, times untraced", color=style.MUTED, labelpad=6)
    for side in axes.spines.values():
        side.set_visible(False)


def _words(figure: Figure, data: dict[str, Any], height: float) -> None:
    untraced = summary(data, UNTRACED, "wall_ns")[0].median / 1000
    top = 1 - 0.32 / height
    figure.text(0.02, top, "What tracing costs a page fault", fontsize=14, fontweight="bold")
    figure.text(
        0.02,
        top - 0.27 / height,
        f"wall clock; untraced {untraced:.2f} µs. Line: quartiles of "
        f"{len(data['cells'][UNTRACED])} rounds",
        color=style.MUTED,
    )
    figure.text(0.835, top - 0.27 / height, "faults lost", color=style.MUTED)


def _lost(data: dict[str, Any], name: str) -> str:
    counts = lost(data, name)
    if counts is None:
        return "records none"
    missing, faults = counts
    return f"{missing / faults:.1%}" if missing else "none"


def _is_ours(name: str) -> bool:
    return name.removesuffix("-stacks") in ("fentry", "kprobe", "perf")


def _colour(name: str) -> str:
    if _is_ours(name):
        return _OURS
    return _FLOOR if name in ("empty", "floor") else _OTHERS
