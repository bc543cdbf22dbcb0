"""Errors for files that cannot be opened, written or removed: the reason, and a hint."""

import errno
import os

from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.files.caller import Caller
from tracer.files.paths import Owner

_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.ENOENT: "make the directory first",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "choose a directory you may write to",
    errno.EROFS: "choose a directory you may write to",
    errno.EIO: "check dmesg for errors of that disk, and write to another one",
    errno.ESTALE: "check the server of that file system, or write to another one",
    errno.ENOTCONN: "check the server of that file system, or write to another one",
    errno.ECONNABORTED: "check the server of that file system, or write to another one",
    errno.EBADF: "give it an open standard output, or name a file",
}
_REFUSED = (errno.EACCES, errno.EPERM)
_AS_CALLER = (
    "under sudo, files are written with the rights of the user who called it; for other places: "
    "--csv - | sudo tee FILE"
)


def failure(path: str, what: str, error: Exception, owner: Owner | None = None) -> TraceError:
    """The TraceError for `error`: what could not be done to `path`, why, and a hint.

    `owner`: whose rights were too few, if that is a Caller.
    """
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else str(error)
    hint = _HINTS.get(number or 0, "")
    if number in _REFUSED and isinstance(owner, Caller):
        hint = _AS_CALLER
    return TraceError(f"{what} {printable(path)}: {reason}", hint, Exit.OUTPUT)


def left_behind(path: str, error: OSError) -> TraceError:
    reason = os.strerror(error.errno or 0)
    return TraceError(
        f"cannot remove {printable(path)}: {reason}", "remove it: it is incomplete", Exit.OUTPUT
    )
