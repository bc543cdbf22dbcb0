"""Rows numbered by what they have in common, a number from 0 for each of a few."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.types import Index

Codes = npt.NDArray[np.integer[Any]]


def by_code(codes: Codes, count: int) -> tuple[Index, list[slice]]:
    """The rows ordered by code, and within a code by number; and each code's part of them."""
    narrow = codes.astype(np.uint16) if count <= 1 << 16 else codes  # 16 bits: a radix sort
    order = np.argsort(narrow, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=count)).tolist()
    return order, [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def combined(*columns: tuple[Codes, int]) -> tuple[Codes, list[tuple[int, ...]]]:
    """One code for each combination of several that occurs, and what each stands for.

    A column is its codes and how many there can be.
    """
    sizes = [max(1, count) for _, count in columns]
    if np.prod([float(size) for size in sizes]) >= 2**62:
        raise OverflowError("too many combinations")
    mixed: Codes = np.zeros(len(columns[0][0]), np.int64)
    for (codes, _), size in zip(columns, sizes, strict=True):
        mixed = mixed * size + codes
    found, dense = dense_codes(mixed, int(np.prod(sizes)))
    meanings = np.unravel_index(found, sizes) if len(found) else [np.empty(0, np.intp)]
    return dense, list(zip(*(meaning.tolist() for meaning in meanings), strict=True))


def dense_codes(mixed: Codes, size: int) -> tuple[Codes, Codes]:
    """The values that occur, in order, and each row's place among them; all are below `size`."""
    if size > 1 << 22:
        found, dense = np.unique(mixed, return_inverse=True)
        return found, dense.reshape(-1)
    there = np.zeros(size, np.bool_)
    there[mixed] = True
    found = np.flatnonzero(there)
    return found, (np.cumsum(there) - 1)[mixed]
