"""Opening paths below a process's own root, but nothing on FUSE.

FUSE asks a user's program for each component of a path and each attribute of a file, and that
program may delay the answer indefinitely.
"""

import ctypes
import errno
import os
import re
import select
import weakref

from tracer.procfs.maps import Mount, parse_mounts
from tracer.procfs.regular import open_below

_FUSE = 0x65735546  # FUSE_SUPER_MAGIC, include/uapi/linux/magic.h

_libc = ctypes.CDLL(None, use_errno=True)

OURS = "self"  # our own root and mounts
Whose = int | str  # a process, or OURS


class Roots:
    """The root directories of processes, and the mounts below them, as of each call."""

    def __init__(self, proc: str = "/proc") -> None:
        """`proc`: where procfs is mounted."""
        self.proc = proc
        self._ours = _OwnMounts(f"{proc}/{OURS}/mountinfo")

    def open(self, whose: Whose, path: str, *, links: bool = False) -> int:
        """An O_PATH descriptor of an absolute path; raises OSError, also if FUSE is on the path.

        `links` as for open_below.
        """
        mounts = self._mounts(whose)
        if path[:1] != "/" or any(_fuse(each) and each.leads_to(path) for each in mounts):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        root = "/" if whose == OURS else f"{self.proc}/{whose}/root"
        handle = open_below(root, path, links=links)
        if links and self.by_fuse(handle, whose):
            os.close(handle)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return handle

    def by_fuse(self, handle: int, whose: Whose) -> bool:
        """Whether a file is on FUSE; by the mount table if it has the mount, as statfs asks FUSE.

        virtiofs, which has FUSE's magic, too, is served by the host of this machine.
        """
        mount = self.mount(handle, OURS) or self.mount(handle, whose)
        return _fuse(mount) if mount is not None else _magic(handle) == _FUSE

    def mount(self, handle: int, whose: Whose) -> Mount | None:
        """The mount of an O_PATH descriptor, if it is in that process's mount table."""
        try:
            with open(f"/proc/self/fdinfo/{handle}", "rb") as file:
                number = re.search(rb"^mnt_id:\s*(\d+)$", file.read(), re.MULTILINE)
        except OSError:
            return None
        wanted = int(number[1]) if number else -1
        return next((each for each in self._mounts(whose) if each.number == wanted), None)

    def _mounts(self, whose: Whose) -> list[Mount]:
        try:
            if whose == OURS:
                return self._ours.read()
            with open(f"{self.proc}/{whose}/mountinfo", "rb") as file:
                return parse_mounts(file.read())
        except OSError:
            return []


class _OwnMounts:
    """Our own mounts, read again when they have changed, which poll(2) reports (proc(5))."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mounts: list[Mount] | None = None
        self._poll: select.poll | None = None

    def read(self) -> list[Mount]:
        """The current mounts; raises OSError."""
        changed = self._changed()  # before reading: later changes are reported the next time
        if changed or self._mounts is None:
            with open(self._path, "rb") as file:
                self._mounts = parse_mounts(file.read())
        return self._mounts

    def _changed(self) -> bool:
        if self._poll is None:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, descriptor)
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLPRI)
        return bool(self._poll.poll(0))


def _fuse(mount: Mount) -> bool:
    return mount.kind.startswith("fuse")


def _magic(handle: int) -> int:
    """f_type of fstatfs(2); 0 where it fails."""
    words = (ctypes.c_uint64 * 16)()  # struct statfs of x86-64 is 120 bytes, f_type the first 8
    return int(words[0]) if _libc.fstatfs(handle, words) == 0 else 0
