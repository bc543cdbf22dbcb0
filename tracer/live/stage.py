"""A terminal of its own for a traced command, so that it does not write over the picture."""

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
import threading
from collections import deque

from tracer.common.text import harmless

_KEPT = 1 << 16  # bytes of output, to be shown once the picture is gone
_MOST_LINES = 64
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?<=>]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


class Stage:
    """A pseudo terminal (pty(7)): `theirs` is the command's side of it."""

    def __init__(self, owner: int | None = None) -> None:
        """`owner`: the user id the command runs as."""
        self.ours, self.theirs = os.openpty()
        os.set_blocking(self.ours, False)
        if owner is not None:
            with contextlib.suppress(OSError):
                os.fchown(self.theirs, owner, -1)
        self.lines: deque[str] = deque(maxlen=_MOST_LINES)  # printable
        self._line = b""
        self._kept = b""
        self._sent = b""
        self._relay: threading.Thread | None = None
        self._over, self._end = os.pipe2(os.O_CLOEXEC)

    def resize(self, columns: int, rows: int) -> None:
        """Set its size to that of the real terminal."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.ours, termios.TIOCSWINSZ, size)

    def read(self) -> bool:
        """Read what the command has written; whether there was anything."""
        data = self._read()
        self._kept = (self._kept + data)[-_KEPT:]
        *whole, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-4096:]
        self.lines.extend(_shown(line) for line in whole)
        return bool(data)

    def said(self) -> list[str]:
        """The last lines, and the one begun, safe to show."""
        begun = _shown(self._line)
        return [*self.lines, *([begun] if begun else [])]

    def send(self, data: bytes) -> None:
        """Type something to the command; what it does not read yet is kept."""
        self._sent = (self._sent + data)[-_KEPT:]
        with contextlib.suppress(BlockingIOError, OSError):
            while self._sent:
                self._sent = self._sent[os.write(self.ours, self._sent) :]

    def _read(self) -> bytes:
        with contextlib.suppress(BlockingIOError, OSError):
            return os.read(self.ours, 1 << 16)
        return b""

    # -- without the picture ----------------------------------------------------------

    def release(self, keyboard: int = 0, screen: int = 1, *, carry: bool) -> None:
        """Show what the command said; `carry`: it runs on, with the real terminal, through us."""
        mode = termios.tcgetattr(self.theirs)
        mode[1] &= ~termios.OPOST  # the real one does both
        mode[3] &= ~termios.ECHO
        termios.tcsetattr(self.theirs, termios.TCSANOW, mode)
        self.read()
        kept = self._kept
        if len(kept) == _KEPT:
            kept = kept.partition(b"\n")[2]
        _write(screen, kept)
        if kept and not kept.endswith(b"\n"):
            _write(screen, b"\n")
        if not carry:
            return
        self._relay = threading.Thread(target=self._carry, args=(keyboard, screen), daemon=True)
        self._relay.start()

    def _carry(self, keyboard: int, screen: int) -> None:
        sources = [self.ours, self._over, keyboard]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if self.ours in ready:
                _write(screen, self._read())
            elif self._over in ready:
                return
            if keyboard in ready:
                with contextlib.suppress(OSError):
                    typed = os.read(keyboard, 4096)
                    self.send(typed)
                    if typed:
                        continue
                sources.remove(keyboard)

    def close(self) -> None:
        """The command has ended, or is left to itself."""
        os.close(self._end)
        if self._relay is not None:
            self._relay.join()
            _write(1, self._read())
        for fd in (self.ours, self.theirs, self._over):
            os.close(fd)


def _shown(line: bytes) -> str:
    text = _ESCAPES.sub("", line.decode("utf-8", "surrogateescape")).rstrip("\r")
    return harmless(text.rpartition("\r")[2].expandtabs())


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
