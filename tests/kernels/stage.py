"""A copy of what the guests run, so that editing the checkout meanwhile changes nothing there.

The guests cache the host's files (guest.sh), and would otherwise see half a file of the old text
and half of the new.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernels.boot import ROOT
from tests.kernels.catalogue import PROBES

REAL_TESTS = "tests/real/test_guest.py"
_PARTS = ("bpf", "tracer", "tests", "bench")


class StageError(Exception):
    """The live tests cannot be run as they are; the message is the tools' own."""


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Make `folder`, and be the only one to write results there. Raises StageError if not."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(f"another run is using {folder}") from error
        yield


@contextmanager
def stage(parent: Path) -> Iterator[Path]:
    """A folder below `parent` with the sources, bytecode and test programs; removed after.

    The live tests are collected once, here: a mistake in one need not cost a
    boot to be found, and pytest's own bytecode is there for the guests, which
    cannot write it. Raises StageError where that fails.
    """
    folder = parent / f"stage.{os.getpid()}"
    try:
        for part in _PARTS:
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        shutil.copy2(ROOT / "pyproject.toml", folder)
        _python(folder, "-m", "compileall", "-q", *_PARTS[1:])
        modules = "bench.storm as s, tests.live.workload as w, tests.live.golden as g"
        modules += ", tests.real.witnessed as r"
        programs = "s.build(), w.build(), w.build_small(32), w.build_small(64)"
        programs += ", g.build(), r.build()"
        _python(folder, "-c", f"import {modules}; {programs}")
        collect = ("-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q")
        _python(folder, *collect, "--probe", ",".join(PROBES), "tests/live", REAL_TESTS)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _python(folder: Path, *arguments: str) -> None:
    # A module that skips itself on the host must not fail here: the guest may run it.
    env = os.environ | {
        "PYTHONPATH": str(folder), "CI": "", "PYTHONDONTWRITEBYTECODE": "", "PAGEFAULT_GUEST": "1"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True
    )
    if done.returncode:
        raise StageError(f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}")
