"""ptdump: the page table of a process, one line a region or (-g) one line a page.

Nothing heavy is imported on the way to the first line: numpy comes in for a -g dump of very
many pages, rich for --watch.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from tracer.common.errors import Exit, TraceError, complain, of_stdout, unexpected
from tracer.common.pipes import PIPE_CLOSED, discard_stdout
from tracer.common.text import printable
from tracer.procfs import stat
from tracer.procfs.entries import (
    frames_visible,
)
from tracer.procfs.errors import ProcessGone
from tracer.ptdump.dump import HEADER, Dump, Endings, OpenDump, line, parse_choice

_BULK_PAGES = 50_000  # from here on importing numpy is quicker than doing without
_WATCH_PAGES = 1 << 20
_WATCH_SECONDS = 0.5
_INTERRUPTED = 130  # 128 + SIGINT


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake."""
        raise TraceError(message, f"see {self.prog} --help", Exit.USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ptdump",
        usage="ptdump [-g] [--region REGION] [--watch [SECONDS]] PID",
        description="Show the page table of a process: one line per region (its first page), "
        "or one line per page.",
        epilog="Physical addresses need CAP_SYS_ADMIN (root); without it they read 'hidden'.",
    )
    parser.add_argument("-g", dest="each_page", action="store_true", help="one line per page")
    parser.add_argument(
        "--region",
        metavar="REGION",
        help="only regions whose name contains this, the region at 0xADDRESS, "
        "or the range START-END",
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const="",
        help=f"refresh every SECONDS (default {_WATCH_SECONDS}); pages that just gained "
        "a frame are highlighted",
    )
    parser.add_argument("pid", metavar="PID", nargs="?", help="the process to dump")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The `ptdump` command; returns its exit status (tracer.common.errors.Exit)."""
    try:
        return _main(argv)
    except TraceError as error:
        complain(str(error), "ptdump")
        return int(error.code)
    except BrokenPipeError:
        discard_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        if not of_stdout(error):
            complain(unexpected(error), "ptdump")
            return int(Exit.TRACER_FAILED)
        discard_stdout()
        print(f"ptdump: cannot write: {error.strerror}", file=sys.stderr)
        return int(Exit.OUTPUT)


def _main(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    watch, pid = options.watch, options.pid
    if pid is None and watch:  # `ptdump --watch PID`
        watch, pid = "", watch
    if pid is None:
        raise TraceError("no PID given", "see ptdump --help", Exit.USAGE)
    interval = None if watch is None else _seconds(watch)
    choice = None if options.region is None else parse_choice(options.region)
    dump = Dump(_process(pid), options.each_page, choice, frames_visible())
    if sys.stdout is None:  # `>&-`
        raise TraceError("stdout is closed", "give it somewhere to write", Exit.OUTPUT)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names the terminal cannot show
    if interval is None:
        _print_once(dump)
    else:
        _watch(dump, interval)
    return int(Exit.OK)


def _process(text: str) -> int:
    """The pid `text` names, of a process that has memory to show."""
    if not (text.isascii() and text.isdigit()):
        raise TraceError(f"not a process id: '{printable(text)}'", "give a number", Exit.USAGE)
    pid = int(text[:20])
    if not stat.exists(pid):
        raise ProcessGone(pid)
    if stat.is_kernel_thread(pid):
        raise TraceError(
            f"{pid} is a kernel thread ({printable(stat.comm(pid))}): it has no memory of its own",
            "",
            Exit.NO_TARGET,
        )
    return pid


def _seconds(text: str) -> float:
    try:
        seconds = float(text or _WATCH_SECONDS)
    except ValueError:
        seconds = 0
    if not 0.01 <= seconds <= 86_400:
        raise TraceError(
            f"not a number of seconds: '{printable(text)}'", "give 0.01 or more", Exit.USAGE
        )
    return seconds


def _print_once(dump: Dump) -> None:
    with dump.open() as opened:
        if dump.choice is not None and not opened.mappings:
            raise TraceError(
                f"process {dump.pid} has no region '{printable(dump.choice.text)}'",
                f"see /proc/{dump.pid}/maps",
                Exit.USAGE,
            )
        sys.stdout.write(HEADER + "\n")
        _write_rows(opened)
        sys.stdout.flush()
    _explain_hidden(dump)


def _write_rows(opened: OpenDump) -> None:
    if opened.dump.each_page and opened.pages() >= _BULK_PAGES:
        from tracer.ptdump.bulk import blocks

        out = sys.stdout
        out.flush()
        for block in blocks(opened, out.encoding, out.errors or "strict"):
            out.buffer.write(block)
        return
    visible, endings = opened.dump.visible, Endings()
    if opened.dump.each_page:
        for mapping, start, entries in opened.pieces():
            sys.stdout.write(endings.lines(mapping, start, entries, visible))
        return
    for row in opened.rows():
        sys.stdout.write(f"{line(row, visible)}\n")


def _explain_hidden(dump: Dump) -> None:
    if not dump.visible:
        print(
            "ptdump: the kernel hides physical addresses without CAP_SYS_ADMIN; "
            "run it as root, for example with sudo",
            file=sys.stderr,
        )


def _watch(dump: Dump, interval: float) -> None:
    from tracer.ptdump.watch import watch

    with dump.open() as opened:  # mistakes are reported before the screen is filled
        if dump.each_page and opened.pages() > _WATCH_PAGES:
            raise TraceError(
                f"process {dump.pid} spans {opened.pages()} pages, too many to watch",
                "select some with --region",
                Exit.USAGE,
            )
    _explain_hidden(dump)
    watch(dump, interval)


if __name__ == "__main__":
    sys.exit(main())
