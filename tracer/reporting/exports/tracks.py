"""Faults as slices on tracks, one track a thread: what trace viewers show."""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64, Bools
from tracer.reporting.analysis.curves import Curve, mapped, resident
from tracer.reporting.analysis.groups import threads
from tracer.reporting.reading.codes import Codes
from tracer.reporting.reading.run import Run

MOST_POINTS = 200_000  # of the counter


@dataclass(frozen=True)
class Track:
    """A thread, in the process whose memory it touched."""

    pid: int
    tid: int
    name: str


@dataclass(frozen=True)
class Tracks:
    """A slice a fault, in the order of tracks and within a track of time.

    `row` is the fault, `begin_ns` and `end_ns` its slice (CLOCK_MONOTONIC); no two
    slices of a track overlap. `timed`: the latency is known; else begin is end.
    """

    tracks: list[Track]
    row: Codes
    track: Codes
    begin_ns: I64
    end_ns: I64
    timed: Bools
    memory: dict[str, Curve]  # memory over time, by name

    def processes(self) -> dict[int, str]:
        """Each process's name: its main thread's, or the first that is known."""
        names = {track.pid: track.name for track in reversed(self.tracks)}
        return names | {track.pid: track.name for track in self.tracks if track.tid == track.pid}


def tracks(run: Run) -> Tracks:
    """The slices of a run."""
    codes, found = threads(run)
    row = np.argsort(codes, kind="stable")  # faults are in the order of time already
    track = codes[row]
    end = run.faults.time_ns[row]
    latency = run.faults.latency_ns[row]
    begin = end - np.maximum(latency, 0)
    if len(begin):
        # A clock read on two CPUs may be some ns off, and a viewer wants slices that nest.
        same = track[1:] == track[:-1]
        begin[1:] = np.where(same, np.maximum(begin[1:], end[:-1]), begin[1:])
    curves = {"mapped": mapped(run), "resident": resident(run)}
    memory = {
        name: curve.thinned(MOST_POINTS)
        for name, curve in curves.items()
        if curve is not None and len(curve.pages)
    }
    return Tracks([Track(*each) for each in found], row, track, begin, end, latency >= 0, memory)
