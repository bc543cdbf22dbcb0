"""Opening and writing the files a user asked for, safely: this program runs as root.

Files are opened before tracing starts, so that a bad path costs nothing, and
belong to the user who called sudo. Nothing is overwritten unasked, and nothing
that another user may have put in our way is followed (tracer.outputs.paths).

A file on disk has been written once the disk has it: the kernel takes what is written before that,
and tells of a disk that fails, or a server without room, to who asks (fdatasync). Where a file
system may keep us waiting, a child does all of it (tracer.outputs.clerk).
"""

import errno
import fcntl
import io
import os
import re
import select
import stat
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from tracer.ending import Stalled
from tracer.errors import Exit, TraceError
from tracer.outputs.caller import Caller, acting_as
from tracer.outputs.clerk import Clerk, Unanswered
from tracer.outputs.paths import Owner, open_parent, others_may_write, refuse_planted_file
from tracer.outputs.served import may_stall
from tracer.text import printable

_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_NO_FD = (1 << 31) - 1  # beyond what a descriptor can be (RLIMIT_NOFILE), and no overflow
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
_LOOK_MS = 50  # how often, while a reader takes nothing, it is asked whether to wait for it
_PATIENCE_MS = 300  # for such a reader, in all, once there is haste
_AT_A_TIME = 1 << 20  # bytes that a disk takes before anybody loses patience
_PATIENCE_TO_DISCARD_S = 1.0  # for a file system


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
            raise _left(self.name, error) from error
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
        return self._file.isatty()

    def close(self) -> None:
        self._file.close()


class ServedFile(OutputFile):
    """One that a child opens and writes, since its file system may keep it waiting.

    The child has an OutputFile. Where it gets no answer, and there is haste, Unanswered is
    raised, and the file is as far as it has come.
    """

    def __init__(self, path: str, fd: int = -1, **how: Any) -> None:
        """`fd`: what is open already, and is the child's then; `how` to open it otherwise."""
        self.name = path
        self.hasty = lambda: False
        self.failed = False
        self._clerk = Clerk(path, _Served(), [fd] if fd >= 0 else [])
        try:
            self.created, self.regular = self._clerk.ask("open", path, fd, how)
        except BaseException:
            self._clerk.close()
            raise
        self._open = True

    def fileno(self) -> int:
        """None of ours."""
        return -1

    def isatty(self) -> bool:
        """It is no device."""
        return False

    def write(self, data: bytes | memoryview) -> None:
        """As an OutputFile does."""
        try:
            self._clerk.ask("write", bytes(data), hasty=self.hasty)
        except TraceError:
            self.failed = True
            raise

    def renew(self) -> None:
        """Whoever has not answered is gone for good."""

    def shorten(self, size: int) -> None:
        """As an OutputFile does."""
        self._clerk.ask("shorten", size, hasty=self.hasty)

    def close(self) -> None:
        """As an OutputFile does."""
        with suppress(*[TraceError] if self.failed else []), self._ending():
            self._clerk.ask("close", self.hasty(), hasty=self.hasty)

    def discard(self) -> None:
        """As an OutputFile does."""
        with suppress(Unanswered), self._ending():
            self._clerk.ask("discard", hasty=lambda: True, patience_s=_PATIENCE_TO_DISCARD_S)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._clerk.close()


class _Served:
    """What a child does for a ServedFile."""

    def __init__(self) -> None:
        self._file: OutputFile | None = None

    def __call__(self, what: str, arguments: tuple[Any, ...]) -> Any:
        if what == "replace":
            _replace(*arguments)
            return None
        if what == "open":
            path, fd, how = arguments
            self._file = OutputFile(fd, path) if fd >= 0 else _open(path, **how)
            self._file.waits = True
            return self._file.created, self._file.regular
        assert self._file is not None
        if what == "close":
            (in_haste,) = arguments
            self._file.hasty = lambda: in_haste
            arguments = ()
        return getattr(self._file, what)(*arguments)


def open_output(
    path: str, owner: Owner | None = None, force: bool = False, *, whole: bool = False
) -> OutputFile:
    """Open `path` for writing; "-" is standard output, /dev/stdout and /dev/fd/N too.

    A new file is mode 0644 less the umask and belongs to `owner`. An existing
    file raises TraceError unless `force`; pipes and devices are written to as
    they are. `whole`: a file on disk, an existing one too, is nothing else until
    the new one is closed. Raises TraceError(code=Exit.OUTPUT) with what to do about it.
    """
    if path == "-":
        return _given("standard output", _checked(path, 1))
    if match := _DESCRIPTOR.fullmatch(path):
        standard, number = match.groups()
        return _given(path, _checked(path, _STANDARD[standard] if standard else int(number)))
    if may_stall(path):
        return ServedFile(path, owner=owner, force=force, whole=whole)
    return _open(path, owner, force, whole)


def _given(name: str, fd: int) -> OutputFile:
    """What is open already; `fd` is ours."""
    if not may_stall(os.readlink(f"/proc/self/fd/{fd}")):  # of a pipe it is no path
        return OutputFile(fd, name)
    try:
        return ServedFile(name, fd)
    finally:
        os.close(fd)


def _open(path: str, owner: Owner | None, force: bool, whole: bool) -> OutputFile:
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


def replace_file(
    path: str,
    data: bytes,
    owner: Owner | None = None,
    hasty: Callable[[], bool] = lambda: False,
) -> None:
    """Put a new file with `data` in the place of `path`, atomically: rename(2).

    Raises TraceError(code=Exit.OUTPUT); `path` is then as it was.
    """
    if not may_stall(path):
        _replace(path, data, owner, hasty)
        return
    clerk = Clerk(path, _Served())
    try:
        clerk.ask("replace", path, data, owner, hasty=hasty)
    finally:
        clerk.close()


def _replace(
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


def reserve(path: str, size: int, owner: Owner | None = None) -> int:
    """Take so many bytes of the disk that `path` is on: they are free once this is closed.

    A descriptor of a file that has no name, and goes with us whatever ends us; -1 where the
    disk or the file system has none, or may keep us waiting.
    """
    if may_stall(path):
        return -1
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


def _open_in(
    parent: int, name: str, path: str, owner: Owner | None, force: bool, whole: bool
) -> OutputFile:
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=parent)
    except FileExistsError:
        return _open_existing(parent, name, path, owner, force, whole)
    with _undone(fd, parent, name):
        _give(fd, owner)
        return OutputFile(
            fd, path, created=True, parent=parent, entry=name, whole=whole, owner=owner
        )


@contextmanager
def _undone(fd: int, parent: int, name: str) -> Iterator[None]:
    """Where what follows fails, a file just made is removed, and closed."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=parent)
        with suppress(OSError):
            os.close(fd)
        raise


def _rename(parent: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)


def _give(fd: int, owner: Owner | None) -> None:
    # What a Caller makes is the caller's.
    if owner is not None and not isinstance(owner, Caller) and owner[0] != os.geteuid():
        with suppress(PermissionError):  # a file system without owners
            os.fchown(fd, *owner)


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
        # Where others may write, it may be a link to a file elsewhere all the same, made and
        # unmade meanwhile.
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
    """What takes a file's place is its owner's, for whom it was."""
    with suppress(PermissionError):
        os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)


def _draft(parent: int, name: str, owner: Owner | None) -> tuple[int, str]:
    """A new file that is to take the place of `name`: a descriptor, and its name until then."""
    # Bytes, for the limit of 255 is one of bytes.
    draft = os.fsdecode(b"." + os.fsencode(name)[:200] + b".%d" % os.getpid())
    with suppress(FileNotFoundError):  # left by a killed run with our process id
        os.unlink(draft, dir_fd=parent)
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
    fd = os.open(draft, flags, 0o644, dir_fd=parent)
    with _undone(fd, parent, draft):
        _give(fd, owner)
    return fd, draft


_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.ENOENT: "make the directory first",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "choose a directory you may write to",
    errno.EROFS: "choose a directory you may write to",
    errno.EIO: "see what the kernel says of that disk (dmesg), and write to another one",
    errno.ESTALE: "see to what serves that file system, or write to another one",
    errno.ENOTCONN: "see to what serves that file system, or write to another one",
    errno.ECONNABORTED: "see to what serves that file system, or write to another one",
    errno.EBADF: "give it an open standard output, or name a file",
}


_REFUSED = (errno.EACCES, errno.EPERM)
_AS_CALLER = (
    "under sudo, files are written with the rights of whoever called it; for more: "
    "--csv - | sudo tee FILE"
)


def _left(path: str, error: OSError) -> TraceError:
    reason = os.strerror(error.errno or 0)
    return TraceError(
        f"cannot remove {printable(path)}: {reason}", "remove it, it is not whole", Exit.OUTPUT
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
