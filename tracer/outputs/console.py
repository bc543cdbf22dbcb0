"""Lines as they happen: colours and a fitted layout on a terminal, plain aligned text elsewhere."""

import numpy as np
from rich.console import Console
from rich.text import Text

from tracer.common import units
from tracer.common.layout import Cell, Column, fit, join, unfitted
from tracer.common.pages import NO_FRAME
from tracer.common.text import printable
from tracer.common.units import TimeMode
from tracer.files.printing import show
from tracer.model.rows import Access, Kind, Names, Rows
from tracer.outputs.base import Symbolizer
from tracer.outputs.merge import Line, merge

MERGE_ABOVE = 50  # lines a batch; the session's batches come up to five times a second

# Okabe and Ito's palette: distinguishable with any colour vision, on dark and on light.
_GREEN, _ORANGE, _SKY, _PINK, _BLUE, _RED = (
    *("#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#0072b2", "#d55e00"),
)
STYLES: dict[Kind, str] = {
    Kind.ANON: _GREEN,
    Kind.ZERO: "dim",
    Kind.COW: _ORANGE,
    Kind.REUSE: "dim " + _ORANGE,
    Kind.FILE: _SKY,
    Kind.MKWRITE: "italic " + _SKY,
    Kind.SHMEM: _PINK,
    Kind.SWAP: _RED,
    Kind.HUGE: "bold " + _GREEN,
    Kind.HUGETLB: "bold " + _GREEN,
    Kind.UFFD: "italic " + _GREEN,
    Kind.FAILED: "bold reverse " + _RED,
}
LOUD = "bold " + _RED  # a major fault


def _columns(time: TimeMode, symbols: bool) -> list[Column]:
    clock, most = (12, 15) if time == "wall" else (9, 12)
    columns = [
        Column("TIME", clock, most, rank=3, right=True),
        Column("THREAD", 8, 20, rank=7),
        Column("PAGE", 20, 21, rank=0),
        Column("FRAME", 11, 12, rank=1),
        Column("KIND", 8, 9, rank=2),
        Column("ACCESS", 1, 6, rank=6),
        Column("LATENCY", 7, 7, rank=4, right=True),
        Column("SYMBOL", 12, 28, rank=8),
        Column("REGION", 9, 24, rank=5, rest=True),
    ]
    return [column for column in columns if symbols or column.name != "SYMBOL"]


class ConsoleOutput:
    """Prints a batch's faults at once; merges them when there are more than anyone can read.

    `started_ns` is CLOCK_MONOTONIC, `wall_minus_monotonic` CLOCK_REALTIME less
    CLOCK_MONOTONIC; the latter serves time="wall". Raises
    BrokenPipeError where the reader is gone.
    """

    def __init__(
        self,
        console: Console,
        started_ns: int,
        wall_minus_monotonic: int = 0,
        time: TimeMode = "relative",
        symbols: Symbolizer | None = None,
        merge_above: int = MERGE_ABOVE,
    ) -> None:
        self._console = console
        self._started_ns = started_ns
        self._wall = wall_minus_monotonic
        self._time = time
        self._symbols = symbols
        self._merge_above = merge_above
        self._glyphs = units.glyphs_for(console.encoding)
        self._plain = not console.is_terminal
        self._columns = _columns(time, symbols is not None)
        self._width = 0
        self._cells: dict[str, int] = {}
        self._pid = 0
        self._several = False

    def write(self, rows: Rows, names: Names) -> None:
        """Print the lines of one batch and flush."""
        if not len(rows):
            return
        self._see_pids(rows)
        lines = merge(rows, self._merge_above)
        text = self._layout()
        for line in lines:
            text.append(self._render(line, names))
        show(self._console, text)

    def close(self) -> None:
        """Nothing to release: the console is the caller's."""

    def _see_pids(self, rows: Rows) -> None:
        self._pid = self._pid or int(rows["pid"][0])
        self._several = self._several or bool((rows["pid"] != self._pid).any())

    def _layout(self) -> list[Text]:
        """Fit the columns to the terminal as it is now; the header where that changed."""
        width = 0 if self._plain else self._console.width
        if self._cells and width == self._width:
            return []
        self._width = width
        self._cells = unfitted(self._columns) if self._plain else fit(self._columns, width)
        return [self._join({name: (name[:width], "bold") for name, width in self._cells.items()})]

    def _join(self, row: dict[str, Cell]) -> Text:
        return join(self._columns, self._cells, row, None if self._plain else self._glyphs)

    def _render(self, line: Line, names: Names) -> Text:
        return self._join(
            {name: self._cell(name, width, line, names) for name, width in self._cells.items()}
        )

    def _cell(self, name: str, width: int, line: Line, names: Names) -> Cell:
        """One cell's text and style."""
        kind, major = Kind(int(line.row["kind"])), bool(line.row["major"])
        style = STYLES.get(kind, "")
        match name:
            case "TIME":
                return self._clock(line, width), "dim"
            case "THREAD":
                return self._thread(line, names, width), ""
            case "PAGE":
                return self._page(line, width), "bold"
            case "FRAME":
                return self._frame(line, width), style
            case "KIND" if major:
                return f"{kind.name.lower()}!", LOUD
            case "KIND":
                return kind.name.lower(), style
            case "ACCESS":
                return _access(line, width), ""
            case "LATENCY":
                return units.latency(line.latency_ns, self._glyphs), LOUD if major else ""
            case "SYMBOL":
                return self._symbol(line), "dim"
            case _:
                return self._region(line, names, width), ""

    def _clock(self, line: Line, width: int) -> str:
        time_ns = int(line.row["time_ns"])
        text = units.clock(time_ns, self._time, self._started_ns, self._wall)
        return text[: max(width, text.index("."))].rstrip(".")

    def _thread(self, line: Line, names: Names, width: int) -> str:
        if line.threads > 1:
            return f"{line.threads} threads" if width > 10 else f"{line.threads} tids"
        row = line.row
        comm = names.comms[int(row["comm"])]
        width = 10_000 if self._plain else width
        return units.thread(
            comm, int(row["tid"]), int(row["pid"]), self._several, width, self._glyphs
        )

    def _page(self, line: Line, width: int) -> str:
        """The page, and how many more the line stands for."""
        page = f"{line.page:#x}"
        if line.pages == 1:
            return page
        more = f"{page} +{line.pages - 1}"
        if self._plain or len(more) <= width:
            return more
        return f"{page} +{units.short_count(line.pages - 1)}"

    def _frame(self, line: Line, width: int) -> str:
        if line.frame != NO_FRAME or not line.frames:
            return units.frame(line.frame, self._glyphs)
        frames = f"{line.frames} frames"
        return frames if len(frames) <= width else f"{self._glyphs.times}{line.frames}"

    def _symbol(self, line: Line) -> str:
        if self._symbols is None or not line.one_ip:
            return self._glyphs.none
        symbols, _ = self._symbols.names(Rows.from_records(np.array([line.row])))
        return printable(symbols[0]) or self._glyphs.none

    def _region(self, line: Line, names: Names, width: int) -> str:
        """The mapping, and in brackets what a merged line adds, as far as there is room."""
        width = 10_000 if self._plain else width
        name = names.regions[int(line.row["region"])].name
        least = min(len(name), 12)
        if line.regions > 1:
            name = f"{line.regions} regions" if width > 12 else f"{line.regions} reg."
            least = len(name)
        for note in self._notes(line):
            if least + len(note) <= width:
                return units.region(name, width - len(note), self._glyphs) + note
        return units.region(name, width, self._glyphs)

    def _notes(self, line: Line) -> list[str]:
        """How many faults, how far apart, how long together: the longest note first."""
        if line.faults == 1:
            return []
        faults = f" ({line.faults} faults"
        spread = "" if line.neighbours else f" within {units.size(line.end - line.page)}"
        total = f", {units.latency(line.total_ns, self._glyphs)}" if line.total_ns else ""
        return [f"{faults}{spread}{total})", f"{faults}{spread})", f"{faults})"]


def _access(line: Line, width: int) -> str:
    access = Access(int(line.row["access"]))
    if access == Access.UNKNOWN:
        return "?"
    if width < 5:
        return {Access.READ: "r", Access.WRITE: "w", Access.EXEC: "x"}[access]
    return access.name.lower()
