"""The JSON that chrome://tracing, Perfetto and speedscope read.

Format: "Trace Event Format" of the Catapult project. Times are microseconds
since the start of the trace.
"""

import json
from collections.abc import Iterator

from tracer.reporting.exports.tracks import Tracks, tracks
from tracer.reporting.reading.callstacks import CallStacks
from tracer.reporting.reading.run import PAGE, Run
from tracer.reporting.text.overview import head

CHUNK = 20_000  # events in one piece


def chrome(run: Run) -> Iterator[bytes]:
    """The file, in pieces."""
    found = tracks(run)
    top = head(run)
    about = {"command": top.what, "origin": top.origin, "counts": top.counts}
    yield f'{{"displayTimeUnit":"ns","otherData":{json.dumps(about)},'.encode()
    if run.callstacks is not None:
        frames, ends = _frames(run.callstacks)
        yield f'"stackFrames":{json.dumps(frames)},'.encode()
    else:
        ends = []
    yield b'"traceEvents":[\n'
    yield ",\n".join(_names(found)).encode()
    for first in range(0, len(found.row), CHUNK):
        lines = _slices(run, found, slice(first, first + CHUNK), ends)
        yield (",\n" + ",\n".join(lines)).encode()
    if found.memory:
        yield (",\n" + ",\n".join(_counters(run, found))).encode()
    yield b"\n]}\n"


def _frames(stacks: CallStacks) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Frames by number, each with its caller; and for each stack a piece of its faults' JSON."""
    ids: dict[tuple[str, str, str], str] = {}  # by function, module and caller
    ends = []
    for number in range(len(stacks)):
        caller = ""
        for location in stacks.stack(number):
            key = location.function.marked, location.function.module, caller
            caller = ids.setdefault(key, str(len(ids) + 1))
        ends.append(f'"sf":{caller},')
    frames = {
        number: {"name": name, "category": module} | ({"parent": caller} if caller else {})
        for (name, module, caller), number in ids.items()
    }
    return frames, ends


def _names(found: Tracks) -> list[str]:
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "process_name", "pid": -1, "tid": 0, "args": {"name": "memory"}}
    ]
    for pid, name in found.processes().items():
        event = {"ph": "M", "name": "process_name", "pid": pid, "tid": 0}
        events.append({**event, "args": {"name": name}})
    for track in found.tracks:
        event = {"ph": "M", "name": "thread_name", "pid": track.pid, "tid": track.tid}
        events.append({**event, "args": {"name": track.name}})
    return [json.dumps(event) for event in events]


def _slices(run: Run, found: Tracks, part: slice, ends: list[str]) -> list[str]:
    faults = run.faults.select(found.row[part])
    owners = [f'"pid":{track.pid},"tid":{track.tid}' for track in found.tracks]
    kinds, accesses, causes, regions = (
        [json.dumps(word) for word in column.words]
        for column in (faults.kind, faults.access, faults.cause, faults.region)
    )
    lines = []
    for track, begin, end, timed, kind, access, cause, region, address, pages, major, stack in zip(
        found.track[part].tolist(),
        (found.begin_ns[part] - run.start_ns).tolist(),
        (found.end_ns[part] - run.start_ns).tolist(),
        found.timed[part].tolist(),
        faults.kind.codes.tolist(),
        faults.access.codes.tolist(),
        faults.cause.codes.tolist(),
        faults.region.codes.tolist(),
        faults.address.tolist(),
        faults.pages.tolist(),
        faults.major.tolist(),
        faults.stack.tolist(),
        strict=True,
    ):
        shape = f'"ph":"X","dur":{(end - begin) / 1000:.3f}' if timed else '"ph":"i","s":"t"'
        lines.append(
            f'{{{shape},"name":{kinds[kind]},"cat":"{"major" if major else "minor"}",'
            f'{owners[track]},"ts":{begin / 1000:.3f},{ends[stack] if ends else ""}'
            f'"args":{{"address":"{address:#x}",'
            f'"region":{regions[region]},"access":{accesses[access]},"cause":{causes[cause]},'
            f'"pages":{pages}}}}}'
        )
    return lines


def _counters(run: Run, found: Tracks) -> list[str]:
    return [
        f'{{"ph":"C","name":"{name}","pid":-1,"tid":0,"ts":{(time_ns - run.start_ns) / 1000:.3f},'
        f'"args":{{"bytes":{pages * PAGE}}}}}'
        for name, curve in found.memory.items()
        for time_ns, pages in zip(curve.time_ns.tolist(), curve.pages.tolist(), strict=True)
    ]
