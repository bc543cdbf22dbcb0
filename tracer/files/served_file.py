"""Files on file systems that others serve, which may keep us waiting: a child writes them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tracer.common.errors import TraceError
from tracer.files import opening
from tracer.files.clerk import Clerk, Unanswered
from tracer.files.output_file import OutputFile

_PATIENCE_TO_DISCARD_S = 1.0  # for a file system


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
        self._clerk = Clerk(path, Served(), [fd] if fd >= 0 else [])
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


class Served:
    """What a child does for a ServedFile."""

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
