"""Writing what a report makes: whole files, never over one that is there unasked."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tracer.common.errors import TraceError, complain
from tracer.files.caller import who_called
from tracer.files.output import open_output

Write = Callable[[Iterable[bytes | memoryview]], None]


def beside(csv_path: str, suffix: str) -> str:
    """The name of a file beside the CSV: `trace.csv` makes `trace.png`."""
    return csv_path.removesuffix(".csv") + suffix


@contextmanager
def writing(path: str, force: bool = False) -> Iterator[Write]:
    """Open a file before the work of making what is in it; yields what writes all pieces.

    "-" is standard output. Raises TraceError(code=Exit.OUTPUT) where opening or writing fails,
    or the file is there and `force` is not given; what was begun and failed is removed, and a
    file that is there stays until the new one is whole.
    """
    file = open_output(path, who_called(), force, whole=True)

    def write(pieces: Iterable[bytes | memoryview]) -> None:
        for piece in pieces:
            file.write(piece)

    try:
        yield write
    except BaseException:
        try:
            file.discard()
        except TraceError as error:
            complain(str(error), "pagefault-report")
        raise
    file.close()
