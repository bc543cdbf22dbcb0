"""Programs that were attached to and then stand still: every frame of theirs is in the files.

What they have is read from /proc/PID/pagemap here, and counted once more by smaps.
"""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.live import cli
from tests.live.resident import areas
from tests.real.programs import BY_NAME, PATH
from tests.real.witnessed import HANG

_TRIES = 3  # the kernel may move pages of its own accord
_PRESENT, _FRAME = np.uint64(1 << 63), np.uint64((1 << 55) - 1)
_USER_LIMIT = 1 << 47

# 300 bytes under each of 20,000 keys, from the one given on.
_SET = "for i = ARGV[1], ARGV[1] + 20000 do redis.call('set', 'k' .. i, string.rep('x', 300)) end"

_NODE = """
let kept = [];
process.stdin.on("data", () => {
    for (let i = 0; i < 50000; i++) kept.push({ i, text: "x".repeat(i % 50) + i });
    kept.push(Buffer.alloc(1 << 23, 7));
    console.log(kept.length);
});
"""


@dataclass(frozen=True)
class Running:
    """A program that takes more memory when asked to."""

    process: subprocess.Popen[str]
    folder: Path
    redis: bool

    def grow(self, first: int) -> None:
        """Take some; returns once it has it. `first` is where redis's keys begin."""
        if self.redis:
            self.say("eval", _SET, "0", str(first))
            self.say("bgsave")  # pages shared with a child, and copied
            self.say("eval", _SET, "0", str(first - 5000))
            while "rdb_bgsave_in_progress:0" not in self.say("info", "persistence"):
                time.sleep(0.02)
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("more\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip().isdigit()

    def say(self, *words: str) -> str:
        command = ["redis-cli", "-s", str(self.folder / "socket"), *words]
        return subprocess.run(
            command, env={"PATH": PATH}, check=True, capture_output=True, text=True, timeout=HANG
        ).stdout

    def stop(self) -> None:
        """Stopped, all threads of it."""
        pid = self.process.pid
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + HANG
        while set(_states(pid)) != {"T"}:
            assert time.monotonic() < deadline
            time.sleep(0.005)


@contextlib.contextmanager
def running(name: str) -> Iterator[Running]:
    missing = BY_NAME[name].missing()
    if missing:
        pytest.skip(f"{missing}: tools/bootstrap --real installs it")
    with tempfile.TemporaryDirectory(prefix="real-") as folder:
        redis = name == "redis"
        command = ["node", "-e", _NODE]
        if redis:
            command = ["redis-server", "--port", "0", "--unixsocket", f"{folder}/socket"]
            command += ["--dir", folder, "--save", "", "--logfile", f"{folder}/log"]
        with subprocess.Popen(
            command, env={"PATH": PATH}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            made = Running(process, Path(folder), redis)
            try:
                deadline = time.monotonic() + HANG
                while redis and not (made.folder / "socket").exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                made.grow(10_000)
                yield made
            finally:
                process.kill()


def _states(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield (task / "stat").read_text().rpartition(") ")[2][0]


def _frames(pid: int) -> dict[int, int]:
    """The frame of each page that has one, by the page's address."""
    found = {}
    maps = Path(f"/proc/{pid}/maps").read_text()
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for start, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ", maps, re.M):
            for at in range(int(start, 16), min(int(end, 16), _USER_LIMIT), 1 << 30):
                pages = (min(int(end, 16), at + (1 << 30)) - at) >> 12
                entries = np.frombuffer(os.pread(pagemap.fileno(), pages * 8, at >> 9), np.uint64)
                assert len(entries) == pages
                for index in np.flatnonzero(entries & _PRESENT).tolist():
                    found[at + index * 4096] = int(entries[index] & _FRAME) << 12
    return found


@pytest.mark.parametrize("name", ["redis", "node"])
def test_every_frame_is_in_the_pages_file(
    name: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """The same frames at the same pages and no other, as many as Rss has with what it omits."""
    probe = ("--probe", pytestconfig.getoption("--probe"))
    for attempt in range(1, _TRIES + 1):
        csv, pages = tmp_path / f"{attempt}.csv", tmp_path / f"{attempt}.pages.csv"
        with running(name) as program:
            pid = program.process.pid
            with cli.Attached(pid, csv, "--pages-csv", pages, "--quiet", *probe) as tracing:
                program.grow(25_000)
                program.stop()
                before = _frames(pid)
                done = tracing.end()
            there, mapped = _frames(pid), areas(pid)
        assert (done.status, done.err) == (0, "")
        if before == there:
            break
    else:
        pytest.fail(f"the kernel moved pages of a stopped process {_TRIES} times")
    reported = {
        int(row["page"], 16): int(row["last_frame"], 16)
        for row in cli.rows(pages)
        if row["pid"] == str(pid) and row["last_frame"]
    }
    assert len(there) > 5000
    assert reported == there
    books = cli.books(csv)
    assert sum(area.rss for area in mapped) + sum(area.beside for area in mapped) == len(there)
    assert books["mapped"] == len(there)
    assert books["resident"] == len(set(there.values()))
    assert books["lost"] == 0
