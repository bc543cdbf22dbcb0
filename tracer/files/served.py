"""Which paths lead to file systems that others serve: there any system call may wait for them.

None of these is asked for anything to find out: the mounts tell, and links that are elsewhere.
"""

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.procfs.maps import Mount

# Whoever serves these may be any program, or far away.
_KINDS = ("fuse", "nfs", "cifs", "smb", "9p", "ceph", "virtiofs", "afs", "autofs")
_MOST_LINKS = 40  # as path_resolution(7)


def may_stall(path: str) -> bool:
    """Whether the way to a file leads through such a file system."""
    return _walk(path)[1]


def resolved(path: str) -> str:
    """As os.path.realpath, but links on such a file system are not followed."""
    return _walk(path)[0]


def _walk(path: str) -> tuple[str, bool]:
    """The path without links, and whether it comes upon what others serve: up to there."""
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
    return os.path.abspath(path), False  # to open it will tell what is wrong


def is_served(mounts: "Collection[Mount]", path: str) -> bool:
    """Whether a path without links is on such a file system, by the table of mounts.

    Not the root itself, which each path begins with: where that is served, so is all of us, and
    what is mounted below it may be a disk.
    """
    above = [mount for mount in mounts if mount.leads_to(path)]
    # Of several at one place the last is seen.
    nearest = max(reversed(above), key=lambda mount: len(mount.point), default=None)
    return path != "/" and nearest is not None and nearest.kind.startswith(_KINDS)
