"""A Perfetto trace (ui.perfetto.dev): a track a thread, a slice a fault, a counter.

Field numbers are those of perfetto/protos/perfetto/trace/*.proto. Times are
CLOCK_MONOTONIC, given as Perfetto's own clock, BOOTTIME: the two differ by the
time the machine slept before, which no file tells.
"""

from collections.abc import Iterator

import numpy as np

from tracer.reporting.columns import Words
from tracer.reporting.protobuf import block, blocks, constant, number, numbers, text
from tracer.reporting.run import PAGE, Run
from tracer.reporting.story import head
from tracer.reporting.tracks import Tracks, tracks

CHUNK = 50_000  # faults in one piece

_PACKET = 1  # Trace
_CLOCK_SNAPSHOT, _TIMESTAMP, _SEQUENCE, _EVENT, _INTERNED, _FLAGS, _DESCRIPTOR = (
    *(6, 8, 10, 11, 12, 13, 60),
)  # TracePacket
_CATEGORY, _ANNOTATION, _TYPE, _NAME_IID, _TRACK, _NAME, _VALUE = (
    *(3, 4, 9, 10, 11, 23, 30),
)  # TrackEvent
_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4  # TrackEvent.Type
_POINTER, _UINT, _STRING, _STRING_IID = 7, 3, 6, 17  # DebugAnnotation
_REALTIME, _MONOTONIC, _BOOTTIME = 1, 3, 6  # BuiltinClock
_STATE_CLEARED, _NEEDS_STATE = 1, 2  # TracePacket.SequenceFlags
_BYTES = 3  # CounterDescriptor.Unit
_RUN, _RESIDENT, _FIRST_TRACK = 1, 2, 16  # track numbers
_OWN = number(_SEQUENCE, 1)  # all packets are of one sequence
_WIDE = 9  # bytes of a time, 63 bits
_ANNOTATIONS = ("address", "pages", "region", "access", "cause")


def perfetto(run: Run) -> Iterator[bytes]:
    """The file, in pieces."""
    found = tracks(run)
    faults = run.faults
    shared = (faults.region, faults.access, faults.cause)
    yield _packet(_interned(faults.kind, shared) + number(_FLAGS, _STATE_CLEARED))
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
    content = b"".join(
        block(1, number(1, at) + text(2, name)) for at, name in ((1, "minor"), (2, "major"))
    )
    for at, word in enumerate(kind.words, 1):
        content += block(2, number(1, at) + text(2, word or "(not known)"))
    for at, word in enumerate(_ANNOTATIONS, 1):
        content += block(3, number(1, at) + text(2, word))
    at = 0
    for words in shared:
        for word in words.words:
            at += 1
            content += block(29, number(1, at) + text(2, word))
    return block(_INTERNED, content)


def _clocks(run: Run) -> bytes:
    clocks = [(_BOOTTIME, run.start_ns), (_MONOTONIC, run.start_ns)]
    if run.facts.started_wall_ns:
        clocks.append((_REALTIME, run.facts.started_wall_ns))
    content = b"".join(block(1, number(1, clock) + number(2, time)) for clock, time in clocks)
    return block(_CLOCK_SNAPSHOT, content)


def _descriptors(found: Tracks) -> Iterator[bytes]:
    yield block(_DESCRIPTOR, number(1, _RUN) + text(2, "run"))
    unit = block(8, number(3, _BYTES))
    yield block(_DESCRIPTOR, number(1, _RESIDENT) + text(2, "resident") + unit)
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
    faults = run.faults.take(row)
    count = len(row)
    timed = found.timed[part]
    track = numbers(_TRACK, found.track[part] + _FIRST_TRACK, 5)
    annotations = [
        blocks(_ANNOTATION, constant(number(1, 1), count), numbers(_POINTER, faults.address, 10)),
        blocks(_ANNOTATION, constant(number(1, 2), count), numbers(_UINT, faults.pages, 5)),
    ]
    before = 1
    for place, words in enumerate(shared, 3):
        value = numbers(_STRING_IID, words.codes[row] + before, 4)
        annotations.append(blocks(_ANNOTATION, constant(number(1, place), count), value))
        before += len(words.words)
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
    curve = found.resident
    count = len(curve.pages)
    event = blocks(
        _EVENT,
        constant(number(_TYPE, _COUNTER) + number(_TRACK, _RESIDENT), count),
        numbers(_VALUE, curve.pages * PAGE, _WIDE),
    )
    own = constant(_OWN, count)
    return blocks(_PACKET, numbers(_TIMESTAMP, curve.time_ns, _WIDE), own, event).tobytes()
