"""The one error type a user can cause, and the exit codes it carries.

`cli.py` catches it once, prints one line on stderr (`complain`) and exits with
its code. docs/cli.md lists the codes; a test compares the two.
"""

import contextlib
import errno
import os
import select
import sys
from enum import IntEnum

from tracer.common.text import harmless

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_PATIENCE_S = 0.3  # wait for the reader of stderr, when `hasty`


class Exit(IntEnum):
    """Exit statuses, beside the command's own in command mode."""

    OK = 0
    USAGE = 2  # click's: options that do not go together, a bad number or range
    NO_TARGET = 3  # no such process, a kernel thread, or it ended during attach
    NO_RIGHTS = 4  # not root, or a capability is missing
    NO_BCC = 5  # bcc is missing, or it is the unrelated package of that name
    NO_PROBE = 6  # this kernel refuses the requested probe, or all of them
    OUTPUT = 7  # a file cannot be written, or the disk is full
    UNSUPPORTED = 8  # architecture or kernel this program does not run on
    INPUT = 9  # pagefault-report: a file that cannot be read, or is not what --csv wrote
    NO_LIBRARY = 10  # pagefault-report: pyarrow or matplotlib is missing
    # --strict: events were dropped, or the books do not balance; --fail-if: a figure is not known
    INEXACT = 121
    OVER_BUDGET = 122  # --fail-if: a budget is broken
    TRACER_FAILED = 125  # command mode: the tracer failed, as timeout(1) and env(1) say
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127


class TraceError(Exception):
    """An error that the user can understand and fix.

    `message` says what happened and why; `hint` says what to do (may be empty).
    """

    def __init__(self, message: str, hint: str = "", code: Exit = Exit.TRACER_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class Interrupted(BaseException):
    """A signal that ends the program at once, as its default action would."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def of_stdout(error: OSError) -> bool:
    """Whether `error` may be from writing to standard output, which has no wrapper."""
    return error.filename is None and error.errno in _WRITING


def unexpected(error: OSError) -> str:
    """The message for an unexpected error: what, and where."""
    import traceback  # slow to import: as long as all the rest

    where = traceback.extract_tb(error.__traceback__)[-1]
    name = f" {error.filename!r}" if error.filename is not None else ""
    line = f"{os.path.basename(where.filename)}, line {where.lineno}"
    return f"{error.strerror or error}{name} ({line}); please report it: a bug"


def complain(message: str, program: str = "pagefault-trace", *, hasty: bool = False) -> None:
    """Print `message` on stderr in one line, safe for a terminal.

    `hasty`: skip it if stderr is not writable for a while.
    """
    line = " ".join(harmless(part.strip()) for part in message.splitlines())
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is full, or closed (None)
        if hasty and not select.select([], [sys.stderr], [], _PATIENCE_S)[1]:
            return
        sys.stderr.write(f"{program}: {line}\n")
        sys.stderr.flush()
