"""The tracer killed in the middle: what is left of it. Set-uid programs as commands."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import witnesses
from tests.live import cli
from tests.live.background import Background, check
from tests.live.workload import BINARY, Workload, build, command
from tracer.probes.choose import Attached
from tracer.procfs import stat
from tracer.procfs.errors import ProcessGone

EVENTS = Path("/sys/kernel/tracing/kprobe_events")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with cli.nothing_left_attached():
        yield


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + cli.SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _whole_lines(path: Path) -> list[dict[str, str]]:
    """The rows of a file that may end in the middle of a line."""
    text = path.read_text()
    return list(csv.DictReader(text[: text.rindex("\n") + 1].splitlines()))


def _kprobes_of(pid: int) -> list[str]:
    """Definitions in tracefs whose name carries this pid."""
    with contextlib.suppress(OSError):
        lines = EVENTS.read_text().splitlines()
        return [line for line in lines if re.search(rf"_{pid}$", line.split()[0])]
    return []


def _ended(pid: int) -> bool:
    try:
        return stat.state(pid) in "ZX"
    except ProcessGone:
        return True


@pytest.mark.guest("kprobe")
def test_a_tracer_that_is_killed(tmp_path: Path, attached: Attached) -> None:
    """No program, no active event, no helper stays; the CSV can be read to its last whole line."""
    csv_file = tmp_path / "a.csv"
    probe = ("--probe", attached.probe.name)
    work = command("showers", 1, 50, 1 << 30, 500_000)
    process = subprocess.Popen(
        cli.argv("--csv", csv_file, "-q", *probe, "--snapshot-interval", 50, "--", *work),
        stdout=subprocess.DEVNULL,
        env=cli.environment(),
    )
    children: list[int] = []
    try:
        _until(lambda: csv_file.exists() and csv_file.stat().st_size > 1 << 14)
        children = stat.children(process.pid)
        ours = _kprobes_of(os.getpid())
        workload, *helpers = sorted(children, key=lambda pid: _is_ours(pid))
        assert helpers, "memory is held by a helper process"
        process.kill()
        process.wait()
        _until(lambda: all(map(_ended, helpers)))
        assert not _ended(workload)  # it runs on, untraced
        for definition in _kprobes_of(process.pid):
            event = definition.partition(":")[2].split(" ")[0]
            assert (EVENTS.parent / "events" / event / "enable").read_text() == "0\n"
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    rows = _whole_lines(csv_file)
    assert [int(row["number"]) for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["count"] for row in rows)  # a column near the end of the line
    assert cli.meta(csv_file)["state"] == "running"

    # The next start sweeps up after it, and leaves a living tracer's (ours) alone.
    assert cli.run("-q", *probe, "--", "true").status == 0
    assert _kprobes_of(process.pid) == []
    assert _kprobes_of(os.getpid()) == ours


def _is_ours(pid: int) -> bool:
    return b"tracer.app.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_tracer_killed_before_its_command_began(tmp_path: Path) -> None:
    """The command, which waits for the hooks, never runs."""
    began = tmp_path / "began"
    process = subprocess.Popen(
        cli.argv("-q", "--", "touch", began), stdout=subprocess.DEVNULL, env=cli.environment()
    )
    _until(lambda: bool(stat.children(process.pid)))
    children = stat.children(process.pid)
    process.send_signal(signal.SIGSTOP)
    if not began.exists():
        process.kill()
        process.wait()
        _until(lambda: all(map(_ended, children)))
        assert not began.exists()
    process.kill()
    process.wait()


@pytest.mark.parametrize("mode", [0o4755, 0o4711, 0o0111])
def test_a_privileged_program_as_command(mode: int, tmp_path: Path) -> None:
    """Run as nobody: from its first instruction under trace, with the rights it would have."""
    build()
    csv_file = tmp_path / "a.csv"
    folder = Path(f"/tmp/pagefault-setuid.{os.getpid()}")
    folder.mkdir(mode=0o755)
    try:
        for program, source in (("show", "/usr/bin/id"), ("work", BINARY)):
            shutil.copyfile(source, folder / program)
            (folder / program).chmod(mode)
        shown = cli.run("-q", "-o", tmp_path / "o", "--user", "nobody", "--", folder / "show", "-u")
        assert (shown.status, shown.err) == (0, "")
        assert shown.out == ("0\n" if mode & 0o4000 else "65534\n")
        arguments = ("--no-wait", "--dir", folder, "anon-write", 101)
        done = cli.run(
            "-q", "--csv", csv_file, "--user", "nobody", "--", folder / "work", *arguments
        )
    finally:
        shutil.rmtree(folder)
    assert (done.status, done.err) == (0, "")
    start = int(re.search(r"range anon (\w+)", done.out)[1], 16)  # type: ignore[index]
    rows = cli.rows(csv_file)
    pages = [int(row["address"], 16) & ~4095 for row in rows]
    assert [page for page in pages if 0 <= page - start < 101 * 4096] == list(
        range(start, start + 101 * 4096, 4096)
    )
    assert {row["comm"] for row in rows} == {"work"}
    assert str(folder / "work") in {row["region"] for row in rows}
    cli.books(csv_file)


def test_the_target_of_a_killed_tracer_goes_on(tmp_path: Path) -> None:
    with Workload("anon-write", 101) as work:
        with cli.Attached(work.pid, tmp_path / "a.csv") as it:
            it.process.kill()
            it.process.wait()
        work.go()
        assert work.finish() == 0


@pytest.mark.guest("perf")
def test_two_tracers_on_one_target(attached: Attached, tmp_path: Path) -> None:
    """Each has all of it."""
    csv_file = tmp_path / "other.csv"
    with Workload("storm", 4, 211, 20) as work:
        before = witnesses.process_fault_count(work.pid)
        with (
            cli.Attached(work.pid, csv_file, "-q", "--probe", attached.probe.name) as other,
            Background(attached, work.pid) as live,
        ):
            work.go()
            counted = witnesses.process_fault_count(work.pid) - before
            result = live.end()
            done = other.end()
        assert (done.status, done.err) == (0, "")
        check(result.books, live, counted)
        books = cli.books(csv_file)
        assert books["kernel"] == result.books.kernel == counted
        assert books["traced"] + books["missed"] + books["lost"] == counted
        mine = {(int(row["tid"]), int(row["count"])) for row in live.log.rows}
        theirs = {(int(row["tid"]), int(row["count"])) for row in cli.rows(csv_file)}
        if not (books["missed"] or result.books.missed or books["lost"] or result.books.lost):
            assert mine == theirs


def test_an_overflow_is_reported_everywhere(tmp_path: Path) -> None:
    """In the summary, in FILE.meta.json, and by the exit status of --strict."""
    csv_file = tmp_path / "a.csv"
    with Workload("storm", 4, 211, 50) as work:
        before = witnesses.process_fault_count(work.pid)
        with cli.Attached(work.pid, csv_file, "-q", "--strict", "--buffer", "32K") as it:
            work.go()
            counted = witnesses.process_fault_count(work.pid) - before
            done = it.end()
    books = cli.books(csv_file)
    assert done.status == 121, done
    assert books["lost"] == cli.meta(csv_file)["lost"]
    assert books["lost"] > 0
    assert books["traced"] + books["lost"] == books["kernel"] == counted
    assert len(cli.rows(csv_file)) == books["traced"]
    assert f"{books['traced']} faults traced + {books['lost']} lost = {counted} the" in done.out
