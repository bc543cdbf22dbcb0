"""Opening and writing the files a user asked for, safely: this program runs as root.

Files are opened before tracing starts, so that a bad path costs nothing, and
belong to the user who called sudo. Nothing is overwritten unasked, and nothing
that another user may have put in our way is followed (tracer.outputs.paths).
"""

import errno
import fcntl
import io
import os
import re
import select
import stat
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, cast

from tracer.ending import Stalled
from tracer.errors import Exit, TraceError
from tracer.outputs.caller import Caller, acting_as
from tracer.outputs.paths import Owner, open_parent, others_may_write, refuse_planted_file
from tracer.text import printable

_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_NO_FD = (1 << 31) - 1  # beyond what a descriptor can be (RLIMIT_NOFILE), and no overflow
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
_LOOK_MS = 50  # how often, while a reader takes nothing, it is asked whether to wait for it
_PATIENCE_MS = 300  # for such a reader, in all, once there is haste


class OutputFile:
    """An open file that takes whole lines.

    `created` tells whether it was made by us (`discard` then removes it again),
    `regular` whether it is a file on disk, not a pipe, a terminal or a device.
    `hasty` says whether a reader that takes nothing is not to be waited for any longer.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        *,
        created: bool = False,
        parent: int = -1,
        entry: str = "",
        becomes: str = "",
        owner: Owner | None = None,
    ) -> None:
        """`becomes`: the name it takes in place of `entry`, both in `parent`, once written to.

        `owner`: if that is a Caller, names are changed with their rights.
        """
        self.name = name
        self.created = created
        self._entry = entry
        self._becomes = becomes
        self._owner = owner
        self.hasty: Callable[[], bool] = lambda: False
        mode = os.fstat(fd).st_mode
        self.regular = stat.S_ISREG(mode)
        self._pipe = stat.S_ISFIFO(mode)
        self._fd = _not_to_block(fd) if self._pipe or os.isatty(fd) else fd
        self._blocks = not (self.regular or fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_NONBLOCK)
        self._parent = parent  # directory, for `discard`; ours to close
        self._fresh = True
        self._patience = _PATIENCE_MS

    def fileno(self) -> int:
        return self._fd

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, which ends a line.

        An existing file is emptied by the first write, not when it is opened.
        Raises BrokenPipeError where the reader is gone, Stalled where it takes
        nothing and there is haste, TraceError(code=OUTPUT) where the disk is full
        or the device fails. A file on disk is then cut back to whole lines; what a
        pipe has taken are whole lines, too, but for any longer than PIPE_BUF.
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
        if self._becomes:
            with acting_as(self._owner):
                _rename(self._parent, self._entry, self._becomes)
            self._entry = self._becomes
        elif self.regular and not self.created and self._parent >= 0:
            os.ftruncate(self._fd, 0)

    def _write(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            if self._blocks:
                self._wait()
            try:
                done += os.write(self._fd, self._piece(data, done))
            except BlockingIOError:
                self._wait()
            except OSError:
                self._cut(data[:done])
                raise

    def _piece(self, data: memoryview, start: int) -> memoryview | bytes:
        """What to write at once: of a pipe, lines that it takes whole or not at all (pipe(7))."""
        if not self._pipe:
            return data[start : start + select.PIPE_BUF] if self._blocks else data[start:]
        most = select.PIPE_BUF
        if not self._blocks and fcntl.ioctl(self._fd, termios.FIONREAD, b"\0" * 4) == b"\0" * 4:
            most = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)  # it is empty
        piece = bytes(data[start : start + most])
        return piece[: piece.rfind(b"\n") + 1] or piece

    def _wait(self) -> None:
        """Until it takes something."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(_LOOK_MS):
            if self.hasty():
                self._patience -= _LOOK_MS
                if self._patience <= 0:
                    raise Stalled(self.name)

    def renew(self) -> None:
        """What is written next is waited for anew."""
        self._patience = _PATIENCE_MS

    def shorten(self, size: int) -> None:
        """Take back all but the first `size` bytes of a file on disk that is ours alone."""
        if self.regular and self._parent >= 0:
            os.ftruncate(self._fd, size)
            os.lseek(self._fd, size, os.SEEK_SET)

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
        try:
            if self._fresh:
                self._start()
        except OSError as error:
            raise failure(self.name, "cannot write", error) from error
        finally:
            fd, self._fd = self._fd, -1
            self._close(fd)
            self._close_parent()

    def _close(self, fd: int) -> None:
        try:
            os.close(fd)
        except OSError as error:
            raise failure(self.name, "cannot write", error) from error

    def discard(self) -> None:
        """Close, and remove the file if we made it."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if self.created:
                with suppress(FileNotFoundError), acting_as(self._owner):
                    if _same_file(os.fstat(fd), _look(self._parent, self._entry)):
                        os.unlink(self._entry, dir_fd=self._parent)
        finally:
            os.close(fd)
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
    with acting_as(owner):
        try:
            parent, name = open_parent(path, owner)
        except (OSError, ValueError) as error:
            raise failure(path, "cannot open", error, owner) from error
        try:
            return _open_in(parent, name, path, owner, force)
        except OSError as error:
            os.close(parent)
            raise failure(path, "cannot open", error, owner) from error
        except TraceError:
            os.close(parent)
            raise


def replace_file(path: str, data: bytes, owner: Owner | None = None) -> None:
    """Put a new file with `data` in the place of `path`, atomically: rename(2).

    Raises TraceError(code=Exit.OUTPUT); `path` is then as it was.
    """
    with acting_as(owner):
        try:
            parent, name = open_parent(path, owner)
        except OSError as error:
            raise failure(path, "cannot write", error, owner) from error
        try:
            fd, draft = _draft(parent, name, owner)
            file = OutputFile(fd, path, created=True, parent=os.dup(parent), entry=draft)
            try:
                file.write(data)
                _rename(parent, draft, name)
            except BaseException:
                file.discard()
                raise
            file.close()
        except OSError as error:
            raise failure(path, "cannot write", error, owner) from error
        finally:
            os.close(parent)


def reserve(path: str, size: int, owner: Owner | None = None) -> int:
    """Take so many bytes of the disk that `path` is on: they are free once this is closed.

    A descriptor of a file that has no name, and goes with us whatever ends us; -1 where the
    disk or the file system has none.
    """
    fd = parent = -1
    try:
        with acting_as(owner):
            parent, _ = open_parent(path, owner)
            fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=parent)
            _give(fd, owner)
            os.posix_fallocate(fd, 0, size)
    except (OSError, TraceError):
        if fd >= 0:
            os.close(fd)
        return -1
    finally:
        if parent >= 0:
            os.close(parent)
    return fd


def _checked(path: str, fd: int) -> int:
    """A copy of a descriptor we were given."""
    try:
        return os.dup(min(fd, _NO_FD))
    except OSError as error:
        raise failure(path, "cannot open", error) from error


def _not_to_block(fd: int) -> int:
    """A pipe or terminal opened anew: on others that use it too, O_NONBLOCK shall not be forced.

    Where that cannot be, as it was; `fd` is closed otherwise.
    """
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return fd  # writing to it fails, as it should
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        own = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # nobody reads it; no /proc
        return fd
    os.close(fd)
    return own


def _open_in(parent: int, name: str, path: str, owner: Owner | None, force: bool) -> OutputFile:
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=parent)
    except FileExistsError:
        return _open_existing(parent, name, path, owner, force)
    _give(fd, owner)
    return OutputFile(fd, path, created=True, parent=parent, entry=name, owner=owner)


def _rename(parent: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)


def _give(fd: int, owner: Owner | None) -> None:
    # What a Caller makes is the caller's.
    if owner is not None and not isinstance(owner, Caller) and owner[0] != os.geteuid():
        with suppress(PermissionError):  # a file system without owners
            os.fchown(fd, *owner)


def _open_existing(
    parent: int, name: str, path: str, owner: Owner | None, force: bool
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
        if stat.S_ISREG(found.st_mode) and others_may_write(os.fstat(parent), owner):
            # It may be a link to a file elsewhere all the same, made and unmade meanwhile.
            fd, draft = _draft(parent, name, owner)
            return OutputFile(
                fd, path, created=True, parent=parent, entry=draft, becomes=name, owner=owner
            )
        fd = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(handle)
    return OutputFile(fd, path, parent=parent, entry=name, owner=owner)


def _draft(parent: int, name: str, owner: Owner | None) -> tuple[int, str]:
    """A new file that is to take the place of `name`: a descriptor, and its name until then."""
    # Bytes, for the limit of 255 is one of bytes.
    draft = os.fsdecode(b"." + os.fsencode(name)[:200] + b".%d" % os.getpid())
    with suppress(FileNotFoundError):  # left by a killed run with our process id
        os.unlink(draft, dir_fd=parent)
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
    fd = os.open(draft, flags, 0o644, dir_fd=parent)
    _give(fd, owner)
    return fd, draft


def _look(parent: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


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


_REFUSED = (errno.EACCES, errno.EPERM)
_AS_CALLER = (
    "under sudo, files are written with the rights of whoever called it; for more: "
    "--csv - | sudo tee FILE"
)


def failure(path: str, what: str, error: Exception, owner: Owner | None = None) -> TraceError:
    """The TraceError that tells of `error`: what could not be done to `path`, why, and a hint.

    `owner`: whose rights were too few, if that is a Caller.
    """
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else str(error)
    hint = _HINTS.get(number or 0, "")
    if number in _REFUSED and isinstance(owner, Caller):
        hint = _AS_CALLER
    return TraceError(f"{what} {printable(path)}: {reason}", hint, Exit.OUTPUT)
