"""The screen of ptdump --watch on a terminal, drawn with rich."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tracer.ptdump.dump import HEADER, Dump, Row, line
from tracer.ptdump.view import View, marked

_GAINED = "bold black on green"


class RichScreen:
    """Draws snapshots into a Live display, cut to the console's size."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._view = View()
        self._shown: set[int] = set()

    def draw(self, dump: Dump, rows: Sequence[Row], gained: set[int]) -> None:
        """Show as many rows as fit, the latest gain among them."""
        self._live.update(self.picture(dump, rows, gained), refresh=True)

    def picture(self, dump: Dump, rows: Sequence[Row], gained: set[int]) -> Text:
        """The screen's text: header, rows, and how many there are beyond them."""
        new = gained - self._shown
        self._shown = gained
        latest = next((i for i, row in enumerate(rows) if row.address in new), None)
        height = max(1, self._console.height - 2)
        window = self._view.window(len(rows), height, latest)
        text = Text(HEADER, style="bold", no_wrap=True, overflow="crop", end="")
        coloured = self._console.color_system is not None and not self._console.no_color
        for row in rows[window.start : window.stop]:
            is_new = row.address in gained
            text.append("\n")
            if coloured:
                text.append(line(row, dump.visible), style=_GAINED if is_new else "not bold")
            else:
                text.append(marked(row, dump.visible, is_new), style="not bold")
        if len(window) < len(rows):
            note = f"\n{window.start + 1}-{window.stop} of {len(rows)}; select with --region"
            text.append(note, style="not bold dim")
        return text


@contextmanager
def rich_screen() -> Iterator[RichScreen]:
    """A screen on the terminal's other page; the old one comes back at the end."""
    console = Console(highlight=False, markup=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield RichScreen(console, live)
