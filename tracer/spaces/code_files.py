"""Which file each mapping of code is of: settled when it is first seen, found again by that.

A path alone does not tell. The file may have been deleted or replaced since, and the path may be
one of another mount namespace or below another root. What is mapped is behind
/proc/PID/map_files (to open that takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE); else it is
looked for below the target's own root, and has to be the file of the device and inode that the
kernel named. Later a file is found again by what fstat(2) says of it. Only what cannot be
opened by its path any more is held open.

The targets choose these files: nothing but regular ones is opened, and none that FUSE serves,
where reading may take as long as its server likes.
"""

import contextlib
import errno
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracer.kernel.sideband import MmapEvent
from tracer.procfs.maps import Mapping
from tracer.procfs.regular import reopened
from tracer.procfs.roots import OURS, Roots

MOST_HELD = 64  # files that are held open
LARGEST_HELD = 1 << 30  # bytes: its room on the disk is not free until the trace is over
_MOST_FILES = 1 << 16  # told apart; then the oldest are forgotten
_MOST_DEVICES = 1 << 12
# Memory that has a path only: no one file's, and often a new one each time.
NO_FILE = ("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage")

CodeMapping = Mapping | MmapEvent
# st_dev, st_ino, st_mtime_ns, st_size: a number is used again once its file is deleted.
Identity = tuple[int, int, int, int]


@dataclass(slots=True)
class _File:
    identity: Identity
    path: str  # by which it could be opened from our root; "" where by none
    mapped: tuple[int, int, int]  # the last process seen to map it, from where to where
    inside: str  # its path below that process's root


class CodeFiles:
    """The files that code was mapped from, by number from 1."""

    def __init__(self, proc: str = "/proc") -> None:
        """`proc`: where procfs is mounted."""
        self._roots = Roots(proc)
        self._made = 0
        self._files: dict[int, _File] = {}
        self._numbers: dict[tuple[str, Identity], int] = {}
        self._told: dict[tuple[int, int, str], int] = {}  # by device, inode and path as told
        self._held: dict[Identity, int] = {}  # descriptors
        self._is_fuse: dict[int, bool] = {}  # by device as told
        self.close = weakref.finalize(self, _close_all, self._held)

    def see(self, pid: int, mapping: CodeMapping, *, anew: bool) -> int:
        """The number of the file that a process maps; 0: it is no code, no file, or not known.

        `anew`: it has just been mapped. Otherwise a file of the same device, inode and path is
        taken for the one that was seen before.
        """
        path = mapping.path
        if "x" not in mapping.perms or not mapping.inode or path[:1] != "/":
            return 0
        if path.startswith(NO_FILE):
            return 0
        told = mapping.device, mapping.inode, path
        known = self._told.get(told, 0)
        file = self._files.get(known)
        if file is not None and not anew:
            file.mapped, file.inside = _whereabouts(pid, mapping)
            return known
        try:
            handle = self._look(pid, mapping)
        except OSError:
            # It has ended. If the file known by that inode is there still, this was the same.
            return known if self._is_there(known) else 0
        try:
            number = self._settle(handle, pid, mapping)
        finally:
            os.close(handle)
        self._told.pop(told, None)
        self._told[told] = number
        if len(self._told) > _MOST_FILES:
            del self._told[next(iter(self._told))]
        return number

    def open(self, number: int) -> int:
        """A descriptor to read a file, the caller's to close.

        Raises OSError where it cannot be reached any more, or is not known.
        """
        file = self._files.get(number)
        for handle in self._ways_to(file) if file is not None else ():
            try:
                return reopened(handle)
            finally:
                os.close(handle)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def name(self, number: int) -> str:
        """A path for people, raw: where it is, or was to its process; "" where it is not known."""
        file = self._files.get(number)
        return (file.path or file.inside) if file is not None else ""

    def _is_there(self, number: int) -> bool:
        try:
            os.close(self.open(number))
        except OSError:
            return False
        return True

    # -- what is mapped --------------------------------------------------------------------

    def _look(self, pid: int, mapping: CodeMapping) -> int:
        """An O_PATH descriptor of what is mapped; raises OSError where it cannot be told."""
        for look in (self._by_mapping, self._by_path):
            try:
                handle = look(pid, mapping)
            except OSError:
                continue
            fits = False
            try:
                fits = self._fits(handle, pid, mapping)
            finally:
                if not fits:
                    os.close(handle)
            if fits:
                return handle
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), mapping.path)

    def _by_mapping(self, pid: int, mapping: CodeMapping) -> int:
        return os.open(self._map_file(pid, mapping.start, mapping.end), os.O_PATH | os.O_CLOEXEC)

    def _by_path(self, pid: int, mapping: CodeMapping) -> int:
        """… where it has its path still, below the target's root or, if that has ended, ours."""
        path = spelled(mapping.path)
        for whose in (pid, OURS):
            try:
                handle = self._roots.open(whose, path)
            except OSError:
                continue
            mount = self._roots.mount(handle, whose)
            # Of an overlay the sideband names the layer's device, and so do older kernels' maps.
            if mount is not None and (mount.device == mapping.device or mount.kind == "overlay"):
                return handle
            os.close(handle)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _fits(self, handle: int, pid: int, mapping: CodeMapping) -> bool:
        """Whether that can be the mapping's file, which may have gone meanwhile."""
        if mapping.device not in self._is_fuse:
            if len(self._is_fuse) >= _MOST_DEVICES:
                self._is_fuse.clear()
            self._is_fuse[mapping.device] = self._roots.by_fuse(handle, pid)
        if self._is_fuse[mapping.device]:
            return False
        status = os.fstat(handle)
        return stat.S_ISREG(status.st_mode) and status.st_ino == mapping.inode

    def _settle(self, handle: int, pid: int, mapping: CodeMapping) -> int:
        identity = _identity(handle)
        mapped, inside = _whereabouts(pid, mapping)
        number = self._numbers.get((mapping.path, identity), 0)
        if number:
            file = self._files[number]
            file.mapped, file.inside = mapped, inside
            return number
        path = self._path_of(handle, inside)
        if not self._is_at(path, identity):
            path = ""
            self._hold(handle, identity)
        self._made += 1
        self._numbers[mapping.path, identity] = self._made
        self._files[self._made] = _File(identity, path, mapped, inside)
        if len(self._files) > _MOST_FILES:
            self._files.pop(next(iter(self._files)))
            self._numbers.pop(next(iter(self._numbers)))
        return self._made

    def _path_of(self, handle: int, inside: str) -> str:
        """Its path from our root: the sideband's is from the target's."""
        try:
            return os.readlink(f"/proc/self/fd/{handle}")
        except OSError:
            return inside

    def _is_at(self, path: str, identity: Identity) -> bool:
        try:
            handle = self._roots.open(OURS, path)
        except OSError:
            return False
        try:
            return _is(handle, identity)
        finally:
            os.close(handle)

    def _hold(self, handle: int, identity: Identity) -> None:
        if identity in self._held or len(self._held) >= MOST_HELD or identity[-1] > LARGEST_HELD:
            return
        with contextlib.suppress(OSError):
            self._held[identity] = reopened(handle)

    # -- the way back ----------------------------------------------------------------------

    def _ways_to(self, file: _File) -> Iterator[int]:
        """O_PATH descriptors of that very file, one after another; the caller's to close."""
        pid, start, end = file.mapped
        held = self._held.get(file.identity)
        if held is not None:
            yield os.open(f"/proc/self/fd/{held}", os.O_PATH | os.O_CLOEXEC)
        ways: tuple[Callable[[], int], ...] = (
            lambda: self._roots.open(OURS, file.path),
            lambda: os.open(self._map_file(pid, start, end), os.O_PATH | os.O_CLOEXEC),
            lambda: self._roots.open(pid, file.inside),
        )
        for way in ways:
            try:
                handle = way()
            except OSError:
                continue
            # Another process may have that number by now, and map anything there.
            if not self._roots.by_fuse(handle, pid) and _is(handle, file.identity):
                yield handle
            else:
                os.close(handle)

    def _map_file(self, pid: int, start: int, end: int) -> str:
        return f"{self._roots.proc}/{pid}/map_files/{start:x}-{end:x}"


def _whereabouts(pid: int, mapping: CodeMapping) -> tuple[tuple[int, int, int], str]:
    """_File.mapped and _File.inside."""
    return (pid, mapping.start, mapping.end), spelled(mapping.path)


def spelled(path: str) -> str:
    """A path as open(2) takes it: maps spells a newline "\\012"."""
    return path.replace("\\012", "\n")


def _identity(handle: int) -> Identity:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _is(handle: int, identity: Identity) -> bool:
    try:
        return _identity(handle) == identity
    except OSError:
        return False


def _close_all(held: dict[Identity, int]) -> None:
    while held:
        os.close(held.popitem()[1])
