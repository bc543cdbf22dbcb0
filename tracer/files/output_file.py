"""Writing a file, pipe or terminal; optionally a file appears whole or not at all.

A file counts as written when it is on disk: the kernel accepts writes before that, and reports
a failing disk, or a server without room, only to fdatasync.
"""

import fcntl
import os
import select
import stat
import termios
from collections.abc import Callable
from contextlib import suppress

from tracer.common.deadline import Stalled
from tracer.common.errors import TraceError
from tracer.files.caller import acting_as
from tracer.files.clerk import Clerk, Unanswered
from tracer.files.failures import failure, left_behind
from tracer.files.paths import Owner

_POLL_MS = 50  # interval at which `hasty` is checked while a reader reads nothing
_PATIENCE_MS = 300  # total wait for such a reader, when `hasty`
_AT_A_TIME = 1 << 20  # bytes that a disk writes without a noticeable delay


class OutputFile:
    """An open file to which whole lines are written.

    `created`: whether it was created here (`discard` then removes it again);
    `regular`: whether it is a file on disk, not a pipe, a terminal or a device.
    `failed`: a write failed; nothing more will be written.
    `hasty` returns whether to stop waiting for a reader that reads nothing.
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
        whole: bool = False,
        owner: Owner | None = None,
    ) -> None:
        """`becomes`: the name that `entry`, in `parent`, is renamed to at the first write.

        `whole`: renamed only at `close`; removed if it could not be written completely.
        `owner`: if that is a Caller, it is renamed and removed with their rights.
        """
        self.name = name
        self.created = created
        self._entry = entry
        self._becomes = becomes
        self._whole = whole
        self._owner = owner
        self.failed = False
        self.hasty: Callable[[], bool] = lambda: False
        self.waits = False  # whether it may block without limit: in a clerk's child
        found = os.fstat(fd)
        self._identity = found.st_dev, found.st_ino
        mode = found.st_mode
        self.regular = stat.S_ISREG(mode)
        self._pipe = stat.S_ISFIFO(mode)
        self._fd = _not_to_block(fd) if self._pipe or os.isatty(fd) else fd
        self._blocks = not (self.regular or fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_NONBLOCK)
        self._parent = parent  # directory, for `discard`; ours to close
        self._fresh = True
        self._patience = _PATIENCE_MS

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, which ends a line.

        An existing file is emptied by the first write, not when it is opened.
        Raises BrokenPipeError where the reader is gone, Stalled where it reads
        nothing and `hasty` is true, TraceError(code=OUTPUT) where the disk is full
        or the device fails. A file on disk is then truncated to whole lines; a
        pipe has got whole lines, too, except for any longer than PIPE_BUF.
        """
        try:
            if self._fresh:
                self._start()
            self._write(memoryview(data))
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failed = True
            raise failure(self.name, "cannot write", error) from error

    def _start(self) -> None:
        self._fresh = False
        if self._becomes and not self._whole:
            self._rename_entry()
        elif self.regular and not self.created and self._parent >= 0:
            os.ftruncate(self._fd, 0)

    def _rename_entry(self) -> None:
        try:
            with acting_as(self._owner):
                _rename(self._parent, self._entry, self._becomes)
        except (OSError, TraceError):
            with suppress(OSError, TraceError):
                self._remove()  # nothing else removes it
            raise
        self._entry, self._becomes = self._becomes, ""

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
        """The next piece to write: to a pipe, whole lines that are written atomically (pipe(7))."""
        if not self._pipe:
            return data[start : start + select.PIPE_BUF] if self._blocks else data[start:]
        most = select.PIPE_BUF
        if not self._blocks and fcntl.ioctl(self._fd, termios.FIONREAD, b"\0" * 4) == b"\0" * 4:
            most = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)  # it is empty
        piece = bytes(data[start : start + most])
        return piece[: piece.rfind(b"\n") + 1] or piece

    def _wait(self) -> None:
        """Wait until it is writable."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(_POLL_MS):
            if self.hasty():
                self._patience -= _POLL_MS
                if self._patience <= 0:
                    raise Stalled(self.name)

    def renew(self) -> None:
        """Reset the total wait for a reader."""
        self._patience = _PATIENCE_MS

    def shorten(self, size: int) -> None:
        """Truncate a file on disk that is ours alone to `size` bytes."""
        if self.regular and self._parent >= 0:
            os.ftruncate(self._fd, size)
            os.lseek(self._fd, size, os.SEEK_SET)

    def _cut(self, written: memoryview) -> None:
        """Remove the written part of an incomplete line."""
        partial = len(written) - (bytes(written).rfind(b"\n") + 1)
        if self.regular and partial:
            end = os.lseek(self._fd, -partial, os.SEEK_CUR)
            os.ftruncate(self._fd, end)

    def close(self) -> None:
        """Close; an existing file without a write is emptied. Idempotent.

        A file on disk then survives a power failure; or this raises TraceError, and a `whole`
        file is removed. After an earlier failure it raises nothing.
        """
        if self._fd < 0:
            return
        try:
            if not self.failed:
                self._complete()
        except OSError as error:
            self.failed = True
            raise failure(self.name, "cannot write", error) from error
        except BaseException:
            self.failed = True
            raise
        finally:
            if self.failed and self._whole and self.created:
                with suppress(OSError, TraceError):
                    self._remove()
            self._let_go()

    def _complete(self) -> None:
        """The steps of `close` that may fail; the rename that makes the file visible is last."""
        if self._fresh:
            self._start()
        if self.regular and self._parent >= 0:
            self._sync()
        fd, self._fd = self._fd, -1
        os.close(fd)
        if self._becomes:
            self._rename_entry()

    def _sync(self) -> None:
        """fdatasync; of a large file in a child process, since no signal is handled meanwhile."""
        if self.hasty():
            return
        fd = self._fd
        if self.waits or os.fstat(fd).st_size < _AT_A_TIME:
            os.fdatasync(fd)
            return
        clerk = Clerk(self.name, lambda _, __: os.fdatasync(fd), keep=[fd])
        try:
            with suppress(Unanswered):  # the kernel goes on writing it
                clerk.ask("sync", hasty=self.hasty)
        finally:
            clerk.close()

    def discard(self) -> None:
        """Close, and remove the file if created here. Raises TraceError where that fails."""
        if self._fd < 0:
            return
        try:
            if self.created:
                self._remove()
        except OSError as error:
            raise left_behind(self.name, error) from error
        finally:
            self._let_go()

    def _remove(self) -> None:
        """Remove the created file, if the name still refers to it."""
        with suppress(FileNotFoundError), acting_as(self._owner):
            found = os.stat(self._entry, dir_fd=self._parent, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self._entry, dir_fd=self._parent)

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # of a file that failed, or is discarded
                os.close(fd)
        self._close_parent()

    def _close_parent(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1


def _rename(parent: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)


def _not_to_block(fd: int) -> int:
    """Reopen a pipe or terminal with O_NONBLOCK, without setting it for other users of `fd`.

    Returns `fd` where that is not possible; else `fd` is closed.
    """
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return fd  # writing to it fails, as it should
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        own = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # no reader; no /proc
        return fd
    os.close(fd)
    return own
