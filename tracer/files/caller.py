"""The rights of sudo's caller: output files are opened, renamed and removed with these.

The caller names the files, and may have created their directories: with root's rights a
symbolic link of the caller's own would reach files that the caller cannot. So the kernel checks
access, as for sudoedit(8). credentials(7): the file-system user and group IDs and the groups are
per thread in system calls (glibc's setgroups(3) would change all threads).
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
_UNCHANGED = -1  # invalid, so that the call only returns the current id

_libc = ctypes.CDLL(None, use_errno=True)
_acting = threading.local()


class Caller(NamedTuple):
    """The user who called sudo."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def who_called() -> Caller | None:
    """The user who called sudo; None without sudo. Raises TraceError: SUDO_UID is no number."""
    found = resolve_user(None, os.environ)
    return None if found is None else Caller(found.uid, found.gid, found.groups)


@contextlib.contextmanager
def acting_as(who: object) -> Iterator[None]:
    """A block run with the file rights of `who`, if that is a Caller; in this thread only.

    Raises TraceError where these cannot be set: the block is not run with more rights.
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
        if not _set_rights(*who):
            raise TraceError(
                f"cannot open files with the rights of user {who.uid}, who called sudo",
                "write to standard output: --csv - | sudo tee FILE",
                Exit.OUTPUT,
            )
        yield
    finally:
        _acting.as_caller = False
        if not _set_rights(*before):
            os._exit(Exit.TRACER_FAILED)  # cannot happen: these were its rights before


def _set_rights(uid: int, gid: int, groups: tuple[int, ...]) -> bool:
    """Set the thread's ids and groups; whether that worked."""
    numbers = (ctypes.c_uint32 * len(groups))(*groups)
    if _call(_NR_SETGROUPS, len(groups), ctypes.addressof(numbers)):
        return False
    _call(_NR_SETFSGID, gid)
    _call(_NR_SETFSUID, uid)  # drops, or restores, root's capabilities to files
    return (_call(_NR_SETFSGID, _UNCHANGED), _call(_NR_SETFSUID, _UNCHANGED)) == (gid, uid)


def _call(number: int, *arguments: int) -> int:
    found: int = _libc.syscall(number, *(ctypes.c_long(each) for each in arguments))
    return found
