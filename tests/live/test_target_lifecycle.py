"""Targets that are killed, stopped, or change into somebody else."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import witnesses
from tests.live.background import Background, check, wait_until_all
from tests.live.workload import BINARY, Workload, build
from tracer.model.rows import Names
from tracer.probes.choose import Attached

GUEST = bool(os.environ.get("PAGEFAULT_GUEST"))
ENDLESS = 1 << 30  # rounds
ENOUGH = 1_000 if GUEST else 10_000  # faults: the storm is under way
NOBODY = 65534


def storm(rounds: int) -> Workload:
    """844 faults a round; with pauses where an emulated tracer would fall behind."""
    return (
        Workload("showers", 4, 211, rounds, 200_000) if GUEST else Workload("storm", 4, 211, rounds)
    )


def test_a_target_killed_in_the_middle(attached: Attached) -> None:
    """The trace ends by itself, and has every fault that the zombie's own count has."""
    with storm(ENDLESS) as work:
        before = witnesses.process_fault_count(work.pid)
        with Background(attached, work.pid) as live:
            work.send_line()
            live.wait_for_more(ENOUGH)
            os.kill(work.pid, signal.SIGKILL)
            result = live.ended()
        check(result.books, live, witnesses.process_fault_count(work.pid) - before)
    assert result.books.lost or not result.books.missed or attached.probe.inexact()


def test_a_target_that_exits_with_its_threads(attached: Attached) -> None:
    with storm(3) as work:
        before = witnesses.process_fault_count(work.pid)
        with Background(attached, work.pid) as live:
            work.go()
            os.kill(work.pid, signal.SIGSTOP)
            wait_until_all(work.pid, "T")
            counted = witnesses.process_fault_count(work.pid) - before
            os.kill(work.pid, signal.SIGCONT)
            assert work.finish() == 0
            result = live.ended()
        check(result.books, live)
        assert counted == 3 * 4 * 211
        assert result.books.kernel >= counted or result.books.unfollowed


def test_a_target_stopped_and_continued(attached: Attached) -> None:
    """Stopped and continued, and stopped at the end: nothing is recorded twice or left out."""
    with storm(ENDLESS) as work:
        before = witnesses.process_fault_count(work.pid)
        with Background(attached, work.pid) as live:
            work.send_line()
            live.wait_for_more(ENOUGH)
            for _ in range(2):
                os.kill(work.pid, signal.SIGSTOP)
                wait_until_all(work.pid, "T")
                os.kill(work.pid, signal.SIGCONT)
                live.wait_for_more(ENOUGH)
            os.kill(work.pid, signal.SIGSTOP)
            wait_until_all(work.pid, "T")
            result = live.end()
        check(result.books, live, witnesses.process_fault_count(work.pid) - before)


def test_a_target_stopped_all_along(attached: Attached) -> None:
    with Workload("anon-write", 101) as work:
        os.kill(work.pid, signal.SIGSTOP)
        wait_until_all(work.pid, "T")
        with Background(attached, work.pid) as live:
            result = live.end()
        check(result.books, live, 0)


# -- other rights


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Path]:
    """A folder others may enter."""
    folder = Path(tempfile.mkdtemp(prefix="pagefault-setuid."))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _copy(folder: Path, name: str, mode: int) -> Path:
    """The workload as a program of root's with these rights."""
    build()
    path = folder / name
    shutil.copyfile(BINARY, path)
    path.chmod(mode)
    return path


RIGHTS = {"set-uid": 0o4755, "set-uid-unreadable": 0o4711, "unreadable": 0o0111}


class Shell:
    """A shell of nobody's that runs one command a line, and says its status."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=NOBODY,
            group=NOBODY, extra_groups=[], cwd="/",
        )  # fmt: skip
        self.pid = self._process.pid
        self.run("true")

    def run(self, line: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}; echo status $?\n")
        self._process.stdin.flush()
        said: list[str] = []
        while not said or not said[-1].startswith("status "):
            said.append(self._process.stdout.readline().rstrip("\n"))
            assert self._process.poll() is None, said
        return said

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("rights", RIGHTS)
def test_a_privileged_program_under_trace(attached: Attached, private: Path, rights: str) -> None:
    """A shell of nobody's execs it: traced, named, and it has the rights it would have."""
    program = _copy(private, rights, RIGHTS[rights])
    show = private / "show"  # says its effective user
    shutil.copyfile("/usr/bin/id", show)
    show.chmod(RIGHTS[rights])
    shell = Shell()
    try:
        with Background(attached, shell.pid) as live:
            assert shell.run(f"{show} -u") == [
                "0" if RIGHTS[rights] & 0o4000 else str(NOBODY), "status 0"
            ]  # fmt: skip
            said = shell.run(f"{program} --no-wait --dir {private} anon-write 101")
            result = live.end()
    finally:
        shell.close()
    assert said[-1] == "status 0", said
    start = next(int(line.split()[2], 16) for line in said if line.startswith("range anon"))
    rows = live.log.rows
    names = live.session.names
    mine = rows[[names.comms[int(comm)] == rights[:15] for comm in rows["comm"]]]
    touched = {int(address) & ~4095 for address in mine["address"]}
    untouched = {start + 4096 * page for page in range(101)} - touched
    assert len(untouched) <= (result.books.missed if attached.probe.inexact() else 0)
    assert str(program) in _regions(names, mine["region"].tolist())
    check(result.books, live)


def _regions(names: Names, ids: list[int]) -> set[str]:
    return {names.regions[number].name for number in ids}
