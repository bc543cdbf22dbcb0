"""A pytest plugin for the guest: one JSON line a test, written as soon as it is known.

It also skips what makes no sense there (catalogue.TIMED), and of tests/live/test_cli* it
leaves only those marked `guest`.

`pytest -p tests.kernels.report --report-lines FILE`. pytest's own reports are written at the
end; a guest that crashes never gets there, and these lines say how far it came.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.catalogue import TIMED
from tests.kernels.results import split_test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report-lines", type=Path, metavar="FILE", help="one JSON line a test")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--report-lines")
    if path is not None:
        config.pluginmanager.register(LineReport(path), "kernels-line-report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The program's own tests start it anew each, half a minute under emulation: a few will do."""
    there = [item for item in items if _is_wanted(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in there])
    items[:] = there
    for item in items:
        test, _ = split_test(item.nodeid)
        if test in TIMED:
            item.add_marker(pytest.mark.skip(reason="it holds the clock against a limit"))


def _is_wanted(item: pytest.Item) -> bool:
    return not item.path.name.startswith("test_cli") or item.get_closest_marker("guest") is not None


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
