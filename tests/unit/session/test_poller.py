"""What a trace sleeps on."""

import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tracer.session.poller import Poller

SHORT_S, LONG_S = 0.02, 30.0


class Pipes:
    """A poller with what wakes it, and what it serves."""

    def __init__(self) -> None:
        self.woken, self.wake = os.pipe()
        self.served, self.serve = os.pipe()
        plan = cast(Any, SimpleNamespace(command=None, pids=[]))
        self.poller = Poller(plan, self.woken, ())
        self.calls = 0

    def action(self) -> None:
        self.calls += 1
        os.read(self.served, 1)

    def close(self) -> None:
        self.poller.close()
        for fd in (self.woken, self.wake, self.served, self.serve):
            os.close(fd)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def test_it_waits_in_vain(pipes: Pipes) -> None:
    assert not pipes.poller.wait(0.0)
    began = time.monotonic()
    assert not pipes.poller.wait(SHORT_S)
    assert time.monotonic() >= began + SHORT_S


def test_what_is_served_does_not_wake_it(pipes: Pipes) -> None:
    """It goes on waiting, as long as it was to wait."""
    pipes.poller.serve(pipes.served, pipes.action)
    os.write(pipes.serve, b"123")
    began = time.monotonic()
    assert not pipes.poller.wait(SHORT_S)
    assert time.monotonic() >= began + SHORT_S
    assert pipes.calls == 3


def test_it_wakes_for_what_comes_meanwhile(pipes: Pipes) -> None:
    def action() -> None:
        pipes.action()
        if pipes.calls == 2:
            os.write(pipes.wake, b"1")

    pipes.poller.serve(pipes.served, action)
    os.write(pipes.serve, b"12")
    assert pipes.poller.wait(LONG_S)
    assert pipes.calls == 2
    assert not pipes.poller.wait(0.0)  # what woke it was read


def test_it_is_over_in_time_though_it_is_served_all_the_time(pipes: Pipes) -> None:
    def action() -> None:
        pipes.action()
        os.write(pipes.serve, b"1")

    pipes.poller.serve(pipes.served, action)
    os.write(pipes.serve, b"1")
    assert not pipes.poller.wait(SHORT_S)
    assert pipes.calls
    calls = pipes.calls
    assert not pipes.poller.wait(0.0)
    assert pipes.calls == calls + 1


def test_both_at_once(pipes: Pipes) -> None:
    pipes.poller.serve(pipes.served, pipes.action)
    os.write(pipes.serve, b"1")
    os.write(pipes.wake, b"1")
    assert pipes.poller.wait(LONG_S)
    assert pipes.calls == 1
