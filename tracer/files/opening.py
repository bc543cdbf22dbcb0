"""Opening files in directories that others may write to, without following their links.

All of it may block on the file system; for those that may, a child process does it
(tracer.files.served_file).
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.files.caller import Caller, acting_as
from tracer.files.failures import failure
from tracer.files.output_file import OutputFile
from tracer.files.paths import Owner, open_parent, others_may_write, refuse_planted_file


def open_path(path: str, owner: Owner | None, force: bool, whole: bool) -> OutputFile:
    with acting_as(owner):
        try:
            parent, name = open_parent(path, owner)
        except (OSError, ValueError) as error:
            raise failure(path, "cannot open", error, owner) from error
        try:
            return _open_in(parent, name, path, owner, force, whole)
        except OSError as error:
            os.close(parent)
            raise failure(path, "cannot open", error, owner) from error
        except TraceError:
            os.close(parent)
            raise


def _open_in(
    parent: int, name: str, path: str, owner: Owner | None, force: bool, whole: bool
) -> OutputFile:
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=parent)
    except FileExistsError:
        return _open_existing(parent, name, path, owner, force, whole)
    with _undone(fd, parent, name):
        give(fd, owner)
        return OutputFile(
            fd, path, created=True, parent=parent, entry=name, whole=whole, owner=owner
        )


def _open_existing(
    parent: int, name: str, path: str, owner: Owner | None, force: bool, whole: bool
) -> OutputFile:
    handle = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    try:
        found = os.fstat(handle)
        if stat.S_ISLNK(found.st_mode):  # it was not when the path was walked
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if stat.S_ISREG(found.st_mode) and not force:
            raise TraceError(
                f"{printable(path)} exists already",
                "choose another name, or overwrite it with --force",
                Exit.OUTPUT,
            )
        refuse_planted_file(parent, found, path, owner)
        # Where others may write, it may still be a hard link to a file elsewhere, made and
        # removed meanwhile.
        if stat.S_ISREG(found.st_mode) and (whole or others_may_write(os.fstat(parent), owner)):
            fd, draft = _draft(parent, name, owner)
            with _undone(fd, parent, draft):
                if whole:
                    _make_alike(fd, found)
                return OutputFile(
                    fd, path, created=True, parent=parent, entry=draft, becomes=name,
                    whole=whole, owner=owner,
                )  # fmt: skip
        fd = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(handle)
    return OutputFile(fd, path, parent=parent, entry=name, owner=owner)


def _make_alike(fd: int, old: os.stat_result) -> None:
    """Give a replacement the old file's owner and mode."""
    with suppress(PermissionError):
        os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)


def _draft(parent: int, name: str, owner: Owner | None) -> tuple[int, str]:
    """A new file that is to replace `name`: its descriptor, and its name until then."""
    # Bytes, for the limit of 255 is one of bytes.
    draft = os.fsdecode(b"." + os.fsencode(name)[:200] + b".%d" % os.getpid())
    with suppress(FileNotFoundError):  # left by a killed run with our process id
        os.unlink(draft, dir_fd=parent)
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
    fd = os.open(draft, flags, 0o644, dir_fd=parent)
    with _undone(fd, parent, draft):
        give(fd, owner)
    return fd, draft


@contextmanager
def _undone(fd: int, parent: int, name: str) -> Iterator[None]:
    """A block whose failure removes and closes a file just created."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=parent)
        with suppress(OSError):
            os.close(fd)
        raise


def give(fd: int, owner: Owner | None) -> None:
    # Files created as a Caller belong to the caller already.
    if owner is not None and not isinstance(owner, Caller) and owner[0] != os.geteuid():
        with suppress(PermissionError):  # a file system without owners
            os.fchown(fd, *owner)


def replace(
    path: str, data: bytes, owner: Owner | None, hasty: Callable[[], bool] | None = None
) -> None:
    with acting_as(owner):
        try:
            parent, name = open_parent(path, owner)
        except OSError as error:
            raise failure(path, "cannot write", error, owner) from error
        try:
            fd, draft = _draft(parent, name, owner)
        except OSError as error:
            os.close(parent)
            raise failure(path, "cannot write", error, owner) from error
        file = OutputFile(
            fd, path, created=True, parent=parent, entry=draft, becomes=name, whole=True
        )
        file.waits, file.hasty = hasty is None, hasty or file.hasty
        try:
            file.write(data)
        except BaseException:
            with suppress(TraceError):
                file.discard()
            raise
        file.close()
