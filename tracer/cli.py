"""pagefault-trace: options, wiring and exit codes. No logic of tracing is here."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import click

from tracer import __version__
from tracer.errors import Exit, TraceError
from tracer.options import AddressRange, Kinds, Latency, Perms

EPILOG = """\b
Examples:
  sudo pagefault-trace --pid 4242
  sudo pagefault-trace -- multimap
  sudo pagefault-trace --csv faults.csv -- python3 -c 'x = bytearray(1 << 24)'
  sudo pagefault-trace --pid 4242 --duration 10 --quiet
  sudo pagefault-trace --perms rwx --pages-csv pages.csv -- multimap --auto
  sudo pagefault-trace --check
"""


@dataclass
class Options:
    """The command line as given."""

    pid: tuple[int, ...]
    command: tuple[str, ...]
    csv: str | None
    pages_csv: str | None
    output: str | None
    force: bool
    duration: float | None
    probe: str
    snapshot_interval: int
    range: tuple[int, int] | None
    min_latency: int
    region: tuple[str, ...]
    perms: str
    kind: frozenset[Any]
    children: bool
    time: str
    symbols: bool
    user: str | None
    quiet: bool
    check: bool


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False},
    epilog=EPILOG,
)
@click.option("-p", "--pid", type=click.IntRange(1), multiple=True, help="Trace a running process; repeatable.")
@click.option("--csv", metavar="FILE", help="Write every fault to FILE ('-': stdout); facts go to FILE.meta.json.")
@click.option("--pages-csv", metavar="FILE", help="Write one row a page: when, how and from where it gained its frame.")
@click.option("-o", "--output", metavar="FILE", help="Write lines and summary to FILE instead of stdout.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("-d", "--duration", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="End the trace (not the command) after SECONDS.")
@click.option("--probe", type=click.Choice(["auto", "fentry", "kprobe", "perf"]), default="auto", show_default=True, help="How to hook the kernel's fault path.")
@click.option("--snapshot-interval", type=click.IntRange(10), default=1000, show_default=True, metavar="MS", help="Look at pagemap this often where something happened.")
@click.option("--range", "range", type=AddressRange(), help="Record only faults on these addresses (in the kernel).")
@click.option("--min-latency", type=Latency(), default="0ns", help="Record only faults that took this long, e.g. 20us (in the kernel).")
@click.option("--region", multiple=True, metavar="NAME", help="Show only regions whose name holds NAME (or matches a pattern with * or ?); repeatable.")
@click.option("--perms", type=Perms(), default=None, help="Show only regions with these permissions, e.g. rwx.")
@click.option("--kind", type=Kinds(), default=None, help="Show only these kinds of faults, e.g. anon,cow.")
@click.option("--children/--no-children", default=True, show_default=True, help="Trace processes that targets start, too.")
@click.option("--time", type=click.Choice(["relative", "wall", "monotonic"]), default="relative", show_default=True, help="Which clock the lines show.")
@click.option("--symbols", is_flag=True, help="Name the faulting instruction as function+offset.")
@click.option("--user", metavar="USER", help="Run the command as USER, who owns the files written. [default: under sudo, who called it]")
@click.option("-q", "--quiet", is_flag=True, help="Print the summary only.")
@click.option("--check", is_flag=True, help="Say what this kernel and these rights offer, and stop.")
@click.version_option(__version__, prog_name="pagefault-trace")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARGS]...]")
def command_line(**given: Any) -> int:
    """Trace the page faults of a process and print when each page gained its physical frame.

    Give --pid for a process that runs already, or a COMMAND to trace from its
    first instruction. --region, --perms and --kind choose what is shown; the
    CSV has every fault all the same.
    """
    given["perms"] = given["perms"] or ""
    given["kind"] = given["kind"] or frozenset()
    options = Options(**given)
    if options.check:
        from tracer.check import report

        return report()
    if options.pid and options.command:
        raise TraceError(
            "--pid and a command cannot go together",
            "trace a running process, or start one, not both",
            Exit.USAGE,
        )
    if not options.pid and not options.command:
        raise TraceError(
            "nothing to trace", "give --pid N or -- COMMAND; --help has examples", Exit.USAGE
        )
    return trace(options)


def main() -> NoReturn:
    """The entry point: every error becomes one line on stderr and an exit status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """`main` with the arguments given and the status returned."""
    in_command_mode = "--" in arguments
    try:
        return int(command_line.main(arguments, "pagefault-trace", standalone_mode=False) or 0)
    except click.exceptions.Exit as leaving:  # --help, --version
        return leaving.exit_code
    except click.ClickException as error:
        _complain(error.format_message() + "; see pagefault-trace --help")
        return Exit.TRACER_FAILED if in_command_mode else Exit.USAGE
    except click.Abort:
        return 128 + signal.SIGINT
    except TraceError as error:
        _complain(str(error))
        shown = (Exit.NOT_FOUND, Exit.NOT_EXECUTABLE)
        return Exit.TRACER_FAILED if in_command_mode and error.code not in shown else error.code


def _complain(message: str) -> None:
    from tracer.text import printable

    lines = " ".join(printable(line) for line in message.splitlines())
    with contextlib.suppress(OSError):
        print(f"pagefault-trace: {lines}", file=sys.stderr)


# -- one trace --------------------------------------------------------------------


def trace(options: Options) -> int:
    """Set up, trace, report; returns the exit status. Raises TraceError."""
    from tracer.identity import resolve_user
    from tracer.target import Command, validate_pid

    require_rights()
    for pid in options.pid:
        validate_pid(pid)
    identity = resolve_user(options.user, os.environ)
    with contextlib.ExitStack() as stack:
        # Before anything else is opened: what the command inherits is what we were given.
        command = None
        if options.command:
            command = stack.enter_context(Command(options.command, os.environ, identity))
        files = Files(options, (identity.uid, identity.gid) if identity else None)
        stack.callback(files.abandon)
        return _trace(options, command, files)


def _trace(options: Options, command: Any, files: "Files") -> int:
    from tracer.picks import Picks
    from tracer.probes.choose import attach
    from tracer.resources import bpf_dir
    from tracer.session import Plan, Session

    with contextlib.closing(attach(options.probe, bpf_dir())) as attached:
        plan = Plan(
            pids=list(options.pid),
            command=command,
            children=options.children,
            duration_s=options.duration,
            snapshot_interval_ms=options.snapshot_interval,
            range=options.range,
            min_latency_ns=options.min_latency,
            symbols=options.symbols,
            picks=Picks(options.region, options.perms, options.kind),
        )
        session = Session(attached, plan)
        report = Report(options, files, session, attached)
        with report.failing_cleanly(), _signals(session, command) as interrupts:
            result = session.run(started=report.begin)
        attached.close()
        report.finish(result)
    return _status(command, result.exit_status, interrupts, report)


def _status(command: Any, status: int | None, interrupts: list[int], report: "Report") -> int:
    if command is None:
        return report.status
    if status is None and len(interrupts) < 2:
        status = command.wait()  # the trace is over; the command, a child of ours, is not
    if status is None:
        return 128 + interrupts[-1]
    return int(status)


def require_rights() -> None:
    """Raise TraceError unless we hold CAP_SYS_ADMIN (bit 21 of CapEff), which BPF and pagemap want."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapEff:") and int(line.split()[1], 16) >> 21 & 1:
                return
    raise TraceError(
        "tracing needs root",
        "run it with sudo",
        Exit.NO_RIGHTS,
    )


@contextlib.contextmanager
def _signals(session: Any, command: Any) -> Iterator[list[int]]:
    """Signals while tracing; yields the list of those that came.

    Attached: SIGINT, SIGTERM and SIGHUP end the trace. With a command, SIGINT
    is the terminal's to deliver and SIGTERM and SIGHUP are passed on; the trace
    ends with the command, or at once with the second signal.
    """
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        came.append(number)
        if command is not None and number != signal.SIGINT:
            command.send_signal(number)
        if command is None or len(came) > 1:
            session.stop()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[signal.Signals, Any] = {n: signal.signal(n, handle) for n in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Files:
    """The files a run writes, opened before it starts so that a bad path is known at once."""

    options: Options
    owner: tuple[int, int] | None
    _open: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        from tracer.outputs.files import open_output
        from tracer.outputs.meta import MetaFile

        options = self.options
        self.csv: Any = None
        self.meta: Any = None
        self.pages: Any = None
        self.text: Any = None
        try:
            if options.csv:
                self.csv = self._keep(open_output(options.csv, self.owner, options.force))
                if not options.csv.startswith(("-", "/dev/")):
                    self.meta = self._keep(MetaFile(options.csv, self.owner, options.force))
            if options.pages_csv:
                self.pages = self._keep(open_output(options.pages_csv, self.owner, options.force))
            if options.output:
                self.text = self._keep(open_output(options.output, self.owner, options.force))
        except TraceError:
            self.abandon()
            raise

    def _keep(self, file: Any) -> Any:
        self._open.append(file)
        return file

    def keep_all(self) -> None:
        """Tracing has begun: from now on what was written stays, whatever happens."""
        self._open.clear()

    def abandon(self) -> None:
        """Tracing never began: leave no half-written file."""
        for file in self._open:
            with contextlib.suppress(TraceError, OSError):
                file.discard()
        self._open.clear()


class Report:
    """What the user gets: lines as they come, the log, the summary, the facts."""

    def __init__(self, options: Options, files: Files, session: Any, attached: Any) -> None:
        from tracer.outputs.summary import Summary

        self.options, self.files = options, files
        self.session, self.attached = session, attached
        self.status = 0
        self.summary = Summary()
        self.console = self._console()
        self.info = self._info()
        symbolizer = self._symbolizer()
        session.outputs.live.append(self.summary)
        if not options.quiet and options.csv != "-":
            self._add_lines(symbolizer)
        if files.csv is not None:
            from tracer.outputs.csv import CsvOutput

            session.outputs.log.append(CsvOutput(files.csv, symbolizer))

    def _console(self) -> Any:
        from rich.console import Console

        if self.files.text is not None:
            return Console(file=_TextFile(self.files.text), force_terminal=False, width=200)
        return Console(stderr=self.options.csv == "-", highlight=False)

    def _add_lines(self, symbolizer: Any) -> None:
        from tracer.outputs.console import ConsoleOutput

        wall = self.info.started_wall_ns - self.info.started_monotonic_ns
        lines = ConsoleOutput(
            self.console,
            self.info.started_monotonic_ns,
            wall,
            self.options.time,  # type: ignore[arg-type]
            symbolizer,
        )
        self.session.outputs.live.append(lines)

    def _symbolizer(self) -> Callable[[Any], list[str]] | None:
        if not self.options.symbols:
            return None
        from tracer.symbols import Symbols

        symbols = Symbols(self.session.names.regions, self.session.inode_of)
        return lambda rows: symbols.names(rows["ip"], rows["ip_region"])

    def _info(self) -> Any:
        from tracer.outputs.base import RunInfo

        options = self.options
        filters = {
            "range": "-".join(f"{at:#x}" for at in options.range or ()),
            "min_latency": f"{options.min_latency}ns" if options.min_latency else "",
            "region": ",".join(options.region),
            "perms": options.perms,
            "kind": ",".join(sorted(kind.name.lower() for kind in options.kind)),
        }
        return RunInfo(
            host=socket.gethostname(),
            kernel=os.uname().release,
            command=list(options.command),
            pids=list(options.pid),
            probe=self.attached.probe.name,
            probe_reason=self.attached.reason,
            started_monotonic_ns=time.monotonic_ns(),
            started_wall_ns=time.time_ns(),
            snapshot_interval_ms=options.snapshot_interval,
            filters={name: value for name, value in filters.items() if value},
            notes=[] if self.attached.direct_map.base else [_no_walk(self.attached)],
        )

    def begin(self) -> None:
        """The hooks are in place."""
        if self.files.meta is not None:
            self.files.meta.start(self.info)
        self.files.keep_all()

    @contextlib.contextmanager
    def failing_cleanly(self) -> Iterator[None]:
        """Whatever ends the trace early, the CSV ends with a whole line."""
        try:
            yield
        finally:
            for output in self.session.outputs.log:
                output.close()

    def finish(self, result: Any) -> None:
        """The summary, the pages and the facts."""
        from tracer.outputs.pages import write_pages

        info, names = self.info, self.session.names
        info.ended_monotonic_ns = result.ended_ns
        info.snapshots = result.snapshots
        info.exit_status = result.exit_status
        info.notes += result.notes
        if self.files.pages is not None:
            write_pages(self.files.pages, result.pages, names)
            self.files.pages.close()
        if self.files.meta is not None:
            self.files.meta.finish(info, result.books)
        if result.stdout_closed:
            self._leave_quietly()
            return
        try:
            shown = self.session.plan.picks.choose_pages(result.pages, names)
            self.summary.render(self.console, names, result.books, shown, info)
            if self.files.text is not None:
                self.files.text.close()
        except BrokenPipeError:
            self._leave_quietly()

    def _leave_quietly(self) -> None:
        from tracer.pipes import PIPE_CLOSED, discard_stdout

        discard_stdout()
        self.status = PIPE_CLOSED


class _TextFile:
    """An OutputFile as the text stream rich writes to."""

    encoding = "utf-8"

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(text.encode("utf-8", "replace"))
        return len(text)

    def flush(self) -> None:
        """Every write is out already."""

    def isatty(self) -> bool:
        return False


def _no_walk(attached: Any) -> str:
    return f"frames are known from snapshots only: {attached.direct_map.reason}"


if __name__ == "__main__":
    main()
