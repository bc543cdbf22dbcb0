"""How much may still be done once a trace is to end.

From that moment on everything counts: reading the ring, looking at memory, holding one against
the other. The bound is processor time, so that a busy machine takes nothing from it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

DRAIN_S = 10.0  # unless --drain says otherwise


class Enough(Exception):
    """There is no time for what was under way: it was broken off."""


class Stalled(Exception):
    """Whoever reads an output takes nothing, and it is not to be waited for any longer."""


def go_on(enough: Callable[[], bool]) -> None:
    """Raise Enough where it is."""
    if enough():
        raise Enough


@dataclass
class Drain:
    """The bound on what comes after the end; `hurry` (a second signal) makes it nothing."""

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
        """The trace is to end: from now on time counts; safe in a signal handler."""
        if self._until is None:
            self._until = self.clock() + self.seconds

    def hurry(self) -> None:
        """It is to end at once; raises Enough where what is under way is `breakable`."""
        self.begin()
        self.hurried = True
        if self._breakable:
            self._breakable = False
            raise Enough

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """What is done inside ends with Enough, wherever it is, once it is to end at once.

        Only for what changes nothing that is needed after: a signal's handler breaks it off.
        """
        go_on(lambda: self.hurried)
        self._breakable = True
        try:
            go_on(lambda: self.hurried)
            yield
        finally:
            self._breakable = False

    def over(self) -> bool:
        """Whether nothing more is to be read or looked at."""
        return self.hurried or (self._until is not None and self.clock() >= self._until)

    def check(self) -> None:
        """Raise Enough where it is over."""
        go_on(self.over)
