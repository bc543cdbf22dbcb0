"""A file, pipe or terminal that is written: whole or not at all where that is asked for.

A file on disk has been written once the disk has it: the kernel takes what is written before that,
and tells of a disk that fails, or a server without room, to who asks (fdatasync).
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

_LOOK_MS = 50  # how often, while a reader takes nothing, it is asked whether to wait for it
_PATIENCE_MS = 300  # for such a reader, in all, once there is haste
_AT_A_TIME = 1 << 20  # bytes that a disk takes before anybody loses patience


class OutputFile:
    """An open file that takes whole lines.

    `created` tells whether it was made by us (`discard` then removes it again),
    `regular` whether it is a file on disk, not a pipe, a terminal or a device.
    `failed`: something could not be written; what was is all there will be.
    `hasty` says whether who does not take what is written is not to be waited for any longer.
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
        """`becomes`: the name it takes in place of `entry`, both in `parent`, once written to.

        `whole`: not before it has been written, and closed; it is nothing if it is not whole.
        `owner`: if that is a Caller, names are changed with their rights.
        """
        self.name = name
        self.created = created
        self._entry = entry
        self._becomes = becomes
        self._whole = whole
        self._owner = owner
        self.failed = False
        self.hasty: Callable[[], bool] = lambda: False
        self.waits = False  # whether nobody minds how long: this is a clerk's
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
            self.failed = True
            raise failure(self.name, "cannot write", error) from error

    def _start(self) -> None:
        self._fresh = False
        if self._becomes and not self._whole:
            self._take_place()
        elif self.regular and not self.created and self._parent >= 0:
            os.ftruncate(self._fd, 0)

    def _take_place(self) -> None:
        try:
            with acting_as(self._owner):
                _rename(self._parent, self._entry, self._becomes)
        except (OSError, TraceError):
            with suppress(OSError, TraceError):
                self._remove()  # nothing else would
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
        """Close; an existing file without a write is emptied. Harmless when repeated.

        A file on disk is there then, also after a power failure; or this raises TraceError, and
        what had to be whole is not there at all. Of a file that failed already nothing is said.
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
        """Each step that may fail, the last one first for those who look for the file."""
        if self._fresh:
            self._start()
        if self.regular and self._parent >= 0:
            self._sync()
        fd, self._fd = self._fd, -1
        os.close(fd)
        if self._becomes:
            self._take_place()

    def _sync(self) -> None:
        """Have the disk take it. For much of it a child waits: until then no signal is heard."""
        if self.hasty():
            return
        fd = self._fd
        if self.waits or os.fstat(fd).st_size < _AT_A_TIME:
            os.fdatasync(fd)
            return
        clerk = Clerk(self.name, lambda _, __: os.fdatasync(fd), keep=[fd])
        try:
            with suppress(Unanswered):  # it is on its way
                clerk.ask("sync", hasty=self.hasty)
        finally:
            clerk.close()

    def discard(self) -> None:
        """Close, and remove the file if we made it. Raises TraceError where that cannot be."""
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
        """The file that we made, if it has that name still."""
        with suppress(FileNotFoundError), acting_as(self._owner):
            found = os.stat(self._entry, dir_fd=self._parent, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self._entry, dir_fd=self._parent)

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # of a file that failed, or that nobody wants
                os.close(fd)
        self._close_parent()

    def _close_parent(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1


def _rename(parent: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)


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
