"""The page docs/support-matrix.md: tests/kernels/matrix.py."""

from tests.kernels.matrix import differences, render, title
from tests.kernels.results import ANY_PROBE, Case

CASES = [
    Case("6.1", "fentry", "test_b.py::test_two", "passed", seconds=1.0),
    Case("6.1", "perf", "test_b.py::test_two", "skipped", "multi-size huge pages"),
    Case("7", "perf", "test_b.py::test_two", "passed"),
    Case("7", "perf", "test_a.py::test_one[3]", "passed"),
    Case("host", "perf", "test_a.py::test_one[3]", "skipped", "a second NUMA node"),
    Case("7", ANY_PROBE, "test_a.py::test_once", "passed"),
]
RELEASES = {"6.1": "6.1.0-50-amd64", "7": "7.2.13+deb14-amd64", "host": "6.18.44"}


def test_the_page_has_a_column_a_probe_and_a_row_a_test() -> None:
    page = render(CASES, RELEASES)
    head, found, rest = page.partition("Last run")
    assert "do not edit" in head
    assert (found + rest).splitlines() == [
        "Last run: 6.1 is 6.1.0-50-amd64, 7.x is 7.2.13+deb14-amd64, host is 6.18.44.",
        "",
        "✓: passed. A number: not run there, for want of what the note says. Empty: no such test"
        " there, or not run: each kernel runs all tests with one probe, and with the others those"
        " that depend on how a fault is seen (`make test-kernels FULL=1` runs all with each).",
        "",
        "## By probe",
        "",
        "| test | 6.1 `fentry` | 6.1 `perf` | 7.x `perf` | host `perf` |",
        "| --- | :-: | :-: | :-: | :-: |",
        "| **test_a.py** |  |  |  |  |",
        "| `test_one[3]` |  |  | ✓ | 1 |",
        "| **test_b.py** |  |  |  |  |",
        "| `test_two` | ✓ | 2 | ✓ |  |",
        "",
        "## Once a kernel",
        "",
        "| test | 7.x |",
        "| --- | :-: |",
        "| **test_a.py** |  |",
        "| `test_once` | ✓ |",
        "",
        "## What is missing where",
        "",
        "1. a second NUMA node",
        "2. multi-size huge pages",
    ]


def test_another_release_or_duration_is_no_difference() -> None:
    later = [Case(c.kernel, c.probe, c.test, c.outcome, c.reason, seconds=9.0) for c in CASES]
    page = render(CASES, RELEASES)
    assert differences(page, render(later, RELEASES | {"7": "7.3.1+deb14-amd64"})) == []


def test_another_outcome_and_another_test_are() -> None:
    page = render(CASES, RELEASES)
    assert differences(page, render(CASES[:-1], RELEASES))
    changed = differences(page, render([*CASES, Case("7", "fentry", "b::two", "failed")], RELEASES))
    assert any("**failed**" in line for line in changed)
    assert differences("", page)


def test_the_kernel_that_moves_on_has_a_title_that_stays() -> None:
    assert [title(name) for name in ("5.10", "7", "host")] == ["5.10", "7.x", "host"]
