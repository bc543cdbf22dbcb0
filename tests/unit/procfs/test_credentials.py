"""Whom a process runs as, and what it handles."""

import os
import signal
import subprocess
import sys

import pytest

from tracer.procfs.credentials import credentials
from tracer.procfs.errors import ProcessGone


def test_our_own() -> None:
    found = credentials(os.getpid())
    assert (found.uid, found.gid) == (os.geteuid(), os.getegid())
    assert set(found.groups) == set(os.getgroups())


def test_signals_with_a_handler() -> None:
    code = "import signal; signal.signal(10, print); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = credentials(process.pid)
        process.kill()
    assert found.catches(signal.SIGUSR1)
    assert not found.catches(signal.SIGQUIT)


def test_a_process_that_is_gone() -> None:
    with pytest.raises(ProcessGone):
        credentials(1 << 22)
