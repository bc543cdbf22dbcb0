"""The outputs of a trace: files, lines as they come, the summary, the facts."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, cast

from rich.console import Console

from tracer.app.options import Options, is_stdout, is_stream
from tracer.common.closing import Closing
from tracer.common.deadline import Enough, Stalled
from tracer.common.errors import TraceError, complain
from tracer.common.pipes import PIPE_CLOSED, discard_stdout
from tracer.files.output import open_output
from tracer.files.output_file import OutputFile
from tracer.files.paths import Owner
from tracer.files.text_file import TextFile
from tracer.model.result import Books, RunInfo, Verdict
from tracer.outputs.base import Output, Symbolizer
from tracer.outputs.console import ConsoleOutput
from tracer.outputs.csv import CsvOutput
from tracer.outputs.draining import DrainLine
from tracer.outputs.figures import Figures
from tracer.outputs.meta import MetaFile, State
from tracer.outputs.pages import write_pages
from tracer.outputs.summary import Summary
from tracer.outputs.verdict import complaints, verdict_of
from tracer.probes.choose import Attached
from tracer.session.plan import Result
from tracer.session.session import Session
from tracer.session.shutdown import PAGES_LEFT_OUT

if TYPE_CHECKING:
    from tracer.callstacks.source_lines import SourceLines
    from tracer.outputs.callers import Callers
    from tracer.outputs.stacks import StacksFile


_AT_ONCE = "an immediate end was requested"
_CLOCK_SLACK_NS = 100_000_000  # the two clocks are not read at one moment


class Files(Closing):
    """The files a run writes, opened before it starts so that a bad path is known at once.

    Closed before `keep`, for whatever reason, it removes what it made.
    """

    def __init__(self, options: Options) -> None:
        self.csv: OutputFile | None = None
        self.pages: OutputFile | None = None
        self.meta: MetaFile | None = None
        self.stacks: StacksFile | None = None
        self.text: OutputFile
        self.csv_on_stdout = any(is_stdout(name or "") for name in (options.csv, options.pages_csv))
        self._options = options
        self._open: list[OutputFile | MetaFile | StacksFile] = []

    def open(self, owner: Owner | None) -> None:
        """Open them all; new ones are `owner`'s. Raises TraceError (Exit.OUTPUT)."""
        options = self._options
        if options.csv:
            self.csv = self._opened(open_output(options.csv, owner, options.force))
            if self.csv.regular and not is_stream(options.csv):
                self.meta = MetaFile(options.csv, owner, options.force)
                self._open.append(self.meta)
            if options.stacks:
                from tracer.outputs.stacks import StacksFile

                self.stacks = StacksFile(options.csv, owner, options.force)
                self._open.append(self.stacks)
        if options.pages_csv:
            pages = open_output(options.pages_csv, owner, options.force, whole=True)
            self.pages = self._opened(pages)
        text = options.output or ("/dev/stderr" if self.csv_on_stdout else "-")
        self.text = self._opened(open_output(text, owner, options.force))

    def _opened(self, file: OutputFile) -> OutputFile:
        self._open.append(file)
        return file

    def keep(self) -> None:
        """Tracing has begun: from now on what is written stays, whatever happens."""
        self._open.clear()

    def close(self) -> None:
        """Tracing never began: leave no half-written file."""
        for file in self._open:
            try:
                file.discard()
            except TraceError as error:
                complain(str(error))
        self._open.clear()


class Sinks:
    """Attaches the outputs to a session, and writes the summary and the books at its end.

    `status` is the exit status as far as the tracer determines it, and `verdict` the part of
    it that --strict and --fail-if have; `failed` that of the first file that could not be written.
    """

    def __init__(
        self, options: Options, files: Files, session: Session, attached: Attached
    ) -> None:
        self.status = self.verdict = self.failed = 0
        self._unsaid: list[str] | None = [] if options.live else None  # until the screen is left
        self._rows_lack = False  # some faults are not in the CSV in full
        self._begun = False
        self._options, self._files, self._session = options, files, session
        self._summary = Summary()
        self._figures = Figures()
        if options.fail_if:
            session.outputs.count.append(self._figures)
        session.outputs.failed = self._output_failed
        for file in (files.csv, files.stacks, files.pages, files.text, files.meta):
            if file is not None:
                file.hasty = lambda: session.at_once
        self._console = _console(options, files)
        self._info = _facts(options, attached)
        symbolizer = self._symbolizer()
        session.outputs.live.append(self._summary)
        shown = not (files.csv_on_stdout or options.live)
        if not options.quiet and (options.output or shown):
            session.outputs.live.append(self._lines(symbolizer))
        self._callers = self._follow_stacks()
        self._csv = (
            None
            if files.csv is None
            else CsvOutput(files.csv, symbolizer, stacks=files.stacks is not None)
        )
        if self._csv is not None:
            session.outputs.log.append(self._csv)
        if not options.live and sys.stderr.isatty():
            session.outputs.meanwhile = DrainLine()

    def _follow_stacks(self) -> "Callers | None":
        """The counts by call stack, if requested; their file is written before the CSV."""
        session, file = self._session, self._files.stacks
        if session.stacks is None or session.naming is None:
            return None
        from tracer.outputs.callers import Callers

        if file is not None:
            file.follow(session.stacks, session.naming.frames, session.learn)
            session.outputs.log.append(file)
        callers = Callers(session.stacks, session.naming.frames)
        session.outputs.live.append(callers)
        return callers

    @property
    def callers(self) -> "Callers | None":
        """Counts by call stack, where those are recorded."""
        return self._callers

    @property
    def info(self) -> RunInfo:
        """The facts of the run."""
        return self._info

    def _lines(self, symbolizer: Symbolizer | None) -> ConsoleOutput:
        info = self._info
        wall = info.started_wall_ns - info.started_monotonic_ns
        started = info.started_monotonic_ns
        return ConsoleOutput(self._console, started, wall, self._options.time, symbolizer)

    def _symbolizer(self) -> Symbolizer | None:
        naming = self._session.naming
        if not self._options.symbols or naming is None:
            return None
        from tracer.callstacks.naming import RowSymbols

        return RowSymbols(naming, lambda: self._session.at_once)

    def begin(self) -> None:
        """Tracing begins: the hooks are attached, the targets exist."""
        if self._files.meta is not None:
            self._files.meta.start(self._info)
        self._files.keep()
        self._begun = True
        quiet = self._options.quiet or self._options.live
        if self._options.pid and not quiet and sys.stderr.isatty():
            # Nothing else may come for a while.
            which = ", ".join(str(pid) for pid in self._info.pids)
            print(
                f"pagefault-trace: tracing {which} with the {self._info.probe} probe; Ctrl-C ends",
                file=sys.stderr,
            )

    @contextlib.contextmanager
    def failing_cleanly(self) -> Iterator[None]:
        """Close the CSV after a complete line, whatever ends the trace; mark a failed trace so."""
        finished = False
        try:
            yield
            finished = True
        finally:
            if self._begun:  # else `Files` removes what it made
                with contextlib.ExitStack() as stack:  # each, even where another fails
                    if not finished:
                        stack.callback(self._give_up)
                    stack.callback(self._close_csv)
                    self._screen_left()

    def _screen_left(self) -> None:
        """Print the messages held back while the screen was filled."""
        unsaid, self._unsaid = self._unsaid or [], None
        for line in unsaid:
            self._say(line)

    def _output_failed(self, output: Output, error: TraceError) -> None:
        """One output failed; the others go on."""
        self._rows_lack |= output in (self._csv, self._files.stacks)
        self._fail(error)

    def _fail(self, error: TraceError) -> None:
        """A file is incomplete: report it at once, and in what is written later."""
        if self._unsaid is not None:
            self._unsaid.append(str(error))
        else:
            self._say(str(error))
        self._info.notes.append(f"output is incomplete: {error.message}")
        self.failed = self.failed or error.code

    def _close_csv(self) -> None:
        if self._csv is None:
            return
        try:
            self._csv.close()
        except (BrokenPipeError, Stalled):
            self.status = PIPE_CLOSED
        except TraceError as error:
            self._output_failed(self._csv, error)
        if not self._session.outputs.log and not self._rows_lack:  # its reader went away
            self.status = PIPE_CLOSED

    def _give_up(self) -> None:
        if self._files.pages is not None:
            with contextlib.suppress(TraceError):
                self._files.pages.discard()
        if self._files.meta is not None:
            with contextlib.suppress(TraceError):
                self._files.meta.fail(self._info)

    def finish(self, result: Result) -> None:
        """Write the summary, the pages and the facts; each of them even where another fails."""
        info = self._info
        info.ended_monotonic_ns = result.ended_ns
        self._compare_clocks()
        info.snapshots = result.snapshots
        info.exit_status = result.exit_status
        info.mapped = result.mapped
        info.resident = result.resident
        info.notes += [*self._left_out(), *result.notes]
        if result.stalled:
            self.status = PIPE_CLOSED
        lines = self._source_lines()
        if self._session.naming is not None:
            info.notes += self._session.naming.notes()
        if self._callers is not None:
            info.notes += self._callers.notes()
        if lines is not None and lines.lacking and self._files.stacks is not None:
            info.notes.append(f"stacks: no source lines: {lines.lacking}")
        info.verdict = self._judge(result.books)
        with contextlib.ExitStack() as stack:
            stack.callback(self._complain)
            stack.callback(self._attempt, lambda: self._write_meta(result))
            stack.callback(self._attempt, lambda: self._write_pages(result))
            stack.callback(self._attempt, lambda: self._write_stacks(lines))
            self._attempt(lambda: self._print_summary(result, lines))

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except TraceError as error:
            self._fail(error)

    def _compare_clocks(self) -> None:
        """Whether the wall clock was set: CLOCK_MONOTONIC, which timestamps use, cannot be."""
        info = self._info
        before = info.started_wall_ns - info.started_monotonic_ns
        moved = time.time_ns() - time.monotonic_ns() - before
        if abs(moved) < _CLOCK_SLACK_NS:
            return
        info.wall_moved_ns = moved
        info.notes.append(
            f"the clock was set by {moved / 1e9:+.1f} s during the trace, or the machine was "
            "suspended: times of day are by the clock as it was at the start"
        )

    def _judge(self, books: Books) -> Verdict:
        options = self._options
        values = self._figures.values(books) if options.fail_if else {}
        return verdict_of(books, values, options.fail_if, options.strict)

    def _complain(self) -> None:
        """Report what violates --strict and --fail-if: last, and in the exit status."""
        verdict = self._info.verdict
        if verdict is not None and verdict.status:
            self.status = self.verdict = verdict.status
            for line in complaints(verdict):
                self._say(line)

    def _say(self, line: str) -> None:
        """Print on stderr, where no other output is left."""
        complain(line, hasty=self._session.at_once)

    def _left_out(self) -> list[str]:
        row_filter = self._session.plan.row_filter
        if not row_filter:
            return []
        options = " ".join(f"--{name} {text}" for name, text in _picked(self._options).items())
        whole = "the totals and the CSV include" if self._options.csv else "the totals include"
        return [
            f"{options} shows {row_filter.shown} of {row_filter.seen} faults; "
            f"{whole} all {row_filter.seen}"
        ]

    def _source_lines(self) -> "SourceLines | None":
        """Source lines and demangled names of stack frames, looked up once the trace is over."""
        session = self._session
        naming = session.naming
        if session.stacks is None or naming is None:
            return None
        from tracer.callstacks.source_lines import SourceLines, find

        try:
            naming.settle(lambda: session.at_once)
            locations = session.stacks.locations
            functions = (naming.frames.frame(location).function for location in locations)
            return find(locations, functions, naming.lookup, lambda: session.at_once)
        except Enough:
            naming.finish()
            why = _AT_ONCE if session.at_once else "there was no time left"
            return SourceLines(lacking=why)

    def _write_stacks(self, lines: "SourceLines | None") -> None:
        if self._files.stacks is None or lines is None:
            return
        try:
            self._files.stacks.finish(lines, lambda: self._session.at_once)
        except Enough:
            self._info.notes.append(f"stacks: no source lines: {_AT_ONCE}")
        except TraceError:
            self._rows_lack = True
            raise

    def _print_summary(self, result: Result, lines: "SourceLines | None") -> None:
        if self._files.text.failed:
            self._close_text()
            return
        try:
            if result.stdout_closed:
                raise BrokenPipeError
            names = self._session.names
            row_filter = self._session.plan.row_filter
            pages = result.pages and [row_filter.choose_pages(each, names) for each in result.pages]
            books = row_filter.choose_books(result.books, names)
            callers = None if self._callers is None or lines is None else (self._callers, lines)
            self._files.text.renew()
            self._summary.render(self._console, names, books, pages, self._info, callers)
            self._files.text.close()
        except BrokenPipeError:
            discard_stdout()
            self.status = PIPE_CLOSED
        except TraceError:
            self._close_text()
            raise
        except Stalled as error:
            self._say(f"the summary was left out: {error} is not being read, and {_AT_ONCE}")
            self.status = PIPE_CLOSED

    def _close_text(self) -> None:
        with contextlib.suppress(TraceError):
            self._files.text.close()

    def _write_pages(self, result: Result) -> None:
        file = self._files.pages
        if file is None:
            return
        try:
            write_pages(file, result.pages, self._session.names, lambda: self._session.at_once)
            file.close()
        except BrokenPipeError:
            self.status = PIPE_CLOSED
        except Enough:
            self._say_pages_left_out()
            file.close()
        except Stalled:
            self.status = PIPE_CLOSED
            self._say_pages_left_out()
            file.discard()
        except TraceError:
            self._info.pages_csv = ""  # a file that exists is of another run
            with contextlib.suppress(TraceError):
                file.discard()
            raise

    def _say_pages_left_out(self) -> None:
        if PAGES_LEFT_OUT not in self._info.notes:  # nor in the summary then
            self._info.notes.append(PAGES_LEFT_OUT)
            self._say(PAGES_LEFT_OUT)

    def _write_meta(self, result: Result) -> None:
        if self._files.meta is not None:
            state: State = "failed" if self._rows_lack else "finished"
            self._files.meta.finish(self._info, result.books, state)


def _picked(options: Options) -> dict[str, str]:
    """The display filters, as given."""
    given = {
        "region": ",".join(options.region),
        "perms": options.perms,
        "kind": ",".join(sorted(kind.name.lower() for kind in options.kind)),
    }
    return {name: text for name, text in given.items() if text}


def _facts(options: Options, attached: Attached) -> RunInfo:
    filters = {
        "range": "-".join(f"{at:#x}" for at in options.range or ()),
        "min_latency": f"{options.min_latency}ns" if options.min_latency else "",
    }
    return RunInfo(
        host=socket.gethostname(),
        kernel=os.uname().release,
        command=list(options.command),
        pids=list(dict.fromkeys(options.pid)),
        probe=attached.probe.name,
        probe_reason=attached.reason,
        probe_brief=attached.brief,
        started_monotonic_ns=time.monotonic_ns(),
        started_wall_ns=time.time_ns(),
        snapshot_interval_ms=options.snapshot_interval,
        filters={name: text for name, text in filters.items() if text} | _picked(options),
        notes=_cautions(attached),
        pages_csv=_beside(options.csv, options.pages_csv),
        stacks=_stacks_beside(options),
    )


def _beside(csv: str | None, pages_csv: str | None) -> str:
    """The pages file relative to the CSV's directory; "" where one of them is no file."""
    if not csv or not pages_csv or "-" in (csv, pages_csv):
        return ""
    return os.path.relpath(pages_csv, os.path.dirname(csv) or ".")


def _stacks_beside(options: Options) -> str:
    """The call-stack file relative to the CSV's directory; "" where there is none."""
    if not options.stacks or not options.csv:
        return ""
    from tracer.outputs.stacks import SUFFIX

    return os.path.basename(options.csv) + SUFFIX


def _cautions(attached: Attached) -> list[str]:
    """Limitations of the probe, for the notes of a run."""
    notes = []
    if not attached.direct_map.base:
        notes.append(f"frames are known from snapshots only: {attached.direct_map.reason}")
    if attached.walk:
        notes.append(f"stacks are walked by frame pointers: {attached.walk}")
    if why := attached.probe.inexact():
        notes.append(f"{attached.probe.name} may miss faults: {why}; --probe auto avoids it")
    return notes


def _console(options: Options, files: Files) -> Console:
    encoding = getattr(sys.stderr if files.csv_on_stdout else sys.stdout, "encoding", None)
    stream = TextFile(files.text, "utf-8" if options.output else encoding or "utf-8")
    plain = False if options.output else None  # None: as the terminal is, if it is one
    return Console(file=cast(IO[str], stream), force_terminal=plain, highlight=False)
