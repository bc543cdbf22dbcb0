"""Writes docs/performance.md: a section for each kind of measurement, from the latest results."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import (
    churn,
    cost,
    counted,
    loss,
    memory,
    ptdump,
    results,
    rows,
    snapshots,
    startup,
    threads,
    untraced,
)

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
PLOT = DOCS / "images" / "performance.svg"

_HEAD = """# Performance

What tracing costs, measured by `make bench`. `sudo .venv/bin/python -m bench NAME` repeats one \
section; where and when is said below each. Figures within a section are from one run, those of \
different sections need not be.
"""


@dataclass(frozen=True)
class Section:
    """One part of the page, with functions to measure and render it.

    `quick` are arguments to `measure` for a short test run.
    """

    name: str
    title: str
    measure: Callable[..., dict[str, Any]]
    render: Callable[[dict[str, Any]], str]
    quick: tuple[float, ...] = ()


SECTIONS = (
    Section("cost", "What a fault costs, by the clock", cost.measure, cost.render, (2, 2000, 2)),
    Section(
        "instructions", "What a fault costs, to the instruction", counted.measure, counted.render
    ),
    Section("untraced", "What others pay", untraced.measure, untraced.render, (2, 2000, 2)),
    Section("threads", "Many threads", threads.measure, threads.render, (1, 2000, 1)),
    Section("throughput", "From the ring to the file", rows.measure, rows.render, (6000, 1)),
    Section("churn", "Churn", churn.measure, churn.render, (1, 0.02)),
    Section("loss", "Dropped events", loss.measure, loss.render, (20_000, 1, 2)),
    Section("memory", "Memory", memory.measure, memory.markdown, (100_000,)),
    Section("ptdump", "`ptdump`", ptdump.measure, ptdump.markdown, (2000, 2)),
    Section("snapshots", "Snapshots", snapshots.measure, snapshots.markdown, (2000, 2)),
    Section("startup", "Starting", startup.measure, startup.render, (1,)),
)


def page(found: dict[str, dict[str, Any]]) -> str:
    """The page; `found` has the results by section. It names those never measured."""
    parts = [_HEAD]
    for section in SECTIONS:
        data = found.get(section.name)
        parts.append(f"## {section.title}\n")
        if data is None:
            parts.append(f"Not measured yet: `python -m bench {section.name}`.\n")
            continue
        if section.name == "cost":
            parts.append(f"![What tracing costs a page fault]({PLOT.relative_to(DOCS)})\n")
        parts.append(section.render(data).strip() + "\n")
        if "circumstances" in data and section.name != "instructions":
            parts.append(_where(data["circumstances"]) + "\n")
    return "\n\n".join(_wrapped(part) for part in "\n".join(parts).split("\n\n"))


def _wrapped(part: str) -> str:
    """A paragraph wrapped to 100 columns, except for tables, headings and pictures."""
    if part.startswith(("|", "#", "![")):
        return part
    kept = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", "\0"), part)
    lines = textwrap.wrap(kept, 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ") + ("\n" if part.endswith("\n") else "")


def _where(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = f"{facts['machine']}, load {facts['load']:g}"
    return f"*{facts['date']}; Linux {facts['kernel']}; {machine}; {versions}.*"


def load_all(folder: Path = results.FOLDER) -> dict[str, dict[str, Any]]:
    """The results, by section."""
    found = {section.name: results.load(section.name, folder) for section in SECTIONS}
    # Its counts are committed separately; only its other results may be missing.
    found["instructions"] = found["instructions"] or {"kernels": {}}
    return {name: data for name, data in found.items() if data is not None}


def write() -> None:
    """Write the page and its picture from bench/results."""
    found = load_all()
    PAGE.write_text(page(found))
    if "cost" in found:
        from bench.plot import draw

        PLOT.write_bytes(draw(found["cost"]))
