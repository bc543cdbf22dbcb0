"""Unwind rules across runs: the next one begins with them, and a file is asked all the same."""

from pathlib import Path

from tests.live import golden
from tests.live.background import Background
from tests.live.workload import Workload
from tracer.callstacks.file_rules import FileTable
from tracer.probes.choose import Attached
from tracer.session.plan import Plan


def tables(attached: Attached, folder: Path) -> dict[str, FileTable]:
    """What was known of each file at the end of a trace of `golden`, by its path; stored then."""
    golden.build()
    attached.program.reset()  # of the kernel's rules none is left
    plan = Plan(snapshot_interval_ms=600_000, stacks=True, rules=folder)
    with Workload("golden") as work, Background(attached, work.pid, plan=plan) as live:
        work.go()
        live.end()
        session = live.session
    naming, learner = session.naming, session.parts.learner
    assert naming is not None
    assert learner is not None
    naming.settle()
    session.close_naming()
    return {naming.files.name(file): table for file, table in learner.files.tables()}


def learned(found: dict[str, FileTable]) -> int:
    """How many rules were not stored before."""
    return sum(len(table.learned.keys() - table.stored.keys()) for table in found.values())


def test_a_second_run_begins_with_the_rules_of_the_first(
    with_stacks: Attached, tmp_path: Path
) -> None:
    folder, program = tmp_path / "cache", str(golden.program("golden"))
    first = tables(with_stacks, folder)
    assert not any(table.stored for table in first.values())
    assert len(first[program].learned) > 100
    second = tables(with_stacks, folder)
    assert second[program].stored == first[program].learned
    assert not any(table.wrong for table in second.values())
    assert learned(second) < learned(first) / 4, (learned(first), learned(second))
