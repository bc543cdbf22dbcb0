"""Commands we start: when they run, as whom, how they end, and their memory afterwards.

Needs root. Commands have our stdin and stdout, so what they say comes through capfd.
"""

import ctypes
import os
import re
import select
import shutil
import signal
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.workload import BINARY, command, parse
from tracer.common.errors import Exit, TraceError
from tracer.files.identity import Identity, resolve_user
from tracer.procfs import stat
from tracer.target.command import Command

Capture = pytest.CaptureFixture[str]
SECONDS = 60.0
PRESENT = 1 << 63


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Neither descriptors nor children."""
    before = len(os.listdir("/proc/self/fd")), stat.children(os.getpid())
    yield
    assert (len(os.listdir("/proc/self/fd")), stat.children(os.getpid())) == before


@pytest.fixture
def shared_dir() -> Iterator[Path]:
    """A directory every user can reach, where set-uid programs keep their rights."""
    for parent in ("/var/tmp", "/tmp", str(BINARY.parent)):
        if os.statvfs(parent).f_flag & os.ST_NOSUID:
            continue
        with tempfile.TemporaryDirectory(dir=parent) as name:
            os.chmod(name, 0o755)
            yield Path(name)
        return
    pytest.fail("no directory without nosuid")


def nobody() -> Identity:
    identity = resolve_user("nobody", {})
    assert identity is not None
    return identity


def run(*argv: str, identity: Identity | None = None, pin: bool = True) -> int | None:
    with Command(argv, os.environ, identity, pin=pin) as it:
        it.start()
        return it.wait(SECONDS)


def sh(script: str, identity: Identity | None = None) -> int | None:
    return run("sh", "-c", script, identity=identity)


def test_exit_statuses_are_a_shells() -> None:
    assert run("true") == 0
    assert sh("exit 7") == 7
    assert sh("kill -9 $$") == 137
    assert sh("kill -SEGV $$") == 139


def test_status_is_known_before_and_after_reaping() -> None:
    with Command(["sh", "-c", "exit 3"], os.environ) as it:
        assert it.poll() is None
        it.start()
        assert it.wait(SECONDS) == it.exit_status == 3
        assert stat.state(it.pid) == "Z"
    assert it.exit_status == 3
    it.send_signal(signal.SIGTERM)  # nobody is there, nothing happens


def test_it_runs_when_started_and_not_before(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with Command(["touch", str(made)], os.environ) as it:
        assert it.wait(0) is None
        assert not made.exists()
        it.start()
        it.wait(SECONDS)
        assert made.exists()


def test_not_started_it_never_runs(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with Command(["touch", str(made)], os.environ) as it:
        pass
    assert it.exit_status == 137
    assert not made.exists()


def test_closed_while_running_it_runs_on() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    with Command(["sh", "-c", f"read line </dev/fd/{reader}; exit 5"], os.environ) as it:
        it.start()
        assert it.pin is not None
        it.close()
        assert it.pin is None
        os.write(writer, b"line\n")
        assert it.wait(SECONDS) == 5
    os.close(reader)
    os.close(writer)


def test_its_pages_can_be_read_after_its_end(capfd: Capture) -> None:
    with Command(command("anon-write", 101), os.environ) as it:
        it.start()
        assert it.pin is not None
        assert it.pin_reason == ""
        assert it.wait(SECONDS) == 0
        where = parse(capfd.readouterr().out.splitlines()).ranges["anon"]
        data = os.pread(it.pin.pagemap_fd, (101 + 2) * 8, (where.start // 4096 - 1) * 8)
        present = [bool(entry & PRESENT) for entry in struct.unpack("103Q", data)]
        assert present == [False, *[True] * 101, False]
        assert f"{where.start:x}-{where.end:x} rw-p".encode() in it.pin.read_maps()


def test_repin_pins_the_memory_of_a_later_exec() -> None:
    reader, writer = os.pipe()
    ready, notify = os.pipe()
    os.set_inheritable(reader, True)
    os.set_inheritable(notify, True)
    script = f"exec sh -c 'echo >/dev/fd/{notify}; read line </dev/fd/{reader}' second-program"
    with Command(["sh", "-c", script], os.environ) as it:
        it.start()
        os.close(notify)
        assert os.read(ready, 1)
        assert it.pin is not None
        first = it.pin.read_maps()
        it.repin()
        assert it.pin is not None
        assert it.pin.read_maps() != first
        os.write(writer, b"\n")
        assert it.wait(SECONDS) == 0
        assert b"[stack]" in it.pin.read_maps()
        it.repin()  # too late: it has ended
        assert it.pin is None
        assert it.pin_reason
    for fd in (reader, writer, ready):
        os.close(fd)


def test_nothing_is_attached_while_it_runs(capfd: Capture) -> None:
    assert sh("grep TracerPid /proc/$$/status") == 0
    assert capfd.readouterr().out == "TracerPid:\t0\n"
    traceme = "import ctypes; print(ctypes.CDLL(None).ptrace(0, 0, None, None))"
    assert run(sys.executable, "-c", traceme) == 0
    assert capfd.readouterr().out == "0\n"


def test_pinning_adds_no_fault() -> None:
    """Page faults from exec to end, by a perf event that starts at exec; no address is random."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.personality(0x0040000)  # ADDR_NO_RANDOMIZE
    try:
        pinned, bare = ([_faults_after_exec(libc, pin) for _ in range(3)] for pin in (True, False))
    finally:
        libc.personality(0)
    assert min(pinned) == min(bare) > 0


def _faults_after_exec(libc: ctypes.CDLL, pin: bool) -> int:
    disabled, enable_on_exec = 1 << 0, 1 << 12
    # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS (include/uapi/linux/perf_event.h)
    attributes = struct.pack("IIQQQQQ", 1, 112, 2, 0, 0, 0, disabled | enable_on_exec)
    with Command(["true"], os.environ, pin=pin) as it:
        fd = libc.syscall(298, attributes.ljust(112, b"\0"), it.pid, -1, -1, 8)
        assert fd >= 0
        it.start()
        it.wait(SECONDS)
        assert (it.pin is not None) == pin
        count = int.from_bytes(os.read(fd, 8), "little")
        os.close(fd)
    return count


def test_set_uid_programs_keep_their_rights(shared_dir: Path, capfd: Capture) -> None:
    program = shared_dir / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    assert run(str(program), identity=nobody()) == 0
    said = capfd.readouterr().out
    assert said.startswith(f"uid={nobody().uid}(nobody)")
    assert "euid=0(root)" in said


def test_it_runs_as_the_user(capfd: Capture) -> None:
    assert sh('id -u; id -g; id -G; echo "$HOME $USER $LOGNAME"', nobody()) == 0
    user = nobody()
    groups = " ".join(map(str, user.groups))
    expected = f"{user.uid}\n{user.gid}\n{groups}\n{user.home} nobody nobody\n"
    assert capfd.readouterr().out == expected


def test_signals_are_as_exec_would_have_them(capfd: Capture) -> None:
    """Python ignores SIGPIPE; what our caller ignores (nohup) stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        assert run("cat", "/proc/self/status") == 0
        ours = int(re.findall(r"SigIgn:\t(\w+)", Path("/proc/self/status").read_text())[0], 16)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR1}
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    status = dict(line.split(":\t") for line in capfd.readouterr().out.splitlines())
    blocked, ignored, caught = (int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt"))
    assert ignored & 1 << (signal.SIGHUP - 1)
    # Our own caller may ignore others, which Python cannot even name.
    pythons = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert (blocked, ignored, caught) == (0, ours & ~pythons, 0)


def test_it_has_our_stdin_process_group_and_what_a_shell_passes(capfd: Capture) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"through a pipe\n")
    os.close(writer)
    passed, secret = os.memfd_create("passed", 0), os.memfd_create("secret")
    os.set_inheritable(passed, True)
    ours = os.dup(0)
    os.dup2(reader, 0)
    try:
        with Command(["sh", "-c", "cat; ls /proc/$$/fd"], os.environ) as it:
            assert os.getpgid(it.pid) == os.getpgrp()
            it.start()
            assert it.wait(SECONDS) == 0
    finally:
        os.dup2(ours, 0)
        for fd in (ours, reader, passed, secret):
            os.close(fd)
    first, *fds = capfd.readouterr().out.splitlines()
    assert first == "through a pipe"
    assert str(passed) in fds
    assert str(secret) not in fds


def test_exec_failures_have_their_own_codes(shared_dir: Path) -> None:
    script = shared_dir / "script"

    def fails(text: str, mode: int, identity: Identity | None = None) -> TraceError:
        script.write_text(text)
        script.chmod(mode)
        with pytest.raises(TraceError) as caught:
            run(str(script), identity=identity)
        return caught.value

    assert fails("#!/no/such\n", 0o755).code == Exit.NOT_FOUND
    assert fails("echo no interpreter line\n", 0o755).code == Exit.NOT_EXECUTABLE
    theirs = fails("#!/bin/sh\n", 0o700, nobody())
    assert theirs.code == Exit.NOT_EXECUTABLE
    assert "for user nobody" in theirs.message
    assert "--user root" in theirs.hint


def test_a_program_beside_ours_is_found_outside_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """`pagefault-trace -- multimap`, both in a virtual environment sudo's PATH does not know."""
    for name in ("pagefault-trace", "multimap"):
        (tmp_path / name).write_text("#!/bin/sh\necho found\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "pagefault-trace")])
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    assert run("multimap") == 0
    assert capfd.readouterr().out == "found\n"


def test_ended_while_it_waited() -> None:
    """Ctrl-C before the hooks are in place."""
    with Command(["true"], os.environ) as it:
        it.send_signal(signal.SIGINT)
        assert it.wait(SECONDS) == 130
        it.start()
        assert it.exit_status == 130
        assert it.pin is None
        assert it.pin_reason


def test_stopped_while_it_waited_it_begins_once_continued(capfd: Capture) -> None:
    with Command(["sh", "-c", "echo ran"], os.environ) as it:
        it.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, it.pid, os.WSTOPPED)
        threading.Timer(0.1, it.send_signal, [signal.SIGCONT]).start()
        it.start()
        assert it.pin is not None
        assert it.wait(SECONDS) == 0
    assert capfd.readouterr().out == "ran\n"


def test_without_a_pin_it_runs_all_the_same() -> None:
    with Command(["true"], os.environ, pin=False) as it:
        it.start()
        assert it.pin is None
        assert it.pin_reason == "not asked for"
        assert it.wait(SECONDS) == 0


def test_refused_ptrace_still_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.target.command._ptrace", lambda request, pid, data: 1)
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    with Command(["sh", "-c", f"read line </dev/fd/{reader}"], os.environ) as it:
        it.start()
        assert it.pin is not None  # late, but it was still there
        os.write(writer, b"\n")
        assert it.wait(SECONDS) == 0
    os.close(reader)
    os.close(writer)


def test_the_waiting_command_ends_with_us() -> None:
    """A tracer that is killed before it starts the command leaves nothing waiting."""
    reader, writer = os.pipe()
    tracer = os.fork()
    if tracer == 0:
        it = Command(["true"], os.environ)
        os.write(writer, struct.pack("i", it.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    (waiting,) = struct.unpack("i", os.read(reader, 4))
    os.waitpid(tracer, 0)
    try:
        pidfd = os.pidfd_open(waiting)
    except ProcessLookupError:
        pass
    else:
        assert select.select([pidfd], [], [], SECONDS)[0]
        os.close(pidfd)
    os.close(reader)
    os.close(writer)
