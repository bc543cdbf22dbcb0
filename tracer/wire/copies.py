"""The ring of copies of stacks: the kernel's ring buffer with records of several sizes.

Its layout is that of KernelRing (ring.py).
"""

import mmap
import struct
from collections.abc import Iterator

from tracer.common.closing import Closing

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8
_LENGTH = struct.Struct("<I")
_POSITION = struct.Struct("<Q")
_AT_ONCE = 1 << 18  # bytes that are copied out of the ring together


class CopyRing(Closing):
    """Records of any length out of the BPF ring buffer behind `fd`; `size` is its data's."""

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self.fd = fd  # readable when there is something new
        self._size = size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The producer's page, then the data: once, for what is mapped counts as our memory.
        self._data = mmap.mmap(fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    def read(self) -> Iterator[list[bytes]]:
        """What the ring holds now, some records at a time; when given they are consumed."""
        (consumed,) = _POSITION.unpack_from(self._consumer)
        (produced,) = _POSITION.unpack_from(self._data)
        unpack, header_bytes = _LENGTH.unpack_from, _HEADER
        while consumed < produced:
            data = self._bytes(consumed, min(_AT_ONCE, produced - consumed))
            records: list[bytes] = []
            at, size = 0, len(data)
            busy = False
            while at < size:
                (header,) = unpack(data, at)
                length = header & ~(_BUSY | _DISCARD)
                end = at + header_bytes + length
                busy = header & _BUSY != 0
                if busy or end > size:  # the rest comes with the next ones
                    break
                if not header & _DISCARD:
                    # Its own bytes: it may be kept for longer than those it came with.
                    records.append(data[at + header_bytes : end])
                at = (end + 7) & ~7
            if not at:
                return
            consumed += at
            _POSITION.pack_into(self._consumer, 0, consumed)
            yield records
            if busy:
                return

    def _bytes(self, position: int, count: int) -> bytes:
        """A copy of so many bytes from a position on, also where the ring begins anew meanwhile."""
        first = position & (self._size - 1)
        start, before = mmap.PAGESIZE + first, min(count, self._size - first)
        data = self._data[start : start + before]
        if before < count:
            data += self._data[mmap.PAGESIZE : mmap.PAGESIZE + count - before]
        return data

    def close(self) -> None:
        """Unmap the ring."""
        self._data.close()
        self._consumer.close()
