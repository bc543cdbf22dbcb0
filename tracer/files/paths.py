"""Resolving a path without following links that another user may have planted.

Root writes where others can write, too: a link there may lead anywhere, and
the kernel's protection (fs.protected_symlinks, fs.protected_hardlinks) may be
off. No symbolic link in a world-writable directory is followed; in one that
others may write to by group or as its owners, only links of our own are. Each
component is held open while checked (O_PATH), so that it cannot be replaced.
"""

import errno
import os
import stat

from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.files.caller import Caller

Owner = tuple[int, int] | Caller  # uid and gid that new files are to belong to

_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)


def open_parent(path: str, owner: Owner | None = None) -> tuple[int, str]:
    """The directory of `path` as a descriptor, and the last name in it, links resolved.

    Walks name by name, as the kernel does (path_resolution(7)), but refuses
    links that another user than root, us or `owner` may have put there. Raises
    TraceError for those, OSError for what is missing or forbidden.
    """
    names = [*_names(path), *([""] if path.endswith("/") else [])]
    here = os.open("/" if path.startswith("/") else ".", _PARENT)
    links = 0
    try:
        while True:
            name = names.pop(0) if names else ""
            if not name:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            target = _link(here, name, path, owner)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                names = _names(target) + names
                if target.startswith("/"):
                    here = _step(here, "/")
            elif not names:
                return here, name
            else:
                here = _step(here, name)
    except BaseException:
        os.close(here)
        raise


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _step(here: int, name: str) -> int:
    there = os.open(name, _PARENT, dir_fd=here)
    os.close(here)
    return there


def _link(here: int, name: str, path: str, owner: Owner | None) -> str | None:
    """The target of the link `name`, None if it is no link; raises TraceError if it is planted."""
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(handle)
        if not stat.S_ISLNK(found.st_mode):
            return None
        _refuse_planted_link(os.fstat(here), found, name, path, owner)
        return os.readlink("", dir_fd=handle)
    finally:
        os.close(handle)


def _refuse_planted_link(
    directory: os.stat_result, link: os.stat_result, name: str, path: str, owner: Owner | None
) -> None:
    if _anyone_may_write(directory):
        where = "in a directory anyone may write to"
    elif others_may_write(directory, owner) and (
        link.st_uid not in _ours(owner) or link.st_nlink > 1
    ):
        where = "of another user"
    else:
        return
    raise TraceError(
        f"{printable(path)}: {printable(name)} is a symbolic link {where}",
        "name the file it points to",
        Exit.OUTPUT,
    )


def refuse_planted_file(parent: int, found: os.stat_result, path: str, owner: Owner | None) -> None:
    """Raise TraceError for another user's file in a world-writable directory, or a hard link."""
    directory = os.fstat(parent)
    foreign = _anyone_may_write(directory) and found.st_uid not in _ours(owner)
    second = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    if foreign or (second and others_may_write(directory, owner)):
        raise TraceError(
            f"{printable(path)} belongs to another user"
            if foreign
            else f"{printable(path)} has several hard links, and others may write there",
            "choose another name, in a directory of your own",
            Exit.OUTPUT,
        )


def _ours(owner: Owner | None) -> set[int]:
    """Users whose files and links are trusted: root, ours, and sudo's caller."""
    return {0, os.geteuid()} | ({owner[0]} if owner else set())


def _anyone_may_write(directory: os.stat_result) -> bool:
    return bool(directory.st_mode & stat.S_IWOTH)


def others_may_write(directory: os.stat_result, owner: Owner | None) -> bool:
    """Whether another user may create files in it: as anyone, by group (or ACL), as owner."""
    by_mode = directory.st_mode & (stat.S_IWOTH | stat.S_IWGRP)
    return bool(by_mode) or directory.st_uid not in _ours(owner)
