"""Files opened as the tracer opens those of its targets."""

import os
from collections.abc import Callable
from pathlib import Path

from tracer.procfs.regular import reopened


def opener(path: str | Path) -> Callable[[], int]:
    """What opens a file to read, if it is an ordinary one."""

    def open_file() -> int:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            return reopened(handle)
        finally:
            os.close(handle)

    return open_file
