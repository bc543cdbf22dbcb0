"""A process's mappings, from /proc/PID/maps, and the file systems behind them.

Needs no numpy. Format: proc(5) and fs/proc/task_mmu.c:show_map_vma.
"""

import re
from typing import NamedTuple

from tracer.common.text import decode
from tracer.procfs.errors import ProcessGone, read_bytes
from tracer.procfs.stat import is_kernel_thread

_FIELDS = 5  # before the path: addresses, permissions, offset, device, inode
_MOUNT = rb"(?m)^(\d{1,10}) \d+ (\d{1,10}):(\d{1,10}) \S+ (\S+) .*? - (\S+) "
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mapping(NamedTuple):
    """One mapping, half-open [start, end).

    `offset` in the file, in bytes; `device` as the kernel encodes it (major << 20 |
    minor, like s_dev), 0 for anonymous memory; `path` as the kernel shows it, with
    its escapes and " (deleted)", not made printable, "" where it shows none; `file`, not
    from maps, identifies the file where that is known (tracer.spaces.code_files).
    """

    start: int
    end: int
    perms: str
    offset: int
    device: int
    inode: int
    path: str
    file: int = 0

    @property
    def name(self) -> str:
        """The path, or "[anon]" where there is none."""
        return self.path or "[anon]"


def kernel_device(major: int, minor: int) -> int:
    """MKDEV of include/linux/kdev_t.h."""
    return major << 20 | minor


def parse_maps(text: bytes) -> list[Mapping]:
    r"""The mappings in a maps file's bytes, in order of address.

    The path is padded with blanks in front only; in it the kernel writes a newline as \012.
    """
    # Few distinct values, many lines: each is converted once.
    devices: dict[bytes, int] = {}
    names: dict[bytes, str] = {b"": ""}
    mappings: list[Mapping] = []
    for line in text.split(b"\n"):
        try:
            extent, perms, offset, dev, inode, *rest = line.split(None, _FIELDS)
            start, _, end = extent.partition(b"-")
            path = rest[0] if rest else b""
            if dev not in devices:
                major, _, minor = dev.partition(b":")
                devices[dev] = kernel_device(int(major, 16), int(minor, 16))
            if perms not in names:
                names[perms] = perms.decode("ascii")
            if path not in names:
                names[path] = decode(path)
            mappings.append(
                Mapping(
                    int(start, 16),
                    int(end, 16),
                    names[perms],
                    int(offset, 16),
                    devices[dev],
                    int(inode),
                    names[path],
                )
            )
        except ValueError:
            continue  # not a mapping's line
    return mappings


def read_maps(pid: int, tid: int | None = None) -> list[Mapping]:
    """The mappings of a process, or of the thread `tid` (whose leader may have ended).

    While the target runs this is not an atomic snapshot, but addresses never go
    backwards and a mapping that exists throughout is listed (Documentation/filesystems/proc.rst).
    [] for a kernel thread. Raises ProcessGone where the process, or its memory
    (a zombie), is gone; TraceError without the right to read it.
    """
    text = read_bytes(pid, "maps", tid)
    if not text and not is_kernel_thread(pid):
        raise ProcessGone(pid, f"process {pid} has ended: its memory is gone")
    return parse_maps(text)


class Mount(NamedTuple):
    """A line of mountinfo (proc(5)): mount id, device and mount point, and file system type."""

    number: int
    device: int  # kernel encoding
    point: str
    kind: str  # "ext4", "fuse.sshfs", …

    def leads_to(self, path: str) -> bool:
        """Whether `path` passes through its mount point; another may be mounted over it."""
        return path == self.point or path.startswith(self.point.rstrip("/") + "/")


def parse_mounts(text: bytes) -> list[Mount]:
    """The mounts of a mountinfo file's bytes."""
    return [
        Mount(int(number), kernel_device(int(major), int(minor)), _unescaped(point), decode(kind))
        for number, major, minor, point, kind in re.findall(_MOUNT, text)
    ]


def _unescaped(text: bytes) -> str:
    """A path of mountinfo, its octal escapes decoded."""
    return decode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), text))


def parse_mountinfo(text: bytes) -> dict[int, str]:
    """`mount_filesystems` of a mountinfo file's bytes."""
    return {mount.device: mount.kind for mount in parse_mounts(text)}


def mount_filesystems(pid: int) -> dict[int, str]:
    """Device (kernel encoding) -> file system type of every mount the process sees.

    Memory of the kernel's own shmem mount (memfd, shared anonymous memory, SysV) lies
    on a device no mountinfo lists: its paths are /memfd:…, /dev/zero and /SYSV….
    """
    return parse_mountinfo(read_bytes(pid, "mountinfo"))
