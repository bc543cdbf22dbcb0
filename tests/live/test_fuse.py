"""A file system whose server answers nothing does not keep the tracer waiting."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import features
from tests.live.cli import environment
from tracer.procfs.maps import read_maps
from tracer.spaces.code_files import CodeFiles

NOBODY = 4_000_000  # no process has it: pid_max is lower, or nearly


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    features.fuse()
    command = [sys.executable, "-m", "tests.live.fuse", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()
            subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_it_is_not_asked(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Neither for a mapped file's state, nor on the way along a path."""
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    memory = mmap.mmap(descriptor, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
    os.close(descriptor)
    mappings = [mapping for mapping in read_maps(os.getpid()) if "x" in mapping.perms]
    served = next(each for each in mappings if each.path == str(tmp_path / "file"))
    program = next(each for each in mappings if each.path.startswith("/usr"))

    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(b"stop\n")
    server.stdin.flush()
    files = CodeFiles()
    assert [files.see(pid, served, anew=True) for pid in (os.getpid(), NOBODY)] == [0, 0]
    # A path that leads through it, of what is mapped from elsewhere.
    hidden = program._replace(path=str(tmp_path / "program"))
    assert files.see(NOBODY, hidden, anew=True) == 0
    os.close(files.open(files.see(os.getpid(), hidden, anew=True)))
    server.kill()
    assert server.stdout.read() == b""
    memory.close()
