"""The terminal while a picture fills it: keys come raw, and it is put back as it was."""

import contextlib
import os
import select
import signal
import termios
import time
from types import FrameType, TracebackType
from typing import Self

# xterm's private modes (ctlseqs): the alternate screen, the cursor, wrapping at the edge.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
_LEAVE = "\x1b[?2026l\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_LAST_S = 1.0  # how long a terminal that reads nothing may hold up the end


class Terminal:
    """Inside, it is ours. Ctrl-C is a signal still; Ctrl-Z and Ctrl-\\ do nothing.

    Nothing written ever waits for a slow terminal: what it does not accept is kept
    (`behind`), and goes out later.
    """

    def __init__(self, keyboard: int = 0, screen: int = 1) -> None:
        self.keyboard = keyboard
        self.closed = False  # hung up
        self.resumed = False  # it was stopped, and others may have drawn on it
        self._given = screen
        self._out = -1
        self._pending = b""
        self._before: list[object] = []
        self._on_continue: object = None

    @property
    def ours(self) -> bool:
        """Whether it is filled now."""
        return self._out >= 0

    @property
    def behind(self) -> bool:
        """Whether it has not accepted all that was written."""
        self._send()
        return bool(self._pending)

    def size(self) -> tuple[int, int]:
        """Columns and rows, now."""
        try:
            columns, rows = os.get_terminal_size(self._given)
        except OSError:
            return 80, 24
        return columns or 80, rows or 24

    def read(self) -> bytes:
        """What was typed since; b"" where nothing was."""
        if self.closed or not select.select([self.keyboard], [], [], 0)[0]:
            return b""
        try:
            typed = os.read(self.keyboard, 1024)
        except OSError:  # hung up
            typed = b""
        self.closed = not typed
        return typed

    def write(self, text: str) -> None:
        """Send text and escape sequences, as far as it accepts them."""
        self._pending += text.encode("utf-8", "replace")
        self._send()

    def _send(self) -> None:
        while self._pending and not self.closed:
            try:
                self._pending = self._pending[os.write(self._out, self._pending) :]
            except BlockingIOError:
                return
            except OSError:
                self.closed = True

    def enter(self) -> None:
        """Keys at once and unseen, an empty screen."""
        mode = termios.tcgetattr(self.keyboard)
        mode[0] &= ~(termios.IXON | termios.ISTRIP)
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        for key in (termios.VSUSP, termios.VQUIT):
            mode[6][key] = b"\0"  # _POSIX_VDISABLE
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.keyboard, termios.TCSADRAIN, mode)
        self.resumed = False
        self.write(_ENTER)

    def __enter__(self) -> Self:
        self._out = _own(self._given)
        self._before = list(termios.tcgetattr(self.keyboard))
        self._on_continue = signal.signal(signal.SIGCONT, self._continued)
        try:
            self.enter()
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._out < 0:
            return
        try:
            # A part of a picture may be left: of no use any more, but a sequence must end.
            self._pending = self._pending[:0]
            self.write(_LEAVE)
            deadline = time.monotonic() + _LAST_S
            while self.behind and time.monotonic() < deadline:
                select.select([], [self._out], [], 0.05)
        finally:
            with contextlib.suppress(termios.error):  # hung up
                termios.tcsetattr(self.keyboard, termios.TCSAFLUSH, self._before)  # type: ignore[arg-type]
            signal.signal(signal.SIGCONT, self._on_continue)  # type: ignore[arg-type]
            os.close(self._out)
            self._out = -1

    def _continued(self, number: int, frame: FrameType | None) -> None:
        self.resumed = True


def _own(fd: int) -> int:
    """The terminal behind `fd`, opened anew: others that use it shall not find it non-blocking."""
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC
    for name in (f"/proc/self/fd/{fd}", "/dev/tty"):
        with contextlib.suppress(OSError):
            return os.open(name, flags | os.O_NONBLOCK)
    return os.dup(fd)
