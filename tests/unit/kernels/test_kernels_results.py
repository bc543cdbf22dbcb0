"""The table, the verdict and the closing line: tests/kernels/results.py and catalogue.py."""

import json

import pytest

from tests.kernels.catalogue import PROBES, REAL, REAL_KERNEL, ExpectedSkip, is_expected, pick
from tests.kernels.results import (
    Case,
    idle_probes,
    judge,
    notes,
    read_report,
    split_test,
    summary,
    table,
)
from tests.real.programs import BY_NAME

EXPECTED = (
    ExpectedSkip("5.10", "test_a.py::test_uffd*", "UFFD_MOVE", probe="fentry"),
    ExpectedSkip("6.1", "*", "multi-size huge pages*"),
)


def line(test: str, outcome: str, reason: str = "", detail: str = "") -> str:
    return json.dumps(
        {"test": test, "outcome": outcome, "reason": reason, "detail": detail, "seconds": 1.0}
    )


@pytest.mark.parametrize(
    ("nodeid", "test", "probe"),
    [
        ("tests/live/test_a.py::test_b", "test_a.py::test_b", "-"),
        ("tests/live/test_a.py::test_b[perf]", "test_a.py::test_b", "perf"),
        ("tests/live/test_a.py::test_b[kprobe-17]", "test_a.py::test_b[17]", "kprobe"),
        ("tests/live/test_a.py::test_b[17-fentry]", "test_a.py::test_b[17]", "fentry"),
        ("tests/live/test_a.py::test_b[performance]", "test_a.py::test_b[performance]", "-"),
        ("tests/live/test_a.py::T::test_b[perf]", "test_a.py::T::test_b", "perf"),
        ("tests/live/test_a.py", "test_a.py", "-"),
    ],
)
def test_a_node_id_falls_into_test_and_probe(nodeid: str, test: str, probe: str) -> None:
    assert split_test(nodeid) == (test, probe)


def test_a_report_gives_a_case_a_test() -> None:
    lines = "\n".join(
        [
            '{"test": "tests/live/test_a.py::test_b[perf]", "outcome": "started"}',
            line("tests/live/test_a.py::test_b[perf]", "passed"),
        ]
    )
    assert read_report("6.12", lines) == [
        Case("6.12", "perf", "test_a.py::test_b", "passed", seconds=1.0)
    ]


@pytest.mark.parametrize("rest", ["", '\n{"test": "tests/live/test_a.py::test_c[pe'])
def test_a_guest_that_dies_fails_the_test_it_died_in(rest: str) -> None:
    lines = '{"test": "tests/live/test_a.py::test_b[perf]", "outcome": "started"}' + rest
    (case,) = read_report("6.12", lines)
    assert (case.outcome, case.test) == ("failed", "test_a.py::test_b")
    assert "died" in case.reason


def test_a_skip_is_a_failure_unless_it_is_on_the_list() -> None:
    cases = [
        Case("5.10", "fentry", "test_a.py::test_uffd_move", "skipped", "UFFD_MOVE"),
        Case("5.10", "kprobe", "test_a.py::test_uffd_move", "skipped", "UFFD_MOVE"),
        Case("5.10", "fentry", "test_a.py::test_uffd_move", "skipped", "no time"),
    ]
    expected, *surprises = judge(cases, "5.10", EXPECTED)
    assert expected == cases[0]
    assert [(case.outcome, case.reason) for case in surprises] == [
        ("failed", "skip not expected: UFFD_MOVE"),
        ("failed", "skip not expected: no time"),
    ]


@pytest.mark.parametrize(
    ("kernel", "reason", "answer"),
    [
        ("6.1", "multi-size huge pages (64 KiB)", True),
        ("6.1", "a second NUMA node", False),
        ("6.12", "multi-size huge pages (64 KiB)", False),
    ],
)
def test_a_missing_feature_excuses_every_test_that_needs_it(
    kernel: str, reason: str, answer: bool
) -> None:
    assert is_expected(kernel, "perf", "test_b.py::test_any", reason, EXPECTED) is answer


def test_a_probe_that_ran_nothing_is_a_failure() -> None:
    cases = [Case("6.12", "perf", "test_a.py::test_b", "passed")]
    (idle,) = idle_probes("6.12", cases, ("fentry", "perf"))
    assert (idle.probe, idle.outcome) == ("fentry", "failed")


def test_the_table_the_notes_and_the_closing_line() -> None:
    cases = [
        Case("6.12", "perf", "test_a.py::test_b", "passed"),
        Case("6.12", "fentry", "test_a.py::test_b", "failed", "", "assert 1 == 2"),
        Case("7.2", "fentry", "test_a.py::test_b", "passed"),
        Case("7.2", "fentry", "test_a.py::test_c", "skipped", "no UFFD_MOVE"),
    ]
    assert table(cases).splitlines() == [
        "                   6.12    6.12  7.2",
        "test               fentry  perf  fentry",
        "test_a.py::test_b  FAIL    ok    ok",
        "test_a.py::test_c                skip",
    ]
    assert notes(cases).splitlines() == [
        "FAIL 6.12 fentry test_a.py::test_b",
        "    assert 1 == 2",
        "",
        "skip 7.2 fentry test_a.py::test_c: no UFFD_MOVE",
    ]
    assert summary(cases) == "2 passed, 1 failed"


def test_kernels_are_picked_by_name_and_by_default() -> None:
    assert [kernel.name for kernel in pick(())] == ["5.10", "6.1", "6.12", "7"]
    assert [kernel.name for kernel in pick(["7", "host", "6.1"])] == ["6.1", "7"]
    with pytest.raises(ValueError, match=r"no kernel '4\.4'; there are"):
        pick(["4.4"])


def test_a_guest_traces_a_real_program_by_each_probe() -> None:
    (kernel,) = pick([REAL_KERNEL])
    assert sorted(probe for _, probe in REAL) == sorted(kernel.probes) == sorted(PROBES)
    assert {program for program, _ in REAL} <= set(BY_NAME)
