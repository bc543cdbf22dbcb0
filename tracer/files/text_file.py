"""An output file as a text stream, for what prints."""

from tracer.files.output_file import OutputFile


class TextFile:
    """An OutputFile as the text stream that rich and others write to.

    Unlike sys.stdout it holds nothing back, and it raises what OutputFile.write does.
    """

    def __init__(self, file: OutputFile, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self._file = file

    def write(self, text: str) -> int:
        """Write all of it at once."""
        self._file.write(text.encode(self.encoding, "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Every write is out already."""

    def fileno(self) -> int:
        """Where it goes."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Whether that is a terminal."""
        return self._file.isatty()
