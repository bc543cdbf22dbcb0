"""Scheduling priority of our own processes."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

_PREFERRED = 10  # levels of nice(2): nearly ten times the processor time of one that is not


@contextlib.contextmanager
def preferred(pids: Callable[[], Iterable[int]]) -> Iterator[None]:
    """Run these processes, ours and our children, ahead of others while processors are scarce.

    As far as that is allowed. They are to be asleep most of the time: what they do late costs the
    others more. `pids` is called again at the end: they may be others by then, which inherited it.
    """
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    _set(pids(), usual - _PREFERRED)
    try:
        yield
    finally:
        _set(pids(), usual)


def _set(pids: Iterable[int], level: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, level)
