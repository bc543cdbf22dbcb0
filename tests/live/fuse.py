"""A FUSE file system of one file, whose server can be told to answer no more.

python -m tests.live.fuse FOLDER: says "ready"; from the first line on stdin on it answers
nothing, and names on stdout each operation that it was asked for (include/uapi/linux/fuse.h).
"""

import ctypes
import errno
import os
import select
import struct
import sys
from enum import IntEnum

SIZE = 4096  # of the file, "file": all of it the instruction ret
_HEADER = struct.Struct("<IIQQIIII")


class _Operation(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    INIT = 26
    BATCH_FORGET = 42


_NO_ANSWER = (_Operation.FORGET, _Operation.BATCH_FORGET)


def _attributes(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == 1 else (0o100755, SIZE)
    numbers = node, size, 8, 0, 0, 0  # and times
    return struct.pack("<6Q10I", *numbers, 0, 0, 0, mode, 1, 0, 0, 0, SIZE, 0)


def _answer(operation: int, node: int) -> bytes | None:
    match operation:
        case _Operation.INIT:
            return struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 0, 0, 65536, 1, *[0] * 10)
        case _Operation.LOOKUP:
            return struct.pack("<4Q2I", 2, *[0] * 5) + _attributes(2)
        case _Operation.GETATTR:
            return struct.pack("<Q2I", 0, 0, 0) + _attributes(node)
        case _Operation.OPEN:
            return struct.pack("<Q2I", 1, 0, 0)
        case _Operation.READ:
            return b"\xc3" * SIZE
    return None


def main() -> None:
    """Serve until the file system is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"x", os.fsencode(sys.argv[1]), b"fuse", 0, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    print("ready", flush=True)
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:
            return
        _, operation, number, node, *_ = _HEADER.unpack_from(request)
        if select.select([sys.stdin], [], [], 0)[0]:
            print(operation, flush=True)
        elif operation not in _NO_ANSWER:
            answer = _answer(operation, node)
            error = 0 if answer is not None else -errno.ENOSYS
            answer = answer or b""
            os.write(device, struct.pack("<IiQ", 16 + len(answer), error, number) + answer)


if __name__ == "__main__":
    main()
