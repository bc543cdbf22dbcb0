"""The file behind each executable mapping: identified when first seen, and found again later.

A path alone does not identify it. The file may have been deleted or replaced since, and the path
may be of another mount namespace or below another root. The mapped file is behind
/proc/PID/map_files (opening it takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE); else it is
searched below the target's own root, and must have the device and inode that the kernel
reported. Later a file is recognized by fstat(2). Only files that can no longer be opened by
path are held open.

The targets choose these files: only regular ones are opened, and none on FUSE, where a read may
block for as long as its server wants.
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
LARGEST_HELD = 1 << 30  # bytes: its disk space is not freed until the trace is over
_MOST_FILES = 1 << 16  # distinct ones; then the oldest are forgotten
_MOST_DEVICES = 1 << 12
# Memory with a path but no file on disk, often a new one each time.
NO_FILE = ("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage")

CodeMapping = Mapping | MmapEvent
# st_dev, st_ino, st_mtime_ns, st_size: a number is used again once its file is deleted.
Identity = tuple[int, int, int, int]


@dataclass(slots=True)
class _File:
    identity: Identity
    path: str  # by which it can be opened from our root; "" if by none
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
        self._seen: dict[tuple[int, int, str], int] = {}  # by device, inode and path as reported
        self._held: dict[Identity, int] = {}  # descriptors
        self._is_fuse: dict[int, bool] = {}  # by device as reported
        self.close = weakref.finalize(self, _close_all, self._held)

    def see(self, pid: int, mapping: CodeMapping, *, anew: bool) -> int:
        """Return the number of the file a process maps; 0: not executable, no file, or not known.

        `anew`: it has just been mapped. Otherwise a file of the same device, inode and path is
        assumed to be the one seen before.
        """
        path = mapping.path
        if "x" not in mapping.perms or not mapping.inode or path[:1] != "/":
            return 0
        if path.startswith(NO_FILE):
            return 0
        reported = mapping.device, mapping.inode, path
        known = self._seen.get(reported, 0)
        file = self._files.get(known)
        if file is not None and not anew:
            file.mapped, file.inside = _whereabouts(pid, mapping)
            return known
        try:
            handle = self._handle_of(pid, mapping)
        except OSError:
            # The process has ended. If the file of that inode still exists, this was the same.
            return known if self._is_there(known) else 0
        try:
            number = self._settle(handle, pid, mapping)
        finally:
            os.close(handle)
        self._seen.pop(reported, None)
        self._seen[reported] = number
        if len(self._seen) > _MOST_FILES:
            del self._seen[next(iter(self._seen))]
        return number

    def open(self, number: int) -> int:
        """Open a file for reading; the caller closes the descriptor.

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
        """A path to display, raw: from our root, or from its process's; "" if not known."""
        file = self._files.get(number)
        return (file.path or file.inside) if file is not None else ""

    def _is_there(self, number: int) -> bool:
        try:
            os.close(self.open(number))
        except OSError:
            return False
        return True

    # -- what is mapped --------------------------------------------------------------------

    def _handle_of(self, pid: int, mapping: CodeMapping) -> int:
        """An O_PATH descriptor of the mapped file; raises OSError where it is not found."""
        for find in (self._by_mapping, self._by_path):
            try:
                handle = find(pid, mapping)
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
        """… if still at its path, below the target's root or, if that has ended, ours."""
        path = spelled(mapping.path)
        for whose in (pid, OURS):
            try:
                handle = self._roots.open(whose, path)
            except OSError:
                continue
            mount = self._roots.mount(handle, whose)
            # On overlayfs the sideband reports the layer's device, as do older kernels' maps.
            if mount is not None and (mount.device == mapping.device or mount.kind == "overlay"):
                return handle
            os.close(handle)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _fits(self, handle: int, pid: int, mapping: CodeMapping) -> bool:
        """Whether that can be the mapping's file, which may be gone by now."""
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

    # -- reopening -------------------------------------------------------------------------

    def _ways_to(self, file: _File) -> Iterator[int]:
        """Yield O_PATH descriptors of that file, for the caller to close."""
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
            # Another process may have that pid by now, and map anything there.
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
