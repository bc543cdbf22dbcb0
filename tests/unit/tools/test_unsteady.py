"""Which failed tests are forgiven: tests/unsteady.py, tests/kernels/again.py and .ci/run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.kernels import again
from tests.kernels.boot import ROOT, Boot
from tests.kernels.catalogue import KERNELS
from tests.kernels.fetch import Image
from tests.kernels.results import Case
from tests.unsteady import MOST, REPEATS, Failure, outcome, settle

WELL = ["passed"] * REPEATS


def failure(name: str = "test_it", log: str = "assert 1 == 2") -> Failure:
    return Failure("6.12-perf", f"tests/live/test_a.py::{name}[perf]", log)


def never(failure: Failure) -> list[str]:
    raise AssertionError(f"{failure} is not to be run again")


# --- the policy -------------------------------------------------------------


def test_five_passes_forgive_a_failure_and_keep_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "build" / "unsteady"
    verdict = settle([failure()], lambda _: WELL, folder)
    assert verdict.forgiven
    assert "assert 1 == 2" in verdict.text
    (log,) = folder.iterdir()
    assert log.name == "1-6.12-perf-tests-live-test_a.py-test_it-perf.log"
    assert log.read_text() == "6.12-perf tests/live/test_a.py::test_it[perf]\n\nassert 1 == 2\n"


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        WELL[1:],
        [*WELL, "passed"],
        [*WELL[1:], "failed"],
        ["failed", *WELL[1:]],
        ["skipped", *WELL[1:]],
        ["no report"] * REPEATS,
    ],
)
def test_anything_but_five_passes_does_not(tmp_path: Path, outcomes: list[str]) -> None:
    verdict = settle([failure()], lambda _: outcomes, tmp_path)
    assert not verdict.forgiven
    assert failure().name in verdict.text
    assert not list(tmp_path.iterdir())


def test_one_that_fails_again_leaves_none_forgiven(tmp_path: Path) -> None:
    failures = [failure("test_good"), failure("test_bad")]
    verdict = settle(failures, lambda f: WELL if "good" in f.nodeid else ["failed"], tmp_path)
    assert not verdict.forgiven
    assert not list(tmp_path.iterdir())


def test_more_than_two_are_not_run_again(tmp_path: Path) -> None:
    failures = [failure(f"test_{number}") for number in range(MOST + 1)]
    assert settle(failures[:MOST], lambda _: WELL, tmp_path / "two").forgiven
    assert len(list((tmp_path / "two").iterdir())) == MOST
    assert not settle(failures, never, tmp_path / "three").forgiven


def test_the_steps_of_a_run_share_the_two(tmp_path: Path) -> None:
    assert settle([failure()], lambda _: WELL, tmp_path).forgiven
    assert not settle([failure("test_b"), failure("test_c")], never, tmp_path).forgiven
    assert settle([failure()], lambda _: WELL, tmp_path).forgiven  # the same once more: two
    assert len(list(tmp_path.iterdir())) == MOST
    assert not settle([failure("test_d")], never, tmp_path).forgiven


def test_what_is_no_test_is_never_forgiven(tmp_path: Path) -> None:
    crash = Failure("6.12", "", "the guest failed")
    assert not settle([crash], never, tmp_path).forgiven
    assert not settle([failure(), crash], never, tmp_path).forgiven
    assert not settle([], never, tmp_path).forgiven


# --- what one run alone came to ---------------------------------------------


@pytest.mark.parametrize(
    ("counts", "word"),
    [
        ('tests="1" errors="0" failures="0" skipped="0"', "passed"),
        ('tests="1" errors="0" failures="0" skipped="1"', "skipped"),
        ('tests="1" errors="0" failures="1" skipped="0"', "failed"),
        ('tests="2" errors="1" failures="0" skipped="0"', "failed"),
        ('tests="0" errors="0" failures="0" skipped="0"', "0 tests"),
        ('tests="2" errors="0" failures="0" skipped="0"', "2 tests"),
    ],
)
def test_a_report_of_one_test(tmp_path: Path, counts: str, word: str) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite {counts}></testsuite></testsuites>")
    assert outcome(report) == word


def test_no_report_or_half_of_one(tmp_path: Path) -> None:
    assert outcome(tmp_path / "none.xml") == "no report"
    (tmp_path / "half.xml").write_text('<testsuites><testsuite tests="1"')
    assert outcome(tmp_path / "half.xml") == "no report"


# --- the plugin -------------------------------------------------------------

# Fails so many times, then passes.
UNSTEADY = """
from pathlib import Path
import pytest

def fails(times, name):
    count = Path(name)
    before = len(count.read_text()) if count.exists() else 0
    count.write_text("." * (before + 1))
    assert before >= times, f"{name} for the time {before}"

def test_good(): pass
"""


def pytest_run(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(UNSTEADY + source)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.unsteady"]
    return subprocess.run(
        [*command, *options, "test_it.py"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip


def closing(done: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"=+ | in [\d.]+s.*", "", done.stdout.splitlines()[-1])


ONCE = """
@pytest.mark.parametrize("way", ["a-b", "c/d::e"])
def test_once(way):
    print("some words")
    fails(1 if way == "a-b" else 0, "n")
"""


def test_a_forgiven_run_ends_well_and_shows_the_failure(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, ONCE, "--unsteady=kept")
    assert done.returncode == 0, done.stdout + done.stderr
    assert closing(done) == "3 passed"
    shown, (log,) = done.stdout.partition(" unsteady =")[2], (tmp_path / "kept").iterdir()
    for text in (shown, log.read_text()):
        assert "n for the time 0" in text
        assert "some words" in text
    assert len((tmp_path / "n").read_text()) == 2 + REPEATS


def test_what_was_covered_is_not_measured_anew(tmp_path: Path) -> None:
    """One test alone would take the place of what the whole run has covered."""
    (tmp_path / "subject.py").write_text("def a(): ...\ndef b():\n    return 1\n")
    source = ONCE + "\ndef test_subject():\n    import subject\n    assert subject.b()\n"
    options = ("--unsteady=kept", "--cov=subject", "--cov-report=")
    done = pytest_run(tmp_path, source, *options)
    assert (done.returncode, closing(done)) == (0, "4 passed"), done.stdout + done.stderr
    command = [sys.executable, "-m", "coverage", "report", "--format=total"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "100\n"


def test_without_the_option_it_fails_at_once(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, ONCE)
    assert (done.returncode, closing(done)) == (1, "1 failed, 2 passed")
    assert len((tmp_path / "n").read_text()) == 2


CLEAN_UP = """
@pytest.fixture
def broken():
    yield
    fails(1, "n")

def test_clean_up(broken): pass
"""
SET_UP = """
@pytest.fixture
def broken(): fails(1, "n")

def test_set_up(broken): pass
"""


@pytest.mark.parametrize("source", [CLEAN_UP, SET_UP])
def test_its_fixtures_are_part_of_a_test(tmp_path: Path, source: str) -> None:
    done = pytest_run(tmp_path, source, "--unsteady=kept")
    assert (done.returncode, closing(done)) == (0, "2 passed"), done.stdout


@pytest.mark.parametrize(
    "source",
    [
        "def test_bad(): fails(3, 'n')",
        "def test_bad(): fails(99, 'n')",
        "def test_bad():\n    fails(1, 'n')\n    pytest.skip('not now')",
        "def test_bad():\n    fails(1, 'n')\n    import os; os._exit(0)",
        "@pytest.mark.parametrize('n', 'abc')\ndef test_bad(n): fails(1, n)",
    ],
    ids=["again", "always", "then skips", "then dies", "three"],
)
def test_what_is_not_forgiven_fails(tmp_path: Path, source: str) -> None:
    done = pytest_run(tmp_path, source, "--unsteady=kept")
    assert done.returncode == 1
    assert "failed" in closing(done)
    assert not (tmp_path / "kept").exists()


def test_a_module_that_does_not_load_is_not_forgiven(tmp_path: Path) -> None:
    options = ("--unsteady=kept", "--continue-on-collection-errors", "test_broken.py")
    (tmp_path / "test_broken.py").write_text(UNSTEADY + "fails(1, 'm')\n")
    assert pytest_run(tmp_path, "def test_bad(): fails(1, 'n')", *options).returncode == 1
    assert not (tmp_path / "kept").exists()
    assert len((tmp_path / "n").read_text()) == 1


# --- the matrix -------------------------------------------------------------

NODEID = "tests/live/test_a.py::test_b[perf-1 $x]"
CASES = [
    Case("6.12", "perf", "test_a.py::test_b[1 $x]", "failed", "", "assert 0", nodeid=NODEID),
    Case("6.12", "-", "test_a.py::test_c", "passed"),
]


class Guests:
    """Stands for boot(): notes what was to be run, and leaves the reports of that."""

    def __init__(self, outcomes: Sequence[str]) -> None:
        self.outcomes = outcomes
        self.ran: list[Sequence[str]] = []

    def boot(self, image: Image, argv: Sequence[str], out: Path, **_: object) -> Boot:
        self.ran.append(argv)
        for number, word in enumerate(self.outcomes, 1):
            counts = f'tests="1" {word}="1"' if word != "passed" else 'tests="1"'
            (out / f"{number}.xml").write_text(f"<testsuite {counts}/>")
        return Boot(status=0, timed_out=False, seconds=1.0, out=out)


@pytest.fixture
def settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[Case], Guests], list[Case]]:
    def run(cases: list[Case], guests: Guests) -> list[Case]:
        monkeypatch.setattr(again, "boot", guests.boot)
        images = {kernel: Image(kernel.name, tmp_path) for kernel in KERNELS}
        return again.settled(cases, images, tmp_path, tmp_path, tmp_path / "kept")

    return run


Settled = Callable[[list[Case], Guests], list[Case]]


def test_a_guest_is_booted_once_for_five_runs(settled: Settled, tmp_path: Path) -> None:
    guests = Guests(WELL)
    assert [case.outcome for case in settled(CASES, guests)] == ["passed", "passed"]
    ((shell, option, script),) = guests.ran
    assert (shell, option) == ("sh", "-c")
    runs = [shlex.split(run) for run in script.split(" && ")]
    assert len(runs) == REPEATS
    assert all(run[-4:-1] == ["--probe", "perf", NODEID] for run in runs)
    assert len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize(
    "outcomes", [WELL[1:], [*WELL[1:], "failures"], [*WELL[1:], "skipped"]], ids=str
)
def test_a_guest_s_test_that_fails_again_has_failed(settled: Settled, outcomes: list[str]) -> None:
    assert settled(CASES, Guests(outcomes)) == CASES


def test_a_guest_that_died_has_failed_for_good(settled: Settled) -> None:
    died = Case("6.12", "-", "(guest)", "failed", "the guest failed")
    guests = Guests(WELL)
    assert settled([*CASES, died], guests) == [*CASES, died]
    assert not guests.ran


# --- .ci/run ----------------------------------------------------------------


def test_ci_reports_the_time_of_each_step(tmp_path: Path) -> None:
    """With stand-ins for what it starts: a step that fails is in the table, too."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tools").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    left = tmp_path / "build" / "unsteady" / "1-old.log"
    left.parent.mkdir(parents=True)
    left.touch()
    make = "#!/bin/sh\ncase $1 in test) echo >build/unsteady/1-new.log ;; esac\n"
    for name, text in (("bootstrap", "#!/bin/sh\n"), ("make", make + '[ "$1" != "$BAD" ]\n')):
        program = tmp_path / "tools" / name
        program.write_text(text)
        program.chmod(0o755)

    def run(bad: str) -> tuple[int, str]:
        path = f"{tmp_path / 'tools'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(tmp_path / ".ci" / "run")],
            env=os.environ | {"PATH": path, "BAD": bad}, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout.partition("=== what each step took\n")[2]

    code, output = run("")
    assert code == 0
    lines = re.sub(r" *\d+ s", "N s", output).splitlines()
    assert lines[0].startswith("N s  tools/bootstrap --kernels ")
    assert {f"N s  make {name}" for name in ("lint", "test", "test-real", "test-kernels")} <= set(
        lines
    )
    assert lines[-2] == "=== unsteady, to be explained and mended: build/unsteady/1-new.log"
    assert lines[-1].startswith("=== passed")
    assert not left.exists()
    code, output = run("check-install")
    assert code == 1
    assert re.search(r"\d s  make check-install\n", output)
    assert "make test-kernels" not in output
    assert "=== stopped in: make check-install (status 1" in output
