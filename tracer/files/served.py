"""Detects paths on FUSE and network file systems, where any system call may block.

It makes no system call on them: it uses the mount table, and links on other file systems.
"""

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.procfs.maps import Mount

# The server may be any program, or remote.
_KINDS = ("fuse", "nfs", "cifs", "smb", "9p", "ceph", "virtiofs", "afs", "autofs")
_MOST_LINKS = 40  # as path_resolution(7)


def may_stall(path: str) -> bool:
    """Whether the path of a file leads through such a file system."""
    return _walk(path)[1]


def resolved(path: str) -> str:
    """os.path.realpath, but without following links on such a file system."""
    return _walk(path)[0]


def _walk(path: str) -> tuple[str, bool]:
    """(the path without links, False), or (resolved up to such a file system, True)."""
    from tracer.procfs.maps import parse_mounts  # reports need no procfs for anything else

    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = parse_mounts(file.read())
        names, here, links = os.path.join(os.getcwd(), path).split("/"), "/", 0
        while True:
            if is_served(mounts, here):
                return os.path.normpath(os.path.join(here, *names)), True
            if not names:
                return here, False
            name = names.pop(0)
            there = os.path.normpath(os.path.join(here, name))
            if name == ".." or is_served(mounts, there) or not os.path.islink(there):
                here = there
                continue
            links += 1
            if links > _MOST_LINKS:
                break
            target = os.readlink(there)
            names = target.split("/") + names
            here = "/" if target.startswith("/") else here
    except (OSError, ValueError):
        pass
    return os.path.abspath(path), False  # opening it will raise the error


def is_served(mounts: "Collection[Mount]", path: str) -> bool:
    """Whether a path without links is on such a file system, by the mount table.

    Not the root itself, which each path begins with: where that is on one, so is this program,
    and a disk may be mounted below it.
    """
    above = [mount for mount in mounts if mount.leads_to(path)]
    # Of several at one mount point the last is visible.
    nearest = max(reversed(above), key=lambda mount: len(mount.point), default=None)
    return path != "/" and nearest is not None and nearest.kind.startswith(_KINDS)
