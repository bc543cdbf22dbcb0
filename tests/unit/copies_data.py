"""A ring of copies laid out as the kernel's, and copies of stacks for it."""

import mmap
import os
import struct
from collections.abc import Sequence

from tracer.wire.copies import CopyRing
from tracer.wire.shared import COPIED_BELOW

PAGE = mmap.PAGESIZE
BUSY, DISCARD = 1 << 31, 1 << 30
_HEAD = struct.Struct("<8QIIQ")  # bpf/shared.h: struct stack_copy


class FakeCopies:
    """The kernel's side in a memfd: consumer page, producer page, and the data twice."""

    def __init__(self, size: int = 2 * PAGE) -> None:
        self.size = size
        self.fd = os.memfd_create("copies")
        os.ftruncate(self.fd, 2 * PAGE + 2 * size)
        self._map = mmap.mmap(self.fd, 0)
        self._positions = memoryview(self._map).cast("Q")

    @property
    def consumed(self) -> int:
        return self._positions[0]

    @property
    def produced(self) -> int:
        return self._positions[PAGE // 8]

    def open(self) -> CopyRing:
        return CopyRing(self.fd, self.size)

    def start_at(self, position: int) -> None:
        self._positions[0] = self._positions[PAGE // 8] = position

    def put(self, data: bytes, flags: int = 0) -> int:
        """A record; its position."""
        position = self.produced
        self.header(position, len(data) | flags)
        self._write(position + 8, data)
        self._positions[PAGE // 8] = position + 8 + (len(data) + 7) // 8 * 8
        return position

    def header(self, position: int, number: int) -> None:
        self._write(position, number.to_bytes(4, "little") + bytes(4))

    def close(self) -> None:
        self._positions.release()
        self._map.close()
        os.close(self.fd)

    def _write(self, position: int, data: bytes) -> None:
        for at, each in enumerate(data, position):
            place = 2 * PAGE + at % self.size
            self._map[place] = self._map[place + self.size] = each


def copied(
    stack: int,
    ip: int,
    words: Sequence[int] = (),
    *,
    program: int = 1,
    tgid: int = 10,
    time_ns: int = 0,
    sp: int = 0x7FFC_0000_0000,
    fp: int = 0,
    bx: int = 0,
    exact: bool = False,
    offset: int = 0,
) -> bytes:
    """A record: a copy with these words from `sp` on, or with an offset a later part of one."""
    data = struct.pack(f"<{len(words)}Q", *words)
    if not offset:
        data = bytes(COPIED_BELOW) + data
    head = stack, time_ns, tgid, program, ip, sp, fp, bx, exact, len(data), offset
    return _HEAD.pack(*head) + data
