"""The time limit on the work left when a trace is to end.

From that moment on all work counts: reading the ring, snapshots, comparing the two. The limit
is CPU time, so that other load on the machine does not shorten it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

DRAIN_S = 10.0  # unless --drain says otherwise


class Enough(Exception):
    """The time is up: the work under way was interrupted."""


class Stalled(Exception):
    """The reader of an output reads nothing, and is not waited for any longer."""


def go_on(enough: Callable[[], bool]) -> None:
    """Raise Enough if `enough()`."""
    if enough():
        raise Enough


@dataclass
class Drain:
    """The limit on the work after the end of a trace; `hurry` (a second signal) makes it 0."""

    seconds: float = DRAIN_S
    clock: Callable[[], float] = time.process_time
    hurried: bool = False
    _breakable: bool = field(default=False, init=False)
    _until: float | None = field(default=None, init=False)

    @property
    def begun(self) -> bool:
        """Whether the trace is to end."""
        return self._until is not None

    def begin(self) -> None:
        """Start the limit: the trace is to end. Safe in a signal handler."""
        if self._until is None:
            self._until = self.clock() + self.seconds

    def hurry(self) -> None:
        """End the limit at once; raises Enough if the work under way is `breakable`."""
        self.begin()
        self.hurried = True
        if self._breakable:
            self._breakable = False
            raise Enough

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """A block that `hurry` interrupts with Enough, at any point.

        Only for work that modifies nothing needed later: a signal handler interrupts it.
        """
        go_on(lambda: self.hurried)
        self._breakable = True
        try:
            go_on(lambda: self.hurried)
            yield
        finally:
            self._breakable = False

    def over(self) -> bool:
        """Whether the time is up."""
        return self.hurried or (self._until is not None and self.clock() >= self._until)

    def check(self) -> None:
        """Raise Enough if the time is up."""
        go_on(self.over)
