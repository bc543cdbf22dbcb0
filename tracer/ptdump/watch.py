"""ptdump --watch: the dump again and again, with the pages that just gained a frame marked.

On a terminal that can, one screen redrawn, the gains in colour, scrolled to the latest
of them; anywhere else one dump after the other, the gains marked with a "+".
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from tracer.procfs.entries import PFN_MASK, PRESENT
from tracer.procfs.errors import ProcessGone
from tracer.ptdump.dump import HEADER, Dump, Row
from tracer.ptdump.view import marked

_STAND_OUT_SECONDS = 1.0
_FRAME = PRESENT | PFN_MASK
_TERMINATED = 128 + signal.SIGTERM


class Gains:
    """Which pages gained a frame lately, by comparing each snapshot with the one before."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: for how long a gain counts as recent."""
        self._seconds = seconds
        self._frames: dict[int, int] | None = None
        self._gained: dict[int, float] = {}

    def update(self, rows: Sequence[Row], now: float) -> set[int]:
        """Addresses that gained a frame, or another one, within the last seconds before `now`."""
        frames = {row.address: row.entry & _FRAME for row in rows if row.entry & PRESENT}
        if self._frames is not None:
            before = self._frames
            new = [address for address in frames if before.get(address) != frames[address]]
            self._gained.update(dict.fromkeys(new, now))
        self._frames = frames
        self._gained = {
            address: since
            for address, since in self._gained.items()
            if address in frames and now - since < self._seconds
        }
        return set(self._gained)


class Screen(Protocol):
    """Where the snapshots are drawn."""

    def draw(self, dump: Dump, rows: Sequence[Row], gained: set[int]) -> None: ...


class PlainScreen:
    """One dump after the other, a blank line between two."""

    def __init__(self) -> None:
        self._first = True

    def draw(self, dump: Dump, rows: Sequence[Row], gained: set[int]) -> None:
        """Write the whole dump and flush it."""
        head = HEADER if self._first else "\n" + HEADER
        self._first = False
        lines = [head, *(marked(row, dump.visible, row.address in gained) for row in rows)]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


@contextmanager
def _screen() -> Iterator[Screen]:
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        yield PlainScreen()
        return
    from tracer.ptdump.screen import rich_screen

    with rich_screen() as screen:
        yield screen


def watch(
    dump: Dump,
    interval: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Read every `interval` seconds until Ctrl-C, or until the process ends (said on stderr).

    The terminal is put back as it was in every case, SIGTERM included.
    """
    gains = Gains(max(_STAND_OUT_SECONDS, 1.5 * interval))
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with _screen() as screen:
            while True:
                with dump.open() as opened:
                    rows = list(opened.rows())
                screen.draw(dump, rows, gains.update(rows, clock()))
                sleep(interval)
    except ProcessGone:
        print(f"ptdump: process {dump.pid} has ended", file=sys.stderr)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)
