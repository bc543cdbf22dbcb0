"""The terminal is put back however the view ends; the command has one of its own."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from tracer.live.stage import Stage
from tracer.live.terminal import Terminal

SECONDS = 30.0


@pytest.fixture
def screen() -> Iterator[tuple[int, int]]:
    """A terminal: our side, and the program's."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def said(fd: int, word: bytes) -> bytes:
    """What was written, up to a word."""
    found = b""
    while word not in found:
        assert select.select([fd], [], [], SECONDS)[0], found
        found += os.read(fd, 1 << 16)
    return found


def test_it_is_put_back(screen: tuple[int, int]) -> None:
    ours, theirs = screen
    before = termios.tcgetattr(theirs)
    with Terminal(theirs, theirs) as terminal:
        raw = termios.tcgetattr(theirs)
        assert not raw[3] & (termios.ECHO | termios.ICANON)
        assert raw[3] & termios.ISIG  # Ctrl-C is a signal
        terminal.write("picture")
        said(ours, b"picture")
        os.write(ours, b"k\x1b[A")
        select.select([theirs], [], [], SECONDS)
        assert terminal.read() == b"k\x1b[A"
    assert termios.tcgetattr(theirs) == before
    left = said(ours, b"\x1b[?1049l")
    assert b"\x1b[?25h" in left
    assert signal.getsignal(signal.SIGCONT) == signal.SIG_DFL


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_it_is_put_back_after_an_error(screen: tuple[int, int], error: type[BaseException]) -> None:
    ours, theirs = screen
    before = termios.tcgetattr(theirs)
    with pytest.raises(error), Terminal(theirs, theirs):
        raise error
    assert termios.tcgetattr(theirs) == before
    said(ours, b"\x1b[?1049l")


def test_a_terminal_that_accepts_nothing_is_not_waited_for(screen: tuple[int, int]) -> None:
    ours, theirs = screen
    with Terminal(theirs, theirs) as terminal:
        terminal.write("x" * (1 << 20))
        assert terminal.behind
        while terminal.behind:
            os.read(ours, 1 << 16)
        assert os.get_blocking(theirs)  # others that use it find it as it was


def test_a_terminal_that_hung_up_is_closed() -> None:
    ours, theirs = pty.openpty()
    with Terminal(theirs, theirs) as terminal:
        os.close(ours)
        assert terminal.read() == b""
        terminal.write("nobody reads it")
        assert terminal.closed
    os.close(theirs)


def test_its_size_is_asked_each_time(screen: tuple[int, int]) -> None:
    _, theirs = screen
    terminal = Terminal(theirs, theirs)
    for columns, rows in ((80, 24), (132, 50)):
        termios.tcsetwinsize(theirs, (rows, columns))
        assert terminal.size() == (columns, rows)
    termios.tcsetwinsize(theirs, (0, 0))
    assert terminal.size() == (80, 24)


# -- the command's -----------------------------------------------------------------------


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def wait_for(stage: Stage, word: str) -> list[str]:
    deadline = time.monotonic() + SECONDS
    while not any(word in line for line in stage.said()):
        stage.read()
        assert time.monotonic() < deadline, stage.said()
    return stage.said()


def test_what_a_command_says_is_shown_harmless(stage: Stage) -> None:
    os.write(
        stage.theirs, b"one\r\n\x1b[31mred\x1b[0m\x1b]0;title\x07 \x1b7\xff\x9b2J\n50 %\r100 %\nend"
    )
    assert wait_for(stage, "end") == ["one", "red \\xff\\x9b2J", "100 %", "end"]


def test_much_output_is_no_memory(stage: Stage) -> None:
    for _ in range(200):
        os.write(stage.theirs, b"y\n" * 500)
        stage.read()
    assert len(stage.said()) <= 65
    assert len(stage._kept) <= 1 << 16


def test_a_command_has_it_and_reads_keys(stage: Stage) -> None:
    stage.resize(97, 31)
    script = "import os; print(os.get_terminal_size()); print('got', input('name? '))"
    command = [sys.executable, "-ISc", script]
    process = subprocess.Popen(
        command, stdin=stage.theirs, stdout=stage.theirs, stderr=stage.theirs
    )
    said = wait_for(stage, "name?")
    assert "columns=97, lines=31" in said[0]
    stage.send(b"x y\n")
    assert "got x y" in wait_for(stage, "got x y")
    assert process.wait(SECONDS) == 0


def test_without_the_picture_the_command_has_the_real_terminal(screen: tuple[int, int]) -> None:
    ours, theirs = screen
    stage = Stage()
    os.write(stage.theirs, b"early\n")
    stage.release(theirs, theirs, carry=True)
    said(ours, b"early")
    os.write(stage.theirs, b"late\n")
    said(ours, b"late")
    os.write(ours, b"typed\n")
    assert select.select([stage.theirs], [], [], SECONDS)[0]
    assert os.read(stage.theirs, 100) == b"typed\n"
    stage.close()
