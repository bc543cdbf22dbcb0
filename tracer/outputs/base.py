"""The interfaces of outputs, and of what names the instructions in their rows."""

from collections.abc import Sequence
from typing import Protocol

from tracer.model.rows import Names, Rows


class Symbolizer(Protocol):
    """Names the instructions at fault."""

    def names(self, rows: Rows) -> tuple[Sequence[str], bool]:
        """One string a row, "" where unknown, raw (not printable), as far as known now.

        And whether these are final. Waits for names, but briefly.
        """

    def ask(self, rows: Rows) -> tuple[Sequence[str], bool]:
        """`names` without waiting."""

    def settle(self) -> None:
        """Wait until all names are final. Raises Enough where there is no time for it."""


class Output(Protocol):
    """Receives batches of joined rows as they come."""

    def write(self, rows: Rows, names: Names) -> None:
        """Receive one batch, in time order. Must not keep a reference to `rows`."""

    def close(self) -> None:
        """Flush and release. Called once, also after an error."""
