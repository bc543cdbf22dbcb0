"""What singlemap and multimap share: their options, their pages, and the wait between steps.

Imports little, so that the demos start quickly and fault little before their first step.
"""

import argparse
import ctypes
import errno
import mmap
import sys
import time
from collections.abc import Callable, Sequence

from tracer.common.pipes import PIPE_CLOSED, discard_stdout

PAGE_SIZE = mmap.PAGESIZE
_INTERRUPTED = 130  # 128 + SIGINT, as a shell shows it

Wait = Callable[[], None]


def allocate(pages: int) -> mmap.mmap:
    """A new private anonymous rwx mapping of `pages` small pages, none of them touched.

    Python's own default for mmap(-1, …) is shared memory, which faults differently;
    and where large folios are on, one touch would bring sixteen pages.
    """
    memory = mmap.mmap(
        -1,
        pages * PAGE_SIZE,
        flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
    )
    try:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel built without huge pages
            raise
    return memory


def address_of(memory: mmap.mmap) -> int:
    """Where the mapping starts, found without touching it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def touch(memory: mmap.mmap, page: int = 0) -> None:
    """Write one byte to a page: one write fault if it was never touched."""
    memory[page * PAGE_SIZE] = 0x2A


def say(line: str) -> None:
    """Print a line and flush it, so that a pipe's reader sees it at once."""
    print(line, flush=True)


def parse_arguments(
    argv: Sequence[str] | None, name: str, description: str, pages: int
) -> argparse.Namespace:
    """The demos' options: auto, interval (seconds), pages. Exits 2 on bad usage."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--auto", action="store_true", help="go on without Enter being pressed")
    parser.add_argument(
        "--interval",
        type=_seconds,
        metavar="S",
        help="with --auto: seconds between two steps (default 0.5)",
    )
    parser.add_argument(
        "--pages",
        type=_count,
        default=pages,
        metavar="N",
        help=f"pages to allocate and write (default {pages})",
    )
    options = parser.parse_args(argv)
    if options.interval is not None and not options.auto:
        parser.error("--interval goes with --auto")
    return options


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"not a number of pages: {text!r}")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}")
    return seconds


def waiter(options: argparse.Namespace) -> Wait:
    """What to call between two steps; it raises EOFError at the end of input."""
    if options.auto:
        interval = 0.5 if options.interval is None else options.interval
        return lambda: _pause(interval)
    return _wait_for_enter


def _pause(seconds: float) -> None:
    time.sleep(seconds)
    say("")


def _wait_for_enter() -> None:
    # A terminal echoes the Enter; elsewhere the blank line between two steps is ours.
    # Bytes: whatever else stands on the line does not matter. stdin is None when closed.
    if sys.stdin is None or not sys.stdin.buffer.readline():
        raise EOFError
    if not sys.stdin.isatty():
        say("")


def run(name: str, steps: Callable[[Wait], None], options: argparse.Namespace) -> int:
    """Run a demo to its end, or until Ctrl-C or the end of its input; its exit status."""
    try:
        steps(waiter(options))
    except EOFError:
        return 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        return PIPE_CLOSED
    except (OSError, MemoryError, OverflowError) as error:
        print(f"{name}: cannot go on: {error}", file=sys.stderr)
        return 1
    return 0
