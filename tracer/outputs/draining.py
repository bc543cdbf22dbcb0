"""The progress line on a terminal while an ending trace drains its remaining records."""

import select
import time
from collections.abc import Callable

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

_PATIENCE_S = 0.3  # shorter drains are not shown
_EVERY_S = 0.25


class DrainLine:
    """One line on stderr, written over as the number falls; nothing where that is no terminal."""

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._able = self._console.is_terminal and not self._console.is_dumb_terminal
        self._clock = clock
        self._due: float | None = None
        self._shown = False

    def show(self, records: int) -> None:
        """Show how many records are left, at intervals, from a moment after the first call on."""
        if not self._able:
            return
        now = self._clock()
        if self._due is None:
            self._due = now + _PATIENCE_S
        if now < self._due or not self._accepts_more():
            return
        self._due = now + _EVERY_S
        what = (
            f"reading the rest of the ring: {_spelled(records)}"
            if records
            else "taking the last snapshot"
        )
        self.erase()
        text = Text(f"{what}; Ctrl-C to stop", "dim", no_wrap=True, overflow="ellipsis", end="")
        text.truncate(max(1, self._console.width - 1))
        self._console.print(text, end="")
        self._shown = True

    def erase(self) -> None:
        """Leave an empty line, for what comes next."""
        shown, self._shown = self._shown, False
        if shown and self._accepts_more():
            start = (ControlType.CURSOR_MOVE_TO_COLUMN, 0)
            self._console.control(Control(start, (ControlType.ERASE_IN_LINE, 2)))

    def _accepts_more(self) -> bool:
        """Whether writing would not block, as it does on a terminal stopped by Ctrl-S."""
        try:
            return bool(select.select([], [self._console.file], [], 0)[1])
        except (OSError, ValueError):  # not a file descriptor
            return True


def _spelled(records: int) -> str:
    if records >= 1_000_000:
        return f"{records / 1e6:.1f} million records"
    return f"{records:,} record{'s' if records != 1 else ''}"
