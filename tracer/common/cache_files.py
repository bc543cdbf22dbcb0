"""Files in which one run leaves something for the next: compiled probes, unwind rules.

They are as trusted as this program itself, so they must be owned by the user (root, that is), in a
folder that no other user can write, and match the digest they begin with. Otherwise they are as if
they were not there, and what cannot be written is no error.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

VARIABLE = "PAGEFAULT_CACHE"
FOLDER = "/var/cache/pagefault-trace"
HEADER = 65  # bytes before what was written: its SHA-256 in hexadecimal, and a newline


def default_folder() -> Path | None:
    """The folder of the cache; None where PAGEFAULT_CACHE is set to nothing."""
    name = os.environ.get(VARIABLE, FOLDER)
    return Path(name) if name else None


def read(folder: Path | None, name: str, most: int) -> bytes | None:
    """What was written under `name`; None where it is not there, not ours, or damaged.

    `most`: bytes; a longer file is none of ours.
    """
    if folder is None:
        return None
    try:
        if not _is_ours(os.lstat(folder), stat.S_ISDIR):
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # it may be a FIFO
        with open(os.open(folder / name, flags), "rb") as file:
            facts = os.fstat(file.fileno())
            if not _is_ours(facts, stat.S_ISREG) or facts.st_size > most:
                return None
            digest, _, data = file.read(most).partition(b"\n")
    except OSError:
        return None
    return data if digest == _digest(data) else None


def write(folder: Path | None, name: str, data: bytes) -> None:
    """Write a file, which is there whole or not at all, in place of the one there is."""
    if folder is None:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(os.lstat(folder), stat.S_ISDIR):
            return
        path = folder / name
        draft = path.with_suffix(f".{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(draft, flags, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(_digest(data) + b"\n" + data)
            draft.rename(path)
        except BaseException:
            draft.unlink()
            raise


def remove(folder: Path | None, name: str) -> None:
    """Remove the file of that name, if there is one."""
    if folder is not None:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def prune(folder: Path | None, ending: str, most: int, most_bytes: int = 1 << 40) -> None:
    """Of the files with that ending remove the oldest: all but `most`, and `most_bytes` of them.

    Drafts of runs that were killed go, too.
    """
    if folder is None:
        return
    with contextlib.suppress(OSError):
        files = [(path, path.stat()) for path in folder.glob(f"*{ending}")]
        files.sort(key=lambda each: -each[1].st_mtime_ns)
        size, old = 0, []
        for number, (path, facts) in enumerate(files):
            size += facts.st_size
            if number >= most or size > most_bytes:
                old.append(path)
        pids = ((path, path.suffix[1:]) for path in folder.iterdir())
        left = [path for path, pid in pids if pid.isdecimal() and not _runs(int(pid))]
        for path in [*old, *left]:
            path.unlink(missing_ok=True)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _is_ours(facts: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return is_kind(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
