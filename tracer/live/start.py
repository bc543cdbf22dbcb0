"""How the live view begins and ends around a trace: called by tracer.app.run."""

import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from tracer.common.text import printable
from tracer.live.app import Live
from tracer.live.model import Facts
from tracer.live.stage import Stage
from tracer.live.terminal import Terminal
from tracer.live.theme import charset_for
from tracer.model.result import RunInfo
from tracer.probes.choose import Attached
from tracer.session.plan import Result
from tracer.session.session import Session
from tracer.target.command import Command

if TYPE_CHECKING:
    from tracer.outputs.callers import Callers


class Came(Protocol):
    """The signals that came so far."""

    @property
    def came(self) -> Sequence[int]:
        """Their numbers, in order."""


class LiveScreen:
    """The terminal of a run with --live, and the command's own beside it."""

    def __init__(self, command: bool, owner: int | None) -> None:
        """`command`: there is one, which shall not write over the picture; as user `owner`."""
        self._terminal = Terminal()
        self._stage = Stage(owner) if command else None
        self._command: Command | None = None
        self._live: Live | None = None
        self._entered = False

    @property
    def theirs(self) -> int | None:
        """The terminal the command is to have in place of ours."""
        return None if self._stage is None else self._stage.theirs

    def follow(
        self,
        session: Session,
        info: RunInfo,
        attached: Attached,
        callers: "Callers | None" = None,
    ) -> None:
        """Show this session, from its first snapshot on; `callers` counts by call stack."""
        self._command = session.plan.command
        what = " ".join(info.command) or ", ".join(f"pid {pid}" for pid in info.pids)
        facts = Facts(
            what=printable(what),
            host=printable(info.host),
            kernel=printable(info.kernel),
            probe=info.probe,
            started_ns=info.started_monotonic_ns,
        )
        self._live = live = Live(
            facts,
            session.names,
            self._terminal,
            charset_for(getattr(sys.stdout, "encoding", None)),
            session.plan.row_filter,
            session.stop,
            attached.direct_map.zero_frame,
            self._stage,
        )
        live.model.callers = callers
        session.outputs.live.append(live)
        session.watch(live, live)

    def enter(self) -> None:
        """Tracing is on: fill the terminal."""
        self._terminal.__enter__()
        self._entered = True

    def linger(self, result: Result, signals: Came) -> None:
        """The trace is over; the picture stays until the user goes, or a signal says so."""
        if self._live is None or not self._entered:
            return
        self._live.finish(result.books, result.ended_ns)
        before = len(signals.came)
        if all(number == signal.SIGINT for number in signals.came):
            self._live.linger(lambda: len(signals.came) > before)

    def leave(self) -> None:
        """Give the terminal back, also after an error; the command has it from now on."""
        entered, self._entered = self._entered, False
        if entered:
            self._terminal.__exit__(None, None, None)
        if self._stage is not None:
            runs = self._command is not None and self._command.poll() is None
            self._stage.release(carry=runs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._entered:
            self._terminal.__exit__(None, None, None)
        if self._stage is not None:
            self._stage.close()
