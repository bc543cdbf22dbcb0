"""Python's frames out of the kernel's records."""

import numpy as np
import pytest

from tests.unit.pythons_data import python_records
from tracer.callstacks.records import PythonEnd, RawPython, python_of
from tracer.wire.shared import PYTHON_FRAMES, PYTHON_LIMIT, PYTHON_NONE, PYTHON_WHOLE

LOOP = 0x7FFC_0000_1000


def test_frames_and_the_loops_that_run_them() -> None:
    frames = [(0xAB << 56 | 1, 5, False), (2, -1, True), (3, (1 << 31) - 1, True)]
    records = python_records(7, frames, [(LOOP, 4), (LOOP + 0x100, -1)])
    assert python_of(list(records)) == RawPython(
        [0xAB << 56 | 1, 2, 3],
        [5, -1, (1 << 31) - 1],
        [False, True, True],
        PythonEnd.WHOLE,
        [(LOOP, 4), (LOOP + 0x100, -1)],
    )


@pytest.mark.parametrize("count", [0, 1, 7, 8, 15, PYTHON_FRAMES])
@pytest.mark.parametrize("loops", [0, 1, 2, 63])
def test_in_as_many_records_as_needed(count: int, loops: int) -> None:
    frames = [(number << 20, -1 - number, number % 3 == 0) for number in range(count)]
    where = [(LOOP + 8 * number, number - 1) for number in range(loops)]
    records = python_records(7, frames, where, PYTHON_LIMIT)
    assert len(records) == max(1, -(-(2 * count + loops) // 15))
    found = python_of(list(records))
    assert found is not None
    assert list(zip(found.codes, found.positions, found.entries, strict=True)) == frames
    assert (found.loops, found.end) == (where, PythonEnd.LIMIT)
    for missing in range(len(records)):
        left = list(np.delete(records, missing))
        assert not left or python_of(left) is None


@pytest.mark.parametrize("end", PythonEnd)
def test_where_they_end(end: PythonEnd) -> None:
    found = python_of(list(python_records(7, [], end=end)))
    assert found == RawPython([], [], [], end, [])
    assert (PYTHON_NONE, PYTHON_WHOLE) == (PythonEnd.NONE, PythonEnd.WHOLE)


def test_records_in_another_order_are_none() -> None:
    records = list(python_records(7, [(1, 0, False)] * 20))
    assert len(records) == 3
    assert python_of(records) is not None
    assert python_of([records[0], records[2], records[1]]) is None
    assert python_of(records[1:]) is None
    assert python_of(records[:2]) is None
    assert python_of([records[0], *records]) is None
