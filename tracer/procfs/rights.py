"""What this process may do: its capabilities, and in whose eyes (capabilities(7))."""

from pathlib import Path

CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39


def capabilities() -> int:
    """The effective capabilities of this process, a bit each (CapEff of /proc/self/status)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has_capability(number: int) -> bool:
    """Whether this process has capability `number` in its own user namespace."""
    return bool(capabilities() >> number & 1)


def in_initial_user_namespace() -> bool:
    """Whether ids are the machine's own: elsewhere even all capabilities do not allow BPF.

    The initial namespace maps every id to itself (user_namespaces(7)).
    """
    fields = Path("/proc/self/uid_map").read_text().split()
    return fields == ["0", "0", "4294967295"]
