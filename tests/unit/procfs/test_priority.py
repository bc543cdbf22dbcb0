"""Processes that run ahead of others for a while."""

import os

import pytest

from tracer.procfs.priority import preferred


class Levels:
    """Priorities by process, which only some may raise."""

    def __init__(self, levels: dict[int, int], *, allowed: bool = True) -> None:
        self.levels, self.allowed = levels, allowed

    def get(self, which: int, pid: int) -> int:
        assert which == os.PRIO_PROCESS
        if pid not in self.levels:
            raise ProcessLookupError
        return self.levels[pid]

    def set(self, which: int, pid: int, level: int) -> None:
        if level < self.get(which, pid) and not self.allowed:
            raise PermissionError
        self.levels[pid] = level


def using(levels: Levels, patched: pytest.MonkeyPatch) -> Levels:
    patched.setattr(os, "getpriority", levels.get)
    patched.setattr(os, "setpriority", levels.set)
    return levels


def test_they_run_ahead_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """By our own level: what a child had before is of no account."""
    made = using(Levels({0: 2, 1: 2, 2: 5, 3: 7}), monkeypatch)
    with preferred(lambda: [1, 2]):
        assert made.levels == {0: 2, 1: -8, 2: -8, 3: 7}
    assert made.levels == {0: 2, 1: 2, 2: 2, 3: 7}


def test_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = using(Levels({0: 0, 1: 0}), monkeypatch)
    with pytest.raises(KeyError), preferred(lambda: [1]):
        raise KeyError
    assert made.levels == {0: 0, 1: 0}


def test_one_that_is_gone_or_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    made = using(Levels({0: 0, 1: 0, 2: 0}), monkeypatch)
    with preferred(lambda: [7, 1, 2]):
        assert made.levels == {0: 0, 1: -10, 2: -10}
        del made.levels[1]
    assert made.levels == {0: 0, 2: 0}


def test_one_that_began_meanwhile_has_inherited_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, ours = using(Levels({0: 0, 1: 0}), monkeypatch), [1]
    with preferred(lambda: ours):
        ours.append(4)
        made.levels[4] = made.levels[1]
    assert made.levels == {0: 0, 1: 0, 4: 0}


def test_where_it_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = using(Levels({0: 0, 1: 0}, allowed=False), monkeypatch)
    with preferred(lambda: [1]):
        assert made.levels == {0: 0, 1: 0}
    assert made.levels == {0: 0, 1: 0}
