"""Whom a process runs as, and which signals it handles: /proc/PID/status (proc(5))."""

import re
from dataclasses import dataclass

from tracer.common.errors import TraceError
from tracer.procfs.errors import read_bytes

_EFFECTIVE = 1  # of real, effective, saved and file system ids


@dataclass(frozen=True, slots=True)
class Credentials:
    """Effective ids, supplementary groups, and the signals with a handler, bit N - 1 for N."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    caught: int

    def catches(self, signal: int) -> bool:
        """Whether it has a handler for a signal."""
        return bool(self.caught >> (signal - 1) & 1)


def credentials(pid: int) -> Credentials:
    """Those of a process; raises ProcessGone."""
    text = read_bytes(pid, "status")
    fields = dict(re.findall(rb"^(Uid|Gid|Groups|SigCgt):(.*)$", text, re.MULTILINE))
    try:
        uid, gid = (int(fields[which].split()[_EFFECTIVE]) for which in (b"Uid", b"Gid"))
        groups = tuple(int(each) for each in fields[b"Groups"].split())
        return Credentials(uid, gid, groups, int(fields[b"SigCgt"], 16))
    except (KeyError, IndexError, ValueError):
        raise TraceError("/proc/PID/status has no ids or signals") from None
