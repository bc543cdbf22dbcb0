"""JVMs that are asked for their perf maps, by a jcmd that does as a test says."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.common.errors import TraceError
from tracer.target import jvm
from tracer.target.jvm import JvmPerfMaps, find_jcmd

LONG_S = 60
# What maps a file of that name is a JVM to us.
CODE = """
import mmap, signal, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)
if len(sys.argv) > 2:
    signal.signal(signal.SIGQUIT, lambda *_: None)
print(flush=True)
while True:
    signal.pause()
"""


class Target:
    """A process that looks like a JVM, and a jcmd for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = folder / "libjvm.so"
        self.library.write_bytes(bytes(4096))
        self.jcmd = folder / "jcmd"
        self.said = folder / "said"
        self.asks('echo "$0 $@" >>SAID; id -u >>SAID')
        self.processes: list[subprocess.Popen[bytes]] = []

    def asks(self, script: str) -> None:
        """What jcmd does."""
        self.jcmd.write_text("#!/bin/sh\n" + script.replace("SAID", str(self.said)) + "\n")
        self.jcmd.chmod(0o755)

    def start(self, *arguments: str, user: int | None = None) -> int:
        process = subprocess.Popen(
            [sys.executable, "-ISc", CODE, str(self.library), *arguments],
            stdout=subprocess.PIPE,
            user=user,
        )
        self.processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    monkeypatch.setattr(jvm, "_CHECK_S", 0.0)
    monkeypatch.setattr(jvm, "_FIRST_S", 0.01)
    made = Target(tmp_path)
    yield made
    made.close()


def until(maps: JvmPerfMaps, pid: int, *, written: int = 0) -> None:
    """Take turns until so many maps are written, or there is a reason why not."""
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        maps.turn([os.getpid(), pid])
        found = maps._jvms.get(pid)
        if found is not None and (found.written >= written if written else found.why):
            return
        time.sleep(0.005)


def until_said(maps: JvmPerfMaps, pid: int) -> None:
    """Ask until there is a reason why there is no map."""
    until_s = time.monotonic() + LONG_S
    while not any("wrote no perf map" in note for note in maps.notes()):
        maps.turn([pid])
        time.sleep(0.01)
        assert time.monotonic() < until_s


def test_it_is_asked_again_and_again(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is a JVM, and at the end once more."""
    monkeypatch.setattr(jvm, "_SHARE", 1)
    pid = target.start("handles SIGQUIT")
    with JvmPerfMaps(str(target.jcmd)) as maps:
        until(maps, pid, written=2)
        maps.finish()
        assert maps.notes() == []
    said = target.said.read_text().splitlines()
    assert len(said) >= 6
    assert set(said) == {f"{target.jcmd} {pid} Compiler.perfmap", str(os.geteuid())}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_jcmd_is_the_user_that_the_jvm_is(target: Target) -> None:
    for folder in (target.folder, *target.folder.parents):
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    target.said.touch()
    target.said.chmod(0o666)
    pid = target.start("handles SIGQUIT", user=12345)
    with JvmPerfMaps(str(target.jcmd)) as maps:
        until(maps, pid, written=1)
    assert target.said.read_text().splitlines()[1] == "12345"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo 7:; echo 'java.lang.IllegalArgumentException: Unknown diagnostic command'; false",
            "it is too old: Compiler.perfmap came with Java 17",
        ),
        ("echo 'java.io.IOException: No such process'; exit 1", "it has ended"),
        ("echo 7:; echo 'Odd \x1b[2J thing'; exit 3",
         "jcmd ended with status 3: Odd \\x1b[2J thing"),
        ("exit 3", "jcmd ended with status 3"),
        ("exec head -c 1000 /dev/zero; false", ""),
    ],
)  # fmt: skip
def test_why_there_is_none(target: Target, script: str, why: str) -> None:
    target.asks(script)
    pid = target.start("handles SIGQUIT")
    with JvmPerfMaps(str(target.jcmd)) as maps:
        until(maps, pid, written=0 if why else 1)
        assert maps.notes() == ([f"JVM {pid} wrote no perf map: {why}"] if why else [])


def test_what_would_die_of_it_is_not_asked(target: Target) -> None:
    """jcmd sends SIGQUIT."""
    pid = target.start()
    with JvmPerfMaps(str(target.jcmd)) as maps:
        until(maps, pid)
        (note,) = maps.notes()
    assert note.endswith("it handles no SIGQUIT (-Xrs, or it is just starting)")
    assert not target.said.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's cannot be root")
def test_root_in_a_container_is_not_asked(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """jcmd would follow its files with our rights."""
    monkeypatch.setattr(jvm, "in_our_mounts", lambda pid: False)
    pid = target.start("handles")
    with JvmPerfMaps(str(target.jcmd)) as maps:
        until_said(maps, pid)
        (note,) = maps.notes()
    assert "as root in a container" in note
    assert not target.said.exists()


def test_one_that_is_a_jvm_no_more(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGQUIT is something else to other programs."""
    pid = target.start("handles")
    with JvmPerfMaps(str(target.jcmd)) as maps:
        maps.turn([pid])
        monkeypatch.setattr(jvm, "_is_jvm", lambda pid: False)
        time.sleep(0.05)
        maps.turn([pid])
        maps.finish()
    assert not target.said.exists()


def test_one_that_does_not_answer(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for a moment, and jcmd is not left behind."""
    monkeypatch.setattr(jvm, "_LAST_S", 0.05)
    target.asks("echo $$ >SAID; exec sleep 1000")
    pid = target.start("handles SIGQUIT")
    with JvmPerfMaps(str(target.jcmd)) as maps:
        deadline = time.monotonic() + LONG_S
        while not target.said.exists() or not target.said.read_text():
            assert time.monotonic() < deadline
            maps.turn([pid])
            time.sleep(0.005)
        maps.finish()
        (note,) = maps.notes()
    assert "did not answer within" in note
    assert not Path(f"/proc/{int(target.said.read_text())}").exists()


def test_one_that_has_ended(target: Target) -> None:
    pid = target.start("handles SIGQUIT")
    with JvmPerfMaps(str(target.jcmd)) as maps:
        until(maps, pid, written=1)
        target.close()
        target.said.unlink()
        maps.finish()
        assert maps.notes() == []
    assert not target.said.exists()


def test_there_was_none() -> None:
    with JvmPerfMaps("/bin/true") as maps:
        maps.turn([os.getpid()])
        maps.finish()
        assert maps.notes() == ["--jvm-perfmap: no JVM was seen among the traced processes"]


def test_a_jcmd_that_cannot_be_started(target: Target) -> None:
    pid = target.start("handles SIGQUIT")
    with JvmPerfMaps("/no/jcmd") as maps:
        until(maps, pid)
        (note,) = maps.notes()
    assert note.endswith("jcmd could not be started: No such file or directory")


def test_no_jcmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TraceError, match="not in PATH"):
        find_jcmd()
    path = tmp_path / "jcmd"
    path.write_text("")
    path.chmod(0o755)
    assert find_jcmd() == str(path)
