"""Finding the line that is wrong, and saying what is wrong with it.

pyarrow says that a file cannot be read, not always where. What it could read
is known, so that only the rest is read, line by line.
"""

import csv
import mmap
import re
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from tracer.reporting.reading.names import safe
from tracer.reporting.reading.schema import Column

_NUMBER = re.compile(r"-?[0-9]+|0x[0-9a-fA-F]+")


def bad_line(
    data: mmap.mmap, end: int, good: int, header: Sequence[str], columns: Mapping[str, Column]
) -> str | None:
    """What is wrong with the first wrong line after `good` right ones; None if nothing is.

    `data` is the file, its header included, up to `end`; line numbers are the file's.
    """
    at = 0
    for _ in range(good + 1):
        at = data.find(b"\n", at) + 1
    number = good + 1
    while at < end:
        number += 1
        stop = data.find(b"\n", at)
        fault = _fault(data[at:stop], header, columns)
        if fault:
            return f"line {number} {fault}"
        at = stop + 1
    return None


def _fault(raw: bytes, header: Sequence[str], columns: Mapping[str, Column]) -> str:
    try:
        line = raw.decode().removesuffix("\r")
        cells = list(chain.from_iterable(csv.reader([line], strict=True)))
    except UnicodeDecodeError as error:
        return f"is not UTF-8 from its byte {error.start + 1} on"
    except csv.Error as error:
        return f"is not valid CSV ({error})"
    if not line:
        return "is empty"
    if len(cells) != len(header):
        return f"has {len(cells)} cells where the header has {len(header)}"
    for name, cell in zip(header, cells, strict=True):
        wrong = _wrong(cell, columns[name]) if name in columns else ""
        if wrong:
            return f"is wrong: column {name!r} holds '{safe(cell[:40])}', {wrong}"
    return ""


def _wrong(cell: str, column: Column) -> str:
    if column.sort == "word":
        return ""
    if not cell:
        return "which must not be empty" if column.blank is None else ""
    if column.sort == "flag":
        return "" if cell in ("true", "false") else "neither true nor false"
    if not _NUMBER.fullmatch(cell):
        return "not an integer"
    limits = np.iinfo(column.dtype)
    try:
        number = int(cell, 0 if "x" in cell else 10)
    except ValueError:  # thousands of digits (sys.get_int_max_str_digits)
        return "out of range"
    return "" if limits.min <= number <= limits.max else "out of range"
