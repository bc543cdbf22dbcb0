"""Opening files by paths that other users chose: regular files only."""

import ctypes
import errno
import os
import stat

# include/uapi/linux/openat2.h; Linux 5.6
_NR_OPENAT2 = 437  # x86-64
_RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x04, 0x10

_libc = ctypes.CDLL(None, use_errno=True)


def open_below(root: str, path: str, *, links: bool = False) -> int:
    """An O_PATH descriptor of `path`, resolved below the directory `root`; raises OSError.

    No symbolic link is followed, since paths shown by the kernel have none; with `links`, links
    in the directory part are, within `root`.
    """
    below = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
        resolve = _RESOLVE_IN_ROOT | (0 if links else _RESOLVE_NO_SYMLINKS)
        how = (ctypes.c_uint64 * 3)(flags, 0, resolve)
        name = ctypes.c_char_p(os.fsencode(path))
        handle: int = _libc.syscall(_NR_OPENAT2, below, name, how, ctypes.sizeof(how))
    finally:
        os.close(below)
    if handle < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return handle


def reopened(handle: int) -> int:
    """A readable descriptor of an O_PATH descriptor's file; raises OSError unless it is regular.

    That is checked first: opening a device may have side effects.
    """
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
