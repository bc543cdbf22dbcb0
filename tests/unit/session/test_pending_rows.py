"""Rows wait until a snapshot of their space was taken after them; it may confirm them."""

import numpy as np
import pytest

from tracer.common.pages import NO_FRAME
from tracer.model.rows import ROW, Confirmed, Rows
from tracer.session import pending_rows as module
from tracer.session.pending_rows import PendingRows
from tracer.snapshots.snapshots import Snapshot

P = 4096
FRAMES = [0x10_0000, 0x20_0000, NO_FRAME, 0x40_0000, 0x50_0000, 0x60_0000]


def made(first: int, count: int, space: int = 1) -> Rows:
    """Rows `first`, …: row n at time 10 n, of page n, in FRAMES[n]."""
    rows = np.zeros(count, ROW)
    rows["number"] = np.arange(first, first + count)
    rows["time_ns"], rows["address"] = rows["number"] * 10, rows["number"] * P + 8
    rows["frame"], rows["space"] = FRAMES[first : first + count], space
    return Rows.from_records(rows)


def shot(before_ns: int, pages: dict[int, int]) -> Snapshot:
    table = np.array([*pages.items()], np.uint64).reshape(-1, 2)
    none = np.empty(0, np.uint64)
    return Snapshot(7, before_ns, before_ns + 1, [], table[:, 0], table[:, 1], none)


def numbers(batches: list[Rows]) -> list[list[int]]:
    return [rows["number"].tolist() for rows in batches]


def test_without_a_snapshot_all_go_as_they_came() -> None:
    waiting = PendingRows()
    for rows in (made(0, 2), made(2, 1)):
        waiting.add(rows)
    assert len(waiting) == 3
    assert numbers(list(waiting.release({}))) == [[0, 1, 2]]
    assert len(waiting) == 0
    assert list(waiting.release({})) == []


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_a_snapshot_confirms_what_it_shows_and_holds_back_what_came_later(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 0)
    waiting = PendingRows()
    for first in range(0, 6, size):
        waiting.add(made(first, size))
    seen = shot(40, {0: FRAMES[0], 1: 0x99_0000, 2: 0, 3: FRAMES[3], 4: FRAMES[4]})
    gone = Rows.together(list(waiting.release({1: seen})))
    assert gone["number"].tolist() == [0, 1, 2, 3]
    both, fault = Confirmed.BOTH, Confirmed.FAULT
    assert gone["confirmed"].tolist() == [both, fault, fault, both]
    assert len(waiting) == 2
    rest = Rows.together(list(waiting.release({1: shot(99, {4: FRAMES[4]})})))
    assert rest["number"].tolist() == [4, 5]
    assert rest["confirmed"].tolist() == [both, fault]


def test_large_batches_are_not_copied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 3)
    waiting = PendingRows()
    for rows in (made(0, 2), made(2, 1), made(3, 3)):
        waiting.add(rows)
    assert numbers(list(waiting.release({}))) == [[0, 1, 2], [3, 4, 5]]


def test_one_row_too_late_holds_back_those_of_other_spaces_behind_it() -> None:
    waiting = PendingRows()
    for rows in (made(0, 1, space=2), made(4, 1), made(2, 1, space=2), made(5, 1, space=3)):
        waiting.add(rows)
    shots = {1: shot(40, {4: FRAMES[4]}), 2: shot(30, {0: FRAMES[0]})}
    assert numbers(list(waiting.release(shots))) == [[0]]
    assert len(waiting) == 3
    assert numbers(list(waiting.release({}))) == [[4, 2, 5]]
