"""A text stream on top of an OutputFile."""

from tracer.files.output_file import OutputFile


class TextFile:
    """An OutputFile as a text stream for rich and others.

    Unlike sys.stdout it is unbuffered, and it raises what OutputFile.write does.
    """

    def __init__(self, file: OutputFile, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self._file = file

    def write(self, text: str) -> int:
        """Write all of it at once."""
        self._file.write(text.encode(self.encoding, "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: it is unbuffered."""

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Whether the file is a terminal."""
        return self._file.isatty()
