"""CSV files as columns: numbers as numpy arrays, words as numbers into a list.

Reads with pyarrow, a megabyte at a time. Of the readers tried (polars, DuckDB)
it takes the least time for ten million rows, reads 0x… as numbers, and keeps
repeated words as numbers.
"""

import contextlib
import csv
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.common.types import Bools
from tracer.reporting.reading.blame import bad_line
from tracer.reporting.reading.names import safe, shown
from tracer.reporting.reading.needs import library
from tracer.reporting.reading.schema import Column

Array = npt.NDArray[Any]
Option = Literal["--csv", "--pages-csv", "--stacks --csv"]
BLOCK = 1 << 20  # bytes parsed at once: they stay in a core's own cache


@dataclass(frozen=True)
class Words:
    """A column of names: `words[codes[row]]`, made safe to show. Each word is there once."""

    words: list[str]
    codes: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.codes)

    def counts(self, weights: Array | None = None) -> Array:
        """How many rows have each word, or the sum of their `weights`."""
        return np.bincount(self.codes, weights, minlength=len(self.words))

    def select(self, rows: Array) -> "Words":
        """The rows chosen, by number or by flag."""
        return Words(self.words, self.codes[rows])

    def mask(self, *words: str) -> Bools:
        """Which rows have one of `words`."""
        return np.array([word in words for word in self.words] or [False])[self.codes]


@dataclass
class Table:
    """A file's columns, all of one length, and what is to be said of the file."""

    rows: int
    numbers: dict[str, Array]
    words: dict[str, Words]
    notes: list[str] = field(default_factory=list)


def read_table(path: str, columns: Mapping[str, Column], option: Option) -> Table:
    """Read the `columns` of the file that `option` of pagefault-trace wrote.

    A last line without its end is left out, and `notes` says so. Raises
    TraceError(code=Exit.INPUT) that names the line where anything else is wrong.
    """
    library("pyarrow.csv")
    data = _mapped(path, option)
    header = _header(path, data, columns, option)
    end = data.rfind(b"\n") + 1
    notes = _cut_off(path, data, end) if end < len(data) else []
    used = {name: column for name, column in columns.items() if name in header}
    pieces = _Pieces(used)
    try:
        for batch in _batches(memoryview(data)[:end], used):
            pieces.add(batch)
    except (library("pyarrow").ArrowInvalid, _Empty) as error:
        fault = bad_line(data, end, pieces.rows, header, used) or safe(str(error)[:200])
        raise wrong(path, fault, option) from None
    return pieces.table(notes)


def read_header(path: str, columns: Mapping[str, Column], option: Option) -> list[str]:
    """The names of all columns there are; raises as `read_table` does."""
    return _header(path, _mapped(path, option), columns, option)


def _mapped(path: str, option: Option) -> mmap.mmap:
    """The bytes of a regular file that is not empty. Closed with its last user."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise TraceError(
            f"cannot read {printable(path)}: {error.strerror}", "name a CSV file", Exit.INPUT
        ) from None
    if not os.path.isfile(path):
        raise wrong(path, "it is not a regular file", option)
    raise wrong(path, "it is empty: line 1, the header, is missing", option)


def _header(path: str, data: mmap.mmap, columns: Mapping[str, Column], option: Option) -> list[str]:
    first = data.find(b"\n")
    line = data[: first if first >= 0 else len(data)][:4096]
    header: list[str] = []
    with contextlib.suppress(UnicodeDecodeError, csv.Error):
        header = next(csv.reader([line.decode().rstrip("\r")]), [])
    missing = [name for name, column in columns.items() if not (column.optional or name in header)]
    if missing:
        raise wrong(path, _foreign(missing, header), option)
    twice = [name for name in columns if header.count(name) > 1]
    if twice:
        raise wrong(path, f"line 1 names column {twice[0]!r} twice", option)
    if first < 0:
        raise wrong(path, "line 1, the header, is cut off", option)
    return header


def _foreign(missing: Sequence[str], header: Sequence[str]) -> str:
    if not header:
        return "line 1 is not a header: it is not text"
    if "first_source" in header and "address" in missing:
        return "line 1 is the header of a file that --pages-csv wrote; give that one to --pages"
    if {"stack", "side"} <= set(header) and {"latency_ns", "first_source"} & set(missing):
        return "line 1 is the header of a file of call stacks; give that one to --stacks"
    if "latency_ns" in header and {"page", "module"} & set(missing):
        return "line 1 is the header of a file that --csv wrote"
    names = ", ".join(repr(name) for name in missing[:3]) + (", …" if len(missing) > 3 else "")
    found = safe(",".join(header)[:60])
    return f"line 1 is not the expected header: column {names} is not in '{found}'"


def _cut_off(path: str, data: mmap.mmap, end: int) -> list[str]:
    lines, at = 0, -1
    while (at := data.find(b"\n", at + 1)) >= 0:
        lines += 1
    return [
        f"line {lines + 1} of {printable(os.path.basename(path))} is cut off after "
        f"{len(data) - end} bytes and was left out: the trace was killed, the disk was full, "
        "or only a part was copied"
    ]


def wrong(path: str, fault: str, option: Option) -> TraceError:
    """The error of a file that is not what `option` writes."""
    return TraceError(
        f"{printable(path)}: {fault}",
        f"give a file that pagefault-trace {option} FILE wrote",
        Exit.INPUT,
    )


def _batches(body: memoryview, columns: Mapping[str, Column]) -> Iterator[Any]:
    pa, reader = library("pyarrow"), library("pyarrow.csv")
    words = pa.dictionary(pa.int32(), pa.string())
    types = {
        name: words if column.sort == "word" else pa.from_numpy_dtype(np.dtype(column.dtype))
        for name, column in columns.items()
    }
    with reader.open_csv(
        pa.BufferReader(pa.py_buffer(body)),
        read_options=reader.ReadOptions(block_size=BLOCK),
        parse_options=reader.ParseOptions(ignore_empty_lines=False),
        convert_options=reader.ConvertOptions(
            column_types=types,
            include_columns=list(columns),
            null_values=[""],
            true_values=["true"],
            false_values=["false"],
            strings_can_be_null=False,
        ),
    ) as stream:
        yield from stream


class _Empty(Exception):
    """A cell is empty that never is."""


class _Pieces:
    """Batches as they come, in numpy arrays; words numbered across batches."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.rows = 0
        self._columns = columns
        self._arrays: dict[str, list[Array]] = {name: [] for name in columns}
        self._ids: dict[str, dict[str, int]] = {name: {} for name in columns}

    def add(self, batch: Any) -> None:
        """Take in one pyarrow.RecordBatch."""
        for at, (name, column) in enumerate(self._columns.items()):
            self._arrays[name].append(self._converted(name, column, batch.column(at)))
        self.rows += batch.num_rows

    def _converted(self, name: str, column: Column, cells: Any) -> Array:
        if column.sort == "word":
            ids = self._ids[name]
            words = [shown(word) for word in cells.dictionary.to_pylist()]
            known = np.array([ids.setdefault(word, len(ids)) for word in words], np.int32)
            return np.asarray(known[cells.indices.to_numpy()])
        if column.sort == "present":
            return np.asarray(cells.is_valid().to_numpy(zero_copy_only=False))
        if cells.null_count and column.blank is None:
            raise _Empty
        if cells.null_count:
            cells = cells.fill_null(column.blank)
        return np.array(cells.to_numpy(zero_copy_only=False), column.dtype)

    def table(self, notes: list[str]) -> Table:
        """All of it, each column in one array."""
        numbers: dict[str, Array] = {}
        words: dict[str, Words] = {}
        for name, column in self._columns.items():
            pieces = self._arrays.pop(name)
            if column.sort == "word":
                codes = np.concatenate(pieces or [np.empty(0, np.int32)])
                words[name] = Words(list(self._ids[name]), codes)
            else:
                dtype = np.bool_ if column.sort == "present" else column.dtype
                numbers[name] = np.concatenate(pieces or [np.empty(0, dtype)])
        return Table(self.rows, numbers, words, notes)
