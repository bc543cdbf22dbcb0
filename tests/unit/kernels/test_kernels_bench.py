"""The arithmetic and the table of bench/: instructions a fault, and what they were before."""

from pathlib import Path

import pytest

from bench import baseline
from bench.instructions import Cost, Counts, judged, render
from bench.storm import Round, StormError, build, cpu_per_fault, run


def test_a_round_counts_per_fault_and_the_median_round_speaks() -> None:
    rounds = [Round(1000, 0, 10), Round(900, 0, 10), Round(90_000, 0, 10)]
    assert cpu_per_fault(rounds) == 100


def test_the_table_shows_what_is_added_and_who_missed_faults() -> None:
    costs = [
        Cost("fentry", target=8000.4, bystander=7100.0, recorded=70, counted=70, floor=7900.0),
        Cost("kprobe", refused="kprobe: not here"),
        Cost("perf", target=9000.0, bystander=7000.0, recorded=69, counted=70, floor=8000.0),
    ]
    assert render("6.12.107+deb13-amd64", 7000.0, costs).splitlines()[1:] == [
        "             a fault    added  the floor  added to others",
        "untraced       7,000",
        "fentry         8,000   +1,000       +900             +100",
        "kprobe     kprobe: not here",
        "perf           9,000   +2,000     +1,000               +0",
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


BEFORE = {"6.12.1-amd64, bcc 1, QEMU 2": {"fentry": 1000.0, "kprobe": 1500.0}}


def counts(key: str, fentry: float, recorded: int = 70) -> Counts:
    cost = Cost("fentry", target=7000 + fentry, recorded=recorded, counted=70)
    return Counts(key, "6.12.1-amd64", 7000.0, [cost])


@pytest.mark.parametrize(
    ("key", "fentry", "recorded", "good", "last"),
    [
        ("6.12.1-amd64, bcc 1, QEMU 2", 1029.0, 70, True, "fentry         8,029   +1,029"),
        ("6.12.1-amd64, bcc 1, QEMU 2", 1031.0, 70, False, "fentry adds 1,031 instructions"),
        ("6.12.2-amd64, bcc 1, QEMU 2", 9000.0, 70, True, "not compared: "),
        ("6.12.2-amd64, bcc 1, QEMU 2", 9.0, 69, False, "not compared: "),
    ],
)
def test_a_probe_may_not_grow_dearer_with_the_same_tools(
    key: str, fentry: float, recorded: int, good: bool, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "load", lambda: BEFORE)
    text, well = judged(counts(key, fentry, recorded))
    assert well == good
    assert text.splitlines()[-1].startswith(last)


def test_new_counts_replace_those_of_the_same_series(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    baseline.save(
        {"6.12.1, bcc 1, QEMU 2": {"perf": 1.0}, "7.1.9, bcc 1, QEMU 2": {"perf": 2.0}}, path
    )
    baseline.save({"7.2.0, bcc 1, QEMU 2": {"perf": 3.0}}, path)
    assert baseline.load(path) == {
        "6.12.1, bcc 1, QEMU 2": {"perf": 1.0},
        "7.2.0, bcc 1, QEMU 2": {"perf": 3.0},
    }
    assert baseline.load(tmp_path / "none.json") == {}


def test_the_committed_counts_are_of_kernels_in_the_matrix() -> None:
    assert {key.split(".")[0] for key in baseline.load()} == {"6", "7"}
