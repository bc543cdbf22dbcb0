"""Cost of a snapshot, compared with only reading the same pagemap.

    python -m bench.snapshots [--pages N] [--rounds N]

A snapshot reads the mappings and the pagemap, and compares it with the page timeline. Each
round also only reads the pagemap (the same entries, discarded), so that ratios are within a
round; all figures are CPU time of one thread.
"""

import argparse
import mmap
import time
from typing import Any

import numpy as np

from bench.programs import Target, milliseconds, spread, target
from tracer.model.rows import Names
from tracer.model.sources import Source
from tracer.procfs.maps import read_maps
from tracer.procfs.pagemap import PageMap
from tracer.snapshots.reconcile import Reconciler
from tracer.snapshots.snapshots import take_snapshot
from tracer.snapshots.unrecorded import Unrecorded
from tracer.timeline.timeline import Timeline

PAGES = 2_000_000
ROUNDS = 11
CHANGED = 1000
_SPARSE_PAGES, _SPARSE_STRIDE = 1000, 1 << 18  # a page per GiB, nearly 1 TiB
_SPACE = 1
_CHUNK = 1 << 16


class Snapshots:
    """Successive snapshots of one process, and its timeline."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._names = Names()
        self._line = Timeline()
        self._reconciler = Reconciler(self._line)
        self._reconciler.view(_SPACE, Source.INITIAL)

    def snapshot(self) -> float:
        """CPU seconds of the next snapshot."""
        began = time.thread_time()
        shot = take_snapshot(self._pid, self._reconciler.last_seen(_SPACE))
        self._reconciler.observe(
            _SPACE, shot, lambda pages: shot.regions(self._names, pages), Unrecorded()
        )
        self._line.ledger.changed_since(_SPACE, shot.before_ns)
        self._line.ledger.tidy(_SPACE, shot.before_ns)
        return time.thread_time() - began

    def bare(self) -> float:
        """CPU seconds of only reading the same pagemap, mapping by mapping."""
        buffer = np.empty(_CHUNK, np.uint64)
        step = _CHUNK * mmap.PAGESIZE
        with PageMap(self._pid) as pagemap:
            mappings = [each for each in read_maps(self._pid) if each.start < 1 << 63]
            began = time.thread_time()
            for mapping in mappings:
                for start in range(mapping.start, mapping.end, step):
                    pagemap.read_into(
                        start, buffer[: (min(start + step, mapping.end) - start) >> 12]
                    )
            return time.thread_time() - began


def measure(pages: int = PAGES, rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of each kind of snapshot, and its ratio to the bare read of the same round."""
    data: dict[str, Any] = {"pages": pages, "rounds": rounds, "cases": {}}
    with target("resident", pages, 1) as process:
        snapshots = Snapshots(process.pid)
        first = snapshots.snapshot()
        data["first"] = {"snapshot": first, "bare": snapshots.bare()}
        snapshots.snapshot()  # confirms what the first one found
        for name, changed in (("nothing", 0), ("some", CHANGED)):
            data["cases"][name] = _case(process, snapshots, rounds, changed)
    with target("resident", _SPARSE_PAGES, 1, _SPARSE_STRIDE) as process:
        snapshots = Snapshots(process.pid)
        snapshots.snapshot()
        seconds = [snapshots.snapshot() for _ in range(rounds + 1)][1:]
        data["sparse"] = {
            "bytes": _SPARSE_PAGES * _SPARSE_STRIDE * mmap.PAGESIZE,
            "pages": _SPARSE_PAGES,
            "snapshot": spread(seconds),
        }
    return data


def _case(process: Target, snapshots: Snapshots, rounds: int, changed: int) -> dict[str, Any]:
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        if changed:
            process.say(str(changed))
            if process.hear() != "done":
                raise RuntimeError("the target did not change its pages")
        # Each page that changed without a recorded fault is read twice.
        times.append((snapshots.bare(), snapshots.snapshot()))
    return {
        "changed": changed,
        "bare": spread([bare for bare, _ in times]),
        "snapshot": spread([whole for _, whole in times]),
        "ratio": spread([whole / bare for bare, whole in times]),
    }


def markdown(data: dict[str, Any]) -> str:
    """The section of docs/performance.md."""
    lines = [
        f"A process with {data['pages']:,} resident small pages; {data['rounds']} rounds, medians "
        "and quartiles of processor time.",
        "",
        "| since the last snapshot | pagemap read bare | whole snapshot | against the bare read |",
        "|---|---|---|---|",
    ]
    for case in data["cases"].values():
        what = f"{case['changed']:,} pages changed frames" if case["changed"] else "nothing changed"
        ratio = case["ratio"]
        lines.append(
            f"| {what} | {milliseconds(case['bare'])} | {milliseconds(case['snapshot'])} "
            f"| {ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f}) |"
        )
    first, sparse = data["first"], data["sparse"]
    lines += [
        "",
        "The very first snapshot, which gets to know every page, took "
        f"{first['snapshot'] * 1e3:,.0f} ms. One of {sparse['pages']:,} pages "
        f"scattered over {sparse['bytes'] / (1 << 40):.2f} TiB takes "
        f"{milliseconds(sparse['snapshot'])}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.snapshots", description=__doc__)
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print(markdown(measure(options.pages, options.rounds)))


if __name__ == "__main__":
    main()
