"""Bad input: one line on stderr that says what to do, a status of its own, nothing left behind.

Most cases run in this process, through the same `run` that the program calls.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tracer.app.run
from tests.live import cli
from tests.live.workload import Workload, command
from tracer.app.cli import run
from tracer.common.errors import Exit, TraceError
from tracer.common.pipes import PIPE_CLOSED
from tracer.common.resources import bpf_dir
from tracer.probes.choose import attach
from tracer.procfs import stat

Fails = Callable[..., str]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Neither programs in the kernel nor descriptors, children or signal handlers of ours."""

    def ours() -> object:
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return sorted(os.listdir("/proc/self/fd")), stat.children(os.getpid()), handlers

    before = ours()
    with cli.nothing_left_attached():
        yield
        assert ours() == before


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fails:
    """Runs with these arguments, which must fail with this status, one line, and no file."""

    def check(status: int, *arguments: str | int | Path) -> str:
        made = set(tmp_path.iterdir())
        assert run([str(argument) for argument in arguments]) == status
        said = capsys.readouterr()
        assert said.err.startswith("pagefault-trace: ")
        assert said.err.count("\n") == 1
        assert said.out == ""
        assert set(tmp_path.iterdir()) == made
        return said.err

    return check


@pytest.fixture
def never_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake must be found out before tracing."""

    def unwanted(*_: object, **__: object) -> None:
        pytest.fail("a probe was attached")

    monkeypatch.setattr(tracer.app.run, "attach", unwanted)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that waits."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.usefixtures("never_attached")
def test_no_such_process(fails: Fails, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    message = fails(Exit.NO_TARGET, "--pid", process.pid, "--csv", tmp_path / "a.csv")
    assert f"no such process: {process.pid}" in message
    assert "no such process: 9999999999" in fails(Exit.NO_TARGET, "-p", "9999999999")


@pytest.mark.usefixtures("never_attached")
def test_a_kernel_thread_and_a_thread(fails: Fails) -> None:
    kernel = next(
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if stat.is_kernel_thread(int(path.name))
    )
    assert "is a kernel thread" in fails(Exit.NO_TARGET, "-p", kernel)
    with Workload("threads", 3, 2) as work:
        other = next(tid for tid in stat.threads(work.pid) if tid != work.pid)
        assert f"--pid {work.pid}" in fails(Exit.NO_TARGET, "-p", other)


def test_a_process_that_ends_during_attach(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended and waited for, and ended but still a zombie."""
    for reap in (True, False):
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)

        def ending(
            *arguments: object,
            process: subprocess.Popen[bytes] = process,
            reap: bool = reap,
            **_: object,
        ) -> object:
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reap else os.WNOWAIT))
            return attach("auto", bpf_dir())

        monkeypatch.setattr(tracer.app.run, "attach", ending)
        out = (tmp_path / "a.csv", "--pages-csv", tmp_path / "b.csv", "-o", tmp_path / "c.txt")
        message = fails(Exit.NO_TARGET, "--pid", process.pid, "--csv", *out)
        assert str(process.pid) in message
        process.communicate()


def test_not_root(tmp_path: Path) -> None:
    attach: list[str | int | Path] = ["--pid", os.getpid(), "--csv", tmp_path / "a.csv"]
    for arguments in (["-p", os.getpid()], attach):
        done = cli.run(*arguments, user=65534)
        assert done.status == Exit.NO_RIGHTS
        assert done.err == "pagefault-trace: tracing needs root; run it with sudo\n"
    assert cli.run("--", "true", user=65534).status == Exit.TRACER_FAILED


@pytest.mark.usefixtures("never_attached")
def test_commands_that_cannot_run(fails: Fails, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    assert "not found" in fails(Exit.NOT_FOUND, "--csv", tmp_path / "a.csv", "--", "no-such-one")
    assert "chmod +x" in fails(Exit.NOT_EXECUTABLE, "--", plain)
    assert "directory" in fails(Exit.NOT_EXECUTABLE, tmp_path)


@pytest.mark.usefixtures("never_attached")
@pytest.mark.parametrize("option", ["--csv", "--pages-csv", "--output"])
def test_files_that_cannot_be_written(
    fails: Fails, tmp_path: Path, sleeper: int, option: str
) -> None:
    there = tmp_path / "there"
    there.write_text("precious\n")
    first = tmp_path / "first.txt"  # opened before the one that fails, and taken back
    other = "--pages-csv" if option == "--output" else "--output"
    target = ("-p", sleeper, other, first)
    assert "directory first" in fails(Exit.OUTPUT, *target, option, tmp_path / "no" / "a.csv")
    assert "--force" in fails(Exit.OUTPUT, *target, option, there)
    fails(Exit.OUTPUT, *target, option, tmp_path)
    fails(Exit.OUTPUT, *target, option, "/proc/a.csv")
    assert there.read_text() == "precious\n"
    fails(Exit.TRACER_FAILED, option, there, "--", "true")


@pytest.mark.usefixtures("never_attached")
def test_a_meta_file_that_exists(fails: Fails, tmp_path: Path, sleeper: int) -> None:
    (tmp_path / "a.csv.meta.json").write_text("{}")
    message = fails(Exit.OUTPUT, "-p", sleeper, "--csv", tmp_path / "a.csv")
    assert "a.csv.meta.json exists" in message


def test_a_device_that_accepts_nothing() -> None:
    with Workload("anon-write", 11) as work:
        done = cli.run("-p", work.pid, "-d", "0.1", "--csv", "/dev/full", "-q")
    assert done.status == Exit.OUTPUT
    assert done.err.startswith("pagefault-trace: cannot write /dev/full: No space left on device;")
    assert done.err.count("\n") == 1


def test_the_command_runs_on_when_the_disk_is_full(tmp_path: Path) -> None:
    """The line comes at once, what is written is whole, and the status says it was the tracer."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", small], check=True)
    try:
        done = cli.run("--csv", small / "a.csv", "-q", "--", *command("anon-write", 2003))
        written = cli.rows(small / "a.csv")
        kept = {path.name for path in small.iterdir()}
    finally:
        subprocess.run(["umount", small], check=True)
    assert done.status == Exit.TRACER_FAILED
    assert "No space left on device; free some space" in done.err
    assert done.err.count("\n") == 1
    assert "\ndone\n" in done.out  # the workload's last line
    assert 100 < len(written) < 2003
    assert kept == {"a.csv", "a.csv.meta.json"}


def test_standard_output_full_or_closed() -> None:
    for redirection, said in ((">/dev/full", "No space left"), (">&-", "output is closed")):
        line = f'"$@" {redirection}'
        done = subprocess.run(
            ["sh", "-c", line, "sh", *cli.argv("-q", "-p", os.getpid(), "-d", "0.1")],
            env=cli.environment(),
            capture_output=True,
            text=True,
            timeout=cli.SECONDS,
        )
        assert done.returncode == Exit.OUTPUT
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def _into_head(*arguments: str | int) -> subprocess.CompletedProcess[str]:
    """`pagefault-trace … | head -1; echo ${PIPESTATUS[0]}`."""
    line = '"$@" | head -1; exit ${PIPESTATUS[0]}'
    return subprocess.run(
        ["bash", "-c", line, "bash", *cli.argv(*arguments)],
        env=cli.environment(),
        capture_output=True,
        text=True,
        timeout=cli.SECONDS,
    )


def test_a_reader_that_leaves() -> None:
    """A command keeps its status; a trace of a process ends, as any program in a pipe does."""
    lines = _into_head("--", "sh", "-c", 'exec >/dev/null; "$@"; exit 3', "sh", "/bin/true")
    assert (lines.returncode, lines.stderr) == (3, "")
    assert lines.stdout.split()[:2] == ["TIME", "THREAD"]
    faults = _into_head("--csv", "-", "-q", "--", "sh", "-c", "exec >/dev/null; true; exit 4")
    assert faults.returncode == 4
    assert faults.stdout.startswith("number,time_ns,")
    with subprocess.Popen(cli.python(cli.TOUCHING)) as process:
        try:
            for arguments in ((), ("--csv", "-")):
                done = _into_head("-p", process.pid, *arguments)
                assert done.returncode == PIPE_CLOSED
                assert "Traceback" not in done.stderr
        finally:
            process.kill()


def test_bcc_missing_or_another(
    fails: Fails, tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that compiles searches bcc where this one would."""
    elsewhere = [folder for folder in sys.path if not (Path(folder) / "bcc").exists()]
    assert len(elsewhere) < len(sys.path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", elsewhere)
        message = fails(Exit.NO_BCC, "-p", sleeper, "--csv", tmp_path / "a.csv")
        assert "python3-bpfcc" in message
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bcc").mkdir()
        (Path(folder) / "bcc" / "__init__.py").write_text("x = 1\n")
        monkeypatch.syspath_prepend(folder)
        message = fails(Exit.NO_BCC, "-p", sleeper, "--csv", tmp_path / "a.csv")
        assert f"{folder}/bcc is not the BPF Compiler Collection" in message
        assert "pip uninstall bcc" in message
        fails(Exit.TRACER_FAILED, "--", "true")


@pytest.mark.parametrize("probe", ["fentry", "kprobe", "perf"])
def test_a_forced_probe_is_used_or_refused(
    fails: Fails, tmp_path: Path, sleeper: int, probe: str
) -> None:
    try:
        attach(probe, bpf_dir(), 1 << 20).close()
    except TraceError:
        message = fails(Exit.NO_PROBE, "--probe", probe, "-p", sleeper, "--csv", tmp_path / "a.csv")
        assert f"refuses the probe {probe}" in message
        assert "--probe auto" in message
        fails(Exit.TRACER_FAILED, "--probe", probe, "--", "true")
    else:
        assert cli.run("--probe", probe, "-p", sleeper, "-d", "0.1", "-q").status == 0


# -- not enough memory


@pytest.mark.parametrize("mebibytes", [50, 100, 200, 300, 400])
def test_few_addresses(tmp_path: Path, mebibytes: int) -> None:
    """Enough, or one line that says what there is too little of; never a traceback."""
    limit = (mebibytes << 20,) * 2
    done = subprocess.run(
        cli.argv("--quiet", "--csv", tmp_path / "a.csv", "--", "true"),
        capture_output=True,
        text=True,
        env=cli.environment() | {"PAGEFAULT_CACHE": ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    if done.returncode == 0:
        assert mebibytes > 100
        assert "the kernel counted" in done.stdout
        return
    assert done.returncode == Exit.TRACER_FAILED, done.stderr
    assert f"the limit is {mebibytes} MiB of address space (ulimit -v)" in done.stderr
    assert done.stderr.startswith("pagefault-trace: there is not enough memory")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group that may have 64 MiB; of whichever version has the memory here."""
    name = f"pagefault-trace-{os.getpid()}"
    for root, limit in (
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    ):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            with (group / limit).open("r+") as file:  # there is none in a mere directory
                file.write("67108864")
        except OSError:
            group.rmdir()
            continue
        yield group
        with contextlib.suppress(OSError):  # its last process takes a moment to go
            time.sleep(0.2)
            group.rmdir()
        return
    pytest.skip("no control group with a limit of memory can be made here")


def test_a_control_group_with_little_memory(small_group: Path) -> None:
    """Memory lacks, not rights; where the kernel kills the tracer, the line before says why."""
    script = f'echo $$ > {small_group}/cgroup.procs; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *cli.argv("--quiet", "--", "true")],
        capture_output=True,
        text=True,
        env=cli.environment(),
    )
    assert done.returncode in (Exit.TRACER_FAILED, -signal.SIGKILL)
    warned, *failed = done.stderr.splitlines()
    assert "the control group has 64 MiB of memory, and the tracer takes some 144" in warned
    assert "smaller --buffer" in warned
    assert "not permitted" not in done.stderr
    if done.returncode == Exit.TRACER_FAILED:
        (line,) = failed
        assert line.startswith("pagefault-trace: there is not enough memory")
        assert "64 MiB of its control group" in line
