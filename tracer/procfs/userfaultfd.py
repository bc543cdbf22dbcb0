"""Ranges of a process registered with userfaultfd: by its descriptors and smaps (proc(5))."""

import os
import re

from tracer.procfs.errors import read_bytes, reading

_LINK = "anon_inode:[userfaultfd]"
_LINE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) |^VmFlags:(?=.* um\b)", re.MULTILINE
)  # um: registered for missing pages


def registered(pid: int) -> list[tuple[int, int]] | None:
    """The ranges [start, end) registered for missing pages; None if it has no userfaultfd.

    smaps is read only if it has one: that walks all page tables. Raises ProcessGone.
    """
    if not _has_descriptor(pid):
        return None
    return parse_registered(read_bytes(pid, "smaps"))


def parse_registered(smaps: bytes) -> list[tuple[int, int]]:
    """`registered` of a smaps file's bytes."""
    ranges = []
    mapping = (0, 0)
    for start, end in _LINE.findall(smaps):
        if start:
            mapping = int(start, 16), int(end, 16)
        else:
            ranges.append(mapping)
    return ranges


def _has_descriptor(pid: int) -> bool:
    folder = f"/proc/{pid}/fd"
    with reading(pid):
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}") == _LINK:
                    return True
            except FileNotFoundError:
                continue  # closed meanwhile
    return False
