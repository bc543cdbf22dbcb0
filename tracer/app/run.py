"""One trace from the command line: rights, targets, files, probe, session, and how it ends."""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from tracer.app.options import Options
from tracer.app.sinks import Files, Sinks
from tracer.common.cache_files import default_folder
from tracer.common.closing import Closing
from tracer.common.errors import Exit, Interrupted, TraceError, complain
from tracer.common.resources import bpf_dir
from tracer.common.shortage import shortage_of
from tracer.common.timings import Timings
from tracer.files.caller import who_called
from tracer.files.identity import Identity, resolve_user
from tracer.outputs.filters import RowFilter
from tracer.probes.choose import attach
from tracer.probes.compilation import Compilation
from tracer.session.plan import Plan
from tracer.session.session import Session
from tracer.target.command import Command, validate_pid
from tracer.target.jvm import find_jcmd

if TYPE_CHECKING:
    from tracer.live.start import LiveScreen


def trace(options: Options, compilation: Compilation, timings: Timings) -> int:
    """Set up, trace, report; returns the exit status.

    `compilation` of the probe is under way. Raises TraceError with nothing attached and
    no file left that was not there before, and Interrupted where a signal ended the
    program early.
    """
    identity = resolve_user(options.user, os.environ)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Signals())
        targets = stack.enter_context(Targets(options.pid))
        screen = stack.enter_context(_live_screen(options, identity))
        if options.command:
            signals.command = stack.enter_context(
                Command(
                    options.command,
                    os.environ,
                    identity,
                    terminal=None if screen is None else screen.theirs,
                )
            )
        files = stack.enter_context(Files(options))
        with signals.held():
            files.open(who_called() or _owner(identity))
        timings.lap("targets and files")
        try:
            sinks = _record(options, signals, targets, files, compilation, timings, screen)
        except Exception as error:
            failed = (
                error
                if isinstance(error, TraceError)
                else shortage_of(error, buffer=options.buffer)
            )
            if failed is None:
                raise
            if signals.command is None or not signals.command.started:
                raise failed from error.__cause__
            complain(str(failed))  # now, not once the command has ended
            signals.wait()
            return Exit.TRACER_FAILED
        if signals.command is None:
            return sinks.failed or sinks.status
        status = signals.wait()
        if sinks.failed:
            return Exit.TRACER_FAILED
        return status or sinks.verdict  # what the command itself failed at comes first


def _owner(identity: Identity | None) -> tuple[int, int] | None:
    return (identity.uid, identity.gid) if identity else None


def _record(
    options: Options,
    signals: "Signals",
    targets: "Targets",
    files: Files,
    compilation: Compilation,
    timings: Timings,
    screen: "LiveScreen | None",
) -> Sinks:
    probe = attach(options.probe, bpf_dir(), options.buffer, compilation, stacks=options.stacks)
    with contextlib.closing(probe) as attached:
        timings.lap("the probe")
        timings.detail(attached.milliseconds)
        session = Session(attached, _plan(options, signals.command))
        sinks = Sinks(options, files, session, attached)
        if screen is not None:
            screen.follow(session, sinks.info, attached, sinks.callers)

        def begin() -> None:
            targets.check()
            sinks.begin()
            timings.lap("the first snapshot")
            timings.show()
            if screen is not None:
                screen.enter()

        with contextlib.ExitStack() as stack:
            stack.enter_context(sinks.failing_cleanly())
            if screen is not None:
                stack.callback(screen.leave)
            signals.follow(session)
            result = session.run(started=begin)
            attached.close()  # no tracing overhead while the last picture is shown
            if screen is not None and not sinks.failed:
                screen.linger(result, signals)
    sinks.finish(result)
    session.close_naming()
    return sinks


def _plan(options: Options, command: Command | None) -> Plan:
    return Plan(
        pids=list(dict.fromkeys(options.pid)),
        command=command,
        children=options.children,
        duration_s=options.duration,
        drain_s=options.drain,
        snapshot_interval_ms=options.snapshot_interval,
        range=options.range,
        min_latency_ns=options.min_latency,
        symbols=options.symbols,
        stacks=options.stacks,
        rules=default_folder(),
        jcmd=find_jcmd() if options.jvm_perfmap else "",
        native=options.native,
        every_page=bool(options.pages_csv),
        row_filter=RowFilter(options.region, options.perms, options.kind),
    )


def _live_screen(
    options: Options, identity: Identity | None
) -> "contextlib.AbstractContextManager[LiveScreen | None]":
    if not options.live:
        return contextlib.nullcontext()
    from tracer.live.start import LiveScreen

    return LiveScreen(bool(options.command), identity.uid if identity else None)


class Targets(Closing):
    """The processes named by --pid, held by pidfd: a reused pid is not mistaken for one."""

    def __init__(self, pids: tuple[int, ...]) -> None:
        """Raises TraceError (Exit.NO_TARGET) where one is not there or cannot be traced."""
        self._pidfds: dict[int, int] = {}
        for pid in pids:
            try:
                validate_pid(pid)
                if pid not in self._pidfds:
                    self._pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                self.close()
                raise _ended(pid) from None
            except TraceError:
                self.close()
                raise

    def check(self) -> None:
        """Raise TraceError (Exit.NO_TARGET) if one has ended (pidfd_open(2): it then polls)."""
        for pid, pidfd in self._pidfds.items():
            if select.select([pidfd], [], [], 0)[0]:
                raise _ended(pid)

    def close(self) -> None:
        """Close the pidfds."""
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()


def _ended(pid: int) -> TraceError:
    return TraceError(
        f"process {pid} ended before it could be traced",
        "start it under the tracer: pagefault-trace -- COMMAND",
        Exit.NO_TARGET,
    )


class Signals:
    """SIGINT, SIGTERM and SIGHUP, from entry to exit.

    While things are set up, each ends the program. While tracing, attached:
    the first ends the trace. With a command, SIGINT is the terminal's to
    deliver, and SIGTERM and SIGHUP are passed on; the trace ends with the
    command, or with the second signal. The second, or one that finds the trace
    ending, lets it end at once. The third ends the program whatever it is
    doing. What our caller ignores (nohup) stays ignored.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.command: Command | None = None
        self.stop: Callable[[], None] | None = None  # once there is a trace to stop
        self.hurry: Callable[[], None] = lambda: None
        self.ending: Callable[[], bool] = lambda: False  # whether it is to stop already
        self._came: list[int] = []
        self._waiting = False
        self._held = False
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int] = {}

    @property
    def came(self) -> Sequence[int]:
        """Those that came so far, in order."""
        return self._came

    def follow(self, session: Session) -> None:
        """From now on signals stop this session."""
        self.ending, self.hurry = lambda: session.ending, session.hurry
        self.stop = session.stop

    def wait(self) -> int:
        """The command's exit status once it has ended, or ours where signals end the wait.

        The trace is over by then; the command is still a child of ours.
        """
        assert self.command is not None
        status = self.command.poll()
        if status is None and len(self._came) < 2:
            self._waiting = True
            with contextlib.suppress(Interrupted):
                status = self.command.wait()
            self._waiting = False
        return 128 + self._came[-1] if status is None else status

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a first signal waits for the end; a second does not (a pipe that is not read)."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            raise Interrupted(self._came[-1])

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._came.append(number)
        if self.command is not None and number != signal.SIGINT:
            self.command.send_signal(number)
        if self._held and len(self._came) == 1:
            return
        impatient = len(self._came) > (self.command is not None)
        if self.stop is None or (self._waiting and impatient) or len(self._came) > 2:
            raise Interrupted(number)
        at_once = len(self._came) > 1 or self.ending()
        if impatient:
            self.stop()
        if at_once:
            self.hurry()

    def __enter__(self) -> Self:
        for number in self.NUMBERS:
            before = signal.getsignal(number)
            if before is not None and before != signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
