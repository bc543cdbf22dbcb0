"""Leaving quietly when whoever reads our output has gone (`| head`)."""

import contextlib
import os
import sys

PIPE_CLOSED = 141  # 128 + SIGPIPE: what a shell shows of a program that pipe ended


def discard_stdout() -> None:
    """Point stdout at nothing: the interpreter flushes it once more at exit, and would complain."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
