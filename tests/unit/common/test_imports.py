"""Importing numpy starts no threads, and leaves the environment as it was."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from tracer.common.imports import imports_for_much_data
before = dict(os.environ)
with imports_for_much_data():
    import numpy
assert dict(os.environ) == before
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(("chosen", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "1"}, 1)])
def test_no_thread_of_numpys_blas(chosen: dict[str, str], threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **chosen},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == threads
