"""Writing what a report makes: whole files, never over one that is there unasked."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tracer.outputs.caller import who_called
from tracer.outputs.files import open_output

Write = Callable[[Iterable[bytes | memoryview]], None]


def beside(csv_path: str, suffix: str) -> str:
    """The name of a file beside the CSV: `trace.csv` makes `trace.png`."""
    return csv_path.removesuffix(".csv") + suffix


@contextmanager
def writing(path: str, force: bool = False) -> Iterator[Write]:
    """Open a file before the work of making what is in it; yields what writes all pieces.

    "-" is standard output. Raises TraceError(code=Exit.OUTPUT) where opening or writing fails,
    or the file is there and `force` is not given; what was begun and failed is removed.
    """
    file = open_output(path, who_called(), force)

    def write(pieces: Iterable[bytes | memoryview]) -> None:
        for piece in pieces:
            file.write(piece)

    try:
        yield write
    except BaseException:
        file.discard()
        raise
    file.close()
