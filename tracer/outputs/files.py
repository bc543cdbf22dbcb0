"""Opening and writing the files a user asked for, safely: this program runs as root.

Files are opened before tracing starts, so that a bad path costs nothing, and
belong to the user who called sudo. A symbolic link in a world-writable
directory is never followed, for another user may have put it there; nothing is
overwritten unasked.
"""

import errno
import io
import os
import re
import select
import stat
from contextlib import suppress
from typing import TextIO, cast

from tracer.errors import Exit, TraceError
from tracer.text import printable

Owner = tuple[int, int]  # uid, gid

_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
_MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)


class OutputFile:
    """An open file that takes whole lines.

    `created` tells whether it was made by us (`discard` then removes it again),
    `regular` whether it is a file on disk, not a pipe, a terminal or a device.
    """

    def __init__(
        self, fd: int, name: str, *, created: bool = False, parent: int = -1, entry: str = ""
    ) -> None:
        self.name = name
        self.created = created
        self._entry = entry  # the name in `parent`
        self._fd = fd
        self._parent = parent  # directory, for `discard`; ours to close
        self.regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._fresh = True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, which ends a line.

        An existing file is emptied by the first write, not when it is opened.
        Raises BrokenPipeError where the reader is gone, TraceError(code=OUTPUT)
        where the disk is full or the device fails; a file on disk is then cut
        back to whole lines.
        """
        try:
            if self._fresh:
                self._start()
            self._write(memoryview(data))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise failure(self.name, "cannot write", error) from error

    def _start(self) -> None:
        self._fresh = False
        if self.regular and not self.created and self._parent >= 0:
            os.ftruncate(self._fd, 0)

    def _write(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            try:
                done += os.write(self._fd, data[done:])
            except BlockingIOError:  # a terminal or pipe someone set to O_NONBLOCK
                select.select([], [self._fd], [])
            except OSError:
                self._cut(data[:done])
                raise

    def _cut(self, written: memoryview) -> None:
        """Take back what was written of a line that did not fit."""
        partial = len(written) - (bytes(written).rfind(b"\n") + 1)
        if self.regular and partial:
            end = os.lseek(self._fd, -partial, os.SEEK_CUR)
            os.ftruncate(self._fd, end)

    def close(self) -> None:
        """Close; an existing file without a write is emptied. Harmless when repeated."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if self._fresh and self.regular and not self.created and self._parent >= 0:
                os.ftruncate(fd, 0)
            os.close(fd)
        except OSError as error:
            raise failure(self.name, "cannot write", error) from error
        finally:
            self._close_parent()

    def discard(self) -> None:
        """Close, and remove the file if we made it."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        os.close(fd)
        if self.created:
            with suppress(FileNotFoundError):
                os.unlink(self._entry, dir_fd=self._parent)
        self._close_parent()

    def _close_parent(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1


def text_stream(file: OutputFile) -> TextIO:
    """An OutputFile for a rich Console: `Console(file=text_stream(open_output(path)))`.

    Takes whole lines; raises as OutputFile.write does; closes the file when closed.
    """
    return cast(TextIO, _TextStream(file))


class _TextStream(io.TextIOBase):
    encoding = "utf-8"

    def __init__(self, file: OutputFile) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return os.isatty(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def open_output(path: str, owner: Owner | None = None, force: bool = False) -> OutputFile:
    """Open `path` for writing; "-" is standard output, /dev/stdout and /dev/fd/N too.

    A new file is mode 0644 less the umask and belongs to `owner`. An existing
    file raises TraceError unless `force`; pipes and devices are written to as
    they are. Raises TraceError(code=Exit.OUTPUT) with what to do about it.
    """
    if path == "-":
        return OutputFile(_checked(path, 1), "standard output")
    if match := _DESCRIPTOR.fullmatch(path):
        standard, number = match.groups()
        return OutputFile(_checked(path, _STANDARD[standard] if standard else int(number)), path)
    try:
        parent, name = open_parent(path)
    except OSError as error:
        raise failure(path, "cannot open", error) from error
    try:
        return _open_in(parent, name, path, owner, force)
    except OSError as error:
        os.close(parent)
        raise failure(path, "cannot open", error) from error
    except TraceError:
        os.close(parent)
        raise


def replace_file(path: str, data: bytes, owner: Owner | None = None) -> None:
    """Put a new file with `data` in the place of `path`, atomically: rename(2).

    Raises TraceError(code=Exit.OUTPUT); `path` is then as it was.
    """
    try:
        parent, name = open_parent(path)
    except OSError as error:
        raise failure(path, "cannot write", error) from error
    draft = f".{name}.{os.getpid()}"
    try:
        with suppress(FileNotFoundError):  # left by a killed run with our process id
            os.unlink(draft, dir_fd=parent)
        file = _open_in(os.dup(parent), draft, path, owner, force=False)
        try:
            file.write(data)
            os.rename(draft, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            file.discard()
            raise
        file.close()
    except OSError as error:
        raise failure(path, "cannot write", error) from error
    finally:
        os.close(parent)


def _checked(path: str, fd: int) -> int:
    """A copy of a descriptor we were given."""
    try:
        return os.dup(fd)
    except OSError as error:
        raise failure(path, "cannot open", error) from error


def _open_in(parent: int, name: str, path: str, owner: Owner | None, force: bool) -> OutputFile:
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=parent)
    except FileExistsError:
        return _open_existing(parent, name, path, flags, owner, force)
    if owner is not None and owner[0] != os.geteuid():
        with suppress(PermissionError):  # a file system without owners
            os.fchown(fd, *owner)
    return OutputFile(fd, path, created=True, parent=parent, entry=name)


def _open_existing(
    parent: int, name: str, path: str, flags: int, owner: Owner | None, force: bool
) -> OutputFile:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISREG(found.st_mode) and not force:
        raise TraceError(
            f"{printable(path)} exists already",
            "choose another name, or overwrite it with --force",
            Exit.OUTPUT,
        )
    ours = {0, os.geteuid()} | ({owner[0]} if owner else set())
    if _others_may_write(parent) and (found.st_uid not in ours or _hard_linked(found)):
        raise TraceError(
            f"{printable(path)} was put there by another user",
            "choose another name, in a directory of your own",
            Exit.OUTPUT,
        )
    fd = os.open(name, flags, dir_fd=parent)
    return OutputFile(fd, path, parent=parent, entry=name)


def _hard_linked(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink > 1


def _others_may_write(directory: int) -> bool:
    return bool(os.fstat(directory).st_mode & stat.S_IWOTH)


def open_parent(path: str) -> tuple[int, str]:
    """The directory of `path` as a descriptor, and the last name in it, links resolved.

    Walks name by name, as the kernel does (path_resolution(7)), but refuses
    links in directories anyone may write to. Raises TraceError for those,
    OSError for what is missing or forbidden.
    """
    names = [*_names(path), *([""] if path.endswith("/") else [])]
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    here = os.open("/" if path.startswith("/") else ".", flags)
    links = 0
    try:
        while True:
            name = names.pop(0) if names else ""
            if not name:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            target = _link(here, name)
            if target is not None:
                _refuse_planted_link(here, name, path)
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                names = _names(target) + names
                if target.startswith("/"):
                    here = _step(here, "/", flags)
            elif not names:
                return here, name
            else:
                here = _step(here, name, flags)
    except BaseException:
        os.close(here)
        raise


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _step(here: int, name: str, flags: int) -> int:
    there = os.open(name, flags, dir_fd=here)
    os.close(here)
    return there


def _link(here: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=here)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # no link, or nothing there
            return None
        raise


def _refuse_planted_link(here: int, name: str, path: str) -> None:
    if _others_may_write(here):
        raise TraceError(
            f"{printable(path)}: {printable(name)} is a symbolic link in a directory anyone "
            "may write to",
            "name the file it points to",
            Exit.OUTPUT,
        )


_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.ENOENT: "make the directory first",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "choose a directory you may write to",
    errno.EROFS: "choose a directory you may write to",
    errno.EBADF: "give it an open standard output, or name a file",
}


def failure(path: str, what: str, error: OSError) -> TraceError:
    """The TraceError that tells of `error`: what could not be done to `path`, why, and a hint."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = _HINTS.get(error.errno or 0, "")
    return TraceError(f"{what} {printable(path)}: {reason}", hint, Exit.OUTPUT)
