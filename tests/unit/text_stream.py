"""An output file as a text stream, for what prints."""

import io
from typing import TextIO, cast

from tracer.files.output_file import OutputFile


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
