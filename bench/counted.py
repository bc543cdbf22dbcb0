"""Cost of a fault in instructions: the committed counts, and the results of the last run."""

import json
from pathlib import Path
from typing import Any

from bench import baseline

FOUND = Path(__file__).parents[1] / "build" / "kernels"


def measure(folder: Path = FOUND) -> dict[str, Any]:
    """The counts of `make test-kernels` on each kernel, by QEMU image, as it wrote them.

    Raises ValueError if it was not run.
    """
    found = {
        path.parent.name.removesuffix("-bench"): json.loads(path.read_text())
        for path in sorted(folder.glob("*-bench/instructions.json"))
    }
    if not found:
        raise ValueError("no instructions were counted yet: make test-kernels does that")
    return {"kernels": found}


def render(data: dict[str, Any]) -> str:
    """A table of the committed counts; the cost to other processes' faults is from `measure`."""
    lines = [
        "Inside stock kernels under QEMU, where a guest's nanosecond is an instruction: what"
        " tracing adds to a first write to fresh anonymous memory, with frame, kind, latency and"
        " the thread's count all recorded. The counts are the same on every host, and CI fails when"
        " one grows by over 3 %. *Floor* is the least on the same two hooks: a record with the"
        " address and both times, by the kernel's ring buffer (`bench/floor_hooks.c`). *Others* is"
        " what a fault of a process that is not traced pays meanwhile.",
        "",
        "| kernel | probe | added | floor | × the floor | untraced | others |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, added in baseline.load().items():
        found = _of(key, data)
        for at, (probe, count) in enumerate(added.items()):
            untraced = f"{found['untraced']:,.0f}" if found and not at else ""
            floor = _beside(found, probe, count, "floor")
            others = _beside(found, probe, count, "bystander")
            lines.append(
                f"| {key if not at else ''} | {probe} | **{count:,.0f}**"
                f" | {f'{floor:,.0f} | {count / floor:.2f}×' if floor else ' | '}"
                f" | {untraced} | {f'{others:,.0f}' if others else ''} |"
            )
    return "\n".join(lines)


def _of(key: str, data: dict[str, Any]) -> dict[str, Any]:
    """`measure`'s counts on the kernel of a committed count: 6.12.107+… is that of 6.12."""
    for series, found in data["kernels"].items():
        if key.startswith(f"{series}."):
            return dict(found)
    return {}


def _beside(found: dict[str, Any], probe: str, added: float, what: str) -> float:
    """Another count of that run, less the untraced; 0 if its count is not the committed one."""
    for cost in found.get("costs", ()):
        now = cost.get("target", 0.0) - found["untraced"]
        same = abs(now - added) < baseline.MOST_MORE * added
        if cost["probe"] == probe and same and cost.get(what):
            return float(cost[what] - found["untraced"])
    return 0.0
