"""The protocol between the tracer and the process that reads files for it.

A message is its length (4 bytes, little-endian), then JSON; descriptors come with its first byte
(SCM_RIGHTS, unix(7)). JSON and nothing that could name code to run: the other end has read what
a target wrote.
"""

import array
import json
import os
import socket
import struct
from collections.abc import Iterable
from typing import Any

LONGEST = 1 << 22  # bytes of an answer
MOST_FDS = 2
_LENGTH = struct.Struct("<I")


class BadMessage(ValueError):
    """Not a valid message."""


def packed(message: Any) -> bytes:
    """The bytes to send. Lone surrogates, which stand for bytes that are no UTF-8, come through."""
    text = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(text)) + text


class Inbox:
    """Whole messages out of bytes as they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Append received bytes."""
        self._data += data

    def pop(self) -> dict[str, Any] | None:
        """Pop the first message, None where it is not all there yet. Raises BadMessage."""
        if len(self._data) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if length > LONGEST:
            raise BadMessage("a message without end")
        end = _LENGTH.size + length
        if len(self._data) < end:
            return None
        text = bytes(self._data[_LENGTH.size : end])
        del self._data[:end]
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadMessage("no JSON") from error
        if not isinstance(message, dict):
            raise BadMessage("no object")
        return message


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """The next message on a blocking socket, and its descriptors, the caller's to close.

    Raises EOFError at its end, BadMessage.
    """
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(MOST_FDS * descriptors.itemsize)
    first, ancillary, flags, _ = connection.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) // descriptors.itemsize * descriptors.itemsize])
    try:
        (length,) = _LENGTH.unpack(first + _exactly(connection, _LENGTH.size - 1))
        message = json.loads(_exactly(connection, length))
    except (EOFError, ValueError):
        close_all(descriptors)
        raise
    if flags & socket.MSG_CTRUNC:  # more than we may have open
        close_all(descriptors)
        descriptors = array.array("i")
    return message, descriptors.tolist()


def close_all(descriptors: Iterable[int]) -> None:
    """Close them."""
    for descriptor in descriptors:
        os.close(descriptor)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20), socket.MSG_WAITALL)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
