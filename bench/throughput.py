"""CPU time of an event between the ring and the CSV file, stage by stage.

    python -m bench.throughput [--faults N] [--rounds N] [--only NAME] [--markdown]

The feeds (bench.feed) are the same every time, and go through the tracer's own
code in one thread. The best of several rounds is shown: load on the machine only
makes a round slower.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.feed import Bytes, Feed, mixture, storm
from bench.replay import FedRing, recording
from tracer.common.imports import imports_for_much_data
from tracer.common.resources import bpf_dir
from tracer.files.output import open_output
from tracer.files.output_file import OutputFile
from tracer.model.rows import Rows
from tracer.outputs.csv import CsvOutput
from tracer.outputs.summary import Summary
from tracer.session.pending_rows import PendingRows
from tracer.session.recorder import Recorder
from tracer.spaces.spaces import Spaces
from tracer.timeline.schedule import Schedule
from tracer.wire.batches import decode_batch
from tracer.wire.records import Layout, load_layout
from tracer.wire.ring import MappedRing

_SECTION = """## From the ring to the CSV file

What the tracer itself spends on an event, on one core: CPU time of the very code a trace runs,
fed with made-up records that are the same every time (`python -m bench.throughput`). The best of
several rounds is shown. A *storm* is one thread writing to new pages in a row; *perf* is the same
as the `perf` probe records it, without the mapping; the *mixture* is a few processes with files,
forks, huge pages and system calls in between, in a random order that no cache and no batch is made
for. The file is in memory: what a disk costs comes on top. In a storm most of a line is the same as
in the line before, and such columns are found and written once; what is left is spread over many
steps of numpy, each of which goes through the batch once.
"""
WAITING = 1 << 18  # rows that wait for a snapshot (tracer.session.delivery)
_PARTS = 8  # rows become due in the middle of the reading, not after it


class Stages:
    """CPU time by stage; a nested stage is not counted for the outer one."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = {}
        self._open: list[list[int]] = []  # by nesting: start time, and time of inner stages

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A block whose CPU time is counted for stage `name`."""
        self._open.append([time.thread_time_ns(), 0])
        try:
            yield
        finally:
            began, inside = self._open.pop()
            took = time.thread_time_ns() - began
            self.ns[name] = self.ns.get(name, 0) + took - inside
            if self._open:
                self._open[-1][1] += took

    def watch(self, owner: type, method: str, name: str) -> Any:
        """A patch that counts every call of a method for stage `name`."""
        return patch.object(owner, method, self.counted(getattr(owner, method), name))

    def counted(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """`function` with its calls counted for stage `name`."""

        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*args, **options)

        return timed


def replay(feed: Feed, layout: Layout, file: OutputFile) -> tuple[Stages, int]:
    """One run of `feed` into `file`: the stages, and the number of rows."""
    stages, ring = Stages(), FedRing()
    csv, summary = CsvOutput(file), Summary()
    waiting = PendingRows()
    rows_made = 0
    watched = [
        stages.watch(MappedRing, "peek", "ring to numpy"),
        patch(
            "tracer.session.recorder.decode_batch", stages.counted(decode_batch, "ring to numpy")
        ),
        stages.watch(Spaces, "resolve", "spaces, mappings"),
        stages.watch(Spaces, "places", "spaces, mappings"),
        stages.watch(Schedule, "apply", "page timeline"),
        stages.watch(OutputFile, "write", "write(2)"),
    ]
    try:
        with recording(feed, layout, ring) as recorder, _all(watched):
            for part in _parts(feed, ring.capacity // _PARTS):
                ring.put(part)
                for rows in _batches(stages, recorder):
                    with stages.stage("summary"):
                        summary.write(rows, recorder.parts.names)
                    waiting.add(rows)
                    rows_made += len(rows)
                if len(waiting) >= WAITING:
                    _release(stages, csv, waiting, recorder)
            _release(stages, csv, waiting, recorder)
    finally:
        csv.close()
        ring.close()
    return stages, rows_made


def read_only(feed: Feed, layout: Layout) -> int:
    """CPU nanoseconds from the ring to numpy only."""
    ring = FedRing()
    spent = 0
    try:
        with ring.open() as reader:
            for part in _parts(feed, ring.capacity):
                ring.put(part)
                began = time.thread_time_ns()
                while len(records := reader.peek(1 << 14)):
                    decode_batch(records, layout.fault)
                    reader.advance()
                spent += time.thread_time_ns() - began
    finally:
        ring.close()
    return spent


def _batches(stages: Stages, recorder: Recorder) -> Iterator[Rows]:
    """The recorder's rows; its CPU time is counted."""
    while recorder.parts.ring.pending():
        cycle = recorder.cycle()
        while True:
            with stages.stage("join, kinds"):
                rows = next(cycle, None)
            if rows is None:
                break
            yield rows


def _release(stages: Stages, csv: CsvOutput, waiting: PendingRows, recorder: Recorder) -> None:
    with stages.stage("CSV text"):
        for rows in waiting.release({}):
            csv.write(rows, recorder.parts.names)


def _parts(feed: Feed, size: int) -> Iterator[Bytes]:
    for start in range(0, len(feed.records), size):
        yield feed.records[start : start + size]


@contextmanager
def _all(patches: list[Any]) -> Iterator[None]:
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


@dataclass(frozen=True)
class Measured:
    """The best round of a feed."""

    name: str
    records: int
    rows: int
    ns: dict[str, int]  # CPU time by stage
    reading_ns: int  # from the ring to numpy only

    @property
    def total_ns(self) -> int:
        return sum(self.ns.values())


def measure(name: str, feed: Feed, layout: Layout, rounds: int, folder: Path) -> Measured:
    """Cost of a feed, by stage: the best of `rounds`."""
    best: tuple[int, Stages, int] | None = None
    reading = min(read_only(feed, layout) for _ in range(rounds))
    for _ in range(rounds):
        path = folder / "out.csv"
        stages, made = replay(feed, layout, open_output(str(path), force=True))
        total = sum(stages.ns.values())
        if best is None or total < best[0]:
            best = total, stages, made
    assert best is not None
    _, stages, made = best
    return Measured(name, len(feed.records), made, stages.ns, reading)


def table(measured: Measured) -> str:
    """Nanoseconds per event by stage, for a terminal."""
    rows, total = measured.rows, measured.total_ns
    lines = [f"{measured.name}: {measured.records} records, {rows} rows"]
    lines += [f"  {stage:<18}{ns / rows:8.0f} ns a row" for stage, ns in measured.ns.items()]
    lines.append(f"  {'all':<18}{total / rows:8.0f} ns a row, {rows * 1000 / total:.2f} million/s")
    reading = measured.reading_ns
    lines.append(
        f"  ring to numpy alone: {reading / measured.records:.0f} ns a record, "
        f"{measured.records * 1000 / reading:.1f} million/s"
    )
    return "\n".join(lines)


def markdown(measured: Sequence[Measured]) -> str:
    """The section on throughput of docs/performance.md."""
    head = "| stage, ns a row | " + " | ".join(each.name for each in measured) + " |"
    lines = [_SECTION, head, "|---|" + "---:|" * len(measured)]
    for stage in dict.fromkeys(stage for each in measured for stage in each.ns):
        cells = [f"{each.ns.get(stage, 0) / each.rows:,.0f}" for each in measured]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    sums = [
        ("all", [f"{each.total_ns / each.rows:,.0f}" for each in measured]),
        (
            "**million events a second, ring to CSV**",
            [f"**{each.rows * 1000 / each.total_ns:.2f}**" for each in measured],
        ),
        (
            "**million records a second, ring to numpy**",
            [f"**{each.records * 1000 / each.reading_ns:.1f}**" for each in measured],
        ),
    ]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in sums]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--faults", type=int, default=600_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="feeds with this in their name")
    parser.add_argument("--markdown", action="store_true", help="as docs/performance.md has it")
    options = parser.parse_args()
    with imports_for_much_data():  # the collector, as in a trace
        pass
    found: list[Measured] = []
    layout = load_layout(bpf_dir())
    feeds: dict[str, Callable[[], Feed]] = {
        "storm": lambda: storm(layout, options.faults),
        "storm, perf": lambda: storm(layout, options.faults, own_mapping=False),
        "mixture": lambda: mixture(layout, options.faults // 8),
    }
    # On tmpfs where there is one: the cost of a disk is not measured here.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        for name, make in feeds.items():
            if options.only in name:
                found.append(measure(name, make(), layout, options.rounds, Path(folder)))
                if not options.markdown:
                    print(table(found[-1]), flush=True)
    if options.markdown:
        print(markdown(found), end="")


if __name__ == "__main__":
    main()
