"""Kernel functions by address, from /proc/kallsyms (kernel/kallsyms.c)."""

import re
from pathlib import Path

from tracer.common.text import decode

_TEXT = (b"t", b"T", b"w", b"W")
_ADDRESS = re.compile(rb"[0-9a-f]{1,16}")


def parse_kallsyms(text: bytes) -> tuple[list[int], list[str]]:
    """(addresses ascending, names) of the functions; a module's are "name [module]".

    Empty where the addresses are hidden (kernel.kptr_restrict, or no CAP_SYSLOG).
    """
    found = []
    for line in text.split(b"\n"):
        address, _, rest = line.partition(b" ")
        if rest[:1] in _TEXT and rest[1:2] == b" " and _ADDRESS.fullmatch(address):
            found.append((int(address, 16), rest[2:]))
    if not any(address for address, _ in found):
        return [], []
    found.sort(key=lambda symbol: symbol[0])
    names = [decode(name.replace(b"\t", b" ")) for _, name in found]
    return [address for address, _ in found], names


def read_kallsyms() -> tuple[list[int], list[str]]:
    """`parse_kallsyms` of the running kernel; empty where it cannot be read. Takes about 0.1 s."""
    try:
        return parse_kallsyms(Path("/proc/kallsyms").read_bytes())
    except OSError:
        return [], []
