"""How much memory a trace comes to hold: step by step, on a target that never stops changing.

python -m tests.live.growth churn|programs ROUNDS STEPS [OPTIONS OF PAGEFAULT-TRACE] prints a line
a step; what a round is, programs/churn.c says.
"""

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.live import cli
from tests.live.workload import Workload

LAST_PAGE = 17  # of the range: written once, at the end of each step (programs/churn.c)


@dataclass(frozen=True)
class Step:
    """After so many rounds of the target, all of which the tracer has written down."""

    rounds: int
    rows: int
    resident: int  # bytes, of the tracer


def measure(
    subcommand: str, rounds: int, steps: int, csv_file: Path, *options: str
) -> Iterator[Step]:
    """Trace `steps` times `rounds` rounds of "churn" or "programs"; a Step after each."""
    with Workload(subcommand, rounds, steps) as work:
        marker = f",{work.range().start + LAST_PAGE * 4096:#x},".encode()
        with cli.Attached(work.pid, csv_file, "-q", *options) as tracer, csv_file.open("rb") as log:
            done: list[Step] = []
            rows = 0

            def step(_: Workload) -> None:
                nonlocal rows
                rest = b""
                deadline = time.monotonic() + cli.SECONDS
                while True:
                    text = rest + log.read()
                    rest = text[text.rfind(b"\n") + 1 :]
                    rows += text.count(b"\n")
                    if marker in text:
                        break
                    assert tracer.process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                done.append(Step(rounds * (len(done) + 1), rows, _resident(tracer.process.pid)))

            work.send_line()
            for number in range(steps):
                work.step(step)
                yield done[number]
            ended = tracer.end()
            assert ended.status == 0, ended


def _resident(pid: int) -> int:
    """Its own memory: what of the ring is mapped is the kernel's and the same all along."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.M)
    assert match is not None
    return int(match[1]) << 10


def main() -> None:
    subcommand, rounds, steps, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for step in measure(subcommand, int(rounds), int(steps), Path(folder) / "a.csv", *options):
            print(f"{step.rounds:8} rounds {step.rows:9} rows {step.resident / 1e6:7.1f} MB")


if __name__ == "__main__":
    main()
