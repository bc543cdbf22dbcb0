"""As much of protobuf's wire format as a Perfetto trace takes (protobuf.dev, "Encoding").

Numbers of many packets are written at once: every varint in its full width,
which readers take (the higher bits are zero), so that packets of one sort are
rows of one array.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.common.types import U8

_VARINT, _FIXED64, _LENGTH = 0, 1, 2


def varint(value: int) -> bytes:
    """The shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field that holds a number, not negative."""
    return varint(field << 3 | _VARINT) + varint(value)


def block(field: int, content: bytes) -> bytes:
    """A field that holds a message, text or bytes."""
    return varint(field << 3 | _LENGTH) + varint(len(content)) + content


def text(field: int, content: str) -> bytes:
    """A field that holds text."""
    return block(field, content.encode("utf-8", "backslashreplace"))


def constant(content: bytes, rows: int) -> U8:
    """The same bytes in every row."""
    return np.tile(np.frombuffer(content, np.uint8), (rows, 1))


def numbers(field: int, values: npt.NDArray[Any], width: int) -> U8:
    """A field in every row: its tag, and the value in `width` bytes of 7 bits each."""
    tag = varint(field << 3 | _VARINT)
    out = np.empty((len(values), len(tag) + width), np.uint8)
    out[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    rest = values.astype(np.uint64)
    for at in range(width):
        more = 0x80 if at < width - 1 else 0
        out[:, len(tag) + at] = (rest & np.uint64(0x7F)).astype(np.uint8) | more
        rest = rest >> np.uint64(7)
    if rest.any():
        raise OverflowError(f"field {field} does not fit into {width} bytes")
    return out


def doubles(field: int, values: npt.NDArray[Any]) -> U8:
    """A field in every row that holds a double."""
    tag = constant(varint(field << 3 | _FIXED64), len(values))
    return np.hstack([tag, values.astype("<f8").view(np.uint8).reshape(-1, 8)])


def blocks(field: int, *parts: U8) -> U8:
    """A message in every row, made of `parts` side by side."""
    content = np.hstack(parts)
    front = varint(field << 3 | _LENGTH) + varint(content.shape[1])
    return np.hstack([constant(front, len(content)), content])
