"""FILE.stacks.csv: one row a frame of each call stack. docs/csv.md describes every column.

Rows are appended as stacks come to be known, before the faults that refer to them, so that
a trace that was killed leaves what its CSV needs. What takes longer (source lines, demangled
names) is filled in at the end, when the file is rewritten.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

from tracer.callstacks.frames import Frame, FrameNames
from tracer.callstacks.locations import Location
from tracer.callstacks.python_frames import shown
from tracer.callstacks.source_lines import SourceLines
from tracer.callstacks.stacks import Stacks
from tracer.common.deadline import go_on
from tracer.files.output import open_output, replace_file
from tracer.files.output_file import OutputFile
from tracer.files.paths import Owner
from tracer.model.rows import Names, Rows
from tracer.outputs.cells import text_cell

SUFFIX = ".stacks.csv"
STACK_COLUMNS = (
    *("stack", "frame", "side", "function", "offset", "module", "module_offset"),
    *("build_id", "file", "line", "address", "note"),
)
_AT_ONCE = 16  # stacks written at once: two milliseconds


class StacksFile:
    """The file beside the CSV; an Output that is given each batch before the CSV is."""

    def __init__(self, csv_path: str, owner: Owner | None = None, force: bool = False) -> None:
        """Claim the name: raises TraceError(code=Exit.OUTPUT) as `open_output` does."""
        self.path = csv_path + SUFFIX
        self._owner = owner
        self._file: OutputFile = open_output(self.path, owner, force)
        self._hasty: Callable[[], bool] = lambda: False
        self._header = _header()
        self._written = 0  # stacks
        self._early = False  # something was written before all of it was known
        self._stacks: Stacks | None = None
        self._names: FrameNames | None = None
        self._meanwhile: Callable[[], None] = lambda: None

    @property
    def hasty(self) -> Callable[[], bool]:
        """As OutputFile's."""
        return self._hasty

    @hasty.setter
    def hasty(self, hasty: Callable[[], bool]) -> None:
        self._hasty = self._file.hasty = hasty

    def follow(
        self, stacks: Stacks, names: FrameNames, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Set the stacks to write; before the first batch. `meanwhile` is called now and then."""
        self._stacks, self._names, self._meanwhile = stacks, names, meanwhile

    def write(self, rows: Rows, names: Names) -> None:
        """Append the stacks that are new. Until then, a file that was there is as it was."""
        self._start()
        if self._stacks is None or len(self._stacks.stacks) == self._written + 1:
            return
        first, end = self._written + 1, len(self._stacks.stacks)
        self._written = end - 1
        if self._names is not None:
            self._names.ask(self._locations(range(first, end)))
            self._names.wait()
        for part in self._parts(first, end):
            self._meanwhile()
            self._file.write(self._text(part, None))

    def close(self) -> None:
        """Close the file as it is; one without a stack has its header."""
        try:
            self._start()
        finally:
            self._file.close()

    def _start(self) -> None:
        header, self._header = self._header, b""
        if header:
            self._file.write(header)

    def finish(self, lines: SourceLines, enough: Callable[[], bool] = lambda: False) -> None:
        """Rewrite the file, with source lines and demangled names. Raises TraceError.

        Raises Enough where it is `enough` before that is done: the file stays as it is, and so
        does one that has failed.
        """
        self.close()
        if self._stacks is None or self._file.failed:
            return
        if not (lines or self._early or self._stacks.revised):
            return
        text = [_header()]
        for part in self._parts(1, len(self._stacks.stacks)):
            go_on(enough)
            text.append(self._text(part, lines))
        replace_file(self.path, b"".join(text), self._owner, self._hasty)

    def discard(self) -> None:
        """Close and undo what was written."""
        self._file.discard()

    def _parts(self, first: int, end: int) -> Iterator[range]:
        for start in range(first, end, _AT_ONCE):
            yield range(start, min(start + _AT_ONCE, end))

    def _locations(self, numbers: Iterable[int]) -> Iterator[Location]:
        assert self._stacks is not None
        every = (self._stacks.stacks[number].frames for number in numbers)  # Python's have names
        for at in dict.fromkeys(itertools.chain.from_iterable(every)):
            yield self._stacks.locations[at]

    def _text(self, numbers: Iterable[int], lines: SourceLines | None) -> bytes:
        assert self._stacks is not None
        assert self._names is not None
        locations = self._stacks.locations
        out: list[bytes] = []
        for number in numbers:
            stack = self._stacks.stacks[number]
            if not (self._early or lines is not None):
                self._early = not all(self._names.settled(locations[at]) for at in stack.frames)
            frames, note, noted = shown(self._names, locations, stack)
            for index, (location, frame, at) in enumerate(frames):
                if lines is not None:
                    frame = lines.complete(frame, location)
                out.append(b"%d,%d," % (number, index))
                out.append(_cells(frame, stack.addresses[at] if at >= 0 else None))
                words = note if index == noted else ""
                if not frame.function and not words:
                    words = self._why(location)
                out.append(text_cell(words)[:-1] + b"\n")
        return b"".join(out)

    def _why(self, location: Location) -> str:
        why = self._names.why(location) if self._names is not None else ""
        return f"no symbols: {why}" if why else ""


def _header() -> bytes:
    return (",".join(STACK_COLUMNS) + "\n").encode()


def _cells(frame: Frame, address: int | None) -> bytes:
    """A frame's columns; `address` None: Python's, which has none."""
    at = f"{frame.offset:#x}" if frame.function and not frame.python else ""
    offset = "" if frame.module_offset is None else f"{frame.module_offset:#x}"
    return b"".join(
        (
            b"kernel," if frame.kernel else b"user," if address is not None else b"python,",
            text_cell(frame.function),
            at.encode() + b",",
            text_cell(frame.module),
            f"{offset},{frame.build_id},".encode(),
            text_cell(frame.file),
            f"{frame.line or ''},{'' if address is None else hex(address)},".encode(),
        )
    )
