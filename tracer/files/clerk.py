"""A child process that makes system calls that may block, and the limits on waiting for it.

A system call on FUSE or a network file system returns when its server has answered; until then
no signal is handled, and perhaps not even SIGKILL. So a child makes the call, and we wait for the
child: signals are handled, and the wait is limited. A child that is given up is killed; it ends
once the kernel lets it.
"""

import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from tracer.common.errors import Exit, TraceError, complain
from tracer.common.text import printable

_LENGTH = struct.Struct("<Q")
_POLL_MS = 50  # interval at which `hasty` is checked while there is no answer
_PATIENCE_S = 0.3  # wait for an answer, when `hasty`
_WORD_S = 5.0  # after which a message says what is waited for
_END_S = 0.2  # wait for a child that has been killed, or has no more to do

Handler = Callable[[str, tuple[Any, ...]], Any]


class Unanswered(TraceError):
    """A file system has not answered within the time limit."""


class Clerk:
    """A child process that handles requests, one after another."""

    def __init__(self, name: str, handler: Handler, keep: Collection[int] = ()) -> None:
        """`name`: of the file, for messages. `handler` runs in the child, `keep` stays open there.

        Raises TraceError where no child can be started.
        """
        self._name = name
        self._warned = False
        ours, theirs = socket.socketpair()
        # Blocked, in the child permanently: only we end it, and it must not run our handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _serve(theirs, handler, keep)
        except OSError as error:
            ours.close()
            message = f"cannot start a process to write {printable(name)}: {error.strerror}"
            raise TraceError(message, code=Exit.OUTPUT) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._socket: socket.socket | None = ours

    def ask(
        self,
        what: str,
        *arguments: Any,
        hasty: Callable[[], bool] = lambda: False,
        patience_s: float = _PATIENCE_S,
    ) -> Any:
        """Return what the handler returns, or raise what it raises.

        Raises Unanswered without an answer when `hasty`, and TraceError where the child has
        ended; then the clerk is closed, as it is when a signal handler raises meanwhile.
        """
        if self._socket is None:
            raise self._unanswered()
        try:
            _send(self._socket, (what, arguments))
            self._wait(self._socket, hasty, patience_s)
            done, answer = _receive(self._socket)
        except (OSError, EOFError):
            self._give_up()
            message = f"cannot write {printable(self._name)}: the process that writes it has ended"
            raise TraceError(message, code=Exit.OUTPUT) from None
        except BaseException:
            self._give_up()
            raise
        if not done:
            raise answer
        return answer

    def _wait(self, ours: socket.socket, hasty: Callable[[], bool], patience_s: float) -> None:
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        began = time.monotonic()
        in_haste: float | None = None
        while not poll.poll(_POLL_MS):
            now = time.monotonic()
            if hasty():
                in_haste = in_haste or now
                if now - in_haste >= patience_s:
                    raise self._unanswered()
            elif now - began >= _WORD_S and not self._warned:
                self._warned = True
                complain(
                    f"waiting for {printable(self._name)}, whose file system does not answer; "
                    "press Ctrl-C twice to give up"
                )

    def _unanswered(self) -> Unanswered:
        message = f"cannot write {printable(self._name)}: its file system does not answer"
        hint = "check its server, or write to another one"
        return Unanswered(message, hint, Exit.OUTPUT)

    def close(self) -> None:
        """End the child. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._reap()

    def _give_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self.close()

    def _reap(self) -> None:
        """Reap the child; if the kernel does not let it end, that is left to init."""
        deadline = time.monotonic() + _END_S
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(self._pid, os.WNOHANG)[0] and time.monotonic() < deadline:
                time.sleep(0.001)


def _serve(theirs: socket.socket, handler: Handler, keep: Collection[int]) -> NoReturn:
    """Serve requests in the child until our side is closed. All other descriptors are closed."""
    try:
        os.setsid()
        above = -1
        for fd in sorted({*keep, theirs.fileno()}):
            os.closerange(above + 1, fd)
            above = fd
        os.closerange(above + 1, os.sysconf("SC_OPEN_MAX"))
        while True:
            what, arguments = _receive(theirs)
            try:
                answer = True, handler(what, arguments)
            except Exception as error:  # any error is passed on
                answer = False, error
            _send(theirs, answer)
    finally:
        os._exit(0)


def _send(to: socket.socket, message: object) -> None:
    text = pickle.dumps(message)
    to.sendall(_LENGTH.pack(len(text)))
    to.sendall(text)


def _receive(of: socket.socket) -> Any:
    (length,) = _LENGTH.unpack(_exactly(of, _LENGTH.size))
    return pickle.loads(_exactly(of, length))


def _exactly(of: socket.socket, size: int) -> bytearray:
    text = bytearray(size)
    view, done = memoryview(text), 0
    while done < size:
        count = of.recv_into(view[done:])
        if not count:
            raise EOFError
        done += count
    return text
