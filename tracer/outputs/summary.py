"""The summary of a run: faults by kind and by region, page history, and the books.

Memory is constant however many faults there are: counts, and latencies in
buckets (tracer.common.quantiles).
"""

import shlex
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tracer.common import units
from tracer.common.layout import Cell, Column, fit, join, unfitted
from tracer.common.pages import PAGE_SIZE
from tracer.common.quantiles import Latencies
from tracer.common.text import harmless, printable
from tracer.common.types import Integers
from tracer.common.units import Glyphs
from tracer.files.printing import show
from tracer.model.result import Books, PageTable, RunInfo, Verdict, joined
from tracer.model.rows import ANONYMOUS, UNKNOWN_LATENCY, Kind, Names, Rows
from tracer.model.sources import Source
from tracer.outputs.books import balance, memory, reasons
from tracer.outputs.console import STYLES
from tracer.outputs.page_history import MOST_PAGES, history, sources

if TYPE_CHECKING:
    from tracer.callstacks.source_lines import SourceLines
    from tracer.outputs.callers import Callers

MOST_GROUPS = 512  # rows that are counted; the rest count as one
MOST_LINES = 20  # regions shown
MOST_ALIKE = 6  # of these, of one name and permissions
# A row of the table of regions: name, permissions, and which of the mappings alike (Names.arrays).
_Key = tuple[str, str, int]
_OTHERS = ("(all others)", "", 0)


@dataclass
class _Group:
    """Faults of one kind, or in one region."""

    faults: int = 0
    major: int = 0
    gained: int = 0  # pages, by faults
    latencies: Latencies = field(default_factory=Latencies)

    def add(self, other: "_Group") -> None:
        self.faults += other.faults
        self.major += other.major
        self.gained += other.gained
        self.latencies.merge(other.latencies)


@dataclass
class _Line:
    """A row of the table of regions."""

    group: _Group
    gained: int  # pages, by any source
    released: int
    name: str
    perms: str
    array: int  # of Names.arrays
    more: str = ""  # which of the mappings of that name; printable

    def add(self, other: "_Line") -> None:
        self.group.add(other.group)
        self.gained += other.gained
        self.released += other.released

    def rank(self) -> tuple[int, int]:
        """Smallest for most faults."""
        return -self.group.faults, -self.gained

    def cells(self, glyphs: Glyphs) -> dict[str, Cell]:
        name = printable(self.name) or "(unknown)"
        return {
            **_numbers(self.group, glyphs),
            **_frame_cells(self.gained, self.released, glyphs),
            "PERMS": (self.perms or glyphs.none, ""),
            "REGION": (name, ""),
            "MORE": (f" {self.more}" if self.more else "", ""),  # of the same cell, never cut
        }


def _alike_folded(lines: list[_Line], names: Names) -> list[_Line]:
    """The mappings of a name: those with most faults, and all others of it as one.

    How many others is a bound ("+") where some have no number of their own.
    """
    alike: dict[tuple[str, str], list[_Line]] = {}
    for line in lines:
        alike.setdefault((line.name, line.perms), []).append(line)
    found: list[_Line] = []
    for several in alike.values():
        own = _stacks_as_one([line for line in several if line.array], names)
        shown = [
            line for at, line in enumerate(own) if at < MOST_ALIKE or line.array in names.stacks
        ]
        for line in shown:
            found.append(line)
            line.more = printable(names.arrays[line.array])
        rest = [line for line in own[MOST_ALIKE:] if line.array not in names.stacks]
        others = [line for line in several if not line.array] + rest
        if not others:
            continue
        whole = _Line(_Group(), 0, 0, others[0].name, others[0].perms, 0)
        for line in others:
            whole.add(line)
        if rest:
            whole.more = f"({len(rest)}{'+' if len(others) > len(rest) else ''} others)"
        elif own and whole.name in ANONYMOUS:
            whole.more = "(others)"
        found.append(whole)
    return sorted(found, key=_Line.rank)


def _stacks_as_one(lines: list[_Line], names: Names) -> list[_Line]:
    """All thread stacks as one row, in its place among the others."""
    stacks = [line for line in lines if line.array in names.stacks]
    if len(stacks) < 2:
        return lines
    whole = _Line(_Group(), 0, 0, stacks[0].name, stacks[0].perms, stacks[0].array)
    for line in stacks:
        whole.add(line)
    others = [line for line in lines if line.array not in names.stacks]
    return sorted([whole, *others], key=_Line.rank)


def _rest_row(lines: Sequence[_Line], glyphs: Glyphs) -> dict[str, Cell]:
    longest = max(line.group.latencies.max for line in lines)
    gained, released = sum(line.gained for line in lines), sum(line.released for line in lines)
    return {
        "FAULTS": (str(sum(line.group.faults for line in lines)), ""),
        **_frame_cells(gained, released, glyphs),
        "P50": ("", ""),
        "P99": ("", ""),
        "MAX": (units.latency(longest, glyphs), ""),
        "PERMS": ("", ""),
        "REGION": (f"{len(lines)} more regions", "dim"),
    }


class Summary:
    """An Output that prints nothing until `render`."""

    def __init__(self) -> None:
        self._kinds = {kind: _Group() for kind in Kind}
        self._regions: dict[_Key, _Group] = {}
        self._group_of: list[_Key] = []  # by index into Names.regions

    def write(self, rows: Rows, names: Names) -> None:
        """Count one batch."""
        if not len(rows):
            return
        self._know(names)
        batch = {name: rows[name] for name in ("major", "pages", "latency_ns")}
        _count(batch, rows["kind"], lambda kind: self._kinds[Kind(kind)])
        _count(batch, rows["region"], lambda region: self._regions[self._group_of[region]])

    def close(self) -> None:
        """Nothing to release."""

    def render(
        self,
        console: Console,
        names: Names,
        books: Books,
        pages: Sequence[PageTable] | None,
        info: RunInfo,
        callers: "tuple[Callers, SourceLines] | None" = None,
    ) -> None:
        """Print it all: styled and fitted on a terminal, plain and aligned elsewhere."""
        self._know(names)
        glyphs = units.glyphs_for(console.encoding)
        total = _Group()
        for group in self._kinds.values():
            total.add(group)
        show(console, [Text(), *_head(total.faults, info)], wrap=True)
        if total.faults:
            _table(console, glyphs, *self._kind_table(total, glyphs))
        rows = self._region_rows(books, names, glyphs)
        if rows:
            _table(console, glyphs, _region_columns(rows, glyphs), rows)
        if callers is not None:
            columns, code = callers[0].table(callers[1], glyphs)
            if code:
                _table(console, glyphs, columns, code)
        few = None if pages is None else _few(pages)
        if few is not None:
            _table(console, glyphs, *history(few, names, info, glyphs))
        else:
            for columns, lines in sources(books, glyphs):
                _table(console, glyphs, columns, lines)
        _closing(console, books, info, glyphs)

    def _know(self, names: Names) -> None:
        first = len(self._group_of)
        for number, region in enumerate(names.regions[first:], first):
            key = region.name, region.perms, names.array_of.get(number, 0)
            if key not in self._regions and len(self._regions) >= MOST_GROUPS:
                key = region.name, region.perms, 0
                if key not in self._regions and region.name not in ANONYMOUS:
                    key = _OTHERS
            self._regions.setdefault(key, _Group())
            self._group_of.append(key)

    def _kind_table(
        self, total: _Group, glyphs: Glyphs
    ) -> tuple[list[Column], list[dict[str, Cell]]]:
        order = sorted(Kind, key=lambda kind: -self._kinds[kind].faults)
        rows = [
            {
                "KIND": (kind.name.lower(), STYLES.get(kind, "")),
                **_numbers(self._kinds[kind], glyphs),
                "SHARE": (f"{self._kinds[kind].faults / total.faults:.1%}", "dim"),
            }
            for kind in order
            if self._kinds[kind].faults
        ]
        if len(rows) > 1:
            share: Cell = ("100.0%", "dim")
            rows.append({"KIND": ("all", "dim"), **_numbers(total, glyphs), "SHARE": share})
        return _columns(
            rows, ("KIND", "FAULTS", "SHARE", "MAJOR", "P50", "P99", "MAX"), "KIND"
        ), rows

    def _region_rows(self, books: Books, names: Names, glyphs: Glyphs) -> list[dict[str, Cell]]:
        """Most faults first; what does not fit is added up in a last line."""
        gained, released = self._frames(books)
        keys = [key for key, group in self._regions.items() if group.faults or gained.get(key)]
        lines = [
            _Line(self._regions[key], gained.get(key, 0), released.get(key, 0), *key)
            for key in keys
        ]
        lines = _alike_folded(sorted(lines, key=_Line.rank), names)
        if len(lines) > MOST_LINES + 1:
            shown, rest = lines[:MOST_LINES], lines[MOST_LINES:]
        else:
            shown, rest = lines, []
        rows = [line.cells(glyphs) for line in shown]
        if rest:
            rows.append(_rest_row(rest, glyphs))
        return rows

    def _frames(self, books: Books) -> tuple[dict[_Key, int], dict[_Key, int]]:
        """Pages gained and released during the run, by region."""
        gained: dict[_Key, int] = {}
        released: dict[_Key, int] = {}
        for sums, counts in ((gained, books.gained_in), (released, books.lost_in)):
            for region, count in counts.items():
                key = self._group_of[region]
                sums[key] = sums.get(key, 0) + count
        return gained, released


def _few(tables: Sequence[PageTable]) -> PageTable | None:
    """All pages, or those that gained a frame during the run; None: more than a screen, or none.

    The others were present throughout.
    """
    if sum(len(pages.page) for pages in tables) > MOST_PAGES:
        keep = [(each.first_source != Source.INITIAL) | (each.gains > 1) for each in tables]
        if sum(int(each.sum()) for each in keep) > MOST_PAGES:
            return None
        tables = [pages.select(each) for pages, each in zip(tables, keep, strict=True)]
    pages = joined(tables)
    return pages if len(pages.page) else None


def _count(
    batch: dict[str, Integers],
    column: Integers,
    group: Callable[[int], _Group],
) -> None:
    """Add the batch's rows to their groups, by the value of `column`."""
    if column[0] == column[-1] and (column == column[0]).all():
        _add(group(int(column[0])), batch, slice(None))
        return
    if column.max() < 1 << 16:
        column = column.astype(np.uint16)  # sorted by radix
    order = np.argsort(column, kind="stable")
    ordered = column.take(order)
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    ends = np.append(starts[1:], len(column))
    batch = {name: values.take(order) for name, values in batch.items()}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        _add(group(int(ordered[start])), batch, slice(start, end))


def _add(of: _Group, batch: dict[str, Integers], part: slice) -> None:
    """Count the rows `part` for one group."""
    latency = batch["latency_ns"][part]
    of.faults += len(latency)
    of.major += int(np.count_nonzero(batch["major"][part]))
    of.gained += int(batch["pages"][part].sum(dtype=np.int64))
    known = latency != UNKNOWN_LATENCY
    of.latencies.add((latency if known.all() else latency[known]).astype(np.int64, copy=False))


def _numbers(group: _Group, glyphs: Glyphs) -> dict[str, Cell]:
    latencies = group.latencies
    return {
        "FAULTS": (str(group.faults), "bold"),
        "MAJOR": (str(group.major), "bold" if group.major else "dim"),
        "P50": (units.latency(latencies.quantile(0.5), glyphs), ""),
        "P99": (units.latency(latencies.quantile(0.99), glyphs), ""),
        "MAX": (units.latency(latencies.max, glyphs), ""),
    }


def _frame_cells(gained: int, released: int, glyphs: Glyphs) -> dict[str, Cell]:
    """Pages, then bytes: all that was gained, and what is left of it after releases."""
    return {
        "GAINED": (str(gained), ""),
        "GONE": (str(released), "" if released else "dim"),
        "GROSS": (units.size(gained * PAGE_SIZE), ""),
        "NET": (units.net((gained - released) * PAGE_SIZE, glyphs), ""),
    }


# What is dropped on a narrow terminal: the highest first.
_RANKS = {
    **{"GROSS": 10, "P50": 9, "GONE": 8, "NET": 7, "PERMS": 6, "MAJOR": 5, "SHARE": 4},
    **{"P99": 3, "MAX": 2},
}


def _columns(rows: Sequence[dict[str, Cell]], names: Sequence[str], left: str) -> list[Column]:
    """Columns as wide as their longest cell; all but `left` and PERMS are right-aligned."""
    columns = []
    for name in names:
        width = max(len(name), *(len(row[name][0]) for row in rows))
        columns.append(
            Column(name, width, width, rank=_RANKS.get(name, 0), right=name not in (left, "PERMS"))
        )
    return columns


def _region_columns(rows: Sequence[dict[str, Cell]], glyphs: Glyphs) -> list[Column]:
    names = ["FAULTS", "GAINED", "GONE", "GROSS", "NET", "P50", "P99", "MAX", "PERMS"]
    more = [cell_len(row["MORE"][0]) if "MORE" in row else 0 for row in rows]
    longest = max(len(row["REGION"][0]) + of for row, of in zip(rows, more, strict=True))
    least = 12 if not any(more) else 21  # "[anon] 0x7f1234567000"
    return [
        *_columns(rows, names, ""),
        Column("REGION", least, max(least, longest), rank=1),
    ]


def _table(
    console: Console,
    glyphs: Glyphs,
    columns: Sequence[Column],
    rows: Sequence[dict[str, Cell]],
) -> None:
    """An empty line, the header and the rows."""
    styled = console.is_terminal
    cells = fit(columns, console.width) if styled else unfitted(columns)
    header: dict[str, Cell] = {column.name: (column.name, "bold") for column in columns}
    lines = [Text()]
    for row in (header, *rows):
        if styled and "REGION" in cells:
            name, style = row["REGION"]
            more = row.get("MORE", ("", ""))[0]
            room = max(cells["REGION"] - cell_len(more), 1)
            name = units.shorten(name, room, glyphs) + more
            row = {**row, "REGION": (units.clip(name, cells["REGION"], glyphs), style)}
        elif "MORE" in row:
            row = {**row, "REGION": (row["REGION"][0] + row["MORE"][0], "")}
        lines.append(join(columns, cells, row, glyphs if styled else None))
    show(console, lines)


def _head(faults: int, info: RunInfo) -> list[Text]:
    """What was traced, how long, and how."""
    count = f"{faults} fault{'' if faults == 1 else 's'}"
    who = shlex.join(printable(word) for word in info.command)
    pids = ", ".join(map(str, info.pids[:8])) + (", …" if len(info.pids) > 8 else "")
    who = who or f"process{'' if len(info.pids) == 1 else 'es'} {pids}"
    seconds = max(0, info.ended_monotonic_ns - info.started_monotonic_ns) / 1e9
    text = Text()
    text.append(count, "bold")
    text.append(f" in {seconds:.3f} s of {who}, ")
    text.append(f"probe {info.probe}", "bold")
    text.append(f" ({harmless(info.probe_brief)})" if info.probe_brief else "")
    return [text]


def _closing(console: Console, books: Books, info: RunInfo, glyphs: Glyphs) -> None:
    """The line that balances the books, why where it does not, and notes."""
    style = "bold" if books.balanced() else "bold #d55e00"
    width = console.width if console.is_terminal else 0
    line = balance(books, glyphs)
    if width and len(line) > width:
        line = line.replace("; frames:", "\nframes:")
    lines = [Text(), Text(line, style)]
    lines += [Text(part) for part in _wrapped(memory(books, glyphs), "", width)]
    for reason in reasons(books, glyphs):
        lines += [Text(part) for part in _wrapped(reason, "  ", width)]
    if info.verdict is not None and info.verdict.strict:
        lines += [Text(part) for part in _wrapped(_strictly(info.verdict), "", width)]
    for note in info.notes:
        lines += [Text(part, "dim") for part in _wrapped(f"note: {harmless(note)}", "", width)]
    if info.exit_status:
        lines.append(Text(f"the command ended with status {info.exit_status}"))
    show(console, lines, wrap=True)


def _strictly(verdict: Verdict) -> str:
    if not verdict.inexact:
        return "strict: nothing was lost, and the books balance"
    return f"strict: not exact: {harmless('; '.join(verdict.inexact))}"


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    if not width:
        return [indent + text]
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent + "  ")
