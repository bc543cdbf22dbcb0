"""pagefault-report: subcommands and exit codes. Reports themselves are imported on demand."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from tracer import __version__
from tracer.common.errors import Exit, TraceError, complain, of_stdout, unexpected
from tracer.common.imports import require_room
from tracer.common.pipes import PIPE_CLOSED, discard_stdout
from tracer.common.shortage import is_short, short

if TYPE_CHECKING:
    from tracer.reporting.reading.run import Run

PROGRAM = "pagefault-report"
EPILOG = """\b
Examples:
  pagefault-report trace.csv
  pagefault-report summary --pages pages.csv trace.csv
  pagefault-report plot trace.csv -o trace.svg
  pagefault-report html trace.csv -o trace.html
  pagefault-report flame trace.csv -o trace.svg
  pagefault-report diff before.csv after.csv
  pagefault-report export --perfetto trace.csv -o trace.pftrace
"""


class _Commands(click.Group):
    """`pagefault-report FILE` is `pagefault-report summary FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if not args:
            raise click.UsageError("name the CSV file to report on")
        if args[0] not in own and args[0] not in self.commands:
            args = ["summary", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def command_line() -> None:
    """Analyse a finished trace: summary, plots, flame graph, HTML page, export to other viewers.

    FILE is the output of pagefault-trace --csv; FILE.meta.json and the output of --pages-csv and
    --stacks next to it are read if they exist. Needs no root. FILE alone means: summary FILE.
    """


_FILE = click.argument("file", metavar="FILE")
_PAGES = click.option(
    "--pages",
    metavar="FILE",
    help="Output of --pages-csv. [default: the file that FILE.meta.json names]",
)
_STACKS = click.option(
    "--stacks",
    metavar="FILE",
    help="Output of --stacks. [default: the file that FILE.meta.json names, or FILE.stacks.csv]",
)
_FORCE = click.option("--force", is_flag=True, help="Overwrite a file that exists.")


def _output(suffix: str) -> Callable[[Any], Any]:
    return click.option(
        "-o", "--output", metavar="FILE", help=f"Output file. [default: FILE with {suffix}]"
    )


@command_line.command()
@_FILE
@_PAGES
@_STACKS
@click.option(
    "-n", "--top", type=click.IntRange(1), default=20, show_default=True, help="Rows per table."
)
def summary(file: str, pages: str | None, stacks: str | None, top: int) -> None:
    """Print a summary. It has faults by kind, region, thread, function; access order; latencies."""
    from tracer.reporting.reading.run import load
    from tracer.reporting.text.summary import console, print_summary

    print_summary(console(), load(file, pages, stacks), top)


@command_line.command()
@_FILE
@_PAGES
@_STACKS
@_output(".svg")
@click.option(
    "--weight",
    type=click.Choice(["gained", "resident", "time", "faults"]),
    default="gained",
    show_default=True,
    help="What the width of a box means: memory that gained a frame, memory still mapped at the "
    "end (needs a pages file), time in faults, or number of faults.",
)
@_FORCE
def flame(
    file: str,
    pages: str | None,
    stacks: str | None,
    output: str | None,
    weight: str,
    force: bool,
) -> None:
    """Draw a flame graph: which code made pages resident. Needs a trace made with --stacks."""
    from tracer.reporting.pictures.flamesvg import svg
    from tracer.reporting.reading.run import load
    from tracer.reporting.writing import beside, writing

    with writing(output or beside(file, ".svg"), force) as write:
        resident = weight == "resident"
        run = load(file, pages, stacks, wants_stacks=True, wants_pages=resident)
        write(svg(run, cast(Any, weight)))


@command_line.command()
@_FILE
@_PAGES
@_output(".png")
@click.option(
    "--only",
    type=click.Choice(["map", "resident", "latency"]),
    help="Draw one plot only: frames gained over time, memory size, or latencies.",
)
@_FORCE
def plot(file: str, pages: str | None, output: str | None, only: str | None, force: bool) -> None:
    """Plot frames gained, memory size and fault latencies over time, as a PNG or SVG file."""
    from tracer.reporting.pictures.plot import format_of, picture
    from tracer.reporting.reading.needs import library
    from tracer.reporting.reading.run import load
    from tracer.reporting.writing import beside, writing

    path = output or beside(file, ".png")
    kind = format_of(path)
    library("matplotlib")  # before all the work, not after it
    with writing(path, force) as write:
        write([picture(load(file, pages), cast(Any, only or "all"), kind)])


@command_line.command()
@_FILE
@_PAGES
@_STACKS
@_output(".html")
@_FORCE
def html(file: str, pages: str | None, stacks: str | None, output: str | None, force: bool) -> None:
    """Write a self-contained HTML page. It has a replay of the page map, plots, sortable tables."""
    from tracer.reporting.pictures.html import page
    from tracer.reporting.reading.run import load
    from tracer.reporting.writing import beside, writing

    with writing(output or beside(file, ".html"), force) as write:
        write([page(load(file, pages, stacks))])


@command_line.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "-n", "--top", type=click.IntRange(1), default=20, show_default=True, help="Rows per table."
)
def diff(before: str, after: str, top: int) -> None:
    """Compare two runs: faults, frames, regions, order of first touch, latency."""
    from tracer.reporting.reading.run import load
    from tracer.reporting.text.diff import print_diff
    from tracer.reporting.text.summary import console

    print_diff(console(), load(before), load(after), top)


_SUFFIXES = {
    "perfetto": ".pftrace",
    "chrome": ".chrome.json",
    "folded": ".folded",
    "speedscope": ".speedscope.json",
}


@command_line.command()
@_FILE
@_PAGES
@_STACKS
@click.option("--perfetto", "form", flag_value="perfetto", help="For ui.perfetto.dev.")
@click.option("--chrome", "form", flag_value="chrome", help="JSON for chrome://tracing.")
@click.option("--folded", "form", flag_value="folded", help="Folded stacks for flame graphs.")
@click.option("--speedscope", "form", flag_value="speedscope", help="For speedscope.app.")
@click.option(
    "--weight",
    type=click.Choice(["bytes", "faults", "nanoseconds"]),
    default="bytes",
    show_default=True,
    help="What --folded counts: memory gained, faults, or time spent in them.",
)
@_output(".pftrace, .chrome.json, .folded or .speedscope.json")
@_FORCE
def export(
    file: str,
    pages: str | None,
    stacks: str | None,
    form: str | None,
    weight: str,
    output: str | None,
    force: bool,
) -> None:
    """Export the faults for another viewer. Give one of the first four options."""
    if form is None:
        raise click.UsageError("give one of --perfetto, --chrome, --folded, --speedscope")
    from tracer.reporting.reading.run import load
    from tracer.reporting.writing import beside, writing

    with writing(output or beside(file, _SUFFIXES[form]), force) as write:
        write(_exported(load(file, pages, stacks), form, weight))


def _exported(run: "Run", form: str, weight: str) -> Iterator[bytes]:
    if form == "perfetto":
        from tracer.reporting.exports.perfetto import perfetto

        return perfetto(run)
    if form == "chrome":
        from tracer.reporting.exports.chrome import chrome

        return chrome(run)
    from tracer.reporting.exports.flame import folded, speedscope

    return folded(run, weight) if form == "folded" else speedscope(run)


def main() -> NoReturn:
    """The entry point: every error becomes one line on stderr and an exit status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """`main` with the arguments given and the status returned."""
    try:
        require_room()
        with command_line.make_context(PROGRAM, list(arguments)) as context:
            command_line.invoke(context)
        return Exit.OK
    except click.exceptions.Exit as leaving:  # --help, --version
        return leaving.exit_code
    except click.ClickException as error:
        complain(f"{error.format_message().rstrip('.')}; see {PROGRAM} --help", PROGRAM)
        return Exit.USAGE
    except TraceError as error:
        complain(str(error), PROGRAM)
        return error.code
    except (MemoryError, ImportError, RuntimeError) as error:
        if not is_short(error):
            raise
        complain(str(short("", needs="a report needs some 100 bytes of memory per fault")), PROGRAM)
        return Exit.TRACER_FAILED
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT
    except BrokenPipeError:  # | head
        discard_stdout()
        return PIPE_CLOSED
    except OSError as error:
        if not of_stdout(error):
            complain(unexpected(error), PROGRAM)
            return Exit.TRACER_FAILED
        complain(f"cannot write standard output: {error.strerror}", PROGRAM)
        discard_stdout()
        return Exit.OUTPUT


if __name__ == "__main__":
    main()
