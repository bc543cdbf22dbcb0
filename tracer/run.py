"""One trace from the command line: rights, targets, files, probe, session, and how it ends."""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

from tracer.errors import Exit, Interrupted, TraceError, complain
from tracer.identity import Identity, resolve_user
from tracer.options import Options
from tracer.picks import Picks
from tracer.probes.choose import attach
from tracer.procfs.rights import CAP_SYS_ADMIN, has_capability, in_initial_user_namespace
from tracer.report import Files, Report
from tracer.resources import bpf_dir
from tracer.session import Plan, Session
from tracer.target import Command, validate_pid


def trace(options: Options) -> int:
    """Set up, trace, report; returns the exit status.

    Raises TraceError with nothing attached and no file left that was not there
    before, and Interrupted where a signal ended the program early.
    """
    require_rights()
    identity = resolve_user(options.user, os.environ)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Signals())
        targets = stack.enter_context(Targets(options.pid))
        if options.command:
            signals.command = stack.enter_context(Command(options.command, os.environ, identity))
        files = stack.enter_context(Files(options))
        with signals.held():
            files.open(_owner(identity))
        try:
            status = _record(options, signals, targets, files)
        except TraceError as error:
            if signals.command is None or not signals.command.started:
                raise
            complain(str(error))  # now, not once the command has ended
            signals.wait()
            return Exit.TRACER_FAILED
        return status if signals.command is None else signals.wait()


def require_rights() -> None:
    """Raise TraceError unless we hold CAP_SYS_ADMIN, which BPF and pagemap's frames want."""
    if not has_capability(CAP_SYS_ADMIN):
        raise TraceError("tracing needs root", "run it with sudo", Exit.NO_RIGHTS)
    if not in_initial_user_namespace():
        raise TraceError(
            "tracing needs root outside of any user namespace",
            "run it on the host, or in a container without user namespaces",
            Exit.NO_RIGHTS,
        )


def _owner(identity: Identity | None) -> tuple[int, int] | None:
    return (identity.uid, identity.gid) if identity else None


def _record(options: Options, signals: "Signals", targets: "Targets", files: Files) -> int:
    with contextlib.closing(attach(options.probe, bpf_dir())) as attached:
        session = Session(attached, _plan(options, signals.command))
        report = Report(options, files, session, attached)

        def begin() -> None:
            targets.check()
            report.begin()

        with report.failing_cleanly():
            signals.stop = session.stop
            result = session.run(started=begin)
    report.finish(result)
    return report.status


def _plan(options: Options, command: Command | None) -> Plan:
    return Plan(
        pids=list(dict.fromkeys(options.pid)),
        command=command,
        children=options.children,
        duration_s=options.duration,
        snapshot_interval_ms=options.snapshot_interval,
        range=options.range,
        min_latency_ns=options.min_latency,
        symbols=options.symbols,
        picks=Picks(options.region, options.perms, options.kind),
    )


class Targets:
    """The processes named by --pid, held so that none is mistaken for a later one of its number."""

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
        """Let go of them."""
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
    command, or at once with the second signal. The third ends the program
    whatever it is doing. What our caller ignores (nohup) stays ignored.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.command: Command | None = None
        self.stop: Callable[[], None] | None = None  # once there is a trace to stop
        self._came: list[int] = []
        self._waiting = False
        self._held = False
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int] = {}

    def wait(self) -> int:
        """The command's exit status once it has ended, or ours where signals end the waiting.

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
        """Inside, a first signal waits for the end; a second does not (a pipe nobody reads)."""
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
        if impatient:
            self.stop()

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
