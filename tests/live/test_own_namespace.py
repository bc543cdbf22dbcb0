"""The tracer itself in a PID namespace of its own: numbers are those seen there, everywhere."""

import csv
import subprocess
import sys
from pathlib import Path

from tests.live.cli import argv, environment
from tests.live.workload import Range, command, parse
from tracer.common.errors import Exit
from tracer.probes.choose import Attached

ROOT = Path(__file__).parents[2]
OWN = ["unshare", "--pid", "--fork", "--mount-proc"]
# Attached and as a command; children, threads, exec, ends, and numbers given to others.
TESTS = (
    "test_fork_copies or test_different_pages or test_exec_under_trace or test_the_first_thread "
    "or test_two_children or test_a_targets_number or test_a_target_in_a or test_children_are"
)


def test_the_same_answers_in_a_namespace(attached: Attached) -> None:
    """Other tests, by a tracer that has its own numbers for everyone."""
    files = ["test_life.py", "test_races.py", "test_commands.py"]
    done = subprocess.run(
        [
            *(*OWN, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--probe", attached.probe.name, "-k", TESTS),
            *(str(ROOT / "tests" / "live" / name) for name in files),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "11 passed" in done.stdout


def test_a_command_and_its_numbers(attached: Attached, tmp_path: Path) -> None:
    """The CSV has the pid that the command knows itself by, a small one."""
    rows = tmp_path / "rows.csv"
    tracer = argv("--probe", attached.probe.name, "--csv", rows, "--quiet", "--user", "root")
    done = subprocess.run(
        [*OWN, *tracer, "--", *command("anon-write", 41, directory=tmp_path)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = parse(done.stdout.splitlines())
    assert 1 < report.pid < 100
    with rows.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["pid"] for row in found} == {str(report.pid)}
    written = [row for row in found if int(row["address"], 16) in range(*ends(report.ranges))]
    assert [row["kind"] for row in written] == ["anon"] * 41


def ends(ranges: dict[str, Range]) -> tuple[int, int]:
    anon = ranges["anon"]
    return anon.start, anon.end


def test_another_namespaces_proc_is_refused() -> None:
    """Without a /proc of its own it could only read of the wrong processes."""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", *argv("--pid", 1)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == Exit.UNSUPPORTED
    assert "unshare --mount-proc" in done.stderr
