"""Batches of records from the ring: the faults as columns, all other records unchanged."""

from dataclasses import dataclass

import numpy as np

from tracer.common.errors import TraceError
from tracer.common.fields import BLOCK, Columns, Words
from tracer.common.types import I64, U8, U64
from tracer.wire.records import RecordType

_LATEST_NS = 1 << 62  # CLOCK_MONOTONIC after 146 years
_FIRST, _LAST = min(RecordType).value, max(RecordType).value


@dataclass(frozen=True)
class RawBatch:
    """Records in the ring's order: `faults`, and the others, shape (m, RECORD_SIZE)."""

    faults: Columns
    rest: U8
    types: U8  # of the rest
    before: I64  # how many faults come before each of the rest
    last_ns: int  # the time of the last record


def decode_batch(records: U8, fault: np.dtype[np.void]) -> RawBatch:
    """Decode `records` (at least one) from the ring into copies; `fault` is the faults' dtype.

    Raises TraceError for a record that no program of ours sends; later ones are not trusted.
    """
    count, size = records.shape
    words = np.empty((size // 8, count), np.uint64)
    faults = 0
    parts, at = [], []  # the other records, and their indices
    for start in range(0, count, BLOCK):
        # The ring's memory is read in order; a block is transposed while in the core's cache.
        block = np.ascontiguousarray(records[start : start + BLOCK])
        is_fault = block[:, 0] == RecordType.FAULT
        if not is_fault.all():
            here = np.flatnonzero(~is_fault)
            parts.append(block[here])
            at.append(here + start)
            block = block[is_fault]
        words[:, faults : faults + len(block)] = block.view(np.uint64).T
        faults += len(block)
    rest: U8 = np.concatenate(parts) if parts else np.empty((0, size), np.uint8)
    index = np.concatenate(at) if at else np.empty(0, np.int64)
    columns = Columns(Words(words[:, :faults], fault))
    times, types = rest.view(fault)["time_ns"].ravel(), rest[:, 0].copy()
    _check(types, columns["time_ns"], times)
    last = times if len(index) and index[-1] == count - 1 else columns["time_ns"]
    return RawBatch(columns, rest, types, index - np.arange(len(index)), int(last[-1]))


def _check(types: U8, *times: U64) -> None:
    if len(types) and (types.min() < _FIRST or types.max() > _LAST):
        raise TraceError("the kernel's records are of an unknown type", "please report it: a bug")
    if max(int(each.max(initial=0)) for each in times) > _LATEST_NS:
        raise TraceError("the kernel's records have an invalid time", "please report it: a bug")
