"""A trace that runs beside the test: on processes that die, stop or multiply meanwhile."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tracer.model.result import Books
from tracer.model.rows import ROW, Kind, Names, Rows
from tracer.probes.choose import Attached
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone
from tracer.session.session import Outputs, Plan, Result, Session

_SECONDS = 400.0  # a limit, not a wait: a guest under emulation is slow


@dataclass
class Collect:
    """An output that keeps what it is given."""

    batches: list[npt.NDArray[np.void]] = field(default_factory=list)

    def write(self, rows: Rows, names: Names) -> None:
        self.batches.append(rows.records())

    def close(self) -> None:
        pass

    @property
    def rows(self) -> npt.NDArray[np.void]:
        return np.concatenate(self.batches) if self.batches else np.empty(0, ROW)


class Background:
    """A session on `pids` in a thread of its own; inside, it is recording."""

    def __init__(self, attached: Attached, *pids: int, plan: Plan | None = None) -> None:
        self.seen = Collect()
        self.log = Collect()
        plan = plan or Plan()
        plan.pids = list(pids)
        self.session = Session(attached, plan, Outputs(count=[self.seen], log=[self.log]))
        self._result: Result | None = None
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._result = self.session.run(self._started.set)
        except BaseException as error:  # shown in the test's own thread
            self._failure = error
            self._started.set()

    @property
    def rows(self) -> int:
        """Faults seen so far."""
        return sum(len(batch) for batch in list(self.seen.batches))

    def wait_for_more(self, rows: int) -> None:
        """Until so many faults more have been seen."""
        deadline, wanted = time.monotonic() + _SECONDS, self.rows + rows
        while self.rows < wanted:
            assert self._failure is None, self._failure
            assert self._thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self) -> Result:
        """Stop it; what it came to."""
        self.session.stop()
        return self.ended()

    def ended(self) -> Result:
        """What it came to, once it has ended by itself."""
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure
        assert self._result is not None
        if self.session.naming is not None:
            self.session.naming.settle()
        return self._result

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.stop()
        self._thread.join()


class Held:
    """A trace that stands still from its next rows on until it is let go: one that falls behind."""

    def __init__(self, live: Background, each: Callable[[], None] = lambda: None) -> None:
        """`each` is called whenever there are rows, once it goes on."""
        self._goes, self._stands = threading.Event(), threading.Event()
        self._each, self._write = each, live.seen.write
        live.seen.write = self._held  # type: ignore[method-assign]

    def _held(self, rows: Rows, names: Names) -> None:
        self._stands.set()
        assert self._goes.wait(_SECONDS)
        self._each()
        self._write(rows, names)

    def stands(self) -> None:
        """Until it does."""
        assert self._stands.wait(_SECONDS)

    def go(self) -> None:
        self._goes.set()


def check(books: Books, live: Background, counted: int | None = None) -> None:
    """Exact: `counted` (where given) is what the kernel's own books say was to be traced."""
    rows = live.log.rows
    assert books.traced == int((rows["kind"] != Kind.FAILED).sum())
    assert balances(books), books
    assert not books.conflict, books
    assert "unknown" not in books.gained_by | books.lost_by, books
    assert books.gained - books.given_up == books.mapped_change, books
    if counted is not None:
        agrees(books, counted)


def balances(books: Books) -> bool:
    """Whether the books balance, or would, had the kernel run its handlers for all threads.

    Where it skipped them (unfollowed), its count is a bound, which they say.
    """
    if books.unfollowed and books.kernel_at_least:
        return books.unaccounted() == 0
    return books.balanced()


def agrees(books: Books, counted: int) -> None:
    """Our count is the kernel's `counted`, unless the books say whose faults it may lack."""
    if books.unfollowed:
        assert books.kernel <= counted, books
    else:
        assert books.kernel == counted, books


def wait_until_all(pid: int, state: str) -> None:
    """Until each thread of a process is in one of these states (as ps shows them)."""
    deadline = time.monotonic() + _SECONDS

    def is_so(tid: int) -> bool:
        try:
            return stat.state(pid, tid) in state
        except ProcessGone:  # it ended when it had just been listed
            return True

    while not all(is_so(tid) for tid in stat.threads(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
