"""Cache of compiled probes on disk: compiling one takes clang a second each time.

The key covers all inputs: our sources, the kernel's offsets, and bcc. Cached files
are as trusted as this program itself, so they must be owned by the user (root, that
is), in a folder that no other user can write, and match the digest they begin with.
Otherwise there is no error: the probe is compiled.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from tracer.probes.compiled import Answer, decode, encode
from tracer.procfs.stat import exists

VARIABLE = "PAGEFAULT_CACHE"
FOLDER = "/var/cache/pagefault-trace"
_MOST = 32  # files kept
_LARGEST = 4 << 20


def default_folder() -> Path | None:
    """The folder of compiled probes; None where PAGEFAULT_CACHE is set to nothing."""
    name = os.environ.get(VARIABLE, FOLDER)
    return Path(name) if name else None


def key_of(bpf_dir: Path, words: Iterable[str]) -> str:
    """A digest of every file in `bpf_dir`, and of `words`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in bpf_dir.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(bpf_dir)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    digest.update("\0".join(words).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def load(folder: Path | None, key: str) -> Answer | None:
    """The answer stored under `key`, if it exists and can be trusted."""
    if folder is None:
        return None
    try:
        if not _is_ours(os.lstat(folder), stat.S_ISDIR):
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # it may be a FIFO
        with open(os.open(_path(folder, key), flags), "rb") as file:
            facts = os.fstat(file.fileno())
            if not _is_ours(facts, stat.S_ISREG) or facts.st_size > _LARGEST:
                return None
            digest, _, text = file.read().partition(b"\n")
        if digest != _digest(text):
            return None
        return replace(decode(json.loads(text)), cached=key)
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not what we wrote
        return None


def drop(folder: Path | None, key: str) -> None:
    """Remove the file stored under `key`."""
    if folder is not None:
        with contextlib.suppress(OSError):
            _path(folder, key).unlink()


def store(folder: Path | None, key: str, answer: Answer) -> None:
    """Store `answer` under `key`; failures are ignored."""
    if folder is None:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(os.lstat(folder), stat.S_ISDIR):
            return
        text = encode(answer).encode()
        draft = folder / f"{key}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(draft, flags, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(_digest(text) + b"\n" + text)
            draft.rename(_path(folder, key))
        except BaseException:
            draft.unlink()
            raise
        _prune(folder)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _is_ours(facts: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return is_kind(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def _prune(folder: Path) -> None:
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    # Remove drafts of killed runs, too.
    pids = ((path, path.suffix[1:]) for path in folder.iterdir())
    left = [path for path, pid in pids if pid.isdecimal() and not exists(int(pid))]
    for path in [*kept[:-_MOST], *left]:
        path.unlink(missing_ok=True)
