"""What becomes of a test that fails now and then: docs/decisions/0003-unsteady-tests.md.

With `pytest -p tests.unsteady --unsteady=FOLDER`, and in tests/kernels: up to `MOST` failed tests
a run are run again, each alone, `REPEATS` times. A test that passes all of them is unsteady: the
run passes, and FOLDER keeps the failure's log. FOLDER is also how the steps of a run, which know
nothing of each other, share one budget; `.ci/run` empties it.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

MOST = 2  # failed tests in a whole run
REPEATS = 5
LIMIT_SECONDS = 600.0  # for one test alone, on this machine
FOLDER = Path(__file__).resolve().parents[1] / "build" / "unsteady"
PASSED: Final = "passed"


@dataclass(frozen=True)
class Failure:
    """A failed test; without a `nodeid` what failed is no test (a boot, say): never forgiven."""

    where: str
    nodeid: str
    log: str

    @property
    def name(self) -> str:
        return f"{self.where} {self.nodeid}"


@dataclass(frozen=True)
class Verdict:
    """Whether all failures were forgiven, and what to print."""

    forgiven: bool
    text: str = ""


def settle(
    failures: Sequence[Failure], again: Callable[[Failure], Sequence[str]], folder: Path
) -> Verdict:
    """Forgive all of `failures` or none. `again` has the outcomes of a test's `REPEATS` runs."""
    if not failures or not all(failure.nodeid for failure in failures):
        return Verdict(forgiven=False)
    before = len(list(folder.glob("*.log")))
    if before + len(failures) > MOST:
        counted = f"{before} unsteady before, {len(failures)} failed now"
        return Verdict(False, f"not run again: {counted}; at most {MOST} a run are")
    for failure in failures:
        outcomes = list(again(failure))
        if outcomes != [PASSED] * REPEATS:
            said = ", ".join(outcomes) or "nothing"
            return Verdict(False, f"run again alone, {failure.name}: {said}")
    folder.mkdir(parents=True, exist_ok=True)
    for number, failure in enumerate(failures, before + 1):
        (folder / _file_name(number, failure)).write_text(f"{failure.name}\n\n{failure.log}\n")
    return Verdict(True, "\n".join(_report(failure) for failure in failures))


def _report(failure: Failure) -> str:
    log = "\n".join(f"    {line}" for line in failure.log.splitlines())
    return f"unsteady: {failure.name} (then {REPEATS} times passed, alone)\n{log}"


def _file_name(number: int, failure: Failure) -> str:
    """Legible, unique by its number, and short enough for a file system."""
    readable = re.sub(r"[^\w.]+", "-", failure.name).strip("-")
    return f"{number}-{readable[:120]}.log"


def outcome(report: Path) -> str:
    """What a JUnit report says of its one test: only a test that ran and was well has passed."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
        counts = {
            word: sum(int(suite.get(word, "0")) for suite in suites)
            for word in ("tests", "errors", "failures", "skipped")
        }
    except (OSError, ElementTree.ParseError, ValueError):
        return "no report"
    if counts["errors"] or counts["failures"]:
        return "failed"
    if counts["skipped"]:
        return "skipped"
    return PASSED if counts["tests"] == 1 else f"{counts['tests']} tests"


# --- the plugin -------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unsteady", type=Path, metavar="FOLDER", help="forgive unsteady tests")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--unsteady")
    if folder is not None and not hasattr(config, "workerinput"):  # xdist's workers only report
        config.pluginmanager.register(Forgiving(config, folder), "forgiving-unsteady-tests")


class Forgiving:
    """Collects failures, and settles them before pytest sums up."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._verdict = Verdict(forgiven=False)
        self._uncollected = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._uncollected |= report.failed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus != pytest.ExitCode.TESTS_FAILED or self._uncollected:
            return  # an interrupt, an internal error, a module that does not load
        if session.shouldstop or session.shouldfail:
            return  # what came after the failure was not run
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        stats = reporter.stats
        logs: dict[str, list[str]] = {}
        for report in (*stats.get("failed", ()), *stats.get("error", ())):
            parts = [
                report.longreprtext,
                *(f"--- {name}\n{text}" for name, text in report.sections),
            ]
            logs.setdefault(report.nodeid, []).extend(parts)
        failures = [Failure("host", nodeid, "\n".join(parts)) for nodeid, parts in logs.items()]
        self._verdict = settle(failures, self._again, self._folder)
        if self._verdict.forgiven:
            _recount(stats, set(logs))
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._verdict.text:
            terminalreporter.section("unsteady")
            terminalreporter.write_line(self._verdict.text)

    def _again(self, failure: Failure) -> list[str]:
        given = self._config.invocation_params.args
        options = [
            word
            for word in given
            if word not in self._config.args and not word.startswith(("--unsteady", "-n", "--cov"))
        ]
        outcomes: list[str] = []
        while len(outcomes) < REPEATS and all(word == PASSED for word in outcomes):
            outcomes.append(self._once([*options, failure.nodeid]))
        return outcomes

    def _once(self, arguments: Sequence[str]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command = [sys.executable, "-m", "pytest", *arguments, f"--junitxml={report}"]
            try:
                done = subprocess.run(
                    command,
                    cwd=self._config.invocation_params.dir,
                    env={k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=LIMIT_SECONDS,
                )
            except subprocess.TimeoutExpired:
                return "hung"
            found = outcome(report)
            return found if found != PASSED or done.returncode == 0 else "failed"


def _recount(stats: dict[str, list[pytest.TestReport]], forgiven: set[str]) -> None:
    """The closing line counts them as passed, once each, and as failed no more."""
    for word in ("failed", "error"):
        stats.pop(word, None)
    passed = stats.setdefault(PASSED, [])
    # One whose clean-up failed has passed already, as far as pytest's counts go.
    counted = {report.nodeid for report in passed if report.when == "call"}
    for nodeid in sorted(forgiven - counted):
        stats[PASSED].append(_passed(nodeid))


def _passed(nodeid: str) -> pytest.TestReport:
    return pytest.TestReport(nodeid, ("", None, ""), {}, PASSED, None, "call")
