"""What comes back from a guest: tests/kernels/report.py and boot.py."""

import os
import subprocess
import sys
from pathlib import Path

from tests.kernels.boot import ROOT, Boot
from tests.kernels.results import read_report

SOURCE = """
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2
def test_left_out(): pytest.skip("no such feature")

@pytest.fixture
def broken():
    yield
    raise OSError("while cleaning up")

@pytest.mark.parametrize("probe", ["perf"])
def test_clean_up(probe, broken): pass

@pytest.mark.xfail(reason="a bug")
def test_known(): assert False

{last}
"""


def report_of(folder: Path, last: str) -> dict[str, tuple[str, str, str]]:
    """test: (probe, outcome, reason) of a pytest run with the plugin."""
    (folder / "test_it.py").write_text(SOURCE.format(last=last))
    lines = folder / "report.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.kernels.report", "--report-lines", str(lines), "."]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=env, capture_output=True)
    cases = read_report("6.12", lines.read_text())
    return {case.test.split("::")[1]: (case.probe, case.outcome, case.reason) for case in cases}


def test_the_report_holds_each_test_with_its_worst_outcome(tmp_path: Path) -> None:
    assert report_of(tmp_path, "") == {
        "test_good": ("-", "passed", ""),
        "test_bad": ("-", "failed", ""),
        "test_left_out": ("-", "skipped", "no such feature"),
        "test_clean_up": ("perf", "failed", ""),
        "test_known": ("-", "skipped", "known failure: a bug"),
    }


def test_the_report_says_where_a_machine_stopped(tmp_path: Path) -> None:
    found = report_of(tmp_path, "def test_crash(): import os; os._exit(9)")
    assert found["test_known"][1] == "skipped"
    assert found["test_crash"] == ("-", "failed", "the guest died in this test")


def test_of_what_starts_the_program_only_the_marked_few_are_run(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = guest\n")
    (tmp_path / "test_program.py").write_text(
        "import pytest\nfrom tests.live import cli\n"
        "def test_here(): pass\n"
        "@pytest.mark.guest\n@pytest.mark.parametrize('n', range(12))\ndef test_there(n): pass\n"
    )
    names = {name.partition("[")[0] for name in report_of(tmp_path, "")}
    assert {"test_good", "test_there"} <= names
    assert "test_here" not in names


def test_more_than_a_dozen_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = guest\n")
    (tmp_path / "test_program.py").write_text(
        "import pytest\nfrom tests.live.cli import run\npytestmark = pytest.mark.guest\n"
        "@pytest.mark.parametrize('n', range(13))\ndef test_there(n): pass\n"
    )
    assert report_of(tmp_path, "") == {}


def test_a_guest_that_gave_no_status_shows_the_end_of_its_console(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"booting\r\n" * 90 + b"\xffKernel panic\r\n")
    hung = Boot(status=None, timed_out=True, seconds=61.0, out=tmp_path)
    why = hung.why_it_failed(lines=3)
    assert why.startswith("guest timed out after 61 s")
    assert why.endswith("booting\nbooting\n\N{REPLACEMENT CHARACTER}Kernel panic")
    crashed = Boot(status=None, timed_out=False, seconds=9.0, out=tmp_path)
    assert "crashed" in crashed.why_it_failed()
