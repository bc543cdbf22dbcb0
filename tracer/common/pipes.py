"""Exiting quietly when the reader of our output is gone (`| head`)."""

import contextlib
import os
import sys

PIPE_CLOSED = 141  # 128 + SIGPIPE: what a shell shows of a program that pipe ended


def discard_stdout() -> None:
    """Redirect stdout to /dev/null: the interpreter's flush at exit would fail and complain."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
