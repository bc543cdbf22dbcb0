"""The tracer's memory levels off, whatever its target makes and leaves behind.

Measured by what happened, not by time: so many rounds of maps, threads, children and programs.
"""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.live.cli import books
from tests.live.growth import measure
from tracer.probes.choose import Attached

ROUNDS, STEPS = 100, 8
MOST = 200 << 20
A_ROUND = 6 << 10  # bytes, noise of the allocator included; what a process or program has is more


@pytest.mark.parametrize("subcommand", ["churn", "programs"])
def test_memory_levels_off(attached: Attached, subcommand: str, tmp_path: Path) -> None:
    csv_file = tmp_path / "a.csv"
    probe = ("--probe", attached.probe.name)
    steps = list(measure(subcommand, ROUNDS, STEPS, csv_file, *probe))
    assert all(step.resident < MOST for step in steps)
    # What is kept is kept in each step. A burst to catch up with leaves its room behind, which
    # on a busy machine may be so in half of them.
    grown = [after.resident - before.resident for before, after in pairwise(steps)]
    assert sorted(grown)[len(grown) // 4] < A_ROUND * ROUNDS, steps
    assert books(csv_file)["conflict"] == 0
