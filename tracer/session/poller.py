"""What a trace sleeps on: signals, the end of processes, the keyboard."""

import contextlib
import os
import select
import time
from collections.abc import Callable, Sequence

from tracer.common.closing import Closing
from tracer.session.plan import Plan


class Poller(Closing):
    """Wakes the loop for a signal or a process's end; else after the cycle time."""

    def __init__(self, plan: Plan, wake: int, keyboard: Sequence[int]) -> None:
        """`wake` and `keyboard` are descriptors that wake it when readable."""
        self._poll = select.poll()
        self._wake = wake
        self._pidfds: list[int] = []
        self._ended: set[int] = set()
        self._served: dict[int, Callable[[], None]] = {}
        self._poll.register(wake, select.POLLIN)
        command = plan.command
        if command is not None:
            self._poll.register(command.pidfd, select.POLLIN)
        for fd in keyboard:
            self._poll.register(fd, select.POLLIN)
        for pid in plan.pids:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds.append(os.pidfd_open(pid))
                self._poll.register(self._pidfds[-1], select.POLLIN)

    def serve(self, fd: int, action: Callable[[], None]) -> None:
        """Call this whenever the descriptor is readable, and go on waiting."""
        self._served[fd] = action
        self._poll.register(fd, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Whether something woke it."""
        until = time.monotonic() + seconds
        while True:
            events = self._poll.poll(max(0.0, until - time.monotonic()) * 1000)
            served = [self._served[fd] for fd, _ in events if fd in self._served]
            for action in served:
                action()
            if len(events) > len(served) or time.monotonic() >= until:
                break
        for fd, _ in events:
            if fd == self._wake:
                os.read(fd, 512)
            elif fd in self._pidfds:
                self._poll.unregister(fd)
                self._ended.add(fd)
        return len(events) > len(served)

    def living(self) -> bool:
        """Whether a process named by --pid still runs: with any of its threads."""
        return len(self._ended) < len(self._pidfds)

    def close(self) -> None:
        """Close the pidfds."""
        for fd in self._pidfds:
            os.close(fd)
