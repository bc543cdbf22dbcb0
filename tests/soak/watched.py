"""What a tracer holds, second by second, and whether that is more and more."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.live.cli import ROOT

MINUTES = float(os.environ.get("MINUTES") or 60)
CURVES = ROOT / "build" / "soak"  # a file a test: seconds, resident MB, own MB, descriptors


@dataclass(frozen=True)
class Sample:
    """What /proc says of a process at one moment; sizes in bytes."""

    seconds: float
    resident: int
    own: int  # RssAnon: without files and what of the ring is mapped
    descriptors: int


def watch(pid: int, name: str, alive: Callable[[], bool]) -> list[Sample]:
    """A sample a second, for MINUTES, of a process that must live that long."""
    CURVES.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    began = time.monotonic()
    with (CURVES / f"{name}.tsv").open("w") as curve:
        while (passed := time.monotonic() - began) < MINUTES * 60:
            assert alive(), f"it ended after {passed:.0f} s"
            samples.append(_sample(pid, passed))
            it = samples[-1]
            columns = f"{it.resident / 1e6:.2f}\t{it.own / 1e6:.2f}\t{it.descriptors}"
            print(f"{passed:.0f}\t{columns}", file=curve, flush=True)
            time.sleep(1)
    return samples


def _sample(pid: int, seconds: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.M)}
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(seconds, sizes["VmRSS"], sizes["RssAnon"], descriptors)
