"""The arithmetic and the table of bench/: instructions a fault."""

import pytest

from bench.instructions import Cost, render
from bench.storm import Round, StormError, build, cpu_per_fault, run


def test_a_round_counts_per_fault_and_the_median_round_speaks() -> None:
    rounds = [Round(1000, 0, 10), Round(900, 0, 10), Round(90_000, 0, 10)]
    assert cpu_per_fault(rounds) == 100


def test_the_table_shows_what_is_added_and_who_missed_faults() -> None:
    costs = [
        Cost("fentry", target=8000.4, bystander=7100.0, recorded=70, counted=70),
        Cost("kprobe", refused="kprobe: not here"),
        Cost("perf", target=9000.0, bystander=7000.0, recorded=69, counted=70),
    ]
    assert render("6.12.107+deb13-amd64", 7000.0, costs).splitlines()[1:] == [
        "             a fault    added  added to others",
        "untraced       7,000",
        "fentry         8,000   +1,000             +100",
        "kprobe     kprobe: not here",
        "perf           9,000   +2,000               +0",
        "           recorded 69 of 70 faults",
    ]


def test_a_storm_takes_a_fault_a_page() -> None:
    build()
    attached: list[int] = []
    rounds = run(97, 3, attached.append)
    assert len(rounds) == 3
    assert len(attached) == 1
    assert all(97 <= each.faults < 120 for each in rounds)  # a few of its own, when reclaimed
    assert all(each.cpu_ns > 0 for each in rounds)
    with pytest.raises(StormError, match="did not get ready"):
        run(97, 0)
