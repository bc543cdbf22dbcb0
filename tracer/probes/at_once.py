"""Calls made in threads of their own, where there may be so many."""

import resource
import threading
from collections.abc import Callable, Sequence


def call_at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Make all of these calls; what one of them raises is raised here, when all are over."""
    failed: list[Exception] = []

    def make(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # raised below, in the caller's own thread
            failed.append(error)

    # A thread needs 8 MiB of address space for its stack and 64 for its heap (malloc(3)).
    alone = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    started = []
    for each in calls:
        thread = threading.Thread(target=make, args=(each,))
        try:
            if not alone:
                thread.start()
                started.append(thread)
        except RuntimeError:  # there may be no more threads
            alone = True
        if alone:
            make(each)
    for thread in started:
        thread.join()
    if failed:
        raise failed[0]
