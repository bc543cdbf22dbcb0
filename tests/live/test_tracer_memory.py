"""What the tracer itself takes: LLVM stays in the process that compiles."""

import os
import re
import time
from pathlib import Path

from tests.live import cli
from tests.live.workload import Workload

_MOST_KIB = 150 << 10


def test_the_tracer_stays_small(tmp_path: Path) -> None:
    """Its largest resident size (VmHWM, proc_pid_status(5)) with a fault storm to report."""
    with Workload("anon-write", 20_011) as work, cli.Attached(work.pid, tmp_path / "a.csv") as ours:
        work.go()
        loaded = Path(f"/proc/{ours.process.pid}/maps").read_text()
        deadline = time.monotonic() + cli.SECONDS
        while ours.csv.read_bytes().count(b"\n") <= 20_011 and time.monotonic() < deadline:
            time.sleep(0.01)
        status = Path(f"/proc/{ours.process.pid}/status").read_text()
        done = ours.end()
    assert done.status == 0
    assert "libLLVM" not in loaded
    assert "libbcc.so" not in loaded
    largest = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert largest is not None
    assert int(largest[1]) < _MOST_KIB, status


def test_no_module_but_one_imports_bcc() -> None:
    """Not even by name: a process that traces cannot have loaded it."""
    folder = Path(cli.__file__).parents[2] / "tracer"
    importing = re.compile(r"^\s*(import bcc\b|from bcc\b)|import_bcc\(", re.MULTILINE)
    found = {
        os.path.relpath(path, folder)
        for path in folder.rglob("*.py")
        if importing.search(path.read_text())
    }
    assert found == {"probes/bcc_check.py", "probes/compiler.py"}
