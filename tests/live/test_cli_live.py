"""--live in a real terminal: tmux types the keys and says what is on the screen."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import cli
from tests.live.workload import Workload
from tracer.snapshots.snapshots import take_snapshot

pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None and not os.environ.get("CI"),
    reason="tmux is not installed; tools/bootstrap installs it",
)

PAGES = 211
SECONDS = 120.0  # a limit, not a wait
DEMO = [sys.executable, "-m", "tracer.demos.multimap"]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with cli.nothing_left_attached():
        yield


class Tmux:
    """pagefault-trace in a terminal of tmux's, with a server of its own."""

    def __init__(self, folder: Path, *arguments: str | int, size: tuple[int, int] = (120, 40)):
        self._socket = str(folder / "tmux")
        self._status = folder / "status"
        words = " ".join(shlex.quote(word) for word in cli.argv(*arguments))
        # What the terminal is like before and after, and the exit status, for all to see.
        script = f"trap : INT; stty -g >{folder}/before; {words}; echo $? >{self._status}; "
        script += f"stty -g >{folder}/after; echo THE END; exec cat"
        environment = cli.environment() | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        environment.pop("TMUX", None)
        self._run(
            *("-f", "/dev/null", "new-session", "-d", "-x", str(size[0]), "-y", str(size[1])),
            *("sh", "-c", script),
            env=environment,
        )
        self.before, self.after = folder / "before", folder / "after"

    def _run(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *arguments],
            capture_output=True,
            text=True,
            env=env,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def screen(self) -> str:
        """What is to be seen now."""
        return self._run("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        """Type keys, by tmux's names."""
        self._run("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def alternate(self) -> bool:
        """Whether the picture's screen is on, not the one that was there before."""
        return self._run("display-message", "-p", "#{alternate_on}").strip() == "1"

    def wait(self, *patterns: str) -> str:
        """Until all of these are on the screen."""
        deadline = time.monotonic() + SECONDS
        while True:
            screen = self.screen()
            if all(re.search(pattern, screen, re.M) for pattern in patterns):
                return screen
            assert time.monotonic() < deadline, f"{patterns} not in\n{screen}"
            time.sleep(0.02)

    def status(self) -> int:
        """The exit status; the terminal is as it was, then."""
        self.wait("^THE END")
        assert not self.alternate()
        assert self.after.read_text() == self.before.read_text()
        assert self._run("display-message", "-p", "#{cursor_flag}").strip() == "1"
        return int(self._status.read_text())

    def tracer(self) -> int:
        """The tracer's process id."""
        shell = self._run("display-message", "-p", "#{pane_pid}").strip()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self._run("kill-server")


@contextlib.contextmanager
def tmux(folder: Path, *arguments: str | int, size: tuple[int, int] = (120, 40)) -> Iterator[Tmux]:
    it = Tmux(folder, *arguments, size=size)
    try:
        yield it
    finally:
        it.close()


def books(screen: str) -> None:
    """The summary is there, and balances."""
    assert re.search(r"^books: (\d+) faults traced = \1 the kernel counted; 0 lost", screen, re.M)


def test_multimap_page_by_page(tmp_path: Path) -> None:
    """Enter lets the demo go on; its five pages come one after another; then back in time."""
    with tmux(tmp_path, "--live", "--perms", "rwx", "--probe", "perf", "--", *DEMO) as it:
        screen = it.wait("page map", "faults/s", "lost 0", r"pid: \d+", "● live")
        assert it.alternate()
        assert "slowest faults" in screen
        assert "latest faults" in screen
        it.keys("Enter")
        it.wait("Allocated page at 0x")
        it.keys("Enter")
        addresses = []
        for number in range(1, 6):
            screen = it.wait(rf" {number} faults  lost 0", rf"(?s)(anon +0x\w+000 .*){{{number}}}")
            held = re.findall(r"\[anon\](?: \S+)? +rwxp +(\d)/(\d)", screen)
            assert sum(int(here) for here, _ in held) == number
            assert sum(int(pages) for _, pages in held) == 5
            addresses = re.findall(r"anon +(0x\w+000) ", screen)
            assert len(addresses) == number
            it.wait(f"data written to {addresses[-1]}")
            assert "◆" in screen or "■" in screen
            it.keys("Enter")
        it.wait("● ended 5 faults")
        # The picture stays, and can be gone back over.
        it.keys("Home")
        it.wait(r"none yet|no faults kept", r"━")
        it.keys("End")
        it.wait(*addresses)
        it.keys("q")
        assert it.status() == 0
        # What the demo said is on the terminal once the picture is gone; then the summary.
        screen = it.wait("books:")
        assert "Allocated page" in screen
        books(screen)


def test_keys_on_a_running_process(tmp_path: Path) -> None:
    script = "import os; os.write(1, b'ready\\n')\n" + cli.TOUCHING
    process = subprocess.Popen(cli.python(script), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with tmux(tmp_path, "--live", "--pid", process.pid, size=(80, 24)) as it:
            it.wait("page map", "● live", r"anon .*/s", rf"pid {process.pid}")
            it.keys("?")
            it.wait("step through the regions", "traced: .*probe|traced: pid")
            it.keys("x", "t")
            it.wait("^  region +size +mapped")
            it.keys("t", "/", "h", "e", "a", "p")
            it.wait("name contains: heap_")
            it.keys("Enter")
            screen = it.wait("filter: name heap")
            assert re.search(r"\[heap\] +rw-p", screen)
            assert "[stack]" not in screen
            it.keys("Escape")
            it.wait("q quit")
            it.keys("s")
            it.wait("by address")
            it.keys("Down")
            it.wait("▶")
            it.keys("f")
            it.wait("filter: this region")
            it.keys("Escape", "k")
            it.wait("filter: kind anon")
            it.keys("Escape", "Space")
            it.wait("● paused", "━")
            stopped = it.screen()
            it.keys("Left", "Left", "Left")
            it.wait(r"● paused")
            it.keys("Space")
            it.wait("● live")
            assert stopped != it.screen()
            for columns, rows in ((132, 50), (100, 24), (80, 24)):
                it.resize(columns, rows)
                deadline = time.monotonic() + SECONDS
                while len(it.screen().splitlines()[0]) <= min(columns - 4, 75):
                    assert time.monotonic() < deadline
                screen = it.wait("page map", "latest faults")
                assert max(map(len, screen.splitlines())) <= columns
            it.keys("q")
            assert it.status() == 0
            books(it.wait("books:"))
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_the_map_shows_what_pagemap_shows(tmp_path: Path) -> None:
    """Region by region as many pages as the kernel says, neither more nor fewer."""
    script = f"""
import mmap, os
memory = mmap.mmap(-1, {PAGES} << 12, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
for at in range(0, {PAGES} << 12, 4096): memory[at] = 1
print("done", os.getpid(), flush=True)
input()
"""
    with tmux(tmp_path, "--live", "--", *cli.python(script), size=(120, 60)) as it:
        it.wait("command output", "^ done", rf"rwxp +{PAGES}/{PAGES} ")
        pid = int(re.findall(r"^ done (\d+)", it.screen(), re.M)[0])
        it.keys("s")
        it.wait("by address")
        shot = take_snapshot(pid)
        wanted = []
        for mapping in shot.mappings:
            first, last = mapping.start >> 12, mapping.end >> 12
            here = int(((shot.pages >= first) & (shot.pages < last)).sum())
            wanted.append((mapping.perms, here, last - first))
        deadline = time.monotonic() + SECONDS
        while True:
            shown = [
                (perms, int(here), int(pages))
                for perms, here, pages in re.findall(
                    r"^[ ▶]\S.{16}([rwxps-]{4}) +(\d+)/(\d+) ", it.screen(), re.M
                )
            ]
            if len(shown) > 12 and shown == wanted[: len(shown)]:
                break
            assert time.monotonic() < deadline, f"{shown}\n{wanted}"
        it.keys("Enter", "q")
        assert it.status() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(tmp_path: Path, number: signal.Signals) -> None:
    with Workload("anon-write", PAGES) as work:
        with tmux(tmp_path, "--live", "--pid", work.pid) as it:
            it.wait("page map", "● live")
            os.kill(it.tracer(), number)
            assert it.status() == 0
            books(it.wait("books:"))
        work.go()
        assert work.finish() == 0


def test_ctrl_c_ends_the_trace_and_then_the_picture(tmp_path: Path) -> None:
    with Workload("anon-write", PAGES) as work:
        with tmux(tmp_path, "--live", "--pid", work.pid) as it:
            it.wait("page map", "● live")
            it.keys("C-c")
            it.wait("● ended")
            assert it.alternate()
            it.keys("C-c")
            assert it.status() == 0
        work.go()
        assert work.finish() == 0


def test_an_error_restores_the_terminal(tmp_path: Path) -> None:
    """The file system of --csv is full: the message is on a terminal that works."""
    with Workload("anon-write", PAGES) as work:
        with tmux(tmp_path, "--live", "--csv", "/dev/full", "--pid", work.pid) as it:
            it.wait("page map", "● live")
            work.go()
            assert it.status() == 7
            it.wait("cannot write /dev/full")
        assert work.finish() == 0


def test_quitting_leaves_a_command_its_terminal(tmp_path: Path) -> None:
    """The trace ends, the command goes on; what is typed reaches it, its status is ours."""
    script = "print('ready'); got = input(); print('got', got); raise SystemExit(9)"
    with tmux(tmp_path, "--live", "--", *cli.python(script)) as it:
        it.wait("command output", "ready")
        it.keys("q")
        books(it.wait("books:"))
        it.keys("hello", "Enter")
        it.wait("got hello")
        assert it.status() == 9


def test_typing_to_the_command(tmp_path: Path) -> None:
    script = "print('got', input('name? ')); input()"
    with tmux(tmp_path, "--live", "--", *cli.python(script)) as it:
        it.wait(r"name\?")
        it.keys("i")
        it.wait("keys go to the command")
        it.keys("q", "u", "i", "t", "Enter")
        it.wait("got quit")
        it.keys("Escape")
        it.wait("command output")
        it.keys("Enter")
        it.wait("● ended")
        it.keys("q")
        assert it.status() == 0


def test_it_wants_a_terminal(tmp_path: Path) -> None:
    done = cli.run("--live", "--pid", os.getpid())
    assert done.status == 2
    assert "--live needs a terminal" in done.err
