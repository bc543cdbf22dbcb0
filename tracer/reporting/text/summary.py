"""The summary on a terminal, or as plain aligned text."""

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tracer.common.layout import Column, fit, join
from tracer.common.units import shorten
from tracer.files import printing
from tracer.model.rows import ANONYMOUS
from tracer.reporting.analysis.curves import mapped
from tracer.reporting.reading.run import Run
from tracer.reporting.text.overview import head, sentences
from tracer.reporting.text.stackwords import health
from tracer.reporting.text.tables import GLYPHS, Table, Tables

MOST = 20  # rows of a table
_NAMES = frozenset(("REGION", "THREAD", "FUNCTION", "MODULE", "STACK"))  # may be cut, to so much:
_NAME = 14
_ADDRESSED = 21  # "[anon] 0x7f1234567000"
# What is left out first on a narrow terminal: from the end.
_LAST = (
    *("FAULTS", "FAULTS A", "FAULTS B", "CHANGE", "GAINED", "%", "NET", "GROSS", "TIME IN FAULTS"),
    *("GAINED A", "GAINED B", "MAX", "P99", "P99 A", "P99 B", "P50", "P50 A", "P50 B", "SHARE"),
    *("MAJOR", "ORDER"),
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader left: the caller decides what that means (rich would exit with 1)."""
        raise


def console() -> Console:
    """The standard output as it is."""
    return _Console(highlight=False, emoji=False, markup=False)


def print_summary(console: Console, run: Run, most: int = MOST) -> None:
    """Words, then tables; each table cut after `most` rows, and saying so."""
    tables = Tables(run, mapped(run))
    top = head(run)
    say(console, Text(top.what, "bold"), Text(top.origin), Text(top.counts))
    say(console, Text())
    say(console, *(Text(sentence) for sentence in sentences(tables)))
    if run.callstacks is not None:
        say(console, *(Text(sentence) for sentence in health(run)))
    show(
        console,
        [
            tables.kinds(),
            tables.regions(),
            tables.threads(),
            tables.accesses(),
            tables.functions(),
            tables.stacks(most),
            tables.first_touch(),
            tables.working_set(),
            tables.sources(),
            tables.latencies(),
            tables.slowest(),
        ],
        most,
    )
    notes(console, run)


def show(console: Console, tables: Iterable[Table], most: int = MOST) -> None:
    """Print those that have a row."""
    for table in tables:
        if table.rows:
            _print(console, table.top(most))


def notes(console: Console, run: Run) -> None:
    """What the files lack, and what the tracer noted."""
    said = [*run.notes, *run.facts.notes]
    if said:
        say(console, Text())
    say(console, *(Text(f"note: {note}", "dim") for note in said))


def say(console: Console, *lines: Text) -> None:
    """Lines, wrapped on a terminal only."""
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal)


def _print(console: Console, table: Table) -> None:
    say(console, Text(), Text(table.title, "bold underline"))
    without = _fitted(console, table) if console.is_terminal else _plain(console, table)
    if table.note:
        say(console, Text(f"({table.note})", "dim"))
    if without:
        said = f"no room for {', '.join(without)}: widen the terminal, or write to a file"
        say(console, Text(f"({said})", "dim"))


def _fitted(console: Console, table: Table) -> list[str]:
    """What has room, nothing cut but names; the columns that have none."""
    columns = [_column(table, at) for at in range(len(table.columns))]
    cells = fit(columns, console.width)
    while lone := {name for name in cells if _other(name) not in (*cells, None)}:
        columns = [column for column in columns if column.name not in lone]
        cells = fit(columns, console.width)
    lines = [{name: (name, "bold") for name in table.columns}]
    for row in table.rows:
        texts = (cell.text for cell in row)
        lines.append({name: (cell, "") for name, cell in zip(table.columns, texts, strict=True)})
        for name in _NAMES.intersection(cells):
            lines[-1][name] = (shorten(lines[-1][name][0], cells[name], GLYPHS), "")
    printing.show(console, [join(columns, cells, line, GLYPHS) for line in lines])
    return [name for name in table.columns if name and name not in cells]


def _other(name: str) -> str | None:
    """The column of the other run, where there are two: one without the other says nothing."""
    figure, _, run = name.rpartition(" ")
    return f"{figure} {'B' if run == 'A' else 'A'}" if run in ("A", "B") and figure else None


def _column(table: Table, at: int) -> Column:
    name = table.columns[at]
    best = max(cell_len(cell) for cell in (name, *(row[at].text for row in table.rows)))
    room = _NAME
    if name == "REGION" and any(row[at].text.startswith(ANONYMOUS) for row in table.rows):
        room = _ADDRESSED
    least = min(best, max(room, cell_len(name))) if name in _NAMES else best
    first = next((each for each in table.columns if each and each in table.left), name)
    rank = 1 + at
    if at and not name:
        rank = 1000  # bars of what another column says
    elif name in _LAST:
        rank = 100 + _LAST.index(name)
    elif name == first:
        rank = 0
    return Column(name, least, best, rank, right=name not in table.left)


def _plain(console: Console, table: Table) -> list[str]:
    """No line is cut or filled up: what reads it may be a program."""
    rows = [table.columns, *([cell.text for cell in row] for row in table.rows)]
    widths = [max(cell_len(row[at]) for row in rows) for at in range(len(table.columns))]
    for row in rows:
        cells = []
        for name, cell, width in zip(table.columns, row, widths, strict=True):
            blanks = " " * (width - cell_len(cell))
            cells.append(cell + blanks if name in table.left else blanks + cell)
        console.print(Text("  ".join(cells).rstrip()), soft_wrap=True)
    return []
