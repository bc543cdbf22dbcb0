"""Cost of a fault to the traced program: tools side by side, in one run."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Spread, ratios, spread
from bench.outputs import recorded
from bench.storm import Round, Storm, StormError, cpu_per_fault, wall_per_fault
from bench.tools import Tool, ToolError, floors, others, ours, perf_record, probes_here, run_under

UNTRACED = "untraced"
STORM_CPUS, TOOL_CPUS = (0,), (1,)


def measure(rounds: int = 12, pages: int = 50_000, bursts: int = 3) -> dict[str, Any]:
    """`rounds` storms per tool, of `bursts` times `pages` faults; the tools alternate."""
    there, refused = probes_here()
    tools = [*others(), *floors(), *(ours(name) for name in there)]
    tools += [perf_record(stacks=True), *(ours(name, stacks=True) for name in there)]
    cells: dict[str, list[dict[str, float]]] = {UNTRACED: [], **{tool.name: [] for tool in tools}}
    why = {tool.name: tool.missing() for tool in tools if tool.missing()}
    turns = random.Random(1)
    for number in range(rounds):
        runs: list[Tool | None] = [None, *tools]
        turns.shuffle(runs)
        for tool in runs:
            if tool is not None and tool.name in why:
                continue
            try:
                name = tool.name if tool is not None else UNTRACED
                cells[name].append(_cell(tool, pages, bursts))
            except (ToolError, StormError) as error:
                why[name] = str(error)
        print(f"round {number + 1} of {rounds}", flush=True)
    titles = {UNTRACED: UNTRACED, **{tool.name: tool.title for tool in tools}}
    return {
        "pages": pages,
        "bursts": bursts,
        "titles": titles,
        "cells": {name: found for name, found in cells.items() if name not in why},
        "why_not": why,
        "refused": refused,
    }


def _cell(tool: Tool | None, pages: int, bursts: int) -> dict[str, float]:
    """One storm under one tool."""
    with Storm(pages, bursts, cpus=STORM_CPUS) as storm:
        if tool is None:
            storm.go()
            return times(storm.rounds())
        addresses = tool.addresses

        def read(folder: Path) -> tuple[float, list[int]]:
            after_s = tool.make_lines(folder)
            return after_s, list(addresses(folder)) if addresses is not None else []

        found, (after_s, seen) = run_under(tool, storm, TOOL_CPUS, read)
        cell = times(found)
        if tool.after is not None:
            cell["after_s"] = after_s
        if addresses is not None:
            cell["recorded"] = recorded(seen, found, pages)
        return cell


def times(rounds: Sequence[Round]) -> dict[str, float]:
    """Nanoseconds per fault of a storm's rounds, and how many faults they had."""
    return {
        "cpu_ns": cpu_per_fault(rounds),
        "wall_ns": wall_per_fault(rounds),
        "faults": sum(each.faults for each in rounds),
    }


def summary(data: dict[str, Any], name: str, clock: str) -> tuple[Spread, Spread]:
    """Nanoseconds per fault, and the ratio to untraced; `clock` is cpu_ns or wall_ns."""
    cells = data["cells"]
    values = [cell[clock] for cell in cells[name]]
    base = [cell[clock] for cell in cells[UNTRACED]]
    return spread(values), spread(ratios(values, base))


def lost(data: dict[str, Any], name: str) -> tuple[int, int] | None:
    """Faults that are not in a tool's output, and all of them; None where it has no output."""
    cells = data["cells"][name]
    if not all("recorded" in cell for cell in cells):
        return None
    faults = sum(int(cell["faults"]) for cell in cells)
    return faults - sum(int(cell["recorded"]) for cell in cells), faults


def render(data: dict[str, Any]) -> str:
    """The table, and notes on it."""
    rounds = len(data["cells"][UNTRACED])
    lines = [
        f"A storm of {data['bursts']} × {data['pages']:,} first writes to fresh anonymous memory"
        f" (`bench/storm.c`, on one CPU; the tracer has the other), {rounds} rounds in which the"
        " tools take turns. Median and, in brackets, the quartiles; × is by the same round's"
        " untraced storm. *Lost* are the storm's faults, by its own `getrusage`, that are not in"
        " what the tool wrote.",
        "",
        "| | wall clock, a fault | × | CPU time, a fault | × | lost |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in data["titles"].items():
        if name in data["why_not"]:
            lines.append(f"| {title} | {data['why_not'][name]} | | | | |")
            continue
        wall, by_wall = summary(data, name, "wall_ns")
        cpu, by_cpu = summary(data, name, "cpu_ns")
        if name == UNTRACED:
            lines.append(f"| untraced | {_ns(wall)} | 1 | {_ns(cpu)} | 1 | |")
            continue
        lines.append(
            f"| {title} | {_ns(wall)} | **{by_wall.text(2, '×')}** | {_ns(cpu)}"
            f" | {by_cpu.text(2, '×')} | {_lost(data, name)} |"
        )
    lines += [
        f"| pagefault-trace --probe {n} | {why} | | | | |" for n, why in data["refused"].items()
    ]
    lines += ["", *_notes(data)]
    return "\n".join(lines)


def _notes(data: dict[str, Any]) -> list[str]:
    notes = []
    if "perf-record" in data["cells"]:
        cells = data["cells"]["perf-record"]
        after = spread([cell["after_s"] * 1e9 / cell["faults"] for cell in cells])
        notes.append(
            "`perf record` writes no lines: `perf script`, which makes them afterwards, takes"
            f" another {after.median / 1000:.1f} µs a fault."
        )
    if "perf" in data["cells"]:
        if {"empty", "floor"} <= data["cells"].keys():
            notes.append(_limits(data))
        if "perf-stacks" in data["cells"]:
            stacks = summary(data, "perf-stacks", "wall_ns")[1]
            notes.append(
                f"Call stacks (`--stacks`) bring it to {stacks.median:.2f}×; those of `perf record`"
                " are in its file and have no names before `perf script`."
            )
    return [" ".join(notes), ""] if notes else []


def _limits(data: dict[str, Any]) -> str:
    """The parts of our own probe's cost."""
    empty, floor, ours = (
        summary(data, name, "wall_ns")[1].median - 1 for name in ("empty", "floor", "perf")
    )
    least = f"{empty:.0%}" if empty >= 0.005 else "nothing that shows"
    return (
        f"An empty program on the same events adds {least}, a record of 8 bytes {floor:.0%},"
        f" ours {ours:.0%}: what is between is the page-table walk, before and after, the record of"
        " 176 bytes, and the tracer on the other CPU that reads it and writes CSV."
    )


def _lost(data: dict[str, Any], name: str) -> str:
    counts = lost(data, name)
    if counts is None:
        return "records none"
    missing, faults = counts
    return f"{missing:,} ({missing / faults:.1%})" if missing else "0"


def _ns(value: Spread) -> str:
    return f"{value.median / 1000:.2f} µs"
