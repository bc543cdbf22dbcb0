"""Holes and data of mapped files, by /proc/PID/map_files: root only; deleted files, too."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import Mapping, mount_filesystems

# Not read: the server may be the traced process itself, or remote.
_REMOTE = ("fuse", "nfs", "cifs", "smb", "9p", "ceph", "virtiofs")
_IN_MEMORY = ("tmpfs", "devtmpfs", "")  # the kernel's own mounts are in no table: memfd, shm


@dataclass(frozen=True)
class Contents:
    """Which offsets of a file have no data; `in_memory`: the file has no other storage."""

    missing: list[bool]  # in a hole, or past the file's end
    in_memory: bool


def contents(pid: int, mapping: Mapping, offsets: Sequence[int]) -> Contents | None:
    """Whether the file of a mapping has data at `offsets` (ascending, bytes).

    None where that is unknown: no regular file, a file on a remote or FUSE file
    system, or the mapping is gone.
    """
    try:
        kind = mount_filesystems(pid).get(mapping.device, "")
        path = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
        if kind.startswith(_REMOTE) or not stat.S_ISREG(os.stat(path).st_mode):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ProcessGone):
        return None
    try:
        return Contents(_missing(descriptor, offsets), kind in _IN_MEMORY)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _missing(descriptor: int, offsets: Sequence[int]) -> list[bool]:
    size = os.fstat(descriptor).st_size
    result = []
    data = hole = 0  # the data extent found last: [data, hole)
    for offset in offsets:
        if hole <= offset < size:
            try:
                data = os.lseek(descriptor, offset, os.SEEK_DATA)
                hole = os.lseek(descriptor, data, os.SEEK_HOLE)
            except OSError:  # ENXIO: no data from here on
                data = hole = size
        result.append(offset >= size or not data <= offset < hole)
    return result
