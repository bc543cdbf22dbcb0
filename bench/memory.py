"""Resident memory of the tracer while it traces tens of millions of faults.

    python -m bench.memory [--events N]

The target repeatedly writes to the same pages and releases them (bench/rounds.c), as fast as it
can; the tracer writes every fault to a CSV file. The mapped part of the ring counts as resident.
"""

import argparse
import json
import re
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

from bench.programs import target
from tests.live.cli import Attached

EVENTS = 50_000_000
PAGES = 50_000
_EVERY_S = 0.5
_MOST_POINTS = 200
_MARGIN = 1.02  # some may be dropped


def measure(events: int = EVENTS) -> dict[str, Any]:
    """Resident bytes over time, and the numbers of faults traced and dropped."""
    # It ends the tracer, which leaves it ignored where it was, as in a shell's background job.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rounds = round(events * _MARGIN / PAGES)
    with tempfile.TemporaryDirectory() as folder, target("rounds", PAGES, rounds) as process:
        csv = Path(folder) / "faults.csv"
        with Attached(process.pid, csv, "-q") as tracer:
            samples = _Samples(tracer.process.pid)
            process.say("go")
            faults = int(process.hear())
            done = tracer.end(signal.SIGINT)
            points = samples.end()
        meta = json.loads(tracer.meta.read_text())
    if done.status:
        raise RuntimeError(f"the tracer ended with status {done.status}: {done.err}")
    return {
        "faults": faults,
        "traced": meta["books"]["traced"],
        "lost": meta["books"]["lost"],
        "most": max(point["resident"] for point in points),
        "most_own": max(point["own"] for point in points),
        "points": points[:: len(points) // _MOST_POINTS + 1],
    }


class _Samples:
    """The resident memory of a process, sampled twice a second until it ends."""

    def __init__(self, pid: int) -> None:
        self._points: list[dict[str, float]] = []
        self._over = threading.Event()
        self._status = Path(f"/proc/{pid}/status")
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        passed = 0.0
        while not self._over.is_set():
            try:
                text = self._status.read_text()
            except ProcessLookupError:
                return
            fields = dict(re.findall(r"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB$", text, re.M))
            if len(fields) < 3:  # a zombie
                return
            # VmHWM includes peaks between two samples.
            self._points.append(
                {
                    "seconds": passed,
                    "resident": int(fields["VmHWM"]) << 10,
                    "now": int(fields["VmRSS"]) << 10,
                    "own": int(fields["RssAnon"]) << 10,
                }
            )
            self._over.wait(_EVERY_S)
            passed += _EVERY_S

    def end(self) -> list[dict[str, float]]:
        """The samples."""
        self._over.set()
        self._thread.join()
        return self._points


def markdown(data: dict[str, Any]) -> str:
    """The section of docs/performance.md."""
    return "\n".join(
        [
            f"{data['traced'] / 1e6:,.1f} million faults traced into a CSV file "
            f"({data['lost']:,} more found no room in the ring and are counted as lost): at most "
            f"**{data['most'] / 1e6:,.0f} MB** resident in all that time, "
            f"{data['most_own'] / 1e6:,.0f} MB of them the tracer's own memory; the rest is its "
            "code and what of the ring is mapped.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    options = parser.parse_args()
    print(markdown(measure(options.events)))


if __name__ == "__main__":
    main()
