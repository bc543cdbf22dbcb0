"""Control groups with too little memory: around a command, and around the tracer."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import witnesses
from tests.live import cli
from tests.live.features import Group
from tests.live.workload import Workload, command
from tracer.probes.choose import Attached

GUEST = bool(os.environ.get("PAGEFAULT_GUEST"))
LITTLE = 16 << 20
PAGES = 2 * LITTLE >> 12  # twice what there is room for
# What a tracer may get: from too little to begin with to what it needs.
LIMITS = [24] if GUEST else [8, 24, 48, 96, 160]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with cli.nothing_left_attached():
        yield


def within(group: Group, argv: list[str]) -> list[str]:
    """The command in that group from its first instruction on."""
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.path / "cgroup.procs"), *argv]


def test_a_command_that_the_kernel_kills(memcg: Callable[..., Group], tmp_path: Path) -> None:
    """The exit status is that of a shell whose command was killed, also in meta.json."""
    group = memcg(LITTLE)
    work = within(group, command("anon-write", PAGES))
    done = cli.run("-q", "--csv", tmp_path / "a.csv", "--", *work)
    assert done.status == 128 + signal.SIGKILL, done
    books = cli.books(tmp_path / "a.csv")
    assert LITTLE >> 13 < books["traced"] == books["kernel"] - books["missed"]
    assert cli.meta(tmp_path / "a.csv")["exit_status"] == done.status


@pytest.mark.guest("perf")  # version 2 of control groups
@pytest.mark.parametrize("mib", LIMITS)
def test_a_tracer_with_little_memory(
    mib: int, attached: Attached, memcg: Callable[..., Group], tmp_path: Path
) -> None:
    """It works, says that memory is short, or is killed; its target is none the worse for it."""
    group = memcg(mib << 20)
    csv_file = tmp_path / "a.csv"
    with Workload("anon-write", 20_011) as work:
        options: tuple[str | int | Path, ...] = (
            "--pid",
            work.pid,
            "--csv",
            csv_file,
            "-q",
            "--buffer",
            "8M",
        )
        options += ("--probe", attached.probe.name)
        tracer = subprocess.Popen(
            within(group, cli.argv(*options)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.environment(),
        )
        try:
            deadline = time.monotonic() + cli.SECONDS
            while tracer.poll() is None and not _running(csv_file):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            before = witnesses.process_fault_count(work.pid)
            work.go()
            counted = witnesses.process_fault_count(work.pid) - before
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
            _, err = tracer.communicate(timeout=cli.SECONDS)
        finally:
            tracer.kill()
            tracer.wait()
        assert work.finish() == 0
    if tracer.returncode == 0:
        books = cli.books(csv_file)
        assert books["kernel"] == counted
    elif tracer.returncode == 125:
        assert "there is not enough memory" in err
        assert f"{mib} MiB of its control group" in err
    else:
        assert tracer.returncode == -signal.SIGKILL
        assert f"the control group has {mib} MiB of memory" in err or mib < 16  # no room for words


def _running(csv_file: Path) -> bool:
    meta = Path(f"{csv_file}.meta.json")
    return meta.exists() and meta.stat().st_size > 0
