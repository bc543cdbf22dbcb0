"""A thousand processes: a tracer that has fallen behind does not keep them all at once, and the
kernel's count holds where untraced ones get what theirs had.

On the running machine only (conftest.py): as many take minutes under emulation.
"""

from tests.live.background import Background, Held, check
from tests.live.storms import Storm, charged
from tracer.probes.choose import Attached
from tracer.session.plan import Plan

TIMES = 7  # 840 processes: all their records find room in the ring


def test_what_has_ended_is_let_go_of_as_it_is_read(attached: Attached) -> None:
    kept: list[int] = []
    plan = Plan(drain_s=600)
    with Storm("forks") as storm, Background(attached, storm.pid, plan=plan) as live:
        spaces = live.session.parts.spaces
        held = Held(live, lambda: kept.append(sum(not each.retired for each in spaces.all())))
        storm.begin(TIMES)
        held.stands()
        storm.finish()
        held.go()
        result = live.end()
    check(result.books, live)
    recorded = len({int(row["space"]) for row in live.log.rows})
    assert recorded > 120 * TIMES // 2
    assert max(kept) < recorded * 3 // 4, (max(kept), recorded)


def test_memory_of_threads_that_others_get(attached: Attached) -> None:
    """A `task_struct` freed without a word, and used again by a process that is not traced."""
    with (
        Storm("forks") as storm,
        Storm("forks") as other,
        Background(attached, storm.pid, plan=Plan(drain_s=600)) as live,
    ):
        before = charged(storm.pid)
        other.begin(3 * TIMES)
        storm.begin(TIMES)
        storm.finish()
        result = live.end()
        counted = charged(storm.pid) - before
        other.finish()
    check(result.books, live, counted)
