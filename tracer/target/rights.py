"""Check of the rights to trace, before anything is started."""

from tracer.common.errors import Exit, TraceError
from tracer.procfs.rights import (
    CAP_SYS_ADMIN,
    has_capability,
    in_initial_user_namespace,
    proc_is_ours,
)


def require_rights() -> None:
    """Raise TraceError unless we hold CAP_SYS_ADMIN, which BPF and pagemap's frames need."""
    if not has_capability(CAP_SYS_ADMIN):
        raise TraceError("tracing needs root", "run it with sudo", Exit.NO_RIGHTS)
    if not in_initial_user_namespace():
        raise TraceError(
            "tracing needs root outside of any user namespace",
            "run it on the host, or in a container without user namespaces",
            Exit.NO_RIGHTS,
        )
    if not proc_is_ours():
        raise TraceError(
            "/proc shows another PID namespace than the one this runs in",
            "mount its own: unshare --mount-proc, or mount -t proc proc /proc",
            Exit.UNSUPPORTED,
        )
