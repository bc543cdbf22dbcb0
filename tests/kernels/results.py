"""From the guests' report lines to the table kernel × probe × test and the verdict."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from tests.kernels.catalogue import EXPECTED_SKIPS, PROBES, ExpectedSkip, is_expected

ANY_PROBE = "-"  # the probe of a test that is not parametrised by one
GUEST = "(guest)"  # the test of a guest that crashed, hung, or ran nothing

_MARKS = {"passed": "ok", "failed": "FAIL", "skipped": "skip"}


@dataclass(frozen=True)
class Case:
    """One test's end on one kernel by one probe; `outcome` is passed, failed or skipped."""

    kernel: str
    probe: str
    test: str
    outcome: str
    reason: str = ""
    detail: str = ""
    seconds: float = 0.0
    nodeid: str = field(default="", compare=False)  # to run it again; empty where it is no test


def split_test(nodeid: str) -> tuple[str, str]:
    """A pytest node id as (test without its probe, probe).

    `tests/live/test_a.py::test_b[kprobe-17]` is `("test_a.py::test_b[17]", "kprobe")`.
    """
    path, separator, name = nodeid.partition("::")
    name, bracket, inside = name.partition("[")
    words = inside.removesuffix("]").split("-") if bracket else []
    probe = next((word for word in words if word in PROBES), ANY_PROBE)
    if probe != ANY_PROBE:
        words.remove(probe)
    rest = f"[{'-'.join(words)}]" if words else ""
    return f"{PurePosixPath(path).name}{separator}{name}{rest}", probe


def read_report(kernel: str, lines: str) -> list[Case]:
    """The cases of a guest's report; one that was started and never ended has failed.

    A last line that was cut off is left out: its test counts as never ended.
    """
    cases: list[Case] = []
    running: str | None = None
    for line in lines.splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            break
        if found["outcome"] == "started":
            running = found["test"]
            continue
        running = None
        test, probe = split_test(found["test"])
        cases.append(
            Case(
                kernel, probe, test,
                found["outcome"], found["reason"], found["detail"], found["seconds"],
                nodeid=found["test"] if "::" in found["test"] else "",
            )
        )  # fmt: skip
    if running is not None:
        test, probe = split_test(running)
        cases.append(Case(kernel, probe, test, "failed", "the guest died in this test"))
    return cases


def judge(
    cases: Iterable[Case], name: str, expected: Iterable[ExpectedSkip] = EXPECTED_SKIPS
) -> list[Case]:
    """The cases with every skip that is not expected on kernel `name` turned into a failure."""
    table = tuple(expected)
    judged = []
    for case in cases:
        if case.outcome == "skipped" and not is_expected(
            name, case.probe, case.test, case.reason, table
        ):
            case = replace(case, outcome="failed", reason=f"skip not expected: {case.reason}")
        judged.append(case)
    return judged


def idle_probes(kernel: str, cases: Sequence[Case], probes: Iterable[str]) -> list[Case]:
    """A failure for each probe that was asked for and ran nothing: silence proves nothing."""
    seen = {case.probe for case in cases}
    return [
        Case(kernel, probe, GUEST, "failed", "no test ran with this probe")
        for probe in probes
        if probe not in seen
    ]


def table(cases: Sequence[Case]) -> str:
    """Tests downward, kernel and probe across, in the order in which they first appear."""
    tests = list(dict.fromkeys(case.test for case in cases))
    kernels = list(dict.fromkeys(case.kernel for case in cases))
    order = {probe: index for index, probe in enumerate((*PROBES, ANY_PROBE))}
    columns = sorted(
        {(case.kernel, case.probe) for case in cases},
        key=lambda column: (kernels.index(column[0]), order[column[1]]),
    )
    cells = {(case.test, case.kernel, case.probe): _MARKS[case.outcome] for case in cases}
    rows = [["", *(kernel for kernel, _ in columns)], ["test", *(probe for _, probe in columns)]]
    for test in tests:
        rows.append([test, *(cells.get((test, *column), "") for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) + 1)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def notes(cases: Iterable[Case], lines: int = 60) -> str:
    """Each failure with the end of its detail, then each skip with the missing feature."""
    failed, skipped = [], {}
    for case in cases:
        where = f"{case.kernel} {case.probe} {case.test}"
        if case.outcome == "failed":
            detail = case.detail.splitlines()[-lines:]
            head = f"FAIL {where}" + (f": {case.reason}" if case.reason else "")
            failed.append("\n".join([head, *(f"    {line}" for line in detail)]))
        elif case.outcome == "skipped":
            skipped[where] = f"skip {where}: {case.reason}"
    return "\n\n".join([*failed, *(["\n".join(skipped.values())] if skipped else [])])


def summary(cases: Sequence[Case]) -> str:
    """The closing line."""
    passed = sum(case.outcome == "passed" for case in cases)
    failed = sum(case.outcome == "failed" for case in cases)
    return f"{passed} passed, {failed} failed"
