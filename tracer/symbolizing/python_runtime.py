"""Where a CPython interpreter keeps what it is running: read of its ELF file.

Of 3.13 and later the interpreter says it itself, in the _Py_DebugOffsets with which its variable
_PyRuntime begins (Include/internal/pycore_debug_offsets.h); of 3.11 and 3.12 it is known of their
headers (Include/internal/pycore_*.h, Include/cpython/code.h), for builds for x86-64.
"""

import os
import struct
from collections.abc import Sequence
from itertools import chain

from tracer.symbolizing.elf import Opener, address_of
from tracer.symbolizing.elf_image import UNREADABLE, Image
from tracer.symbolizing.runtime import (
    FREE_THREADED,
    MEMBERS,
    NONE,
    NOT_KNOWN,
    Runtime,
    is_valid,
)

_COOKIE = b"xdebugpy"
_DEBUG_OFFSETS = 1024  # bytes that are read of them
_OLDEST, _OFFSETS_SINCE, _NEWEST, _NEXT_MAJOR = 0x030B, 0x030D, 0x030E, 0x0400
_BY_HEADERS = {
    0x030B: (
        *((40, 0, 16), (0, 8, 16, 160, 56), (8, 16), (32, 48, 56, 69, 68)),
        (112, 128, 136, 72, NONE, 184),
    ),
    0x030C: (
        *((40, 0, 72), (0, 8, 16, 144, 56), (0, 8), (0, 8, 56, 70, NONE)),
        (112, 128, 136, 68, 92, 192),
    ),
}
# By version, where in _Py_DebugOffsets each member is; 0: it is not there.
_BY_OFFSETS = {
    0x030D: (
        *((40, 64, 72), (160, 168, 176, 200, 184), (0, 0), (240, 232, 248, 264, 0)),
        (280, 296, 304, 312, 0, 344),
    ),
    0x030E: (
        *((40, 64, 72), (184, 192, 200, 224, 208), (0, 0), (264, 256, 272, 288, 0)),
        (320, 336, 344, 352, 0, 384),
    ),
}
_ELSEWHERE = {"code_version": 92}  # PyCodeObject.co_version since 3.12


def runtimes(open_file: Opener, offsets: Sequence[int]) -> list[Runtime | None]:
    """The runtime of a file, as seen from each offset in it; None where it has none there."""
    nothing: list[Runtime | None] = [None] * len(offsets)
    try:
        descriptor = open_file()
    except OSError:
        return nothing
    try:
        image = Image(lambda at, size: os.pread(descriptor, size, at))
        found = _found(image) if image.wide else None
        if found is None:
            return nothing
        address, version, members, why = found
        each: list[Runtime | None] = []
        for offset in offsets:
            mapped = address_of(image.segments, offset)
            known = Runtime((address - mapped) % (1 << 64), version, members, why)
            each.append(None if mapped < 0 else known)
        return each
    except UNREADABLE:
        return nothing
    finally:
        os.close(descriptor)


_Found = tuple[int, int, tuple[int, ...], int]  # the address of _PyRuntime, and as of Runtime


def _found(image: Image) -> _Found | None:
    symbols = image.objects((b"_PyRuntime", b"Py_Version"))
    if len(symbols) < 2:
        return None
    address, version_at = symbols[b"_PyRuntime"], symbols[b"Py_Version"]
    version = struct.unpack("<Q", image.at(version_at, 8))[0] >> 16
    if not _OLDEST <= version < _NEXT_MAJOR:
        return None
    if version > _NEWEST:
        return address, version, (), NOT_KNOWN
    if version < _OFFSETS_SINCE:
        return address, version, tuple(chain(*_BY_HEADERS[version])), 0
    data = image.at(address, _DEBUG_OFFSETS)
    cookie, whole_version, free_threaded = struct.unpack_from("<8sQQ", data)
    if cookie != _COOKIE or whole_version >> 16 != version:
        return None
    if free_threaded:
        return address, version, (), FREE_THREADED
    members = tuple(
        struct.unpack_from("<Q", data, at)[0] if at else _ELSEWHERE.get(name, NONE)
        for name, at in zip(MEMBERS, chain(*_BY_OFFSETS[version]), strict=True)
    )
    return (address, version, members, 0) if is_valid(members) else None
