"""The tracer's side of the process that reads files: start, questions, end, restart.

Every wait is bounded by the caller. It has one question at a time, so that what it
dies of is known: that is not asked about again.
"""

import contextlib
import json
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from tracer.common.errors import TraceError
from tracer.common.text import printable
from tracer.procfs.stat import processor_time
from tracer.symbolizing.messages import BadMessage, Inbox, close_all, packed

# Of processor time: what each question may take is server.NAMES_S, LINES_S.
MOST_S = 30.0  # about one file, in all
MOST_IN_ALL_S = 600.0
MOST_DEATHS = 16  # it is started again so often
_SLACK_S = 40.0  # by the clock, besides what a question may take: the machine may be busy
_REAP_S = 0.05  # what has ended is gone by then
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(2)); "
    "from tracer.symbolizing.server import main; main()"
)

# What a question is about. What comes to nothing once is not tried again.
Subject = Hashable


@dataclass(frozen=True, slots=True)
class Question:
    """`make` gives the message and descriptors to go with it (which are then closed), as it is
    sent; None: there is nothing to ask any more. It gets how often the process was started.

    `answered` gets the answer, or None and why there is none; it raises BadMessage (or what comes
    of such a thing: LookupError, TypeError, ValueError) where the answer makes no sense.
    """

    about: Subject
    make: Callable[[int], tuple[dict[str, Any], list[int]] | None]
    answered: Callable[[Any, str], None]
    seconds: float = 10.0  # of processor time
    urgent: bool = False  # it goes before all that are not


class Asked(Protocol):
    """The interface to ask questions through."""

    lacking: str  # why there are no source lines; "" while no reason is known
    since_s: float  # time.monotonic(): since when it has something to answer, or had last

    def ask(self, question: Question) -> None:
        """Queue a question. Its answer may come at once, or in `turn`."""

    def turn(self, until: float = 0.0) -> bool:
        """Receive the answers there are, and wait for more until then (time.monotonic()).

        Whether all that was asked is answered.
        """


class Helper:
    """The process. `close` ends it; so does the tracer's own end, however that comes."""

    def __init__(self) -> None:
        self.lacking = ""
        self.since_s = 0.0
        self.started = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._inbox = Inbox()
        self._out = b""  # what of the question is not sent yet
        self._passed: list[int] = []  # descriptors that go with its first byte
        self._ready = False
        self._waiting: deque[Question] = deque()
        self._urgent: deque[Question] = deque()
        self._asked: Question | None = None
        self._deadline = 0.0  # time.monotonic()
        self._pumping = self._closed = False
        self._counted_s = 0.0  # of the process's processor time
        self._deaths = 0
        self._spent: dict[Subject, float] = {}
        self._spent_in_all = 0.0
        self._given_up = ""  # why nothing is asked any more
        self._refused: dict[Subject, str] = {}

    def start(self) -> None:
        """Start it before it is needed; its interpreter takes a moment."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            self._give_up(f"its process could not be started: {error.strerror}")
            return
        ours.setblocking(False)
        command = [sys.executable, "-I", "-S", "-c", _START, str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={"OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,  # the terminal's signals are for us
            )
        except OSError as error:
            ours.close()
            self._give_up(f"its process could not be started: {error.strerror}")
            return
        finally:
            theirs.close()
        self._socket, self._inbox, self._ready = ours, Inbox(), False
        self._deadline = time.monotonic() + _SLACK_S
        self.started += 1
        self._counted_s = 0.0

    def ask(self, question: Question) -> None:
        """Queue a question (Asked.ask)."""
        if self._closed:
            return
        if self._given_up:
            question.answered(None, self._given_up)
            return
        if self._asked is None and not self._has_more():
            self.since_s = time.monotonic()
        if question.urgent:
            self._urgent.append(question)
        else:
            self._waiting.append(question)
        self._pump()

    @property
    def pid(self) -> int:
        """Its process, 0 where there is none."""
        return self._process.pid if self._process is not None else 0

    def ready(self, until: float) -> None:
        """Wait for it to be ready, until then at most (time.monotonic())."""
        self._pump()
        while self._socket is not None and not self._ready and time.monotonic() < until:
            self._poll(until - time.monotonic())
            self._pump()

    def turn(self, until: float = 0.0) -> bool:
        """Receive answers that came, or come until then (Asked.turn)."""
        while True:
            self._pump()
            left = until - time.monotonic()
            if (self._asked is None and not self._has_more()) or self._socket is None:
                return True
            if left <= 0:
                return False
            self._poll(min(left, max(self._deadline - time.monotonic(), 0.0)))

    def close(self) -> None:
        """End it; what was not answered stays so, and nothing is asked any more."""
        self._closed = True
        self._waiting.clear()
        self._urgent.clear()
        self._asked = None
        self._end()

    # -- the loop ----------------------------------------------------------------------------

    def _pump(self) -> None:
        """All that can be done without waiting. An answer may lead to a question: it waits."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._step():
                pass
        finally:
            self._pumping = False

    def _step(self) -> bool:
        """Whether something was done."""
        if self._given_up:
            return False
        if self._socket is None:
            if self._has_more():
                self.start()
            return self._has_more()
        if self._receive():
            return True
        if (self._asked is not None or not self._ready) and time.monotonic() >= self._deadline:
            self._died("it took too long")
            return True
        self._send()
        return self._ready and self._asked is None and self._next()

    def _receive(self) -> bool:
        """Whether something came, or the process ended."""
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._died("")
            return True
        self._inbox.add(data)
        try:
            while (message := self._inbox.pop()) is not None:
                self._handle(message)
        except Exception:  # whatever a malformed answer leads to
            self._died("its answer was malformed")
        return True

    def _handle(self, message: dict[str, Any]) -> None:
        if not self._ready:
            self.lacking, self._ready = _words(message["lacking"]), True
            return
        question = self._asked
        if question is None or self._out:
            raise BadMessage("nothing was asked")
        why = _words(message.get("why", ""))
        if why:
            self._refuse(question.about, why)
        question.answered(None if why else message["answer"], why)
        self._asked = None
        self._count(question)

    def _count(self, question: Question) -> None:
        """Add the processor time of the answer, by the kernel's count."""
        seconds = _processor_time(self.pid)
        took, self._counted_s = seconds - self._counted_s, seconds
        about = question.about
        self._spent[about] = self._spent.get(about, 0.0) + took
        self._spent_in_all += took
        if self._spent[about] > (most := max(MOST_S, 2 * question.seconds)):
            self._refuse(about, f"it took more than {most:.0f} s of processor time")
        if self._spent_in_all > MOST_IN_ALL_S:
            self._give_up(f"all files took more than {MOST_IN_ALL_S:.0f} s of processor time")

    def _next(self) -> bool:
        """Send the next question; whether there was one."""
        while self._has_more():
            question = (self._urgent or self._waiting).popleft()
            if question.about in self._refused:
                question.answered(None, self._refused[question.about])
                continue
            made = question.make(self.started)
            if made is None:
                continue
            message, self._passed = made
            self._out, self._asked = packed(message), question
            self._deadline = time.monotonic() + question.seconds + _SLACK_S
            self._send()
            return True
        return False

    def _send(self) -> None:
        while self._out and self._socket is not None:
            try:
                if self._passed:
                    sent = socket.send_fds(self._socket, [self._out], self._passed)
                else:
                    sent = self._socket.send(self._out)
            except BlockingIOError:
                return
            except OSError:
                self._died("")
                return
            self._out = self._out[sent:]
            self._drop_passed()

    def _drop_passed(self) -> None:
        close_all(self._passed)
        self._passed = []

    def _poll(self, seconds: float) -> None:
        if self._socket is None:
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
        poll.poll(seconds * 1000 + 1)

    # -- its end -----------------------------------------------------------------------------

    def _died(self, why: str) -> None:
        """Refuse the subject of its question: the process has ended, or is killed here (`why`)."""
        status = self._end(by_itself=not why)
        question, self._asked = self._asked, None
        self._deaths += 1
        why = why or _cause(status, question)
        if question is not None:
            self._refuse(question.about, why)
        if self._deaths >= MOST_DEATHS or not self._ready:
            self._give_up(f"the process that reads them ended {self._deaths} times: {why}")
        if question is not None:
            question.answered(None, why)

    def _end(self, *, by_itself: bool = False) -> int | None:
        """Kill it, unless it has ended `by_itself`; its status, None where it is killed."""
        self._out = b""
        self._drop_passed()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        process, self._process = self._process, None
        if process is None:
            return None
        if by_itself:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_REAP_S)
        process.kill()
        # One that waits for a file system that does not answer goes when that does.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_S)
        return None

    def _refuse(self, about: Subject, why: str) -> None:
        self._refused.setdefault(about, why)

    def _give_up(self, why: str) -> None:
        self._given_up = why
        self._asked = None
        self._end()
        while self._has_more():
            (self._urgent or self._waiting).popleft().answered(None, why)

    def _has_more(self) -> bool:
        return bool(self._urgent or self._waiting)


def _words(text: Any) -> str:
    """Its text, made printable."""
    return printable(str(text)[:200])


def _cause(status: int | None, question: Question | None) -> str:
    """Why it ended, in words."""
    if status is None:
        return "the process that reads it does not answer"
    if -status == signal.SIGXCPU and question is not None:
        return f"it took more than {question.seconds:.0f} s of processor time"
    if status >= 0:
        return f"the process that reads it ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"the process that reads it was killed by {signal.Signals(-status).name}"
    return f"the process that reads it was killed by signal {-status}"


def _processor_time(pid: int) -> float:
    """Seconds of processor time of a process; 0 where it is gone, or unknown."""
    try:
        return processor_time(pid)
    except (TraceError, OSError):  # too few descriptors for us, say
        return 0.0
