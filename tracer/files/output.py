"""Opening and writing output files safely, as this program runs as root.

Files are opened before tracing starts, so that a bad path fails early, and
belong to the user who called sudo. Nothing is overwritten without --force, and
no link that another user may have planted is followed (tracer.files.paths).

Where a file system may block, a child process does all of it (tracer.files.served_file).
"""

import os
import re
from collections.abc import Callable

from tracer.common.errors import TraceError
from tracer.files import opening
from tracer.files.caller import acting_as
from tracer.files.clerk import Clerk
from tracer.files.failures import failure
from tracer.files.output_file import OutputFile
from tracer.files.paths import Owner, open_parent
from tracer.files.served import may_stall
from tracer.files.served_file import Served, ServedFile

_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_NO_FD = (1 << 31) - 1  # beyond what a descriptor can be (RLIMIT_NOFILE), and no overflow
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}


def open_output(
    path: str, owner: Owner | None = None, force: bool = False, *, whole: bool = False
) -> OutputFile:
    """Open `path` for writing; "-" is standard output, /dev/stdout and /dev/fd/N too.

    A new file is mode 0644 less the umask and belongs to `owner`. An existing
    file raises TraceError unless `force`; pipes and devices are written to as
    they are. `whole`: a file on disk appears, or replaces an existing one, only
    when it is closed. Raises TraceError(code=Exit.OUTPUT) with a hint.
    """
    if path == "-":
        return _given("standard output", _checked(path, 1))
    if match := _DESCRIPTOR.fullmatch(path):
        standard, number = match.groups()
        return _given(path, _checked(path, _STANDARD[standard] if standard else int(number)))
    if may_stall(path):
        return ServedFile(path, owner=owner, force=force, whole=whole)
    return opening.open_path(path, owner, force, whole)


def replace_file(
    path: str,
    data: bytes,
    owner: Owner | None = None,
    hasty: Callable[[], bool] = lambda: False,
) -> None:
    """Replace `path` by a new file with `data`, atomically: rename(2).

    Raises TraceError(code=Exit.OUTPUT); `path` is then as it was.
    """
    if not may_stall(path):
        opening.replace(path, data, owner, hasty)
        return
    clerk = Clerk(path, Served())
    try:
        clerk.ask("replace", path, data, owner, hasty=hasty)
    finally:
        clerk.close()


def reserve(path: str, size: int, owner: Owner | None = None) -> int:
    """Reserve `size` bytes on the disk that `path` is on, until the descriptor is closed.

    The descriptor is of an unnamed file, freed in any case when the process ends; -1 where the
    disk has no room, the file system no such files, or it may block.
    """
    if may_stall(path):
        return -1
    fd = parent = -1
    try:
        with acting_as(owner):
            parent, _ = open_parent(path, owner)
            fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=parent)
            opening.give(fd, owner)
            os.posix_fallocate(fd, 0, size)
    except (OSError, TraceError):
        if fd >= 0:
            os.close(fd)
        return -1
    finally:
        if parent >= 0:
            os.close(parent)
    return fd


def _given(name: str, fd: int) -> OutputFile:
    """An OutputFile of an open descriptor; `fd` is ours."""
    if not may_stall(os.readlink(f"/proc/self/fd/{fd}")):  # of a pipe it is no path
        return OutputFile(fd, name)
    try:
        return ServedFile(name, fd)
    finally:
        os.close(fd)


def _checked(path: str, fd: int) -> int:
    """A copy of a descriptor we were given."""
    try:
        return os.dup(min(fd, _NO_FD))
    except OSError as error:
        raise failure(path, "cannot open", error) from error
