"""One CSV row a fault, header first, no comment lines. docs/csv.md describes every column.

Formatting is columnar (tracer.outputs.columns): nothing is done per row in
Python. Every write is whole lines, unbuffered, so that a reader sees complete
rows while the trace runs and after the tracer was killed.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from tracer.common.deadline import Enough
from tracer.common.pages import NO_FRAME
from tracer.common.types import U32, Integers
from tracer.files.output_file import OutputFile
from tracer.model.rows import UNKNOWN_LATENCY, Access, Cause, Confirmed, Kind, Names, Rows
from tracer.outputs.base import Symbolizer
from tracer.outputs.cells import RegionCells, enum_cells, text_cell
from tracer.outputs.columns import Column, constant, decimal, hexadecimal, strings
from tracer.outputs.lines import lines

COLUMNS = (
    *("number", "time_ns", "pid", "space", "tid", "comm", "cpu", "address"),
    *("access", "cause", "kind", "major", "latency_ns", "frame", "frame_before", "pages"),
    *("region", "perms", "offset", "ip", "symbol", "count", "confirmed"),
)

STACK = "stack"  # the last column, where call stacks were recorded

CHUNK = 16384  # rows formatted at once
MOST_HELD = 1 << 17  # rows that wait for names at most


def columns(stacks: bool) -> tuple[str, ...]:
    """The columns of a file, with call stacks or without."""
    return (*COLUMNS, STACK) if stacks else COLUMNS


class CsvOutput:
    """Writes batches of rows to an open file (`tracer.files.output.open_output`).

    Raises TraceError(code=Exit.OUTPUT) where the file cannot be written, and
    BrokenPipeError where its reader is gone; the file then ends with a whole line.
    """

    def __init__(
        self, file: OutputFile, symbols: Symbolizer | None = None, *, stacks: bool = False
    ) -> None:
        self._file = file
        self._symbols = symbols
        self._comms: list[bytes] = []
        self._regions = RegionCells()
        self._stacks = stacks
        self._held: deque[Rows] = deque()  # until their names are known
        self._held_rows = 0
        self._confirmed = enum_cells(Confirmed, b"," if stacks else b"\n")
        self._header = (",".join(columns(stacks)) + "\n").encode()

    def write(self, rows: Rows, names: Names) -> None:
        """Append one line a row. The data are in the kernel when this returns.

        Except rows whose instructions have no names yet: they, and what comes after them, are
        written by a later call, or by `close`.
        """
        self._start()
        self._comms += [text_cell(comm) for comm in names.comms[len(self._comms) :]]
        self._regions.extend(names)
        for start in range(0, len(rows), CHUNK):
            self._add(rows[start : start + CHUNK])
        self._write_named(MOST_HELD)

    def close(self) -> None:
        """Close the file; one without a fault has its header."""
        try:
            self._start()
            if self._held and self._symbols is not None:
                with contextlib.suppress(Enough):
                    self._symbols.settle()
            self._write_named(0)
        finally:
            self._file.close()

    def discard(self) -> None:
        """Close and undo: a file we made is removed, one that existed is unchanged."""
        self._file.discard()

    def _start(self) -> None:
        header, self._header = self._header, b""
        if header:
            self._file.write(header)

    def _add(self, rows: Rows) -> None:
        if self._held and self._symbols is not None:
            self._symbols.ask(rows)  # to be known by their turn
        self._held.append(rows)
        self._held_rows += len(rows)
        self._write_named(MOST_HELD)

    def _write_named(self, most: int) -> None:
        """Write the rows whose names are known, and others only where more than `most` wait."""
        while self._held:
            rows = self._held[0]
            symbols: Sequence[str] = ()
            if self._symbols is not None:
                symbols, complete = self._symbols.ask(rows)
                if not complete and self._held_rows <= most:
                    return
            self._held.popleft()
            self._held_rows -= len(rows)
            try:
                for text in self._format(rows, symbols):
                    self._file.write(text)
            except BaseException:
                self._held.clear()  # what follows would be in its place
                self._held_rows = 0
                raise

    def _format(self, rows: Rows, symbols: Sequence[str]) -> Iterator[memoryview]:
        cells = [
            decimal(rows["number"]),
            decimal(rows["time_ns"]),
            *(decimal(rows[name], blank=0) for name in ("pid", "space", "tid")),
            strings(self._comms, rows["comm"]),
            decimal(rows["cpu"]),
            *hexadecimal(rows["address"]),
            strings(_what_cells(), _what(rows)),
            decimal(rows["latency_ns"], blank=UNKNOWN_LATENCY),
            *hexadecimal(rows["frame"], blank=NO_FRAME),
            *hexadecimal(rows["frame_before"], blank=NO_FRAME),
            decimal(rows["pages"]),
            self._regions.named(rows["region"]),
            *self._regions.offsets(rows["region"], rows["offset"]),
            *hexadecimal(rows["ip"], blank=0),
            self._symbol_column(symbols),
            decimal(rows["count"], blank=0),
            strings(self._confirmed, rows["confirmed"]),
        ]
        if self._stacks:
            cells.append(self._stack_column(rows["stack"]))
        return lines(cells, len(rows))

    def _stack_column(self, stack: U32) -> Column:
        """The last: few different numbers, whose cells end the line."""
        distinct, which = np.unique(stack, return_inverse=True)
        return strings([b"%d\n" % each if each else b"\n" for each in distinct.tolist()], which)

    def _symbol_column(self, symbols: Sequence[str]) -> Column:
        if self._symbols is None:
            return constant(b",")
        ids: dict[str, int] = {}
        which = [ids.setdefault(symbol, len(ids)) for symbol in symbols]
        return strings([text_cell(symbol) for symbol in ids], np.array(which, np.intp))


def _what(rows: Rows) -> Integers:
    """One number for access, cause, kind and major together: they make a single cell."""
    what = rows["access"].astype(np.uint16)
    for name, values in (("cause", len(Cause)), ("kind", len(Kind)), ("major", 2)):
        what *= np.uint16(values)
        what += rows[name]
    return what


@cache
def _what_cells() -> list[bytes]:
    return [
        access + cause + kind + major
        for access in enum_cells(Access)
        for cause in enum_cells(Cause)
        for kind in enum_cells(Kind)
        for major in (b"false,", b"true,")
    ]
