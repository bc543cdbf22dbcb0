"""Printing lines of text: to a terminal cut or wrapped to its width, elsewhere as plain text."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tracer.files.failures import failure


def show(console: Console, lines: Sequence[Text], wrap: bool = False) -> None:
    """Print to a terminal with styles, cut or wrapped to its width; elsewhere plain text.

    Raises BrokenPipeError where the reader is gone, TraceError(code=Exit.OUTPUT)
    where the text cannot be written.
    """
    try:
        _show(console, lines, wrap)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise failure("the text", "cannot write", error) from error


def _show(console: Console, lines: Sequence[Text], wrap: bool) -> None:
    if console.is_terminal:
        if wrap:
            console.print(*lines, sep="\n", highlight=False)
        else:
            console.print(
                *lines, sep="\n", highlight=False, no_wrap=True, overflow="crop", crop=True
            )
        return
    encoding = console.encoding or "utf-8"
    text = "".join(line.plain.rstrip() + "\n" for line in lines)
    console.file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    console.file.flush()
