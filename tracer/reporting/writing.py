"""Writing what a report makes: whole files, never over one that is there unasked."""

from collections.abc import Iterable

from tracer.outputs.files import open_output


def beside(csv_path: str, suffix: str) -> str:
    """The name of a file beside the CSV: `trace.csv` makes `trace.png`."""
    return csv_path.removesuffix(".csv") + suffix


def write(path: str, pieces: Iterable[bytes | memoryview], force: bool = False) -> None:
    """Write `pieces` to `path`; "-" is standard output.

    Raises TraceError(code=Exit.OUTPUT) where that fails, or the file is there
    and `force` is not given; what was begun is then removed.
    """
    file = open_output(path, force=force)
    try:
        for piece in pieces:
            file.write(piece)
    except BaseException:
        file.discard()
        raise
    file.close()
