"""--strict and --fail-if through the program itself: statuses, what is said, the meta file."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.live import cli
from tests.live.workload import Workload, command
from tracer.common.errors import Exit

PAGES = 211


def verdict(path: Path) -> dict[str, Any]:
    found = cli.meta(path)["verdict"]
    assert isinstance(found, dict)
    return found


def test_an_exact_run_within_its_budgets(tmp_path: Path) -> None:
    budgets = (f"anon<{PAGES}", f"faults<{PAGES}", "lost>0", "conflict>0", "p50>10s", "swap!=0")
    given = [word for budget in budgets for word in ("--fail-if", budget)]
    csv = tmp_path / "a.csv"
    done = cli.run("--strict", *given, "--csv", csv, "-q", "--", *command("anon-write", PAGES))
    assert (done.status, done.err) == (0, "")
    assert "strict: nothing was lost, and the books balance" in done.out
    found = verdict(csv)
    assert (found["strict"], found["inexact"], found["status"]) == (True, [], 0)
    assert [check["broken"] for check in found["budgets"]] == [False] * len(budgets)
    anon = next(c["actual"] for c in found["budgets"] if c["budget"] == f"anon<{PAGES}")
    assert anon == sum(row["kind"] == "anon" for row in cli.rows(csv))


def test_a_broken_budget_is_named_with_its_value(tmp_path: Path) -> None:
    """Whatever is shown, budgets are held against the whole trace."""
    csv = tmp_path / "a.csv"
    budgets = (f"cause.user>={PAGES}", "major>10k", f"resident>={PAGES * 4}KiB")
    given = [word for budget in budgets for word in ("--fail-if", budget)]
    done = cli.run("--kind", "cow", *given, "--csv", csv, "-q", "--", *command("anon-write", PAGES))
    found = verdict(csv)
    first, second, third = found["budgets"]
    assert done.status == Exit.OVER_BUDGET == found["status"]
    assert done.err.splitlines() == [
        f"pagefault-trace: --fail-if '{budgets[0]}': over budget, it is {first['actual']}",
        f"pagefault-trace: --fail-if '{budgets[2]}': over budget, it is {third['actual']} bytes",
    ]
    assert first["actual"] == sum(row["cause"] == "user" for row in cli.rows(csv))
    assert third["actual"] == cli.books(csv)["resident"] * 4096
    assert (first["broken"], second["broken"], third["broken"]) == (True, False, True)


def test_the_command_s_own_failure_comes_first() -> None:
    done = cli.run("--fail-if", "faults>0", "-q", "--", "sh", "-c", "exit 3")
    assert done.status == 3
    assert "over budget" in done.err


def test_attached_to_a_process() -> None:
    with Workload("anon-write", 5) as work:
        done = cli.run("-p", work.pid, "-d", "0.1", "-q", "--strict", "--fail-if", "faults<1")
    assert done.status == Exit.OVER_BUDGET
    assert done.err == "pagefault-trace: --fail-if 'faults<1': over budget, it is 0\n"


def test_without_a_last_snapshot_memory_has_no_verdict(tmp_path: Path) -> None:
    """Whatever the limit; what the records count is known all the same."""
    csv = tmp_path / "a.csv"
    given = ("--fail-if", "resident>1TiB", "--fail-if", "faults>1G", "--drain", 0)
    with Workload("anon-write", 5) as work:
        done = cli.run("-p", work.pid, "-d", "0.1", "-q", "--csv", csv, *given)
    assert done.status == Exit.INEXACT
    what = "no verdict, since the figure is not known"
    assert done.err == f"pagefault-trace: --fail-if 'resident>1TiB': {what}\n"
    assert "resident at the end not known" in done.out
    found = verdict(csv)
    assert found["status"] == Exit.INEXACT
    assert [check["unknown"] for check in found["budgets"]] == [True, False]


STORM = """
import mmap, sys
memory = mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for line in sys.stdin:
    for _ in range(int(line)):
        memory[::4096] = bytes(1 << 14)
        memory.madvise(mmap.MADV_DONTNEED)
    print("done", flush=True)
"""


def test_lost_events_are_not_strict(tmp_path: Path) -> None:
    """The tracer stands still while more faults come than the ring holds."""
    csv, rounds = tmp_path / "a.csv", 28
    faults = rounds << 14
    work = subprocess.Popen(
        cli.python(STORM), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with (
        work,
        cli.Attached(work.pid, csv, "-q", "--strict", "--fail-if", f"faults<{faults}") as run,
    ):
        run.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, run.process.pid, os.WSTOPPED)
        assert work.stdin is not None
        assert work.stdout is not None
        print(rounds, file=work.stdin, flush=True)
        assert work.stdout.readline() == "done\n"
        run.process.send_signal(signal.SIGCONT)
        done = run.end()
        work.stdin.close()
    found = verdict(csv)
    assert done.status == Exit.INEXACT == found["status"]
    assert "lost: no room in the ring, or not read in time" in done.err
    assert cli.books(csv)["lost"] > 0
    assert not found["budgets"][0]["broken"]  # lost ones are faults, too
    assert "strict: not exact: " in done.out


def test_a_bad_budget_starts_nothing(tmp_path: Path) -> None:
    started = tmp_path / "started"
    done = cli.run("--fail-if", "mayor>0", "--", "touch", started)
    assert done.status == Exit.TRACER_FAILED
    assert "did you mean major or minor?" in done.err
    assert not started.exists()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        done = cli.run("--fail-if", "major>lots", "-p", process.pid)
        process.communicate()
    assert done.status == Exit.USAGE
    assert "10000 or 10k" in done.err
