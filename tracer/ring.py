"""The BPF ring buffer, mapped: records leave it as numpy batches, without a call per event.

Layout (kernel/bpf/ringbuf.c): a consumer page (ours to write), a producer
page, then the data, mapped twice in a row so that no record wraps. Each
record has an 8-byte header: its length with a busy and a discard bit, and
a page offset. All our records have one size, so the data is an array with a
constant stride and a whole batch is one strided view.
"""

import contextlib
import mmap
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

_BUSY = np.uint32(1 << 31)
_DISCARD = np.uint32(1 << 30)
_HEADER = 8


class Ring:
    """Reads fixed-size records from the ring map behind `fd`.

    `size` is the data area in bytes (a power of two), `record_size` the bytes
    of one record (a multiple of 8).
    """

    def __init__(self, fd: int, size: int, record_size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self.record_size = record_size
        self._stride = _HEADER + record_size
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(
            fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumer = np.frombuffer(self._consumer_map, "<u8", 1)
        self._producer = np.frombuffer(self._producer_map, "<u8", 1)
        self._data = np.frombuffer(self._producer_map, "u1", 2 * size, offset=page)

    def pending(self) -> int:
        """Bytes written and not yet read."""
        return int(self._producer[0]) - int(self._consumer[0])

    def read(self, most: int = 1 << 16) -> npt.NDArray[np.uint8]:
        """Copy out up to `most` complete records: uint8 (n, record_size), in the ring's order.

        Stops at the first record that is still being written. Raises
        ValueError, and takes nothing, when a header does not have our
        record's length or the positions are too far apart, which means that
        the ring is not ours or was overwritten.
        """
        consumed, produced = int(self._consumer[0]), int(self._producer[0])
        if produced - consumed > self._size:
            raise ValueError(f"the ring holds {produced - consumed} bytes, more than its size")
        count = min((produced - consumed) // self._stride, most)
        if count <= 0:
            return np.empty((0, self.record_size), np.uint8)
        start = consumed & (self._size - 1)
        view = self._data[start : start + count * self._stride].reshape(count, self._stride)
        headers = np.ascontiguousarray(view[:, :4]).view("<u4").ravel()
        busy = np.flatnonzero(headers & _BUSY)
        if busy.size:
            count = int(busy[0])
            headers, view = headers[:count], view[:count]
        lengths = headers & ~(_BUSY | _DISCARD)
        wrong = lengths[lengths != self.record_size]
        if wrong.size:
            raise ValueError(f"a ring record of {int(wrong[0])} bytes, not {self.record_size}")
        keep = (headers & _DISCARD) == 0
        records = view[:, _HEADER:].copy() if keep.all() else view[keep, _HEADER:].copy()
        # Only now may the kernel write over what we have copied.
        self._consumer[0] = consumed + count * self._stride
        return records

    def close(self) -> None:
        """Unmap. The map itself goes with its descriptor."""
        del self._consumer, self._producer, self._data
        for mapping in (self._consumer_map, self._producer_map):
            # The traceback of a failed read still has views of it: it goes with them.
            with contextlib.suppress(BufferError):
                mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
