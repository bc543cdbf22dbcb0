"""What a trace gave the live view's model: recorded once, played in tests and for pictures."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracer.live.model import Area, Facts, Model
from tracer.live.pages import CHANGE, Changes
from tracer.model.rows import ROW, Names, Region, RowRecords, Rows

FILE = Path(__file__).parent / "data" / "live.npz"


class Recording(Model):
    """A model that records the calls made to it."""

    def __init__(self, facts: Facts, names: Names) -> None:
        super().__init__(facts, names)
        self.script: list[dict[str, Any]] = []
        self._rows: list[RowRecords] = []
        self._changes: list[Changes] = []

    def write(self, rows: Rows, names: Names) -> None:
        if len(rows):
            self._rows.append(rows.records())
            self.script.append({"do": "write", "count": len(rows)})
        super().write(rows, names)

    def change(self, changes: Changes, *, initial: bool = False) -> None:
        if len(changes):
            self._changes.append(changes.copy())
            self.script.append({"do": "change", "count": len(changes), "initial": initial})
        super().change(changes, initial=initial)

    def frames(self, time_ns: int, mapped: int, gained: int, released: int) -> None:
        counts = [mapped, gained, released]
        self.script.append({"do": "frames", "time": time_ns, "counts": counts})
        super().frames(time_ns, mapped, gained, released)

    def resident(self, time_ns: int, pages: int) -> None:
        self.script.append({"do": "resident", "time": time_ns, "pages": pages})
        super().resident(time_ns, pages)

    def set_areas(self, time_ns: int, areas: tuple[Area, ...]) -> None:
        if not self._layouts or self._layouts[-1][1] != areas:
            each = [[a.space, a.pid, a.start, a.end, a.perms, a.name] for a in areas]
            self.script.append({"do": "areas", "time": time_ns, "areas": each})
        super().set_areas(time_ns, areas)

    def save(self, path: Path = FILE) -> None:
        """Write all of it; the host is not named."""
        regions = [region._asdict() for region in self.names.regions]
        facts = asdict(self.facts) | {"host": "host", "kernel": "6.12.1", "what": "./work"}
        content: dict[str, Any] = {"facts": facts, "comms": self.names.comms, "regions": regions}
        content |= {"script": self.script, "latest": self.latest_ns}
        np.savez_compressed(
            path,
            content=np.frombuffer(json.dumps(content).encode(), np.uint8),
            rows=np.concatenate([np.empty(0, ROW), *self._rows]),
            changes=np.concatenate([np.empty(0, CHANGE), *self._changes]),
        )


@dataclass
class Tape:
    """What was recorded."""

    content: dict[str, Any]
    rows: RowRecords
    changes: Changes
    names: Names = field(default_factory=Names)

    def play(self, until_ns: int | None = None, model: Callable[..., Model] = Model) -> Model:
        """A model after all of it, or after what came up to a time since the start (ns)."""
        facts = Facts(**self.content["facts"])
        played = model(facts, self.names)
        row = change = 0
        end = (1 << 62) if until_ns is None else facts.started_ns + until_ns
        for step in self.content["script"]:
            match step["do"]:
                case "write":
                    rows = self.rows[row : row + step["count"]]
                    row += step["count"]
                    played.write(Rows.from_records(rows[rows["time_ns"] <= end]), self.names)
                case "change":
                    changes = self.changes[change : change + step["count"]]
                    change += step["count"]
                    played.change(
                        changes[changes["time_ns"] <= end].copy(), initial=step["initial"]
                    )
                case "frames" if step["time"] <= end:
                    played.frames(step["time"], *step["counts"])
                case "resident" if step["time"] <= end:
                    played.resident(step["time"], step["pages"])
                case "areas" if step["time"] <= end:
                    played.set_areas(step["time"], tuple(Area(*each) for each in step["areas"]))
        if until_ns is None:
            played.latest_ns = self.content["latest"]
            played.ended = True
        return played


def load(path: Path = FILE) -> Tape:
    """The recording."""
    with np.load(path) as stored:
        content = json.loads(stored["content"].tobytes())
        names = Names(content["comms"], [Region(**each) for each in content["regions"]])
        return Tape(content, _as_rows(stored["rows"]), stored["changes"], names)


def _as_rows(stored: np.ndarray) -> RowRecords:
    """Rows as they are now: what they had no field for when it was recorded is 0."""
    rows = np.zeros(len(stored), ROW)
    for name in set(ROW.names or ()) & set(stored.dtype.names or ()):
        rows[name] = stored[name]
    return rows
