"""What may still be done once a trace is to end, and the line that says so."""

import contextlib
import io
import os

import pytest
from rich.console import Console

from tracer.common.deadline import Drain, Enough
from tracer.outputs.draining import DrainLine


class Stopped(io.StringIO):
    """What a terminal is to us that takes nothing (Ctrl-S)."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


class Clock:
    """A time we set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_before_the_end_nothing_counts() -> None:
    clock = Clock()
    drain = Drain(10, clock)
    clock.now += 1000
    assert not drain.begun
    assert not drain.over()
    drain.check()


def test_the_bound_is_from_the_first_word_on() -> None:
    clock = Clock()
    drain = Drain(10, clock)
    drain.begin()
    clock.now += 9
    drain.begin()
    assert drain.begun
    assert not drain.over()
    clock.now += 1
    assert drain.over()
    with pytest.raises(Enough):
        drain.check()


def test_no_time_at_all() -> None:
    drain = Drain(0, Clock())
    drain.begin()
    assert drain.over()
    assert not drain.hurried


def test_in_a_hurry_it_is_over() -> None:
    drain = Drain(10, Clock())
    drain.hurry()
    assert drain.begun
    assert drain.hurried
    assert drain.over()


def line(clock: Clock, columns: int = 80, terminal: bool = True) -> tuple[DrainLine, io.StringIO]:
    said = io.StringIO()
    console = Console(
        file=said,
        force_terminal=terminal,
        width=columns,
        highlight=False,
        color_system=None,
        _environ={"TERM": "xterm"},
    )
    return DrainLine(console, clock), said


ERASE = "\x1b[1G\x1b[2K"


def test_a_line_that_is_written_over() -> None:
    clock = Clock()
    it, said = line(clock)
    it.show(1_249_000)
    clock.now += 0.2
    it.show(1_240_000)
    assert said.getvalue() == ""  # it may be over in a moment
    clock.now += 0.2
    it.show(1_230_000)
    it.show(1_229_000)  # too soon
    clock.now += 0.3
    it.show(23_543)
    clock.now += 0.3
    it.show(1)
    clock.now += 0.3
    it.show(0)
    it.erase()
    it.erase()
    assert said.getvalue() == ERASE.join(
        [
            "reading the rest of the ring: 1.2 million records; Ctrl-C to stop",
            "reading the rest of the ring: 23,543 records; Ctrl-C to stop",
            "reading the rest of the ring: 1 record; Ctrl-C to stop",
            "taking the last snapshot; Ctrl-C to stop",
            "",
        ]
    )


def test_it_fits_a_narrow_terminal() -> None:
    clock = Clock()
    it, said = line(clock, columns=20)
    it.show(5_000_000)
    clock.now += 1
    it.show(5_000_000)
    assert len(said.getvalue()) < 20
    assert "\n" not in said.getvalue()


def test_no_terminal_no_line() -> None:
    clock = Clock()
    it, said = line(clock, terminal=False)
    for _ in range(3):
        it.show(5_000_000)
        clock.now += 1
    it.erase()
    assert said.getvalue() == ""


def test_a_stopped_terminal_holds_nothing_up() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    said = Stopped(writer)
    clock = Clock()
    console = Console(file=said, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    it = DrainLine(console, clock)
    for _ in range(3):
        it.show(5_000_000)
        clock.now += 1
    it.erase()
    assert said.getvalue() == ""
    os.close(reader)
    os.close(writer)


def test_what_may_be_broken_off_is() -> None:
    """Wherever it is; what comes after is not."""
    drain = Drain(10)
    done = []

    def work() -> None:
        with drain.breakable():
            done.append(1)
            drain.hurry()  # as a signal's handler would
            done.append(2)

    with pytest.raises(Enough):
        work()
    drain.hurry()
    assert done == [1]
    with pytest.raises(Enough):
        work()
    assert done == [1]


def test_in_no_hurry_nothing_is_broken_off() -> None:
    drain = Drain(0)
    drain.begin()
    with drain.breakable():
        pass
    drain.hurry()
