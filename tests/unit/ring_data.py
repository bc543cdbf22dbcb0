"""A ring laid out as the kernel's, and records for it and for ours."""

import mmap
import os

import numpy as np

from bench.replay import FedRing
from tracer.wire.ring import MappedRing

PAGE = mmap.PAGESIZE
SIZE = 2 * PAGE
RECORD = 176
STRIDE = RECORD + 8
BUSY, DISCARD = 1 << 31, 1 << 30
CAPACITY = 64


class FakeRing:
    """The kernel's side in a memfd: consumer page, producer page, data.

    The kernel shows the data a second time behind; the reader must not need it.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + size)
        self._map = mmap.mmap(self.fd, 0)
        self._positions = np.frombuffer(self._map, "<u8")
        self._data = np.frombuffer(self._map, "u1", offset=2 * PAGE)

    @property
    def consumer(self) -> int:
        return int(self._positions[0])

    @property
    def producer(self) -> int:
        return int(self._positions[PAGE // 8])

    def start_at(self, position: int) -> None:
        self._positions[0] = self._positions[PAGE // 8] = position

    def produce_to(self, position: int) -> None:
        self._positions[PAGE // 8] = position

    def write(self, position: int, data: bytes) -> None:
        at = (position + np.arange(len(data))) % self.size
        self._data[at] = np.frombuffer(data, "u1")

    def header(self, position: int, length: int, flags: int = 0) -> None:
        self.write(position, (length | flags).to_bytes(4, "little") + bytes(4))

    def put(self, value: int, flags: int = 0, length: int = RECORD) -> int:
        """One record whose every byte is `value`; its position."""
        return self.put_bytes(bytes([value]) * RECORD, flags, length)

    def put_bytes(self, data: bytes, flags: int = 0, length: int = RECORD) -> int:
        position = self.producer
        self.header(position, length, flags)
        self.write(position + 8, data)
        self.produce_to(position + STRIDE)
        return position

    def close(self) -> None:
        del self._positions, self._data
        self._map.close()
        os.close(self.fd)


def values(records: np.ndarray) -> list[int]:
    assert records.dtype == np.uint8
    assert records.shape == (len(records), RECORD)
    assert (records == records[:, :1]).all()
    found: list[int] = records[:, 0].tolist()
    return found


def numbered(first: int, count: int) -> np.ndarray:
    """Records that have their number for a time, shape (count, RECORD)."""
    made = np.zeros((count, RECORD), np.uint8)
    made.view("<u8")[:, 1] = np.arange(first, first + count)
    return made


def numbers(records: np.ndarray) -> list[int]:
    assert records.dtype == np.uint8
    assert records.shape == (len(records), RECORD)
    found: list[int] = np.ascontiguousarray(records).view("<u8")[:, 1].tolist()
    return found


def tail(fed: FedRing) -> int:
    return int(fed.positions[MappedRing.TAIL // 8])
