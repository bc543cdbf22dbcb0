"""Outputs, and files of targets, on a file system that answers nothing any more.

Tracing goes on where nothing of it is needed, and where it is, a second Ctrl-C gets out.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import cli, failing
from tests.live.disk import Disk, disk
from tests.live.failing import CSV, META, TEXT
from tracer.common.errors import Exit
from tracer.files.served import may_stall, resolved

PATIENCE_S = 30.0  # a limit for a busy machine: what it takes is a second or two


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def target() -> Iterator[int]:
    with subprocess.Popen(cli.python(cli.TOUCHING)) as process:
        yield process.pid
        assert process.poll() is None  # whatever became of the trace
        process.kill()


def started(*arguments: str | int | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        cli.argv(*arguments),
        text=True,
        env=cli.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_stall(slow: Disk, tracer: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + cli.SECONDS
    while not slow.stalled():
        assert tracer.poll() is None, tracer.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_it_runs(slow: Disk, tracer: "subprocess.Popen[str]") -> None:
    """FILE.meta.json says so; a row may have been written before."""
    deadline = time.monotonic() + cli.SECONDS
    while not any(each.operation.startswith("RENAME") for each in slow.asked()):
        assert tracer.poll() is None, tracer.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(tracer: "subprocess.Popen[str]", number: int) -> cli.Done:
    """By two signals; the first may find it at what it would have done anyway."""
    tracer.send_signal(number)
    time.sleep(0.2)  # two in a moment may count as one
    tracer.send_signal(number)
    out, err = tracer.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err
    return cli.Done(tracer.returncode, out, err)


@pytest.mark.parametrize(
    ("operation", "name"), [("GETATTR|LOOKUP", ""), ("CREATE", CSV), ("CREATE", TEXT)]
)
def test_while_files_are_opened(slow: Disk, target: int, operation: str, name: str) -> None:
    """Nothing has begun: the signal's own status, and no word."""
    slow.stall(operation, name)
    with cli.nothing_left_attached():
        tracer = started("--pid", target, *failing.options(slow.folder))
        wait_for_stall(slow, tracer)
        done = ended(tracer, signal.SIGTERM)
    assert (done.status, done.out, done.err) == (128 + signal.SIGTERM, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_rows_are_written(slow: Disk, target: int, number: signal.Signals) -> None:
    """What is elsewhere is written all the same."""
    with cli.nothing_left_attached():
        tracer = started("--pid", target, "--csv", slow.folder / CSV, "-q")
        wait_until_it_runs(slow, tracer)
        slow.stall("WRITE", CSV)
        wait_for_stall(slow, tracer)
        done = ended(tracer, number)
    assert done.status == Exit.OUTPUT
    assert failing.failed(done) == {CSV}
    assert "its file system does not answer; check its server" in done.err
    assert "books: " in done.out
    slow.go_on()
    assert cli.meta(slow.folder / CSV)["state"] == "failed"


def test_a_server_that_stands_still(slow: Disk, target: int) -> None:
    """It takes no questions either; then the child that asks can be killed."""
    tracer = started("--pid", target, "--csv", slow.folder / CSV, "-q")
    wait_until_it_runs(slow, tracer)
    slow.process.send_signal(signal.SIGSTOP)
    try:
        done = ended(tracer, signal.SIGINT)
    finally:
        slow.process.send_signal(signal.SIGCONT)
    assert done.status == Exit.OUTPUT
    assert failing.failed(done) == {CSV, META}
    assert "books: " in done.out


@pytest.mark.parametrize(
    ("operation", "name"),
    [("FSYNC", CSV), ("FLUSH", CSV), ("RENAME2|RENAME", META), ("WRITE", TEXT)],
)
def test_at_the_end_of_a_command(slow: Disk, operation: str, name: str) -> None:
    """It has run to its end; two signals end the waiting for the disk."""
    nth = {META: 2, TEXT: 2}.get(name, 1)
    slow.stall(operation, name, nth)
    with cli.nothing_left_attached():
        files = ("--csv", slow.folder / CSV, "-o", slow.folder / TEXT)
        tracer = started(*files, "--", "echo", "ran")
        wait_for_stall(slow, tracer)
        done = ended(tracer, signal.SIGINT)
    assert done.status == Exit.TRACER_FAILED
    assert done.out == "ran\n"
    assert name in failing.failed(done)


def test_what_is_waited_for_is_reported(slow: Disk, target: int) -> None:
    slow.stall("WRITE", CSV)
    tracer = started("--pid", target, "--csv", slow.folder / CSV, "-q")
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    assert line == (
        f"pagefault-trace: waiting for {slow.folder / CSV}, whose file system does not answer; "
        "press Ctrl-C twice to give up\n"
    )
    slow.go_on()
    tracer.send_signal(signal.SIGINT)
    assert tracer.communicate(timeout=PATIENCE_S)[1] == ""
    assert tracer.returncode == 0
    assert cli.rows(slow.folder / CSV)
    assert cli.meta(slow.folder / CSV)["state"] == "finished"


def test_one_ctrl_c_ends_a_report(slow: Disk, tmp_path: Path) -> None:
    assert failing.traced(tmp_path).status == 0
    slow.stall("WRITE", "out.folded")
    output = slow.folder / "out.folded"
    arguments = ["export", "--folded", str(tmp_path / CSV), "-o", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer.reporting.cli", *arguments],
        env=cli.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_stall(slow, process)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_S)[1] == ""
    assert process.returncode == 128 + signal.SIGINT


# Lives on that disk: its own directory, code of its, and what names that code.
ON_DISK = """
import ctypes, mmap, os, sys
folder = sys.argv[1]
os.chdir(folder)
descriptor = os.open("code", os.O_RDONLY)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
readable_code, private = 5, 2
at = libc.mmap(None, ctypes.c_size_t(4096), readable_code, private, descriptor, ctypes.c_long(0))
os.close(descriptor)
ctypes.CFUNCTYPE(None)(at)()
memory = mmap.mmap(-1, 1 << 24, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print("ready", flush=True)
sys.stdin.readline()
for place in range(0, 1 << 22, 4096):
    memory[place] = 1
    ctypes.CFUNCTYPE(None)(at)()
print("done", flush=True)
sys.stdin.readline()
"""


def test_targets_that_live_there(slow: Disk, tmp_path: Path) -> None:
    """Their directory, code that they run, and the map that names it: none is asked for."""
    (slow.folder / "code").write_bytes(b"\xc3" * 4096)
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f'mount --bind {slow.folder} /tmp && exec "$@"', "sh",
         os.path.realpath(sys.executable), *cli.python(ON_DISK)[1:], "/tmp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as target:  # fmt: skip
        assert target.stdin is not None
        assert target.stdout is not None
        assert target.stdout.readline() == "ready\n"
        (slow.folder / f"perf-{target.pid}.map").write_text("1000 10 jitted\n")
        slow.asked()
        slow.stall("GETATTR|LOOKUP|OPEN|READ|STATFS|FLUSH|RELEASE|READDIR|OPENDIR")
        with cli.Attached(
            target.pid, tmp_path / CSV, "--symbols", "--stacks", "-q", "--drain", "5"
        ) as tracer:
            target.stdin.write("\n")
            target.stdin.flush()
            assert target.stdout.readline() == "done\n"
            began = time.monotonic()
            done = tracer.end()
            assert time.monotonic() - began < PATIENCE_S
        assert (done.status, done.err) == (0, "")
        assert slow.stalled() == []
        target.kill()
    assert len(cli.rows(tmp_path / CSV)) >= 1024


def test_what_is_known_without_asking(slow: Disk, tmp_path: Path) -> None:
    """A path leads there by links, too, and out of it again; nothing is looked up there."""
    (slow.folder / "sub").mkdir()
    (tmp_path / "way").symlink_to(slow.folder)
    (tmp_path / "round").symlink_to("way/sub")
    (tmp_path / "loop").symlink_to("loop")
    slow.asked()
    slow.stall("GETATTR|LOOKUP")
    for path in ("disk", "disk/a", "way/a", "round/a", "disk/../disk/a", "./way"):
        assert may_stall(f"{tmp_path}/{path}"), path
    for path in ("", "a", "no/such", "loop/a", "a/../b", "/../.."):
        assert not may_stall(f"{tmp_path}/{path}"), path
    assert resolved(f"{tmp_path}/round/a") == f"{slow.folder}/sub/a"
    assert resolved(f"{tmp_path}/x/../way") == str(slow.folder)
    assert os.path.realpath(tmp_path) == resolved(str(tmp_path))
    assert slow.stalled() == slow.asked() == []
