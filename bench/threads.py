"""Contention of many threads that fault at once, traced and untraced."""

from typing import Any

from bench.cost import times
from bench.figures import ratios, spread
from bench.outputs import recorded
from bench.storm import Storm
from bench.tools import Tool, floors, ours, run_under

THREADS = (1, 2, 4, 8)
_UNTRACED = "untraced"


def measure(rounds: int = 10, pages: int = 20_000, bursts: int = 4) -> dict[str, Any]:
    """Storms of a growing number of threads on all CPUs: untraced, with the floor, with ours."""
    tools = {tool.name: tool for tool in (*floors(), ours()) if tool.name != "empty"}
    cells: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(rounds):
        for count in THREADS:
            of_count = cells.setdefault(str(count), {})
            for name in (_UNTRACED, *tools):
                cell = _cell(tools.get(name), count, pages, bursts)
                of_count.setdefault(name, []).append(cell)
    titles = {name: tool.title for name, tool in tools.items()}
    return {"pages": pages, "bursts": bursts, "titles": titles, "cells": cells}


def _cell(tool: Tool | None, threads: int, pages: int, bursts: int) -> dict[str, float]:
    with Storm(pages, bursts, threads=threads) as storm:
        if tool is None:
            storm.go()
            return times(storm.rounds())
        addresses = tool.addresses
        assert addresses is not None
        found, seen = run_under(tool, storm, (), lambda folder: list(addresses(folder)))
        return {**times(found), "recorded": recorded(seen, found, pages)}


def render(data: dict[str, Any]) -> str:
    """A row for each number of threads: CPU time per fault, and the ratio to untraced."""
    titles = data["titles"]
    lines = [
        f"Threads of one process, each with a mapping of its own ({data['bursts']} × "
        f"{data['pages']:,} faults a thread), on the CPUs that the tracer shares with them. CPU"
        " time a fault: median over rounds, and times untraced with the same number of threads.",
        "",
        f"| threads | untraced | {' | '.join(titles.values())} | lost |",
        f"|---|---|{'---|' * len(titles)}---|",
    ]
    for count, cells in data["cells"].items():
        base = [cell["cpu_ns"] for cell in cells[_UNTRACED]]
        row = [count, f"{spread(base).median / 1000:.2f} µs"]
        for name in titles:
            values = [cell["cpu_ns"] for cell in cells[name]]
            by = spread(ratios(values, base))
            row.append(f"{spread(values).median / 1000:.2f} µs, {by.text(2, '×')}")
        mine = cells[list(titles)[-1]]
        row.append(f"{sum(int(cell['faults'] - cell['recorded']) for cell in mine):,}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
