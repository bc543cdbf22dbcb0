"""Folded stacks (flamegraph.pl, inferno) and speedscope's JSON."""

import json
from collections import Counter
from collections.abc import Iterator

from tracer.reporting.analysis.stacks import Box, stacks_of, weights
from tracer.reporting.reading.run import Run
from tracer.reporting.text.overview import head

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def folded(run: Run, weight: str = "bytes") -> Iterator[bytes]:
    """A line a stack: frames joined by semicolons, a blank, the sum of `weight`.

    A semicolon in a name becomes a colon: the format knows no other way. Kernel
    functions end in _[k], JIT-compiled code in _[j], as flamegraph.pl colours them.
    """
    found: Counter[str] = Counter()
    for frames, total in stacks_of(run).weigh(weights(run.faults)[weight]):
        found[";".join(_marked(frame).replace(";", ":") for frame in frames)] += total
    for line, total in sorted(found.items()):
        yield f"{line} {total}\n".encode()


def _marked(box: Box) -> str:
    return box if isinstance(box, str) else box.function.marked


def speedscope(run: Run) -> Iterator[bytes]:
    """A profile for each weight, after speedscope's file format."""
    ids: dict[Box, int] = {}
    profiles = []
    kinds = stacks_of(run)
    for name, values in weights(run.faults).items():
        found = kinds.weigh(values)
        samples = [[ids.setdefault(frame, len(ids)) for frame in frames] for frames, _ in found]
        totals = [total for _, total in found]
        unit = name if name in ("bytes", "nanoseconds") else "none"
        profiles.append(
            {
                "type": "sampled",
                "name": {"bytes": "memory gained", "nanoseconds": "time in faults"}.get(name, name),
                "unit": unit,
                "startValue": 0,
                "endValue": sum(totals),
                "samples": samples,
                "weights": totals,
            }
        )
    content = {
        "$schema": SCHEMA,
        "name": "; ".join(head(run).lines),
        "exporter": "pagefault-report",
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(frame) for frame in ids]},
        "profiles": profiles,
    }
    yield json.dumps(content).encode() + b"\n"


def _frame(box: Box) -> dict[str, str | int]:
    """Where no source file is known the module stands for it: speedscope colours by that."""
    if isinstance(box, str):
        return {"name": box}
    frame: dict[str, str | int] = {"name": box.function.marked}
    if file := box.file or box.function.module:
        frame["file"] = file
    if box.file and box.line:
        frame["line"] = box.line
    return frame
