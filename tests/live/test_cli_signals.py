"""How a trace ends: exit statuses, Ctrl-C, SIGTERM, terminals; through the program itself."""

import contextlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.live import cli
from tests.live.workload import Workload, command, parse
from tracer.procfs import stat

PAGES = 101


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with cli.nothing_left_attached():
        yield


@pytest.mark.guest
def test_a_killed_commands_status_and_its_last_pages(tmp_path: Path) -> None:
    work = " ".join(command("anon-write", PAGES))
    script = f"{work}; kill -9 $$"
    done = cli.run("--csv", tmp_path / "a.csv", "-q", "--", "sh", "-c", script)
    assert done.status == 128 + signal.SIGKILL
    assert cli.meta(tmp_path / "a.csv")["exit_status"] == done.status
    where = parse(done.out.splitlines()).ranges["anon"]
    rows = cli.rows(tmp_path / "a.csv")
    pages = [int(row["address"], 16) & ~4095 for row in rows]
    assert [page for page in pages if where.start <= page < where.end] == where.addresses()
    cli.books(tmp_path / "a.csv")


def test_a_commands_own_status() -> None:
    assert cli.run("-q", "--", "sh", "-c", "exit 7").status == 7


@pytest.mark.guest
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_attached_a_signal_ends_the_trace(tmp_path: Path, number: signal.Signals) -> None:
    """Summary printed, CSV complete, status 0; the target goes on."""
    with Workload("anon-write", PAGES) as work:
        with cli.Attached(work.pid, tmp_path / "a.csv") as attached:
            work.go()
            done = attached.end(number)
        assert work.finish() == 0
        where = work.range()
    assert (done.status, done.err) == (0, "")
    pages = [int(row["address"], 16) & ~4095 for row in cli.rows(tmp_path / "a.csv")]
    assert [page for page in pages if where.start <= page < where.end] == where.addresses()
    assert cli.meta(tmp_path / "a.csv")["state"] == "finished"
    books = cli.books(tmp_path / "a.csv")
    assert f"books: {books['traced']} faults traced = {books['kernel']} the kernel" in done.out


def test_the_trace_ends_with_its_target(tmp_path: Path) -> None:
    csv_file = tmp_path / "a.csv"
    with Workload("anon-write", PAGES) as work, cli.Attached(work.pid, csv_file, "-q") as it:
        work.go()
        assert work.finish() == 0
        assert it.end(None).status == 0
    assert cli.books(tmp_path / "a.csv")["traced"] >= PAGES


def test_sigterm_is_passed_on() -> None:
    script = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("ready", flush=True)
while True: time.sleep(0.05)  # of a signal just before pause(2), that would not know
"""
    process = subprocess.Popen(
        cli.argv("--quiet", "--", *cli.python(script)),
        stdout=subprocess.PIPE,
        text=True,
        env=cli.environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, _ = process.communicate(timeout=cli.SECONDS)
    assert process.returncode == 9
    assert "the command ended with status 9" in out


class Terminal:
    """pagefault-trace in a terminal of its own, `columns` wide."""

    def __init__(self, *arguments: str, columns: int = 80) -> None:
        self.said = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.execve(sys.executable, cli.argv(*arguments), cli.environment() | {"TERM": "xterm"})

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def read(self) -> bool:
        """Something more, or False at the end."""
        assert select.select([self._fd], [], [], cli.SECONDS)[0], self.said
        try:
            chunk = os.read(self._fd, 1 << 16)
        except OSError:  # EIO: nobody has the other side any more
            return False
        self.said += chunk.decode()
        return bool(chunk)

    def expect(self, word: str) -> None:
        while word not in self.said:
            assert self.read(), self.said

    def settle(self) -> None:
        """Wait until it sleeps with no signal pending: two Ctrl-C in a moment may count as one."""
        deadline = time.monotonic() + cli.SECONDS
        while True:
            status = Path(f"/proc/{self.pid}/status").read_text()
            if re.search(r"^State:\tS", status, re.M) and re.search(r"^ShdPnd:\t0+$", status, re.M):
                return
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def status(self) -> int:
        """The exit status, once it has ended; what it said is all there then."""
        pidfd = os.pidfd_open(self.pid)
        while not select.select([pidfd], [], [], 0)[0]:
            if not select.select([self._fd, pidfd], [], [], cli.SECONDS)[0]:
                raise AssertionError(self.said)
            if select.select([self._fd], [], [], 0)[0] and not self.read():
                break
        while select.select([self._fd], [], [], 0)[0] and self.read():
            pass
        os.close(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def terminal(*arguments: str, columns: int = 80) -> Iterator[Terminal]:
    it = Terminal(*arguments, columns=columns)
    try:
        yield it
    finally:
        it.close()


COUNTING = """
import os, signal, time
def count(*_, seen=[]):
    seen.append(1)
    os.write(1, b"interrupt %d\\n" % len(seen))
    if len(seen) == LAST: os._exit(3)
signal.signal(signal.SIGINT, count)
os.write(1, b"pid %d ready\\n" % os.getpid())
while True: time.sleep(0.05)
"""


def test_ctrl_c_is_the_commands() -> None:
    """The trace ends with it, and has its status."""
    with terminal("-q", "--", *cli.python(COUNTING.replace("LAST", "1"))) as it:
        it.expect("ready")
        it.type("\x03")
        assert it.status() == 3
        assert "interrupt 1" in it.said
        assert it.said.index("interrupt 1") < it.said.index("books:")


def test_a_second_ctrl_c_ends_the_trace() -> None:
    """Whatever the command makes of it."""
    with terminal("-q", "--", *cli.python(COUNTING.replace("LAST", "0"))) as it:
        it.expect("ready")
        pid = int(re.findall(r"pid (\d+)", it.said)[0])
        it.type("\x03")
        it.expect("interrupt 1")
        it.settle()
        it.type("\x03")
        it.expect("books:")
        assert it.status() == 128 + signal.SIGINT
        assert "interrupt 2" in it.said
        assert stat.exists(pid)
        os.kill(pid, signal.SIGKILL)


def test_a_narrow_terminal() -> None:
    """Colours, and no line wider than the terminal; the command has it as its own."""
    script = "test -t 0 && test -t 1 && echo tty; stty size"
    with terminal("--", "sh", "-c", script, columns=60) as it:
        assert it.status() == 0
    assert "\x1b[" in it.said
    plain = re.sub(r"\x1b\[[0-9;]*m", "", it.said).split("\r\n")
    assert max(map(len, plain)) <= 60
    assert "tty" in plain
    assert "24 60" in plain
    assert plain[2].split() == ["TIME", "PAGE", "FRAME", "KIND", "LATENCY"]
    assert sum(bool(re.match(r" *\d+\.\d+ 0x\w+000 ", line)) for line in plain) > 20


def test_check_on_a_terminal() -> None:
    with terminal("--check", columns=80) as it:
        assert it.status() == 0
    assert "\x1b[" in it.said
    plain = re.sub(r"\x1b\[[0-9;]*m", "", it.said)
    assert max(map(len, plain.split("\r\n"))) <= 80
    assert "--probe auto selects" in plain


def test_a_signal_during_set_up_leaves_nothing() -> None:
    """The command never begins."""
    with tempfile.TemporaryDirectory() as folder:
        made, csv_file = Path(folder) / "made", Path(folder) / "a.csv"
        process = subprocess.Popen(
            cli.argv("--csv", csv_file, "--", "touch", made), env=cli.environment()
        )
        deadline = time.monotonic() + cli.SECONDS
        while not csv_file.exists():  # opened before the probe is compiled
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.terminate()
        assert process.wait(cli.SECONDS) == 128 + signal.SIGTERM
        assert os.listdir(folder) == []


# A page that is written and given back as fast as it goes: more than can be followed.
STORM = """
import mmap
memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print("ready", flush=True)
while True:
    memory[0] = 1
    memory.madvise(mmap.MADV_DONTNEED)
"""


@pytest.fixture
def storm() -> Iterator[int]:
    with subprocess.Popen(cli.python(STORM), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def _much(ring: str = "64M") -> tuple[str, ...]:
    return "-q", "--buffer", ring, "--pages-csv", "/dev/null", "--force"


@contextlib.contextmanager
def _behind(tracer: int, storm: int, faults: int) -> Iterator[None]:
    """The tracer stands still for so many faults: they are what is left when it goes on."""
    os.kill(tracer, signal.SIGSTOP)
    until = stat.fault_count(storm, storm) + faults
    deadline = time.monotonic() + cli.SECONDS
    while stat.fault_count(storm, storm) < until:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield
    os.kill(tracer, signal.SIGCONT)


def _accounted(csv_file: Path) -> dict[str, int]:
    """The books of a trace that lost what it had no time for; it is complete all the same."""
    assert cli.meta(csv_file)["state"] == "finished"
    books = cli.books(csv_file)
    assert books["traced"] + books["lost"] + books["missed"] == books["kernel"] > 0
    assert len(cli.rows(csv_file)) == books["traced"] + books["failed"]
    return books


def _notes(csv_file: Path) -> str:
    notes = cli.meta(csv_file)["notes"]
    assert isinstance(notes, list)
    return "\n".join(notes)


@pytest.mark.parametrize("drain", ["0", "0.2"])
def test_what_is_left_at_the_end_is_read_within_a_bound(
    storm: int, tmp_path: Path, drain: str
) -> None:
    """The rest is lost, exactly; the summary and the table of pages are there."""
    csv_file = tmp_path / "a.csv"
    with cli.Attached(storm, csv_file, "--drain", drain, *_much()) as attached:
        with _behind(attached.process.pid, storm, 300_000):
            attached.process.send_signal(signal.SIGTERM)
        done = attached.end(None)
    assert (done.status, done.err) == (0, "")
    assert "books:" in done.out
    assert _accounted(csv_file)["lost"] > 0
    assert "still in the ring when reading stopped" in _notes(csv_file)
    assert "left out" not in _notes(csv_file)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(storm: int, tmp_path: Path, first: signal.Signals) -> None:
    """However much is left: --drain would give it hours."""
    csv_file = tmp_path / "a.csv"
    with cli.Attached(storm, csv_file, "--drain", "9999", *_much("1G")) as attached:
        with _behind(attached.process.pid, storm, 1_000_000):
            attached.process.send_signal(first)
        time.sleep(1)
        assert attached.process.poll() is None
        done = attached.end(signal.SIGTERM)
    assert (done.status, done.err) == (0, "")
    assert "books:" in done.out
    assert _accounted(csv_file)["lost"] > 0
    assert "the table of pages was left out: an immediate end was requested" in _notes(csv_file)


def test_a_signal_while_the_duration_is_over_ends_it_at_once(storm: int, tmp_path: Path) -> None:
    csv_file = tmp_path / "a.csv"
    much = ("--duration", "2", "--drain", "9999", *_much("1G"))
    with cli.Attached(storm, csv_file, *much) as attached:
        with _behind(attached.process.pid, storm, 1_000_000):
            time.sleep(2)
        time.sleep(0.5)
        assert attached.process.poll() is None
        done = attached.end(signal.SIGINT)
    assert (done.status, done.err) == (0, "")
    _accounted(csv_file)
    assert "an immediate end was requested" in _notes(csv_file)


def test_a_terminal_shows_what_is_left(storm: int, tmp_path: Path) -> None:
    """One Ctrl-C ends the trace, the next the reading; the line is gone then."""
    csv_file = tmp_path / "a.csv"
    given = "--pid", str(storm), "--csv", str(csv_file), "--drain", "9999", *_much("1G")
    with terminal(*given) as it:
        deadline = time.monotonic() + cli.SECONDS
        meta = Path(f"{csv_file}.meta.json")
        while not (meta.exists() and meta.stat().st_size):  # "running", once it is
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with _behind(it.pid, storm, 1_000_000):
            it.type("\x03")
        it.expect("Ctrl-C to stop")
        assert re.search(
            r"reading the rest of the ring: [\d,.]+( million)? records; Ctrl-C to stop", it.said
        )
        it.type("\x03")
        assert it.status() == 0
    after = it.said.rpartition("Ctrl-C to stop")[2].replace("^C", "", 1)  # the terminal's echo
    assert after.removeprefix("\x1b[0m").startswith("\x1b[1G\x1b[2K")
    assert "books:" in after
