"""Columns of text fitted to a terminal's width, or at their best width elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from tracer.common.units import Glyphs, clip, pad

Cell = tuple[str, str]  # text, rich style


@dataclass(frozen=True)
class Column:
    """A column's widths, and its rank when there is no room for all."""

    name: str
    least: int  # cells it needs; with fewer it is left out
    best: int  # cells it takes where there is room
    rank: int  # the highest is left out first
    right: bool = False
    rest: bool = False  # gets the remaining width


def fit(columns: Sequence[Column], width: int) -> dict[str, int]:
    """Cells for each column that has room in `width`, in the order given."""
    kept: list[Column] = []
    for column in sorted(columns, key=lambda column: column.rank):
        if sum(c.least + 1 for c in [*kept, column]) - 1 <= width:
            kept.append(column)
    spare = width - sum(c.least + 1 for c in kept) + 1
    cells = {}
    for column in kept:
        extra = min(spare, column.best - column.least)
        cells[column.name] = column.least + extra
        spare -= extra
    for column in kept:
        if column.rest:
            cells[column.name] += spare
    return {column.name: cells[column.name] for column in columns if column.name in cells}


def unfitted(columns: Sequence[Column]) -> dict[str, int]:
    """Every column at its best width."""
    return {column.name: column.best for column in columns}


def join(
    columns: Sequence[Column], cells: dict[str, int], row: dict[str, Cell], glyphs: Glyphs | None
) -> Text:
    """One line: the cells padded to their columns, a blank between; clipped, too, if `glyphs`."""
    text = Text()
    shown = [column for column in columns if column.name in cells]
    for column in shown:
        width = cells[column.name]
        content, style = row[column.name]
        if glyphs:
            content = clip(content, width, glyphs)
        last = column is shown[-1]
        if column.right or not last:
            content = pad(content, width, column.right)
        text.append(content, style or None)
        if not last:
            text.append(" ")
    return text
