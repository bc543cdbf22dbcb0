"""Opening files that other users chose: ordinary ones only."""

import errno
import os
import stat


def open_regular(path: str, inode: int | None = None, *, follow: bool = True) -> int:
    """A descriptor to read; raises OSError unless it is an ordinary file with that number.

    Looked at before it is opened: to open a device may do something. Without `follow`, a
    symbolic link is none.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or (inode and status.st_ino != inode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)
