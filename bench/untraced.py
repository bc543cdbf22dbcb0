"""Cost of a fault in an untraced process while another process is traced."""

import tempfile
from pathlib import Path
from typing import Any

from bench.cost import STORM_CPUS, TOOL_CPUS, times
from bench.figures import ratios, spread
from bench.storm import Storm
from bench.tools import Tool, bpftrace, floors, ours

_NONE = "nothing"


def measure(rounds: int = 12, pages: int = 50_000, bursts: int = 3) -> dict[str, Any]:
    """Storms beside another process, which is untraced, or traced with each tool in turn."""
    tools = [tool for tool in (*floors(), ours(), bpftrace()) if not tool.missing()]
    cells: dict[str, list[dict[str, float]]] = {_NONE: [], **{tool.name: [] for tool in tools}}
    for number in range(rounds):
        cells[_NONE].append(_storm(pages, bursts))
        for tool in tools if number % 2 else reversed(tools):
            cells[tool.name].append(_beside(tool, pages, bursts))
        print(f"round {number + 1} of {rounds}", flush=True)
    titles = {tool.name: tool.title for tool in tools}
    return {"pages": pages, "bursts": bursts, "titles": titles, "cells": cells}


def _storm(pages: int, bursts: int) -> dict[str, float]:
    with Storm(pages, bursts, cpus=STORM_CPUS) as storm:
        storm.go()
        return times(storm.rounds())


def _beside(tool: Tool, pages: int, bursts: int) -> dict[str, float]:
    """Run a storm while another one, the target, only shows that it is traced."""
    with (
        Storm(1, 1, cpus=TOOL_CPUS) as target,
        tempfile.TemporaryDirectory(prefix="bench.") as folder,
    ):
        work = tool.start(target.pid, Path(folder), TOOL_CPUS)
        try:
            tool.wait_ready(work, target)
            found = _storm(pages, bursts)
            target.go()
            target.rounds()
            tool.end(work)
        finally:
            tool.close(work)
        return found


def render(data: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"The same storm ({data['bursts']} × {data['pages']:,} faults), not traced, while another"
        f" process is: {len(data['cells'][_NONE])} rounds, median and quartiles.",
        "",
        "| traced with | wall clock, a fault | × | CPU time, a fault | × |",
        "|---|---|---|---|---|",
    ]
    for name, title in {_NONE: _NONE, **data["titles"]}.items():
        cells, base = data["cells"][name], data["cells"][_NONE]
        row = [title]
        for clock in ("wall_ns", "cpu_ns"):
            values = [cell[clock] for cell in cells]
            times_untraced = spread(ratios(values, [cell[clock] for cell in base]))
            row.append(f"{spread(values).median / 1000:.2f} µs")
            row.append("1" if name == _NONE else times_untraced.text(2, "×"))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
