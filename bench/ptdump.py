"""CPU time of ptdump on a process of two million pages, compared with equivalent C programs.

    python -m bench.ptdump [--pages N] [--rounds N]

bench/pagemap.c reads the same pagemap and discards it (the kernel's part of the cost), or prints
the same lines with printf. The programs alternate, so that load on the machine affects all of
them; ratios are within a round. The lines are compared byte for byte.
"""

import argparse
import filecmp
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.programs import Cost, built, cost, milliseconds, spread, target

PAGES = 2_000_000
ROUNDS = 11
_PTDUMP = str(Path(sys.executable).with_name("ptdump"))


def measure(pages: int = PAGES, rounds: int = ROUNDS) -> dict[str, Any]:
    """CPU and wall-clock seconds of each command, and their ratios to C's."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder, target("resident", pages, 1) as process:
        pid, ours, theirs = str(process.pid), f"{folder}/ours", f"{folder}/theirs"
        commands = {
            "read": ([built("pagemap"), pid], os.devnull),
            "regions": ([_PTDUMP, pid], os.devnull),
            "printf": ([built("pagemap"), "-g", pid], theirs),
            "pages": ([_PTDUMP, "-g", pid], ours),
        }
        runs: list[dict[str, Cost]] = []
        for _ in range(rounds + 1):
            runs.append({name: cost(*command) for name, command in commands.items()})
        # The first round read the programs from disk.
        del runs[0]
        same = filecmp.cmp(ours, theirs, shallow=False)
        size = os.path.getsize(ours)
    return {
        "pages": pages,
        "rounds": rounds,
        "same_bytes": same,
        "bytes": size,
        "cpu": {name: spread([run[name].cpu for run in runs]) for name in commands},
        "wall": {name: spread([run[name].wall for run in runs]) for name in commands},
        "regions_ratio": _ratio(runs, "regions", "read"),
        "pages_ratio": _ratio(runs, "pages", "printf"),
    }


def _ratio(runs: list[dict[str, Cost]], ours: str, theirs: str) -> dict[str, dict[str, float]]:
    return {
        "cpu": spread([run[ours].cpu / run[theirs].cpu for run in runs]),
        "wall": spread([run[ours].wall / run[theirs].wall for run in runs]),
    }


def markdown(data: dict[str, Any]) -> str:
    """The section of docs/performance.md."""
    names = {
        "read": "C, reads the pagemap and drops it",
        "regions": "`ptdump PID`",
        "printf": "C, a line a page with `printf`",
        "pages": "`ptdump -g PID`",
    }
    against = {"regions": "regions_ratio", "pages": "pages_ratio"}
    lines = [
        f"A process with {data['pages']:,} resident small pages in one mapping; "
        f"{data['rounds']} rounds, medians and quartiles. Python's own start is in it.",
        "",
        "| | processor time | wall clock | against C: processor, wall |",
        "|---|---|---|---|",
    ]
    for name, text in names.items():
        cells = [milliseconds(data[clock][name]) for clock in ("cpu", "wall")]
        ratio = ""
        if name in against:
            both = [data[against[name]][clock] for clock in ("cpu", "wall")]
            ratio = ", ".join(f"{each['median']:.2f}×" for each in both)
        lines.append(f"| {text} | {cells[0]} | {cells[1]} | {ratio} |")
    same = "the same" if data["same_bytes"] else "**not the same**"
    lines += ["", f"The two dumps, {data['bytes'] / 1e6:,.0f} MB each, are {same} byte for byte."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ptdump", description=__doc__)
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print(markdown(measure(options.pages, options.rounds)))


if __name__ == "__main__":
    main()
