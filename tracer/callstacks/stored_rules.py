"""Unwind rules across runs: what was learned of a file's code is stored by the file's content.

A file is found again by what fstat(2) says of it, so that the next run need not read all of it: an
index has the SHA-256 of each file's content by that, and the rules lie under the SHA-256. They are
suggestions. The kernel walks by them, and each frame of the walk is compared with the file's own
rule, which is asked for in this run (walks.py); a file that was another one loses what was stored.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracer.callstacks.file_rules import EXACT, PAGE, PAGE_SHIFT, FileRules, FileTable, Known
from tracer.callstacks.kernel_rules import value_of
from tracer.common import cache_files
from tracer.common.types import Bools, Structs
from tracer.symbolizing.rule import AT_RBP, KEPT, UNKNOWN, Cfa, Rule

_INDEX, _ENDING = "rules.index", ".rules"
_MOST_FILES, _MOST_BYTES = 4096, 1 << 26  # that are stored; so many are in the index
_MOST_OF_ONE = 1 << 14  # rules of a file
_LARGEST = 1 << 29  # bytes of a file whose content is read
# A file that was changed as lately may be changed again without another time: file systems' clocks
# tick every few milliseconds, some every two seconds (FAT).
_SETTLED_NS = 2_000_000_000
_RULE = np.dtype([("offset", "<u8"), ("value", "<u8"), ("kind", "u1")])
_FILE = np.dtype([("identity", "<u8", (5,)), ("digest", "u1", (32,))])
_FRAME = np.uint64(value_of(Rule(Cfa.FRAME)))

# st_dev, st_ino, st_size, st_mtime_ns, st_ctime_ns: who owns a file can set all but the last.
_Identity = tuple[int, ...]


class StoredRules:
    """The rules in the cache, for the files of a run."""

    def __init__(self, folder: Path | None, open_file: Callable[[int], int]) -> None:
        """`folder` None: nothing is stored. `open_file` as CodeFiles.open."""
        self._version = _version()
        self._folder = folder if self._version else None
        self._open_file = open_file
        self._seen: dict[int, _Identity] = {}  # by file: when its rules were asked for first
        self._index = self._read_index()

    def load(self, file: int) -> Known:
        """What is stored of a file; from now on it is to be the same file."""
        if self._folder is None:
            return {}
        identity = self._seen[file] = self._identity(file)
        digest = self._index.get(identity)
        return self._read(digest) if digest is not None else {}

    def unread(self, rules: FileRules) -> list[int]:
        """The files with something to store whose content must be read for it."""
        return [
            file
            for file, table in rules.tables()
            if _is_news(table)
            and (identity := self._seen.get(file))
            and (identity not in self._index or table.wrong)
            and identity[2] <= _LARGEST
        ]

    def store(self, rules: FileRules, digest_of: Callable[[int], bytes]) -> None:
        """Store what is new, together with what others have stored meanwhile.

        `digest_of`: the SHA-256 of a file's content, b"" where it was not read.
        """
        if self._folder is None:
            return
        named, written = dict[_Identity, bytes](), False
        for file, table in rules.tables():
            identity = self._seen.get(file)
            if not identity:
                continue
            digest = b"" if table.wrong else self._index.get(identity, b"")
            digest = digest or digest_of(file)
            if not digest or self._identity(file) != identity:
                continue
            if max(identity[3:]) + _SETTLED_NS < time.time_ns():
                named[identity] = digest
            if _is_news(table):
                # Stored rules that were wrong are not kept; those of another content may be right.
                kept = not table.wrong or self._index.get(identity) != digest
                self._write(digest, table, self._read(digest) if kept else {})
                written = True
            elif table.stored:
                self._use(digest)
        if written or named.keys() - self._index.keys():
            self._write_index(named)
        if written:
            cache_files.prune(self._folder, _ENDING, _MOST_FILES, _MOST_BYTES)

    def _identity(self, file: int) -> _Identity:
        """() where it cannot be opened any more."""
        try:
            descriptor = self._open_file(file)
        except OSError:
            return ()
        try:
            facts = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        times = facts.st_mtime_ns, facts.st_ctime_ns
        return facts.st_dev, facts.st_ino, facts.st_size, *(max(0, each) for each in times)

    # -- files: the version, then an array ---------------------------------------------------

    def _read(self, digest: bytes) -> Known:
        rows = self._array(digest.hex() + _ENDING, _RULE, _MOST_OF_ONE)
        if rows is None or not _are_valid(rows):
            return {}
        each = zip(*(rows[name].tolist() for name in ("offset", "kind", "value")), strict=True)
        return {(offset, kind): value for offset, kind, value in each}

    def _write(self, digest: bytes, table: FileTable, others: Known) -> None:
        """`others`: what is stored now."""
        known = dict(table.learned)  # first of all what this run needed
        if all(known.get(key, value) == value for key, value in others.items()):
            known |= others
        for key, value in table.stored.items():
            known.setdefault(key, value)
        rows = [(offset, value, kind) for (offset, kind), value in known.items()]
        array = np.array(rows[:_MOST_OF_ONE], _RULE)
        cache_files.write(self._folder, digest.hex() + _ENDING, self._version + array.tobytes())

    def _use(self, digest: bytes) -> None:
        """The oldest are removed: this one is not old."""
        assert self._folder is not None
        with contextlib.suppress(OSError):  # somebody has removed it
            os.utime(self._folder / (digest.hex() + _ENDING), follow_symlinks=False)

    def _read_index(self) -> dict[_Identity, bytes]:
        rows = self._array(_INDEX, _FILE, _MOST_FILES)
        if rows is None:
            return {}
        digests = (bytes(each) for each in rows["digest"])
        return dict(zip(map(tuple, rows["identity"].tolist()), digests, strict=True))

    def _write_index(self, named: dict[_Identity, bytes]) -> None:
        known = self._read_index()
        for identity, digest in named.items():
            known.pop(identity, None)
            known[identity] = digest  # the last used at the end
        rows = [(identity, list(digest)) for identity, digest in known.items()]
        array = np.array(rows[-_MOST_FILES:], _FILE)
        cache_files.write(self._folder, _INDEX, self._version + array.tobytes())

    def _array(self, name: str, dtype: np.dtype[np.void], most: int) -> Structs | None:
        """None where there is none, or another version's."""
        header = len(self._version)
        room = cache_files.HEADER + header + most * dtype.itemsize
        data = cache_files.read(self._folder, name, room)
        if data is None or data[:header] != self._version:
            return None
        size = len(data) - header
        if not size or size % dtype.itemsize:
            return None
        return np.frombuffer(data, dtype, offset=header)


def _is_news(table: FileTable) -> bool:
    return table.wrong or bool(table.learned.keys() - table.stored.keys())


def _are_valid(rows: Structs) -> bool:
    """Whether they are rules as the kernel has them (kernel_rules.value_of)."""
    offsets, values, kinds = rows["offset"], rows["value"], rows["kind"]
    rbp = (values >> np.uint64(32)).astype(np.uint16).view(np.int16)
    cfa = (values >> np.uint64(48)).astype(np.uint8)
    pages: Bools = kinds == PAGE
    within_page = offsets & np.uint64((1 << PAGE_SHIFT) - 1)
    valid = (offsets < np.uint64(1 << 63)) & (kinds <= max(EXACT, PAGE))
    valid &= np.isin(cfa, [int(each) for each in Cfa])
    valid &= np.isin(rbp, [KEPT, AT_RBP, UNKNOWN]) | ((rbp < 0) & (rbp % 8 == 0))
    valid &= ~pages | ((values == _FRAME) & (within_page == 0))
    return bool(valid.all())


def _version() -> bytes:
    """A digest of the sources that say what a rule is and how it is found; b"" without sources.

    What another version of them has stored is not read.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256()
    sources = [
        *(here.parent / "symbolizing").glob("*.py"),
        *(here / f"{name}.py" for name in ("file_rules", "kernel_rules", "unwinding")),
        Path(__file__),
    ]
    try:
        for path in sorted(sources):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    except OSError:
        return b""
    return digest.digest()
