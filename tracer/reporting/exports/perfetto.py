"""A Perfetto trace (ui.perfetto.dev): a track a thread, a slice a fault, a counter.

Field numbers are those of perfetto/protos/perfetto/trace/*.proto. Times are
CLOCK_MONOTONIC, given as Perfetto's own clock, BOOTTIME: the two differ by the
time the machine was suspended before, which no file records.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from tracer.reporting.analysis.curves import Curve
from tracer.reporting.exports.protobuf import (
    block,
    blocks,
    constant,
    doubles,
    number,
    numbers,
    text,
)
from tracer.reporting.exports.tracks import Tracks, tracks
from tracer.reporting.reading.callstacks import CallStacks
from tracer.reporting.reading.columns import Words
from tracer.reporting.reading.run import PAGE, Run
from tracer.reporting.text.overview import head

CHUNK = 50_000  # faults in one piece

_PACKET = 1  # Trace
_CLOCK_SNAPSHOT, _TIMESTAMP, _SEQUENCE, _EVENT, _INTERNED, _FLAGS, _DESCRIPTOR = (
    *(6, 8, 10, 11, 12, 13, 60),
)  # TracePacket
_CATEGORY, _ANNOTATION, _TYPE, _NAME_IID, _TRACK, _NAME, _VALUE, _CALLSTACK, _WEIGHT = (
    *(3, 4, 9, 10, 11, 23, 30, 56, 57),
)  # TrackEvent
_FUNCTIONS, _FRAMES, _CALLSTACKS, _PATHS, _SOURCES, _MAPPINGS = 5, 6, 7, 17, 18, 19  # InternedData
_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4  # TrackEvent.Type
_POINTER, _UINT, _STRING, _STRING_IID = 7, 3, 6, 17  # DebugAnnotation
_REALTIME, _MONOTONIC, _BOOTTIME = 1, 3, 6  # BuiltinClock
_STATE_CLEARED, _NEEDS_STATE = 1, 2  # TracePacket.SequenceFlags
_BYTES = 3  # CounterDescriptor.Unit
_RUN, _MEMORY, _FIRST_TRACK = 1, 2, 16  # track numbers
_OWN = number(_SEQUENCE, 1)  # all packets are of one sequence
_WIDE = 9  # bytes of a time, 63 bits
_ANNOTATIONS = ("address", "pages", "region", "access", "cause", "stack")


def perfetto(run: Run) -> Iterator[bytes]:
    """The file, in pieces."""
    found = tracks(run)
    faults = run.faults
    shared: tuple[Words, ...] = (faults.region, faults.access, faults.cause)
    stacks = run.callstacks
    if stacks is not None:
        briefs = [stacks.brief(at) for at in range(len(stacks))]
        shared = (*shared, Words(briefs, faults.stack.astype(np.int32)))
    yield _packet(_interned(faults.kind, shared) + number(_FLAGS, _STATE_CLEARED))
    if stacks is not None:
        yield _packet(_callstacks(stacks) + number(_FLAGS, _NEEDS_STATE))
    yield _packet(_clocks(run))
    yield from map(_packet, _descriptors(found))
    yield _packet(_about(run))
    for first in range(0, len(found.row), CHUNK):
        yield _slices(run, found, shared, slice(first, first + CHUNK))
    yield _counters(found)


def _packet(content: bytes) -> bytes:
    return block(_PACKET, content + _OWN)


def _interned(kind: Words, shared: tuple[Words, ...]) -> bytes:
    """Names by number: categories, kinds, annotations, and the words annotations hold."""
    kinds = [word or "(not known)" for word in kind.words]
    words = [word for each in shared for word in each.words]
    return block(
        _INTERNED,
        b"".join(
            [
                *_strings(1, ["minor", "major"]),
                *_strings(2, kinds),
                *_strings(3, _ANNOTATIONS),
                *_strings(29, words),
            ]
        ),
    )


def _strings(field: int, words: Iterable[str]) -> Iterator[bytes]:
    """Interned: numbered from 1."""
    return (block(field, number(1, at) + text(2, word)) for at, word in enumerate(words, 1))


def _callstacks(stacks: CallStacks) -> bytes:
    """Call stack number n by n + 1, its frames, and the names these have."""
    locations = stacks.locations
    functions = {each: at for at, each in enumerate(stacks.functions, 1)}
    modules = _ids(location.function.module or "(not known)" for location in locations)
    files = _ids(location.file for location in locations if location.file)
    content = [
        *_strings(_FUNCTIONS, (function.name for function in functions)),
        *_strings(_PATHS, (module.removeprefix("/") for module in modules)),  # it puts one before
        *_strings(_SOURCES, files),
        *(block(_MAPPINGS, number(1, at) + number(7, at)) for at in modules.values()),
    ]
    for at, location in enumerate(locations, 1):
        module = modules[location.function.module or "(not known)"]
        frame = number(1, at) + number(2, functions[location.function]) + number(3, module)
        if location.file:
            frame += number(5, files[location.file]) + number(6, location.line)
        content.append(block(_FRAMES, frame))
    for at in range(len(stacks)):
        frames = stacks.flat[stacks.starts[at] : stacks.starts[at + 1]].tolist()
        numbered = b"".join(number(2, frame + 1) for frame in frames)
        content.append(block(_CALLSTACKS, number(1, at + 1) + numbered))
    return block(_INTERNED, b"".join(content))


def _ids(words: Iterable[str]) -> dict[str, int]:
    """Each word once, numbered from 1."""
    return {word: at for at, word in enumerate(dict.fromkeys(words), 1)}


def _clocks(run: Run) -> bytes:
    clocks = [(_BOOTTIME, run.start_ns), (_MONOTONIC, run.start_ns)]
    if run.facts.started_wall_ns:
        clocks.append((_REALTIME, run.facts.started_wall_ns))
    content = b"".join(block(1, number(1, clock) + number(2, time)) for clock, time in clocks)
    return block(_CLOCK_SNAPSHOT, content)


def _descriptors(found: Tracks) -> Iterator[bytes]:
    yield block(_DESCRIPTOR, number(1, _RUN) + text(2, "run"))
    unit = block(8, number(3, _BYTES))
    for at, name in enumerate(found.memory):
        yield block(_DESCRIPTOR, number(1, _MEMORY + at) + text(2, name) + unit)
    for at, track in enumerate(found.tracks):
        thread = number(1, track.pid) + number(2, track.tid) + text(5, track.name)
        yield block(_DESCRIPTOR, number(1, _FIRST_TRACK + at) + block(4, thread))
    behind = _FIRST_TRACK + len(found.tracks)
    for at, (pid, name) in enumerate(found.processes().items()):
        process = number(1, pid) + text(6, name)
        yield block(_DESCRIPTOR, number(1, behind + at) + block(3, process))


def _about(run: Run) -> bytes:
    """An instant at the start that states what the trace was made from."""
    top = head(run)
    said = (("command", top.what), ("origin", top.origin), ("counts", top.counts))
    event = number(_TYPE, _INSTANT) + number(_TRACK, _RUN) + text(_NAME, "pagefault-trace")
    for name, words in said:
        event += block(_ANNOTATION, text(10, name) + text(_STRING, words))
    return number(_TIMESTAMP, run.start_ns) + block(_EVENT, event)


def _slices(run: Run, found: Tracks, shared: tuple[Words, ...], part: slice) -> bytes:
    """A packet for the beginning of each slice and one for its end; one for an instant."""
    row = found.row[part]
    faults = run.faults.select(row)
    count = len(row)
    timed = found.timed[part]
    track = numbers(_TRACK, found.track[part] + _FIRST_TRACK, 5)
    annotations = [
        blocks(_ANNOTATION, constant(number(1, 1), count), numbers(_POINTER, faults.address, 10)),
        blocks(_ANNOTATION, constant(number(1, 2), count), numbers(_UINT, faults.pages, 5)),
    ]
    before = 1
    for name_id, words in enumerate(shared, 3):
        value = numbers(_STRING_IID, words.codes[row] + before, 4)
        annotations.append(blocks(_ANNOTATION, constant(number(1, name_id), count), value))
        before += len(words.words)
    if run.callstacks is not None:
        annotations.append(numbers(_CALLSTACK, faults.stack + 1, 5))
        annotations.append(doubles(_WEIGHT, faults.pages.astype(np.float64) * PAGE))
    begin = blocks(
        _EVENT,
        numbers(_TYPE, np.where(timed, _BEGIN, _INSTANT), 1),
        track,
        numbers(_NAME_IID, faults.kind.codes + 1, 3),
        numbers(_CATEGORY, faults.major.astype(np.uint8) + 1, 1),
        *annotations,
    )
    end = blocks(_EVENT, numbers(_TYPE, np.full(count, _END), 1), track)
    flags = constant(number(_FLAGS, _NEEDS_STATE) + _OWN, count)
    begins = blocks(_PACKET, numbers(_TIMESTAMP, found.begin_ns[part], _WIDE), flags, begin)
    ends = blocks(_PACKET, numbers(_TIMESTAMP, found.end_ns[part], _WIDE), flags, end)
    # Each end right behind its beginning: where times are equal, the order in the file counts.
    both = np.hstack([begins, ends])
    keep = np.ones(both.shape, np.bool_)
    keep[~timed, begins.shape[1] :] = False
    return both[keep].tobytes()


def _counters(found: Tracks) -> bytes:
    return b"".join(_counter(_MEMORY + at, curve) for at, curve in enumerate(found.memory.values()))


def _counter(track: int, curve: Curve) -> bytes:
    count = len(curve.pages)
    event = blocks(
        _EVENT,
        constant(number(_TYPE, _COUNTER) + number(_TRACK, track), count),
        numbers(_VALUE, curve.pages * PAGE, _WIDE),
    )
    own = constant(_OWN, count)
    return blocks(_PACKET, numbers(_TIMESTAMP, curve.time_ns, _WIDE), own, event).tobytes()
