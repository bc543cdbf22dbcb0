"""Mappings of processes of which nobody knows yet whether they are traced."""

from tests.unit.kernel.test_sideband import mmap2
from tracer.kernel.sideband import FOREVER, Unclaimed, parse_raw


def records(pid: int, *times: int) -> list[tuple[int, int, int, int, int, bytes]]:
    return parse_raw(b"".join(mmap2(b"/bin/x", pid=pid, time_ns=at) for at in times))[0]


def times(kept: Unclaimed, pid: int, settled_ns: int = 0) -> list[int]:
    return [event.time_ns for event in kept.due({pid}, FOREVER, settled_ns)]


def test_they_wait_until_it_is_asked_about_or_settled() -> None:
    kept = Unclaimed()
    kept.add(records(7, 10, 20, 30), {1}, settled_ns=15)
    assert times(kept, 1, settled_ns=15) == []
    assert times(kept, 1, settled_ns=25) == []
    assert times(kept, 7, settled_ns=25) == [30]
    assert times(kept, 7) == []


def test_there_is_a_bound_to_how_many_wait() -> None:
    kept = Unclaimed(most=4)
    for pid in range(10, 20):
        kept.add(records(pid, 10, 20), {1}, settled_ns=0)
    assert kept.refused == 16
    kept.add(records(1, 10, 20), {1}, settled_ns=0)  # asked about: never refused
    assert times(kept, 1) == [10, 20]
    assert times(kept, 11) == [10, 20]
    kept.add(records(30, 10, 20, 30), {1}, settled_ns=0)
    assert times(kept, 30) == [10, 20]  # there was room for two
    assert kept.refused == 17


def test_what_is_settled_makes_room() -> None:
    kept = Unclaimed(most=4)
    kept.add(records(10, 10, 20, 30, 40), {1}, settled_ns=0)
    assert times(kept, 1, settled_ns=40) == []
    kept.add(records(11, 50), {1}, settled_ns=40)
    assert (times(kept, 11), kept.refused) == ([50], 0)
