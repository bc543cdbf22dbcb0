"""A child process that writes for us where the kernel may wait for others, and for how long.

A system call on FUSE or a network file system returns when somebody has answered it; until then
no signal is handled, and perhaps not even SIGKILL. So a child makes it, and we wait for the
child: with an ear for signals, and not beyond what the user has the patience for. A child that
is given up is killed; it ends once the kernel lets it.
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
_LOOK_MS = 50  # how often, while there is no answer, it is asked whether to wait for it
_PATIENCE_S = 0.3  # once there is haste
_WORD_S = 5.0  # then the user is told what is waited for
_END_S = 0.2  # for a child that has been killed, or has nothing left to do

Handler = Callable[[str, tuple[Any, ...]], Any]


class Unanswered(TraceError):
    """A file system has not answered, and was not to be waited for any longer."""


class Clerk:
    """A child that does what it is asked to, one thing after another."""

    def __init__(self, name: str, handler: Handler, keep: Collection[int] = ()) -> None:
        """`name`: of the file, for messages. `handler` runs in the child, `keep` stays open there.

        Raises TraceError where there can be no child.
        """
        self._name = name
        self._told = False
        ours, theirs = socket.socketpair()
        # Blocked, for good in the child: it is ours to end, and our handlers are not its own.
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
        """What the handler returns, or raises.

        Unanswered where it does not, and there is haste, and TraceError where the child has
        ended; the clerk is gone then, as it is where a signal's handler raises meanwhile.
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
        while not poll.poll(_LOOK_MS):
            now = time.monotonic()
            if hasty():
                in_haste = in_haste or now
                if now - in_haste >= patience_s:
                    raise self._unanswered()
            elif now - began >= _WORD_S and not self._told:
                self._told = True
                complain(
                    f"waiting for {printable(self._name)}, whose file system does not answer; "
                    "Ctrl-C twice ends that"
                )

    def _unanswered(self) -> Unanswered:
        message = f"cannot write {printable(self._name)}: its file system does not answer"
        hint = "see to what serves it, or write to another one"
        return Unanswered(message, hint, Exit.OUTPUT)

    def close(self) -> None:
        """Let it end. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._reap()

    def _give_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self.close()

    def _reap(self) -> None:
        """Once it has ended; where the kernel does not let it, that is left to init."""
        deadline = time.monotonic() + _END_S
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(self._pid, os.WNOHANG)[0] and time.monotonic() < deadline:
                time.sleep(0.001)


def _serve(theirs: socket.socket, handler: Handler, keep: Collection[int]) -> NoReturn:
    """The child: until our side is closed. Nothing of ours stays open, whatever it waits for."""
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
            except Exception as error:  # whatever it is, it is told
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
