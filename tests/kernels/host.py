"""The running machine as one row of the table: `python -m tests.kernels.host` in a copy of it."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kernels.catalogue import PROBES


def release() -> str:
    return platform.release()


def allowed_probes(wanted: Sequence[str] = PROBES) -> tuple[str, ...]:
    """The probes this kernel lets us attach: tried, in a process of their own."""
    command = [sys.executable, "-m", "tests.kernels.host", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(done.stdout.split())


def run(command: Sequence[str], out: Path, root: Path, limit: float) -> int | None:
    """pytest on this machine, its output in `out`/output; its exit status, None if it hung."""
    # A skip is judged by the list of expected ones, as a guest's is.
    env = os.environ | {"PYTHONPATH": str(root), "CI": ""}
    with (out / "output").open("w") as output:
        try:
            done = subprocess.run(
                command, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
    return done.returncode


def main(wanted: Sequence[str]) -> int:
    from tracer.common.errors import TraceError
    from tracer.common.resources import bpf_dir
    from tracer.probes.choose import attach

    for probe in wanted:
        try:
            attach(probe, bpf_dir()).close()
        except TraceError as error:
            print(error, file=sys.stderr)
        else:
            print(probe)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
