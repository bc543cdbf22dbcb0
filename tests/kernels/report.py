"""A pytest plugin for each row of the matrix: one JSON line a test, written as soon as it is known.

It also skips what makes no sense in a guest (catalogue.TIMED), and of the tests that start the
program itself (they use tests/live/cli.py) it leaves only those marked `guest`, with the probe
that the mark names, and has the host compile what they attach (compile.py).

`pytest -p tests.kernels.report --report-lines FILE`. pytest's own reports are written at the
end; a guest that crashes never gets there, and these lines say how far it came.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import compile as compiling
from tests.kernels.catalogue import BY_PROBE, TIMED, TIMED_REASON
from tests.kernels.results import ANY_PROBE, split_test

CLI = "tests.live.cli"
MOST_PROGRAM_RUNS = 12


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report-lines", type=Path, metavar="FILE", help="one JSON line a test")
    parser.addoption("--whole", metavar="PROBE", help="all tests with it, some with the others")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--report-lines")
    if path is not None:
        config.pluginmanager.register(LineReport(path), "kernels-line-report")
        if os.environ.get("PAGEFAULT_GUEST"):
            compiling.ask(path.parent, config.getoption("--probe").split(","))


def pytest_collection_finish(session: pytest.Session) -> None:
    path = session.config.getoption("--report-lines")
    if path is not None and os.environ.get("PAGEFAULT_GUEST"):
        compiling.receive(path.parent)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The program's own tests start it anew each, half a minute under emulation: a few will do."""
    there = [item for item in items if not _runs_the_program(item) or _is_for_guests(item)]
    whole = config.getoption("--whole")
    there = [item for item in there if whole is None or _is_with(item, whole)]
    many = [item for item in there if _runs_the_program(item)]
    if len(many) > MOST_PROGRAM_RUNS:
        raise pytest.UsageError(f"{len(many)} tests marked `guest` start the program, too many")
    config.hook.pytest_deselected(items=[item for item in items if item not in there])
    items[:] = there
    for item in items:
        test, _ = split_test(item.nodeid)
        if test in TIMED and os.environ.get("PAGEFAULT_GUEST"):
            item.add_marker(pytest.mark.skip(reason=TIMED_REASON))


def _is_with(item: pytest.Item, whole: str) -> bool:
    test, probe = split_test(item.nodeid)
    return (
        probe in (whole, ANY_PROBE)
        or item.path.parent.name != "live"
        or (test.partition("::")[0] in BY_PROBE)
    )


def _runs_the_program(item: pytest.Item) -> bool:
    """Whether its module has anything of tests/live/cli.py."""
    names = vars(item.module).values() if isinstance(item, pytest.Function) else ()
    return any(
        getattr(value, "__module__", None) == CLI or getattr(value, "__name__", None) == CLI
        for value in names
    )


def _is_for_guests(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("guest")
    if mark is None or not mark.args or not os.environ.get("PAGEFAULT_GUEST"):
        return mark is not None
    return isinstance(item, pytest.Function) and item.callspec.params["attached"] in mark.args


class LineReport:
    """Writes `started` when a test begins and its outcome when it is over."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._reports: list[pytest.TestReport] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._write(report.nodeid, report.outcome, _reason(report), report.longreprtext, 0.0)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports.clear()
        self._line({"test": nodeid, "outcome": "started"})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """The worst of set-up, call and tear-down is the test's outcome."""
        seconds = sum(report.duration for report in self._reports)
        for outcome in ("failed", "skipped", "passed"):
            of_this = [report for report in self._reports if report.outcome == outcome]
            if of_this:
                detail = "\n".join(r.longreprtext for r in of_this if outcome == "failed")
                self._write(nodeid, outcome, _reason(of_this[0]), detail, seconds)
                return

    def _write(self, test: str, outcome: str, reason: str, detail: str, seconds: float) -> None:
        self._line(
            {
                "test": test,
                "outcome": outcome,
                "reason": reason,
                "detail": detail,
                "seconds": round(seconds, 3),
            }
        )

    def _line(self, what: dict[str, Any]) -> None:
        self._file.write(json.dumps(what) + "\n")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why it was skipped, in one line."""
    if hasattr(report, "wasxfail"):
        return f"known failure: {report.wasxfail}"
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return ""
