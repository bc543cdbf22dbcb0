"""Threads that have gone without a record: asked for where records were lost, else seldom."""

from tracer.accounting.fault_counts import Threads
from tracer.accounting.missed_exits import MissedExits

S = 1_000_000_000


class World:
    """What is there, and how often was asked; 50 threads of one process."""

    def __init__(self) -> None:
        self.there = set(range(50))
        self.asked = self.lost = 0
        self.threads = Threads()
        for tid in self.there:
            self.threads.begin(tid, 0, 0)
        self.exits = MissedExits(lambda: self.lost, self.exists)

    def exists(self, pid: int, tid: int) -> bool:
        self.asked += 1
        return tid in self.there

    def cycle(self, now: int) -> list[int]:
        self.exits.ask(self.threads, now)
        gone = self.exits.due(self.threads, now)
        for each in gone:
            self.threads.let_go(each.tid)
        return [each.tid for each in gone]


def test_once_a_minute_while_nothing_is_lost() -> None:
    world = World()
    assert not any(world.cycle(now * S) for now in range(100, 160))
    assert not world.asked
    world.there -= {9}  # freed without a record, nor a skipped handler
    assert [now for now in range(160, 400) if world.cycle(now * S)] == [161]
    assert world.asked == 50 + 49 + 49 * 3


def test_it_is_asked_until_all_are_there() -> None:
    world = World()
    world.lost = 7
    world.there -= {3, 4}
    assert [world.cycle(now * S) for now in range(10, 13)] == [[], [3, 4], []]
    world.there -= {5}  # its record may be among the seven
    asked = world.asked
    assert [world.cycle(now * S) for now in range(13, 15)] == [[], []]
    assert world.asked == asked  # all were there when it was asked last


def test_not_more_than_once_a_second() -> None:
    world = World()
    for tenth in range(100, 300):
        world.lost += 1
        world.cycle(tenth * S // 10)
    assert world.asked == 20 * 50


def test_a_number_that_is_another_thread_s_by_then() -> None:
    world = World()
    world.lost = 1
    world.there -= {3}
    assert world.cycle(10 * S) == []
    world.threads.begin(3, 0, 0)
    assert world.cycle(12 * S) == []
    assert 3 in world.threads.live
