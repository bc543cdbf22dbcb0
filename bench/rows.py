"""CPU time of an event from the ring to the CSV file: the tables of bench.throughput."""

import subprocess
import sys
from typing import Any


def measure(faults: int = 600_000, rounds: int = 5) -> dict[str, Any]:
    """Run bench.throughput in a process of its own. Raises ValueError where that fails."""
    command = [sys.executable, "-m", "bench.throughput", "--markdown"]
    options = ["--faults", str(faults), "--rounds", str(rounds)]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ValueError(ended.stderr.strip().splitlines()[-1])
    return {"markdown": ended.stdout}


def render(data: dict[str, Any]) -> str:
    """The table, without a heading."""
    lines = str(data["markdown"]).strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).strip()
