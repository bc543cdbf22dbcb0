"""perf's MMAP2 records out of raw buffers: whole, foreign, short and senseless ones."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel.sideband import ExecEvent, MmapEvent, parse


def record(kind: int, body: bytes, misc: int = 0, pid: int = 42, time_ns: int = 1000) -> bytes:
    body += struct.pack("<IIQ", pid, pid + 1, time_ns)
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def mmap2(
    path: bytes,
    pid: int = 42,
    prot: int = 5,
    flags: int = 2,
    inode: int = 9,
    misc: int = 0,
    time_ns: int = 1000,
) -> bytes:
    body = struct.pack(
        "<IIQQQIIQQII", pid, pid + 1, 0x7000, 0x2000, 0x3000, 8, 1, inode, 0, prot, flags
    )
    return record(10, body + path + bytes(8 - len(path) % 8), misc, pid, time_ns)


def only(data: bytes) -> MmapEvent:
    (event,), _, _ = parse(data)
    assert isinstance(event, MmapEvent)
    return event


LOST = record(2, struct.pack("<QQ", 1, 17))
FILE = MmapEvent(1000, 42, 43, 0x7000, 0x9000, 0x3000, "r-xp", 8 << 20 | 1, 9, "/bin/x")


def test_a_file_mapping() -> None:
    assert parse(mmap2(b"/bin/x")) == ([FILE], 0, 0)


def test_memory_without_a_file_has_no_offset() -> None:
    anon = only(mmap2(b"//anon", prot=3, inode=0))
    heap = only(mmap2(b"[heap]", prot=3, inode=0))
    assert (anon.path, anon.pgoff, anon.perms) == ("", 0, "rw-p")
    assert (heap.path, heap.pgoff) == ("[heap]", 0)


def test_shared_memory_and_nameless_files() -> None:
    shared = only(mmap2(b"/dev/zero (deleted)", flags=1))
    nameless = only(mmap2(b"//toolong"))
    assert shared.perms == "r-xs"
    assert (nameless.path, nameless.inode, nameless.pgoff) == ("", 9, 0x3000)


def test_a_build_id_is_not_read_as_an_inode() -> None:
    event = only(mmap2(b"/bin/x", misc=1 << 14))
    assert (event.device, event.inode, event.path) == (0, 0, "/bin/x")


def test_names_may_hold_anything() -> None:
    event = only(mmap2(b"/\xff\n\x1b[2J"))
    assert event.path.encode("utf-8", "surrogateescape") == b"/\xff\\012\x1b[2J"


def test_other_processes_are_dropped() -> None:
    data = mmap2(b"/bin/x", pid=7) + mmap2(b"/bin/x") + mmap2(b"/bin/x", pid=8)
    assert parse(data, {42}) == ([FILE], 0, 0)


def test_later_events_of_all_processes_are_kept() -> None:
    early, late = mmap2(b"/bin/x", pid=7), mmap2(b"/bin/x", pid=8, time_ns=1001)
    events, _, _ = parse(early + late, {42}, settled_ns=1000)
    assert [event.pid for event in events] == [8]


def test_only_an_exec_is_kept_of_the_renames() -> None:
    comm = struct.pack("<II", 42, 43) + b"sh\0\0\0\0\0\0"
    assert parse(record(3, comm) + record(3, comm, misc=1 << 13)) == (
        [ExecEvent(1000, 42, 43)],
        0,
        0,
    )


def test_lost_records_are_counted() -> None:
    assert parse(LOST + mmap2(b"/bin/x") + LOST) == ([FILE], 34, 0)


def test_unknown_records_are_stepped_over() -> None:
    assert parse(record(99, b"whatever") + mmap2(b"/bin/x")) == ([FILE], 0, 0)


def test_a_senseless_record_ends_the_buffer() -> None:
    good = mmap2(b"/bin/x")
    for bad in (struct.pack("<IHH", 10, 0, 0), struct.pack("<IHH", 10, 0, 60000), good[:-1]):
        assert parse(good + bad) == ([FILE], 0, len(bad))
    short = struct.pack("<IHH", 10, 0, 24) + bytes(16)
    assert parse(good + short + good) == ([FILE], 0, len(short) + len(good))


@given(st.binary(max_size=300))
def test_garbage_never_raises(data: bytes) -> None:
    events, lost, left_over = parse(mmap2(b"/bin/x") + data)
    assert events[0] == FILE
    assert lost >= 0
    assert 0 <= left_over <= len(data)


@given(st.integers(0, 300))
def test_a_cut_buffer_never_raises(length: int) -> None:
    parse((mmap2(b"/bin/x") + LOST)[:length])
