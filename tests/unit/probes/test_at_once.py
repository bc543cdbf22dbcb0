"""Calls in threads, as many as there may be."""

import resource
import threading
from functools import partial

import pytest

from tracer.probes.at_once import call_at_once


@pytest.mark.parametrize("room", [0, 2, 99])
def test_programs_are_loaded_without_threads_where_none_can_be_made(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    loaded, left = list[int](), [room]

    def start(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        begin(thread)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    call_at_once([partial(loaded.append, number) for number in range(5)])
    assert sorted(loaded) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("room", [0, 99])
def test_what_one_call_raises_is_raised_when_all_are_over(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    if not room:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 30, 1 << 30))
    loaded: list[int] = []

    def fail() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        call_at_once([fail, partial(loaded.append, 1), partial(loaded.append, 2)])
    assert sorted(loaded) == [1, 2]
