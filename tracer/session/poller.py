"""What a trace sleeps on: signals, the end of processes, the keyboard."""

import contextlib
import os
import select
from collections.abc import Sequence

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

    def wait(self, seconds: float) -> bool:
        """Whether something woke it."""
        events = self._poll.poll(seconds * 1000)
        for fd, _ in events:
            if fd == self._wake:
                os.read(fd, 512)
            elif fd in self._pidfds:
                self._poll.unregister(fd)
                self._ended.add(fd)
        return bool(events)

    def living(self) -> bool:
        """Whether a process named by --pid still runs: with any of its threads."""
        return len(self._ended) < len(self._pidfds)

    def close(self) -> None:
        """Close the pidfds."""
        for fd in self._pidfds:
            os.close(fd)
