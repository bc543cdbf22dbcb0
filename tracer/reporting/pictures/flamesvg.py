"""A flame graph as SVG: by itself in a file, or within the page of `html`.

The root is at the top, what a function calls below it, the heaviest on the
left. It is a picture where scripts do not run; where they do, flame.js zooms
and searches. Names are escaped; the script is always the same, and reads them
as text.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from os.path import basename
from pathlib import Path

import numpy as np
from rich.cells import cell_len, set_cell_size

from tracer import __version__
from tracer.common.errors import Exit, TraceError
from tracer.common.types import I64
from tracer.common.units import clip
from tracer.reporting.analysis.flametree import Tree, tree
from tracer.reporting.pictures.weighing import MEANINGS, TITLES, Weight, shown, weigh
from tracer.reporting.reading.callstacks import KERNEL, Function
from tracer.reporting.reading.run import Run, no_pages
from tracer.reporting.text.overview import head
from tracer.reporting.text.stackwords import health
from tracer.reporting.text.tables import GLYPHS

WIDTH, LEFT = 1200, 12
ROOM = WIDTH - 2 * LEFT  # for the root
ROW = 18  # from level to level
CHARACTER, PAD = 6.8, 4  # as in flame.js
MOST = 8000  # boxes
NARROWEST = 0.1  # pixels
_WORDS = 7.2  # a character of the text around, at most
_COLOURS = 6  # modules with one of their own
_HERE = Path(__file__).parent
_CONTROL = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not XML's Char

Palette = Mapping[tuple[str, str], str]  # a class of flame.css by side and module


@dataclass(frozen=True)
class Flames:
    """A flame graph ready to be drawn."""

    weight: Weight
    tree: Tree
    notes: list[str]
    palette: Palette
    most: int  # boxes to draw


def flames(run: Run, weight: Weight, palette: Palette | None = None, most: int = MOST) -> Flames:
    """Raises TraceError(code=Exit.INPUT) where the files do not have what it takes."""
    if run.callstacks is None:
        raise TraceError(run.stackless, code=Exit.INPUT)
    if weight == "resident" and run.pages is None:
        raise no_pages()
    weighed = weigh(run, weight)
    found = tree(run.callstacks, run.faults.stack, run.faults.comm, weighed.values)
    notes = [f"Width: {MEANINGS[weight]}, {shown(weight)(found.total)} in total.", *health(run)]
    if not found.total:
        notes.append("There is nothing to draw.")
    if weighed.left_out:
        notes.append(weighed.left_out)
    return Flames(weight, found, notes, palette_of(found) if palette is None else palette, most)


def palette_of(found: Tree) -> dict[tuple[str, str], str]:
    """The modules that cover most of the picture have a colour each, the others one together."""
    sums: dict[tuple[str, str], int] = {}
    for at, weight in zip(found.label.tolist(), found.weight.tolist(), strict=True):
        label = found.labels[at]
        if label.side and label.side != KERNEL:
            key = label.side, label.module
            sums[key] = sums.get(key, 0) + weight
    ranked = sorted(sums, key=lambda key: (-sums[key], key))
    return {key: f"c{at}" for at, key in enumerate(ranked[:_COLOURS])}


def colour(palette: Palette, label: Function, depth: int) -> str:
    """The class of a box."""
    if label.side == KERNEL:
        return "ck"
    if not label.side:
        return "cn" if depth > 1 else "cg"
    return palette.get((label.side, label.module), "cx")


def svg(run: Run, weight: Weight) -> Iterator[bytes]:
    """The whole file, in pieces."""
    found = flames(run, weight)
    top = head(run)
    yield b'<?xml version="1.0" encoding="UTF-8"?>\n'
    title = f"{TITLES[weight]} by call stack"
    origin = [f"Weight: {TITLES[weight].lower()}. {top.counts}.", f"Traced on {top.origin}."]
    yield from _encoded(drawing(found, title, top.what, origin))


def _encoded(lines: Iterator[str]) -> Iterator[bytes]:
    for line in lines:
        yield line.encode() + b"\n"


def drawing(
    found: Flames, title: str = "", what: str = "", origin: Sequence[str] = ()
) -> Iterator[str]:
    """The svg element, a line at a time; with a title it is a file of its own, with its script."""
    boxes, narrow = _chosen(found)
    header = 68 if title else 8
    legend = _legend(found, boxes, header + 4)
    said = legend.bottom + 22
    first = said + 12
    levels = int(found.tree.depth[boxes].max(initial=0)) + 1
    below = first + levels * ROW + 22
    notes = found.notes[1:] + _narrow(narrow)
    made = f"Made by pagefault-report {__version__}; loads nothing from the network."
    texts = [line for note in [*notes, *origin, made] for line in _wrapped(note)] if title else []
    height = below + 17 * len(texts) if title else below - 14
    position = f"{WIDTH - LEFT - 220} {8 if title else 6}"
    view = f"0 0 {WIDTH} {height}" if title else f"{LEFT} 0 {ROOM} {height}"
    name = _text(f"Flame graph: {TITLES[found.weight]}. {' '.join(found.notes)}")
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flame" viewBox="{view}" '
        f'role="img" aria-label="{name}" data-left="{LEFT}" data-width="{ROOM}" '
        f'data-search="{position}">'
    )
    if title:
        yield f"<title>{_text(f'{title}: {clip(what, 240, GLYPHS)}')}</title>"
        yield f"<style>{_part('flame.css')}</style>"
        yield f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        yield _words(title, 28, "head")
        yield _words(clip(what, 150, GLYPHS), 50, "what")
    yield from legend.lines
    yield _words(found.notes[0], said, "said")
    yield from _boxes(found, boxes, first)
    for at, text in enumerate(texts):
        yield _words(text, below + 17 * at)
    if title:
        yield f"<script><![CDATA[\n{_part('flame.js')}]]></script>"
    yield "</svg>"


def notes_of(found: Flames) -> list[str]:
    """What is to be said below the picture where it is within a page."""
    return found.notes[1:] + _narrow(_chosen(found)[1])


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _chosen(found: Flames) -> tuple[I64, int]:
    """The boxes to draw, and how many are too narrow. With a box all that call it are there."""
    weight, most = found.tree.weight, found.most
    least = found.tree.total * NARROWEST / ROOM
    if len(weight) > most:
        least = max(least, float(np.partition(weight, len(weight) - most)[len(weight) - most]))
    chosen = np.flatnonzero((weight >= least) & (weight > 0))
    if len(chosen) > most:  # many are as heavy as the last one there is room for
        chosen = np.flatnonzero(weight > least)
    return chosen, int((weight > 0).sum()) - len(chosen)


def _narrow(count: int) -> list[str]:
    if not count:
        return []
    return [f"{count:,} boxes that would be too narrow to see are left out."]


def _boxes(found: Flames, chosen: I64, top: int) -> Iterator[str]:
    drawn = found.tree
    written = shown(found.weight)
    scale = ROOM / max(1, drawn.total)
    for at, depth, start, weight, alone in zip(
        *(each[chosen].tolist() for each in (
            drawn.label, drawn.depth, drawn.start, drawn.weight, drawn.alone
        )),
        strict=True,
    ):  # fmt: skip
        label = drawn.labels[at]
        x, y, width = LEFT + start * scale, top + depth * ROW, weight * scale
        said = [label.name, label.module] if label.module else [label.name]
        said.append(f"{written(weight)}, {weight / drawn.total:.1%} of total")
        if label.side and alone and alone != weight:
            said.append(f"{written(alone)} self")
        title = "\n".join(_text(line) for line in said)
        name = _cut(label.name, width)
        text = f'<text x="{x + PAD:.2f}" y="{y + 12.5}">{_text(name)}</text>' if name else ""
        yield (
            f'<g class="b {colour(found.palette, label, depth)}" data-s="{start}" '
            f'data-n="{weight}" data-d="{depth}"><title>{title}</title>'
            f'<rect class="box" x="{x:.2f}" y="{y}" width="{max(width - 0.5, 0.1):.2f}" '
            f'height="{ROW - 1}" rx="2"/>{text}</g>'
        )


def _cut(name: str, width: float) -> str:
    """As much of a name as there is room for."""
    most = int((width - 2 * PAD) / CHARACTER)
    if most < 3:
        return ""
    if cell_len(name) <= most:
        return name
    return set_cell_size(name, most - 1).rstrip() + GLYPHS.dots


@dataclass(frozen=True)
class _Legend:
    lines: list[str]
    bottom: int


def _legend(found: Flames, chosen: I64, top: int) -> _Legend:
    """What the colours that occur mean."""
    drawn = found.tree
    used: dict[str, str] = {}
    others: set[str] = set()
    for at, depth in dict.fromkeys(
        zip(drawn.label[chosen].tolist(), drawn.depth[chosen].tolist(), strict=True)
    ):
        label = drawn.labels[at]
        each = colour(found.palette, label, depth)
        if each == "cx":
            others.add(label.module)
        used[each] = basename(label.module) or label.module or "module not known"
    used.update(
        {each: word for each, word in {
            "cx": f"{len(others)} other module{'s' * (len(others) != 1)}",
            "ck": "kernel", "cg": "thread", "cn": "missing",
        }.items() if each in used}
    )  # fmt: skip
    lines, x, y = [], LEFT, top
    for each in sorted(used, key=lambda each: ("ckcgcn".find(each), each)):
        word = clip(used[each], 40, GLYPHS)
        room = 24 + int(cell_len(word) * _WORDS)
        if x > LEFT and x + room > WIDTH - LEFT - 230:
            x, y = LEFT, y + 18
        lines.append(
            f'<g class="{each}"><rect x="{x}" y="{y - 9}" width="11" height="11" rx="2"/></g>'
            f'<text class="words" x="{x + 16}" y="{y}">{_text(word)}</text>'
        )
        x += room
    return _Legend(lines, y)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 165, break_on_hyphens=False)


def _words(text: str, y: int, kind: str = "") -> str:
    return f'<text class="{f"words {kind}".strip()}" x="{LEFT}" y="{y}">{_text(text)}</text>'


def _text(text: str) -> str:
    """Safe in text and in quotes, in XML and in HTML."""
    return escape(_CONTROL.sub("\ufffd", text))
