"""Compiled probes in the cache on disk: compiling one takes clang a second each time.

The key covers all inputs: our sources, the kernel's offsets, and bcc. What is not there, or not to
be trusted, is compiled.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tracer.common import cache_files
from tracer.probes.compiled import Answer, decode, encode

_MOST = 32  # files kept
_LARGEST = 4 << 20
_ENDING = ".json"


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
    text = cache_files.read(folder, key + _ENDING, _LARGEST)
    if text is None:
        return None
    try:
        return replace(decode(json.loads(text)), cached=key)
    except (ValueError, TypeError, KeyError):  # another version's
        return None


def drop(folder: Path | None, key: str) -> None:
    """Remove the file stored under `key`."""
    cache_files.remove(folder, key + _ENDING)


def store(folder: Path | None, key: str, answer: Answer) -> None:
    """Store `answer` under `key`; failures are ignored."""
    cache_files.write(folder, key + _ENDING, encode(answer).encode())
    cache_files.prune(folder, _ENDING, _MOST)
