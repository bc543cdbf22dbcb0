"""What every output implements, and who names the code of the rows that it is given."""

from collections.abc import Sequence
from typing import Protocol

from tracer.model.rows import Names, Rows


class Symbolizer(Protocol):
    """Names the instructions at fault."""

    def names(self, rows: Rows) -> tuple[Sequence[str], bool]:
        """One string a row, "" where unknown, raw (not printable), as far as they are known now.

        And whether that is all that will be known of them. Waits for it, but not for long.
        """

    def ask(self, rows: Rows) -> tuple[Sequence[str], bool]:
        """The same without waiting for it."""

    def settle(self) -> None:
        """Wait until it is. Raises Enough where there is no time for it."""


class Output(Protocol):
    """Takes batches of joined rows as they come and the closing facts at the end."""

    def write(self, rows: Rows, names: Names) -> None:
        """Take one batch, in time order. Must not keep a reference to `rows`."""

    def close(self) -> None:
        """Flush and release. Called once, also after an error."""
