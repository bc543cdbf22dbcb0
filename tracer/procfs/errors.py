"""Errors of reading /proc/PID: the process is gone, or access is not allowed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tracer.common.errors import Exit, TraceError


class ProcessGone(TraceError):
    """The process, the thread, or the address space that was open has ended."""

    def __init__(self, pid: int, message: str = "") -> None:
        super().__init__(message or f"no such process: {pid}", "", Exit.NO_TARGET)
        self.pid = pid


@contextmanager
def reading(pid: int) -> Iterator[None]:
    """Turn OSErrors met while reading /proc/`pid` into ProcessGone or a TraceError.

    /proc answers ENOENT where the directory is gone and ESRCH where the file was
    open already (proc(5)); memory maps of another user's process need
    PTRACE_MODE_READ and answer EACCES or EPERM.
    """
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGone(pid) from None
    except PermissionError:
        raise TraceError(
            f"no permission to look into process {pid}",
            "run it as root, for example with sudo"
            if os.geteuid()
            else "root is refused: CAP_SYS_PTRACE is missing, or the process is protected",
            Exit.NO_RIGHTS,
        ) from None


def read_bytes(pid: int, name: str, tid: int | None = None) -> bytes:
    """The whole of /proc/PID/`name`, or of /proc/PID/task/TID/`name`."""
    with reading(pid), open(path_of(pid, name, tid), "rb", buffering=0) as file:
        return file.readall()


def path_of(pid: int, name: str, tid: int | None = None) -> str:
    """The path of a process's or a thread's file in /proc."""
    return f"/proc/{pid}/{name}" if tid is None else f"/proc/{pid}/task/{tid}/{name}"
