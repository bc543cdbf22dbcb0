"""pagefault-trace: options and exit codes. A trace is set up in tracer.app.run.

Nothing heavy is imported here (numpy, rich, bcc): --help, --version and a
mistyped option answer at once.
"""

import os
import signal
import sys
from typing import Any, NoReturn

import click

from tracer import __version__
from tracer.app.options import (
    Options,
    PidsCommand,
    Whole,
    address_range,
    budgets,
    is_stdout,
    is_stream,
    kinds,
    nanoseconds,
    permissions,
    reader,
    ring_bytes,
    seconds,
    seconds_or_none,
)
from tracer.common.errors import Exit, Interrupted, TraceError, complain, of_stdout, unexpected
from tracer.common.imports import imports_for_much_data
from tracer.common.pipes import PIPE_CLOSED, discard_stdout
from tracer.common.shortage import shortage_of, warning
from tracer.common.timings import Timings
from tracer.files.served import resolved

PROGRAM = "pagefault-trace"
EPILOG = """\b
Examples:
  sudo pagefault-trace --pid 4242
  sudo pagefault-trace -- multimap
  sudo pagefault-trace --csv faults.csv -- python3 -c 'bytearray(1 << 24)'
  sudo pagefault-trace --pid 4242 --duration 10 --quiet
  sudo pagefault-trace --perms rwx --pages-csv pages.csv -- multimap --auto
  sudo pagefault-trace --kind cow,huge --symbols -- make
  sudo pagefault-trace --stacks --csv faults.csv -- ./program
  sudo pagefault-trace --strict --fail-if 'major>0' -q -- ./benchmark
  sudo pagefault-trace --live -- multimap
  sudo pagefault-trace --check
"""


@click.command(
    cls=PidsCommand,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
        "max_content_width": 100,
    },
    epilog=EPILOG,
)
@click.option(
    "-p",
    "--pid",
    metavar="N",
    type=Whole(1),
    multiple=True,
    help="Trace a running process, or several: -p 1,2 or $(pidof NAME); repeatable.",
)
@click.option(
    "--csv",
    metavar="FILE",
    help="Write every fault to FILE ('-': stdout); metadata of the run goes to FILE.meta.json.",
)
@click.option(
    "--pages-csv",
    metavar="FILE",
    help="Write one row per page to FILE: when and how it gained its frame.",
)
@click.option(
    "-o", "--output", metavar="FILE", help="Write lines and summary to FILE instead of stdout."
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option(
    "-d",
    "--duration",
    metavar="SECONDS",
    callback=reader(seconds),
    help="End the trace (not the command) after SECONDS.",
)
@click.option(
    "--drain",
    metavar="SECONDS",
    default="10",
    show_default=True,
    callback=reader(seconds_or_none),
    help="CPU time for reading the rest of the ring at the end; unread events count as lost.",
)
@click.option(
    "--probe",
    type=click.Choice(["auto", "fentry", "kprobe", "perf"]),
    default="auto",
    show_default=True,
    help="How to hook the kernel's fault path.",
)
@click.option(
    "--snapshot-interval",
    metavar="MS",
    type=Whole(10),
    default=1000,
    show_default=True,
    help="Interval between pagemap snapshots; idle address spaces are skipped.",
)
@click.option(
    "--buffer",
    metavar="SIZE",
    default="64M",
    show_default=True,
    callback=reader(ring_bytes),
    help="Size of the ring buffer; events that find no room in it count as lost.",
)
@click.option(
    "--range",
    metavar="START-END",
    callback=reader(address_range),
    help="Record only faults in this address range, in hex as in maps; filtered in the kernel.",
)
@click.option(
    "--min-latency",
    metavar="TIME",
    default="0ns",
    callback=reader(nanoseconds),
    help="Record only faults that took at least TIME, e.g. 20us; filtered in the kernel.",
)
@click.option(
    "--region",
    metavar="NAME",
    multiple=True,
    help="Show only regions whose name contains NAME (or matches it with * and ?); repeatable.",
)
@click.option(
    "--perms",
    metavar="PERMS",
    callback=reader(permissions),
    help="Show only regions with these permissions, e.g. rwx.",
)
@click.option(
    "--kind",
    metavar="KIND[,KIND...]",
    callback=reader(kinds),
    help="Show only these kinds of faults, e.g. anon,cow.",
)
@click.option(
    "--children/--no-children",
    default=True,
    show_default=True,
    help="Follow forks: trace child processes, too.",
)
@click.option(
    "--time",
    type=click.Choice(["relative", "wall", "monotonic"]),
    default="relative",
    show_default=True,
    help="Clock of the timestamps on lines.",
)
@click.option("--symbols", is_flag=True, help="Name the faulting instruction as function+offset.")
@click.option(
    "--stacks",
    is_flag=True,
    help="Record the call stack of each fault: which code made pages resident. Python's functions"
    " are shown in place of the interpreter's own; --stacks=native shows both.",
)
@click.option(
    "--jvm-perfmap",
    is_flag=True,
    help="With --stacks, have traced JVMs write their perf maps, by jcmd: names of Java methods.",
)
@click.option(
    "--user",
    metavar="USER",
    help="Run the command as USER. [default: under sudo, the user who called it]",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 121 if events were lost or the books do not balance.",
)
@click.option(
    "--fail-if",
    metavar="BUDGET",
    multiple=True,
    callback=budgets,
    help="Exit with 122 if BUDGET holds, e.g. 'major>0' or 'p99>2ms'; repeatable.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the summary only.")
@click.option("--live", is_flag=True, help="Show a live full-screen map of the pages.")
@click.option(
    "--check",
    is_flag=True,
    help="Report what works on this kernel with these privileges, and exit.",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.argument(
    "command",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[-- COMMAND [ARGS]...]",
)
def command_line(**given: Any) -> int:
    """Trace the page faults of a process and print when each page gained its physical frame.

    Give --pid for a running process, or a COMMAND to trace from its first
    instruction. --region, --perms and --kind choose what is shown; the CSV
    always has every fault.
    """
    timings = Timings()
    options = Options(**{name: value for name, value in given.items() if value is not None})
    if options.check:
        _warn(options)
        from tracer.app.check import check

        return check()
    _validate(options)
    return _trace(options, timings)


def _trace(options: Options, timings: Timings) -> int:
    """Import what a trace needs while the probe is compiled."""
    from tracer.common.resources import bpf_dir
    from tracer.probes.compilation import Compilation
    from tracer.target.rights import require_rights

    require_rights()
    _warn(options)
    with Compilation(options.probe, bpf_dir(), stacks=options.stacks) as compilation:
        timings.lap("Python and options")
        with imports_for_much_data():
            from tracer.app.run import trace
        timings.lap("imports")
        return trace(options, compilation, timings)


def _warn(options: Options) -> None:
    """Print now what may not be printable later."""
    if said := warning(options.buffer):
        complain(said)


def main() -> NoReturn:
    """The entry point: every error becomes one line on stderr and an exit status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """`main` with the arguments given and the status returned."""
    try:
        _open_standard_files()
        # Not command_line.main: it would turn a closed pipe into status 1.
        with command_line.make_context(PROGRAM, list(arguments)) as context:
            return int(command_line.invoke(context) or 0)
    except click.exceptions.Exit as leaving:  # --help, --version
        return leaving.exit_code
    except click.ClickException as error:
        complain(f"{error.format_message().rstrip('.')}; see {PROGRAM} --help")
        return Exit.TRACER_FAILED if _is_command_mode(arguments) else Exit.USAGE
    except (TraceError, MemoryError, ImportError, RuntimeError) as error:
        failed = error if isinstance(error, TraceError) else shortage_of(error)
        if failed is None:
            raise
        complain(str(failed))
        shown = (Exit.NOT_FOUND, Exit.NOT_EXECUTABLE)
        mine = _is_command_mode(arguments) and failed.code not in shown
        return Exit.TRACER_FAILED if mine else failed.code
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except KeyboardInterrupt:  # before anything was set up
        return 128 + signal.SIGINT
    except BrokenPipeError:  # --help | head -1
        discard_stdout()
        return PIPE_CLOSED
    except OSError as error:  # --help >/dev/full
        if not of_stdout(error):
            complain(str(shortage_of(error) or unexpected(error)))
            return Exit.TRACER_FAILED
        complain(f"cannot write standard output: {error.strerror}")
        discard_stdout()
        return Exit.OUTPUT


def _validate(options: Options) -> None:
    """Raise TraceError for options that do not go together."""
    if options.pid and options.command:
        raise TraceError(
            "--pid and a command cannot go together",
            "trace a running process, or start one, not both",
            Exit.USAGE,
        )
    if not options.pid and not options.command:
        raise TraceError(
            "nothing to trace",
            f"give --pid N or -- COMMAND; {PROGRAM} --help has examples",
            Exit.USAGE,
        )
    _validate_words(options)
    _validate_stacks(options)
    _validate_files(options)
    if options.live:
        _validate_terminal(options)


def _validate_words(options: Options) -> None:
    """Raise TraceError for an empty argument: most likely a shell variable that is not set."""
    words = (
        ("csv", options.csv),
        ("pages-csv", options.pages_csv),
        ("output", options.output),
        ("user", options.user),
        *(("region", name) for name in options.region),
    )
    for name, text in words:
        if text == "":
            raise TraceError(f"--{name} is empty", "give it a value, or leave it out", Exit.USAGE)
    if options.command and not options.command[0]:
        raise TraceError("the command is empty", "name a program after --", Exit.USAGE)


def _validate_stacks(options: Options) -> None:
    """Raise TraceError where an option is of call stacks, and there are none."""
    if options.jvm_perfmap and not options.stacks:
        raise TraceError(
            "--jvm-perfmap names code in call stacks", "give --stacks, too", Exit.USAGE
        )


def _validate_files(options: Options) -> None:
    """Raise TraceError where two outputs would be written into one file."""
    given = [name for name in (options.csv, options.pages_csv, options.output) if name]
    if options.csv and options.stacks and is_stream(options.csv):
        raise TraceError(
            "--stacks writes FILE.stacks.csv beside the CSV, which goes to a stream here",
            "name a file with --csv, or leave one of the two out",
            Exit.USAGE,
        )
    if options.csv and not is_stream(options.csv):
        given.append(options.csv + ".meta.json")  # outputs.meta.SUFFIX, which imports numpy
        given += [options.csv + ".stacks.csv"] if options.stacks else []
    paths = ["-" if is_stdout(name) else resolved(name) for name in given]
    paths = [path for path in paths if path != os.devnull]
    if len(set(paths)) < len(paths):
        raise TraceError(
            "--csv, --pages-csv and --output name the same file",
            "give each a file of its own (--csv FILE writes FILE.meta.json, too, and with --stacks"
            " FILE.stacks.csv)",
            Exit.USAGE,
        )


def _validate_terminal(options: Options) -> None:
    """Raise TraceError where --live would have nothing to draw on."""
    if is_stdout(options.csv or "") or is_stdout(options.pages_csv or ""):
        raise TraceError(
            "--live draws on standard output, where the CSV is to go",
            "write the CSV to a file",
            Exit.USAGE,
        )
    if not (os.isatty(0) and os.isatty(1)) or os.environ.get("TERM", "dumb") == "dumb":
        raise TraceError(
            "--live needs a terminal on standard input and output",
            "run without --live to get lines",
            Exit.USAGE,
        )


def _is_command_mode(arguments: list[str]) -> bool:
    """Whether the exit status is a command's, where a failure of ours must be 125."""
    context = command_line.make_context(PROGRAM, list(arguments), resilient_parsing=True)
    return bool(context.params.get("command")) or "--" in arguments[:-1]


def _open_standard_files() -> None:
    """Open descriptors 0 to 2, so that no file of ours gets the number of a closed one."""
    for fd in (0, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            if fd == 2:
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (as Python keeps it)
    try:
        os.fstat(1)
    except OSError:
        raise TraceError(
            "standard output is closed", "send it to a file, or to /dev/null", Exit.OUTPUT
        ) from None


if __name__ == "__main__":
    main()
