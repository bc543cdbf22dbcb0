"""The rights of whoever called sudo: output files are opened, renamed and removed with these.

The caller names the files, and may have made the directories that lead there: with root's rights
a symbolic link of the caller's own would reach what the caller does not. So the kernel decides,
as it does for sudoedit(8). credentials(7): the file-system user and group IDs and the groups are
a thread's own, as system calls have them (glibc's setgroups(3) would change all threads).
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

from tracer.common.errors import Exit, TraceError
from tracer.files.identity import resolve_user

_NR_SETGROUPS, _NR_SETFSUID, _NR_SETFSGID = 116, 122, 123  # x86-64
_UNCHANGED = -1  # refused, and so asks what it is

_libc = ctypes.CDLL(None, use_errno=True)
_acting = threading.local()


class Caller(NamedTuple):
    """Whoever called sudo."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def who_called() -> Caller | None:
    """Whoever called sudo, if it was that. Raises TraceError: SUDO_UID is no number."""
    found = resolve_user(None, os.environ)
    return None if found is None else Caller(found.uid, found.gid, found.groups)


@contextlib.contextmanager
def acting_as(who: object) -> Iterator[None]:
    """With the rights of `who` to files, if that is a Caller; of the calling thread only.

    Raises TraceError where these cannot be taken on: nothing is done with more.
    """
    if (
        not isinstance(who, Caller)
        or os.geteuid() == who.uid
        or getattr(_acting, "as_caller", False)
    ):
        yield
        return
    before = os.geteuid(), os.getegid(), tuple(os.getgroups())
    _acting.as_caller = True
    try:
        if not _take_on(*who):
            raise TraceError(
                f"cannot take on the rights of user {who.uid}, who called sudo, to files",
                "write to standard output: --csv - | sudo tee FILE",
                Exit.OUTPUT,
            )
        yield
    finally:
        _acting.as_caller = False
        if not _take_on(*before):
            os._exit(Exit.TRACER_FAILED)  # it came from there: cannot be


def _take_on(uid: int, gid: int, groups: tuple[int, ...]) -> bool:
    """Whether the thread has these now."""
    numbers = (ctypes.c_uint32 * len(groups))(*groups)
    if _call(_NR_SETGROUPS, len(groups), ctypes.addressof(numbers)):
        return False
    _call(_NR_SETFSGID, gid)
    _call(_NR_SETFSUID, uid)  # with which go, or come back, root's capabilities to files
    return (_call(_NR_SETFSGID, _UNCHANGED), _call(_NR_SETFSUID, _UNCHANGED)) == (gid, uid)


def _call(number: int, *arguments: int) -> int:
    found: int = _libc.syscall(number, *(ctypes.c_long(each) for each in arguments))
    return found
