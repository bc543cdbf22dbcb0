"""Detecting that a failure is a shortage of memory, and reporting the limits set.

Imports nothing heavy: it is used when memory is short.
"""

import errno
import resource
from pathlib import Path

from tracer.common.errors import Exit, TraceError

# The tracer's memory besides the ring, as measured; address space: bcc while it compiles.
NEEDS_RESIDENT = 80 << 20
NEEDS_ADDRESSES = 300 << 20
_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60  # memory.limit_in_bytes is nearly 2**63 where there is none
# Messages of the C library, the dynamic linker, LLVM and C++ (dlopen gives only a message).
_WORDS = (
    "cannot allocate memory",
    "failed to map segment",
    "cannot create shared object descriptor",
    "out of memory",
    "bad_alloc",
    "memoryerror",
    "can't start new thread",
    "enomem",
)


def is_short(error: BaseException | None) -> bool:
    """Whether memory was short: the error itself, or what it was raised from."""
    for _ in range(16):
        if error is None:
            return False
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, (ImportError, OSError, RuntimeError)) and says_so(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def says_so(text: str) -> bool:
    """Whether a message is about a shortage of memory."""
    text = text.lower()
    return any(words in text for words in _WORDS)


def short(during: str, *, buffer: int = 0, needs: str = "") -> TraceError:
    """The error to raise; `during`: the failed step, "" where that is not known.

    `buffer`: bytes of the ring; `needs`: what needs how much memory, if not the tracer. Where
    several limits are set, the message names them all: which one was hit is not known.
    """
    limits = [f"{limit >> 20} MiB {words}" for limit, words in limits_set()]
    message = "there is not enough memory" + (f" {during}" if during else "")
    if limits:
        message += f": the limit is {' and '.join(limits)}"
    needs = needs or (
        f"the tracer takes some {NEEDS_RESIDENT >> 20} MiB ({NEEDS_ADDRESSES >> 20} MiB of "
        "address space while it compiles), and --buffer besides"
    )
    less = "raise the limit" if limits else "free some"
    if buffer > 1 << 20:
        less += f", or give a smaller --buffer than {buffer >> 20}M"
    return TraceError(message, f"{less}: {needs}", Exit.TRACER_FAILED)


def warning(buffer: int) -> str:
    """A warning at the start where a control group's limit is too low; "" where it is not.

    The kernel kills a process that exceeds it, and then no message is possible.
    """
    limit, needs = group_limit(), NEEDS_RESIDENT + buffer
    if limit is None or limit >= needs:
        return ""
    return (
        f"the control group has {limit >> 20} MiB of memory, and the tracer takes some "
        f"{needs >> 20}: the kernel may kill it; raise the limit"
        + (", or give a smaller --buffer" if buffer > 1 << 20 else "")
    )


def shortage_of(error: BaseException, during: str = "", *, buffer: int = 0) -> TraceError | None:
    """The TraceError for `error` if memory was short; else None."""
    return short(during, buffer=buffer) if is_short(error) else None


def limits_set() -> list[tuple[int, str]]:
    """The limits on this process's memory: bytes, and which limit it is."""
    found = []
    for number, words in (
        (resource.RLIMIT_AS, "of address space (ulimit -v)"),
        (resource.RLIMIT_DATA, "of data (ulimit -d)"),
    ):
        limit = resource.getrlimit(number)[0]
        if limit != resource.RLIM_INFINITY:
            found.append((limit, words))
    group = group_limit()
    if group is not None:
        found.append((group, "of its control group"))
    return found


def group_limit(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The lowest memory limit, in bytes, of the control groups this process is in; None: none.

    Both versions: proc_pid_cgroup(5), cgroups(7).
    """
    limits = []
    try:
        lines = own.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        _, _, entry = line.partition(":")
        controllers, colon, path = entry.partition(":")
        if not colon or "\0" in path:
            continue
        if controllers == "":
            roots, name = [root, root / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            roots, name = [root / "memory", root / controllers], "memory.limit_in_bytes"
        else:
            continue
        for top in roots:
            group = top / path.lstrip("/")
            while True:
                limits.append(_limit(group / name))
                if group == top or top not in group.parents:
                    break
                group = group.parent
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _limit(file: Path) -> int | None:
    try:
        limit = int(file.read_text())
    except (OSError, ValueError):  # not there; "max"
        return None
    return limit if limit < _NO_LIMIT else None
