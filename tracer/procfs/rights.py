"""The capabilities of this process, and the namespaces they hold in (capabilities(7))."""

import os
from pathlib import Path

CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


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
    """Whether this is the initial user namespace: elsewhere no capability allows BPF.

    The initial namespace maps every id to itself (user_namespaces(7)).
    """
    fields = Path("/proc/self/uid_map").read_text().split()
    return fields == ["0", "0", "4294967295"]


def in_initial_pid_namespace() -> bool:
    """Whether this is the initial PID namespace (pid_namespaces(7))."""
    return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE


def proc_is_ours() -> bool:
    """Whether /proc is of our own PID namespace."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:  # of one that this process is not in
        return False


def in_our_mounts(pid: int) -> bool:
    """Whether a process is in our mount namespace; False where it has ended."""
    try:
        return os.path.samefile(f"/proc/{pid}/ns/mnt", "/proc/self/ns/mnt")
    except OSError:
        return False
