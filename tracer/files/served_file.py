"""Output files on FUSE and network file systems, which may block: a child process writes them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tracer.common.errors import TraceError
from tracer.files import opening
from tracer.files.clerk import Clerk, Unanswered
from tracer.files.output_file import OutputFile

_PATIENCE_TO_DISCARD_S = 1.0  # for a file system


class ServedFile(OutputFile):
    """An output file that a child process opens and writes, since its file system may block.

    The child has an OutputFile. If the file system does not answer and `hasty` is true,
    Unanswered is raised, and the file is left incomplete.
    """

    def __init__(self, path: str, fd: int = -1, **how: Any) -> None:
        """`fd`: an open descriptor, passed to the child; otherwise `how` to open `path`."""
        self.name = path
        self.hasty = lambda: False
        self.failed = False
        self._clerk = Clerk(path, Served(), [fd] if fd >= 0 else [])
        try:
            self.created, self.regular = self._clerk.ask("open", path, fd, how)
        except BaseException:
            self._clerk.close()
            raise
        self._open = True

    def fileno(self) -> int:
        """-1: the descriptor is the child's."""
        return -1

    def isatty(self) -> bool:
        """False: it is no device."""
        return False

    def write(self, data: bytes | memoryview) -> None:
        """As an OutputFile does."""
        try:
            self._clerk.ask("write", bytes(data), hasty=self.hasty)
        except TraceError:
            self.failed = True
            raise

    def renew(self) -> None:
        """Do nothing: a child that has not answered is gone permanently."""

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


class Served:
    """The child's side of a ServedFile."""

    def __init__(self) -> None:
        self._file: OutputFile | None = None

    def __call__(self, what: str, arguments: tuple[Any, ...]) -> Any:
        if what == "replace":
            opening.replace(*arguments)
            return None
        if what == "open":
            path, fd, how = arguments
            self._file = OutputFile(fd, path) if fd >= 0 else opening.open_path(path, **how)
            self._file.waits = True
            return self._file.created, self._file.regular
        assert self._file is not None
        if what == "close":
            (in_haste,) = arguments
            self._file.hasty = lambda: in_haste
            arguments = ()
        return getattr(self._file, what)(*arguments)
