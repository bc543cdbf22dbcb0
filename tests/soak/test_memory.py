"""Traced for an hour, the tracer holds no more than in the first half of it.

The first quarter is for what is learnt once: names, stacks, room for bursts.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live import cli
from tests.live.test_cli_live import tmux
from tests.soak.watched import Sample, watch

ALLOWED = 24 << 20  # bursts, after which the allocator keeps the room; names
MOST = 320 << 20  # of a tracer that never catches up: ring, rows and mappings that wait
# What a long run is made of, at a pace that the tracer keeps: memory mapped and given back,
# threads, children, programs, and a file of a name that comes again.
STEADY = """
import itertools, mmap, os, tempfile, threading, time

def touch(pages):
    with mmap.mmap(-1, pages << 12) as memory:
        for page in range(pages):
            memory[page << 12] = 1

def called_by_c(number):
    touch(16)
    return number

def deep(depth):
    return deep(depth - 1) if depth else sorted([8, 7], key=called_by_c)

for n in itertools.count():
    touch(16 + n % 32)
    deep(n % 100)
    thread = threading.Thread(target=touch, args=[4])
    thread.start()
    thread.join()
    if n % 5 == 0:
        if os.fork() == 0:
            touch(9)
            os._exit(0)
        os.wait()
    if n % 20 == 0:
        os.spawnv(os.P_WAIT, "/bin/true", ["true"])
    with open(f"{folder}/{n % 100}", "w+b") as file:
        file.truncate(1 << 16)
        with mmap.mmap(file.fileno(), 1 << 16) as memory:
            memory[::4096] = bytes(16)
    time.sleep(0.01)
"""
# As fast as it can: more than there is time to follow.
FORKS = """
import os, time
while True:
    for n in range(8):
        if os.fork() == 0:
            bytearray(1 << 16)
            if n == 0:
                os.execv("/bin/true", ["true"])
            os._exit(0)
    for n in range(8):
        os.wait()
"""


@contextmanager
def running(script: str, folder: Path) -> Iterator[int]:
    with subprocess.Popen(cli.python(f"folder = {str(folder)!r}\n{script}")) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def drained(tmp_path: Path) -> Iterator[Path]:
    """The name of a CSV file that takes no room, however long it becomes."""
    path = tmp_path / "a.csv"
    os.mkfifo(path)
    # Open for both, it has no end, and who writes need not wait for who reads.
    with (
        path.open("r+b", buffering=0) as pipe,
        subprocess.Popen(["cat"], stdin=pipe, stdout=subprocess.DEVNULL) as reader,
    ):
        yield path
        reader.kill()


def check(samples: list[Sample], said: str) -> None:
    """What it held in the last quarter is what it held in the second; what was lost is said."""
    books = re.search(r"^books: (\d+) faults traced.*\b(\d+) lost", said, re.M)
    assert books, said
    print(books[0])
    quarter = len(samples) // 4
    assert quarter > 10, "too few samples to compare"
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    before, after = (max(sample.own for sample in part) for part in (second, last))
    print(f"at most {before / 1e6:.1f} MB in the second quarter, {after / 1e6:.1f} in the last")
    assert after < before + ALLOWED
    assert after < MOST
    # Some are open for a moment only, to read a file of /proc.
    assert min(s.descriptors for s in last) <= max(s.descriptors for s in second)


@pytest.mark.parametrize("what", ["stacks", "forks"])
def test_an_hour(what: str, drained: Path, tmp_path: Path) -> None:
    script, *options = {"stacks": (STEADY, "--stacks"), "forks": (FORKS,)}[what]
    with (
        running(script, tmp_path) as pid,
        subprocess.Popen(
            cli.argv("--pid", pid, "--csv", drained, "-q", *options),
            stdout=subprocess.PIPE,
            text=True,
            env=cli.environment(),
        ) as tracer,
    ):
        try:
            samples = watch(tracer.pid, what, lambda: tracer.poll() is None)
            tracer.send_signal(signal.SIGINT)
            said, _ = tracer.communicate()
            assert tracer.returncode == 0
        finally:
            tracer.kill()
    check(samples, said)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_an_hour_of_live(drained: Path, tmp_path: Path) -> None:
    with (
        running(STEADY, tmp_path) as pid,
        tmux(tmp_path, "--live", "--csv", str(drained), "--pid", pid) as terminal,
    ):
        terminal.wait("faults")
        tracer = terminal.tracer()
        samples = watch(tracer, "live", lambda: Path(f"/proc/{tracer}").exists())
        terminal.keys("q")
        said = terminal.wait("^books:")
        assert terminal.status() == 0
    check(samples, said)
