"""The ring: records read from memory shared with the kernel, in batches, without a call each.

`MappedRing` is an array map that bpf/ring.bpf.h fills in place: `records`, one element a
record, and `positions`. A program claims the next element by comparing and swapping the head,
fills it, and writes its `sequence` last; the reader copies the elements that have the sequence
expected at their position, and moves the tail. `KernelRing` is the kernel's own ring buffer
(kernel/bpf/ringbuf.c), for kernels whose programs cannot compare and swap: two calls and a lock
a record. Both keep the order in which records were claimed, and both count dropped records
exactly.

All that is mapped counts as resident, so the data is mapped a few megabytes at a time.
"""

import contextlib
import mmap
from abc import abstractmethod
from collections import deque

import numpy as np

from tracer.common.closing import Closing
from tracer.common.errors import TraceError
from tracer.common.types import U8, U32
from tracer.wire.shared import POSITION_OF

_WINDOW = 8 << 20  # bytes of the data mapped at a time
_SPILLED = 1 << 14  # records at a time


def _broken(what: str) -> TraceError:
    return TraceError(f"the kernel's records cannot be read: {what}", "please report it: a bug")


class Ring(Closing):
    """Reader of records of `record_size` bytes; `capacity` is the ring's size in records."""

    record_size: int
    capacity: int

    @abstractmethod
    def pending(self) -> int:
        """Number of records claimed and not yet read."""

    @abstractmethod
    def peek(self, most: int = 1 << 16) -> U8:
        """Up to `most` complete records, uint8 (n, record_size), in the ring's order.

        There may be more of them: then the next call returns them. They must be copied before
        `advance` lets the kernel overwrite them. Stops at the first record that is still being
        written. Raises TraceError, and consumes nothing, when it finds an invalid record or the
        positions are too far apart, which means that the ring is not ours or was overwritten.
        """

    @abstractmethod
    def advance(self) -> None:
        """Consume the records of the last `peek`: the kernel may overwrite them from now on."""

    @abstractmethod
    def close(self) -> None:
        """Unmap the memory. The BPF maps are freed with their descriptors."""

    def read(self, most: int = 1 << 16) -> U8:
        """Up to `most` records, copied and consumed: `peek` and `advance` repeated."""
        parts = [np.empty((0, self.record_size), np.uint8)]
        while most > 0:
            try:
                records = self.peek(most)
            except TraceError:
                if len(parts) > 1:
                    break  # those before it are good; the next call raises
                raise
            parts.append(records.copy())
            most -= len(records)
            self.advance()
            if not len(records):
                break
        return np.concatenate(parts)


class MappedRing(Ring):
    """Records in place in an array map.

    `positions` and `records` are the maps' descriptors, `capacity` is a power of two. Records
    are numbered from `capacity` on; a sequence is the lower half of that number. So memory not
    written yet, which is 0, never has the expected sequence.
    """

    TAIL = POSITION_OF["positions", "tail"]
    SEQUENCE = POSITION_OF["fault_record", "sequence"]  # as in each record

    def __init__(self, positions: int, records: int, capacity: int, record_size: int) -> None:
        self.record_size, self.capacity = record_size, capacity
        self._positions = mmap.mmap(positions, mmap.PAGESIZE)
        self._head = np.frombuffer(self._positions, "<u8", 1)
        self._tail = np.frombuffer(self._positions, "<u8", 1, offset=self.TAIL)
        self._data = _Data(records, 0, capacity * record_size, record_size)
        self._consumed = int(self._tail[0])

    def pending(self) -> int:
        return int(self._head[0]) - int(self._tail[0])

    def peek(self, most: int = 1 << 16) -> U8:
        tail, head = int(self._tail[0]), int(self._head[0])
        self._consumed = tail
        if not 0 <= head - tail <= self.capacity:
            raise _broken(f"the ring holds {head - tail} records, more than its size")
        count = min(head - tail, most)
        if count <= 0:
            return np.empty((0, self.record_size), np.uint8)
        view = self._data.span((tail & (self.capacity - 1)) * self.record_size, count)
        # Before the data: what is complete by its sequence now is complete when it is copied.
        found = view[:, self.SEQUENCE : self.SEQUENCE + 4].view("<u4")[:, 0].copy()
        wrong = np.flatnonzero(found != self._sequences(tail, len(view)))
        if wrong.size:
            first = int(wrong[0])
            if int(found[first]) not in self._unwritten(tail + first):
                raise _broken(f"record {tail + first} has the sequence {int(found[first]):#x}")
            view = view[:first]
        self._consumed = tail + len(view)
        return view

    def _sequences(self, first: int, count: int) -> U32:
        """The sequences of `count` records from number `first` on."""
        first &= 0xFFFF_FFFF
        return np.arange(first, first + count, dtype=np.uint64).astype(np.uint32)

    def _unwritten(self, number: int) -> tuple[int, int]:
        """The sequences that record `number`'s element may have before it is written."""
        return 0, (number - self.capacity) & 0xFFFF_FFFF

    def advance(self) -> None:
        self._tail[0] = self._consumed

    def close(self) -> None:
        del self._head, self._tail
        self._data.close()
        # The traceback of a failed read may hold views of it: then it is unmapped with them.
        with contextlib.suppress(BufferError):
            self._positions.close()


class KernelRing(Ring):
    """The BPF ring buffer behind `fd`.

    Layout: a consumer page (ours to write), a producer page, then `size` bytes of data (a power
    of two), which the kernel maps twice in a row so that no record wraps; here a wrapped record
    is joined instead. Each record has an 8-byte header: its length with a busy and a discard bit,
    and a page offset. All our records have one size (a multiple of 8), so the data is an array
    with a constant stride and a whole batch is one strided view.
    """

    BUSY = 1 << 31
    DISCARD = 1 << 30
    HEADER = 8

    def __init__(self, fd: int, size: int, record_size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self.record_size, self.stride = record_size, self.HEADER + record_size
        self.capacity = size // self.stride
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_map, "<u8", 1)
        self._producer = np.frombuffer(self._producer_map, "<u8", 1)
        self._data = _Data(fd, 2 * page, size, self.stride)
        self._consumed = int(self._consumer[0])  # `advance` consumes up to here

    def pending(self) -> int:
        return (int(self._producer[0]) - int(self._consumer[0])) // self.stride

    def peek(self, most: int = 1 << 16) -> U8:
        consumed, produced = int(self._consumer[0]), int(self._producer[0])
        self._consumed = consumed
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
            view = view[: len(headers)][(headers & np.uint32(self.DISCARD)) == 0]
        self._consumed = consumed + len(headers) * self.stride
        return view[:, self.HEADER :]

    def advance(self) -> None:
        self._consumer[0] = self._consumed

    def _complete(self, headers: U32) -> U32:
        """The headers before the first record that is still being written."""
        busy = np.flatnonzero(headers & np.uint32(self.BUSY))
        if busy.size:
            headers = headers[: int(busy[0])]
        lengths = headers & ~np.uint32(self.BUSY | self.DISCARD)
        wrong = lengths[lengths != self.record_size]
        if wrong.size:
            raise _broken(f"a ring record of {int(wrong[0])} bytes, not {self.record_size}")
        return headers

    def _span(self, start: int, most: int) -> U8:
        """Up to `most` records from `start` on and their headers, shape (count, stride)."""
        if start + self.stride <= self._size:
            return self._data.span(start, most)
        head, tail = self._data.mapped(start, self._size), self._data.mapped(0, mmap.PAGESIZE)
        return np.concatenate([head, tail])[: self.stride].reshape(1, self.stride)

    def close(self) -> None:
        del self._consumer, self._producer
        self._data.close()
        for mapping in (self._consumer_map, self._producer_map):
            # The traceback of a failed read may hold views of it: then it is unmapped with them.
            with contextlib.suppress(BufferError):
                mapping.close()


class SpillingRing(Ring):
    """A ring whose records spill to the tracer's own memory while it is more than half full.

    That memory holds as many records as the ring: a burst may be twice as long before records
    are dropped, and memory is used only during a burst.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.record_size, self.capacity = ring.record_size, ring.capacity
        self._spilled: deque[U8] = deque()  # older than what the ring holds, in order
        self._count = 0  # of records in `_spilled`
        self._peeked: int | None = None  # how many, until `advance`

    def spill(self) -> None:
        """Move records out of the ring if it is half full; cheap otherwise.

        To be called between `advance` and `peek`. Moves half the capacity at least, or nothing:
        small pieces would be read as small batches.
        """
        left = self._ring.pending()  # later records stay: they would be small pieces, too
        much = 2 * left > self.capacity >= 2 * self._count
        if not much or self._peeked is not None:
            return
        left = min(left, self.capacity - self._count)
        with contextlib.suppress(TraceError):  # `peek` raises it, too, when it gets there
            while left > 0:
                records = self._ring.peek(min(left, _SPILLED)).copy()
                self._ring.advance()
                if not len(records):
                    break
                self._spilled.append(records)
                self._count += len(records)
                left -= len(records)

    def pending(self) -> int:
        return self._count + self._ring.pending()

    def peek(self, most: int = 1 << 16) -> U8:
        records = self._spilled[0][:most] if self._spilled else self._ring.peek(most)
        self._peeked = len(records)
        return records

    def advance(self) -> None:
        if not self._spilled:
            self._ring.advance()
        elif self._peeked:
            rest = self._spilled[0][self._peeked :]
            self._count -= self._peeked
            if len(rest):
                self._spilled[0] = rest
            else:
                self._spilled.popleft()
        self._peeked = None

    def close(self) -> None:
        self._spilled.clear()
        self._ring.close()


class _Data:
    """A map's data, `size` bytes from `offset` on, mapped read-only through a moving window."""

    def __init__(self, fd: int, offset: int, size: int, stride: int) -> None:
        self._fd, self._offset, self._size, self._stride = fd, offset, size, stride
        self._base = 0  # where the window begins
        self.window = np.empty(0, np.uint8)

    def span(self, start: int, most: int) -> U8:
        """Up to `most` times the stride from `start` on, shape (count, stride): one at least."""
        end = min(start + most * self._stride, self._size)
        at = start - self._base
        if at < 0 or at + min(end - start, _WINDOW // 2) > len(self.window):
            self._base = start - start % mmap.PAGESIZE
            self.window = self.mapped(self._base, min(self._base + _WINDOW, self._size))
            at = start - self._base
        count = min(end - start, len(self.window) - at) // self._stride
        return self.window[at : at + count * self._stride].reshape(count, self._stride)

    def mapped(self, start: int, end: int) -> U8:
        """The bytes from `start` to `end`, mapped as long as the array is referenced."""
        first = start - start % mmap.PAGESIZE
        part = mmap.mmap(
            self._fd, end - first, mmap.MAP_SHARED, mmap.PROT_READ, offset=self._offset + first
        )
        return np.frombuffer(part, np.uint8)[start - first :]

    def close(self) -> None:
        """Release the window."""
        self.window = np.empty(0, np.uint8)
