"""Folded stacks (flamegraph.pl, inferno) and speedscope's JSON."""

import json
from collections.abc import Iterator

from tracer.reporting.run import Run
from tracer.reporting.stacks import stacks, weights
from tracer.reporting.story import head

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def folded(run: Run, weight: str = "bytes") -> Iterator[bytes]:
    """A line a stack: frames joined by semicolons, a blank, the sum of `weight`.

    A semicolon in a name becomes a colon: the format knows no other way.
    """
    found = stacks(run.faults).weigh(weights(run.faults)[weight])
    for frames, total in sorted(found):
        line = ";".join(frame.replace(";", ":") for frame in frames)
        yield f"{line} {total}\n".encode()


def speedscope(run: Run) -> Iterator[bytes]:
    """A profile for each weight, after speedscope's file format."""
    ids: dict[str, int] = {}
    profiles = []
    kinds = stacks(run.faults)
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
        "shared": {"frames": [{"name": frame} for frame in ids]},
        "profiles": profiles,
    }
    yield json.dumps(content).encode() + b"\n"
