"""The summary on a terminal, or as plain aligned text."""

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tracer.reporting.resident import resident
from tracer.reporting.run import Run
from tracer.reporting.stackwords import health
from tracer.reporting.story import head, sentences
from tracer.reporting.tables import Table, Tables

MOST = 20  # rows of a table
_NAMES = ("REGION", "THREAD", "FUNCTION", "MODULE", "STACK")  # what gives way on a narrow terminal


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader left: the caller decides what that means (rich would exit with 1)."""
        raise


def console() -> Console:
    """The standard output as it is."""
    return _Console(highlight=False, emoji=False, markup=False)


def print_summary(console: Console, run: Run, most: int = MOST) -> None:
    """Words, then tables; each table cut after `most` rows, and saying so."""
    tables = Tables(run, resident(run))
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
    grid = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in table.columns:
        gives_way = name in _NAMES
        grid.add_column(
            Text(name),
            justify="left" if name in table.left else "right",
            no_wrap=True,
            overflow="ellipsis" if gives_way else "crop",
            min_width=None if gives_way else max(
                (cell_len(row[table.columns.index(name)].text) for row in table.rows), default=0
            ),
        )  # fmt: skip
    for row in table.rows:
        grid.add_row(*(Text(cell.text) for cell in row))
    if console.is_terminal:
        console.print(grid)
    else:
        _plain(console, table)
    if table.note:
        say(console, Text(f"({table.note})", "dim"))


def _plain(console: Console, table: Table) -> None:
    """No line is cut or filled up: what reads it may be a program."""
    rows = [table.columns, *([cell.text for cell in row] for row in table.rows)]
    widths = [max(cell_len(row[at]) for row in rows) for at in range(len(table.columns))]
    for row in rows:
        cells = []
        for name, cell, width in zip(table.columns, row, widths, strict=True):
            blanks = " " * (width - cell_len(cell))
            cells.append(cell + blanks if name in table.left else blanks + cell)
        console.print(Text("  ".join(cells).rstrip()), soft_wrap=True)
