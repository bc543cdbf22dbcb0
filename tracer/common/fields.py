"""Arrays of records by field: each field a contiguous array, which is fastest in numpy."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from tracer.common.types import U64, Bools, Index, Integers, Structs

Picked = slice | Integers | Bools


BLOCK = 1024  # records transposed at once: they fit a core's own cache


class Words:
    """Transposed records: `words`, shape (size // 8, n), has the nth words of all in a row."""

    def __init__(self, words: U64, dtype: np.dtype[np.void]) -> None:
        self._words = words
        self._fields: Mapping[str, Any] = dtype.fields or {}

    def __len__(self) -> int:
        return len(self._words[0])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A field of all records, shape (n,); not a field that is an array itself."""
        kind, offset = self._fields[name][:2]
        parts: npt.NDArray[Any] = self._words[offset // 8].view(kind)
        return parts[offset % 8 // kind.itemsize :: 8 // kind.itemsize]


class Columns:
    """Records of one kind by field; each field is copied from them once, on first use.

    Records are 176 bytes apart in memory: code that reads a field several times, or does
    arithmetic on it, is faster on a contiguous array. `columns["tid"]` is such an array,
    read-only; `columns[slice, mask or indices]` selects records.
    """

    def __init__(
        self,
        records: Structs | Words,
        chosen: slice | Index | None = None,
        fields: dict[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self._records = records
        self._chosen = slice(0, len(records)) if chosen is None else chosen
        self._fields = {} if fields is None else fields  # of all records

    @classmethod
    def of(cls, records: "Records") -> "Columns":
        """The columns of a structured array; Columns are returned unchanged."""
        return records if isinstance(records, Columns) else cls(records)

    @classmethod
    def together(cls, parts: "Sequence[Columns]") -> "Columns":
        """The concatenation of selections from the same records."""
        first, slices = parts[0], [part._chosen for part in parts]
        if len(parts) == 1:
            return first
        chosen: slice | Index
        ends = [each.stop if isinstance(each, slice) else -1 for each in slices]
        starts = [each.start if isinstance(each, slice) else -2 for each in slices]
        if starts[0] >= 0 and starts[1:] == ends[:-1]:
            chosen = slice(starts[0], ends[-1])
        else:
            every = np.arange(len(first._records))
            chosen = np.concatenate([every[each] for each in slices])
        return cls(first._records, chosen, first._fields)

    def __len__(self) -> int:
        chosen = self._chosen
        return chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)

    @overload
    def __getitem__(self, at: str) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, at: Picked) -> "Columns": ...

    def __getitem__(self, at: str | Picked) -> "npt.NDArray[Any] | Columns":
        if isinstance(at, str):
            field = self._fields.get(at)
            if field is None:
                field = self._fields[at] = np.ascontiguousarray(self._records[at])
            return field[self._chosen]
        mine = self._chosen
        if isinstance(mine, slice) and isinstance(at, slice):
            start, stop, _ = at.indices(len(self))
            chosen: slice | Index = slice(mine.start + start, mine.start + max(start, stop))
        else:
            chosen = np.arange(mine.start, mine.stop)[at] if isinstance(mine, slice) else mine[at]
        return Columns(self._records, chosen, self._fields)


Records = Structs | Columns

FEW = 64  # up to so many are handled one by one: plain Python is faster than calls of numpy


def repeated(value: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """`value`, shape (1,), as an array of `count` at a stride of 0; to be read only."""
    return np.ndarray((count,), value.dtype, value, strides=(0,))


def alike(values: Integers) -> int | None:
    """The common value of an array of stride 0 (`repeated`); None for another array."""
    return int(values[0]) if len(values) and not values.strides[0] else None


def distinct(values: Integers) -> list[int]:
    """The distinct values of non-negative integers, in any order; usually few and small.

    np.unique would sort them.
    """
    if not len(values):
        return []
    if (values == values[0]).all():
        return [int(values[0])]
    if int(values.max()) < 4 * len(values) + 1024:
        found: list[int] = np.flatnonzero(np.bincount(values)).tolist()
    else:
        found = np.unique(values).tolist()
    return found


def runs(*columns: npt.NDArray[Any]) -> Index:
    """Start index of each run of rows that are equal in all `columns`, arrays of one length."""
    changed = np.zeros(len(columns[0]), np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changed)
