"""The BPF ring buffer, mapped: records leave it as numpy batches, without a call per event.

Layout (kernel/bpf/ringbuf.c): a consumer page (ours to write), a producer
page, then the data. The kernel offers the data twice in a row so that no record
wraps; we map a few megabytes of it at a time, since all that is mapped counts as
resident, and put together the one record that wraps. Each record has an 8-byte
header: its length with a busy and a discard bit, and a page offset. All our
records have one size, so the data is an array with a constant stride and a whole
batch is one strided view.
"""

import contextlib
import mmap
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError

Bytes = npt.NDArray[np.uint8]

_BUSY = np.uint32(1 << 31)
_DISCARD = np.uint32(1 << 30)
_HEADER = 8
_WINDOW = 8 << 20  # bytes of the data mapped at a time


def _broken(what: str) -> TraceError:
    return TraceError(f"the kernel's records cannot be read: {what}", "please report it: a bug")


class Ring:
    """Reads fixed-size records from the ring map behind `fd`.

    `size` is the data area in bytes (a power of two), `record_size` the bytes
    of one record (a multiple of 8).
    """

    def __init__(self, fd: int, size: int, record_size: int) -> None:
        page = mmap.PAGESIZE
        self._fd, self._size = fd, size
        self.record_size = record_size
        self.stride = _HEADER + record_size
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_map, "<u8", 1)
        self._producer = np.frombuffer(self._producer_map, "<u8", 1)
        self._base = 0  # of the data, where the window begins
        self._window = np.empty(0, np.uint8)
        self._taken = int(self._consumer[0])  # up to here `advance` goes

    def pending(self) -> int:
        """Bytes written and not yet read."""
        return int(self._producer[0]) - int(self._consumer[0])

    def read(self, most: int = 1 << 16) -> Bytes:
        """`peek`, copied and taken, as often as it takes."""
        parts = [np.empty((0, self.record_size), np.uint8)]
        while most > 0:
            try:
                records = self.peek(most)
            except TraceError:
                if len(parts) > 1:
                    break  # those before it are good; the next call tells
                raise
            parts.append(records.copy())
            most -= len(records)
            self.advance()
            if not len(records):
                break
        return np.concatenate(parts)

    def peek(self, most: int = 1 << 16) -> Bytes:
        """Up to `most` complete records, uint8 (n, record_size), in the ring's order.

        There may be more of them: then the next call has them. They are to be copied before
        `advance` lets the kernel write over them. Stops at the first record that is still being
        written. Raises TraceError, and takes nothing, when a header does not have our record's
        length or the positions are too far apart, which means that the ring is not ours or was
        overwritten.
        """
        consumed, produced = int(self._consumer[0]), int(self._producer[0])
        self._taken = consumed
        if not 0 <= produced - consumed <= self._size:
            raise _broken(f"the ring holds {produced - consumed} bytes, more than its size")
        count = min((produced - consumed) // self.stride, most)
        if count <= 0:
            return np.empty((0, self.record_size), np.uint8)
        view = self._span(consumed & (self._size - 1), count)
        # Before the data: what is complete by its header now is complete when it is copied.
        headers = view[:, :4].view("<u4")[:, 0].copy()
        plain = headers == self.record_size
        if not plain.all():
            headers = self._complete(headers)
            view = view[: len(headers)][(headers & _DISCARD) == 0]
        self._taken = consumed + len(headers) * self.stride
        return view[:, _HEADER:]

    def advance(self) -> None:
        """The records of the last `peek` are done with: only now may the kernel write over them."""
        self._consumer[0] = self._taken

    def _complete(self, headers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Those before the first that is still being written."""
        busy = np.flatnonzero(headers & _BUSY)
        if busy.size:
            headers = headers[: int(busy[0])]
        lengths = headers & ~(_BUSY | _DISCARD)
        wrong = lengths[lengths != self.record_size]
        if wrong.size:
            raise _broken(f"a ring record of {int(wrong[0])} bytes, not {self.record_size}")
        return headers

    def _span(self, start: int, most: int) -> Bytes:
        """Up to `most` records from `start` on and their headers, shape (count, stride)."""
        if start + self.stride > self._size:  # it wraps
            head, tail = self._mapped(start, self._size), self._mapped(0, mmap.PAGESIZE)
            return np.concatenate([head, tail])[: self.stride].reshape(1, self.stride)
        end = min(start + most * self.stride, self._size)
        at = start - self._base
        if at < 0 or at + min(end - start, _WINDOW // 2) > len(self._window):
            self._base = start - start % mmap.PAGESIZE
            self._window = self._mapped(self._base, min(self._base + _WINDOW, self._size))
            at = start - self._base
        count = min(end - start, len(self._window) - at) // self.stride
        return self._window[at : at + count * self.stride].reshape(count, self.stride)

    def _mapped(self, start: int, end: int) -> Bytes:
        """The data's bytes from `start` to `end`, mapped for as long as somebody looks at them."""
        page = mmap.PAGESIZE
        first = start - start % page
        part = mmap.mmap(
            self._fd, end - first, mmap.MAP_SHARED, mmap.PROT_READ, offset=2 * page + first
        )
        return np.frombuffer(part, np.uint8)[start - first :]

    def close(self) -> None:
        """Unmap. The map itself goes with its descriptor."""
        del self._consumer, self._producer, self._window
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
