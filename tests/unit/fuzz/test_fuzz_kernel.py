"""What comes from the kernel, damaged: types, records, the ring they lie in, perf's records.

The kernel is trusted, and so is what we keep for ourselves: what matters here is
that reading ends, and that the damage is reported.
"""

import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.unit.faults_data import LAYOUT
from tests.unit.fuzz.mutation import edited, every, mutated, number
from tests.unit.kernel.test_btf import ENUM, INT, STRUCT, TYPEDEF, UNION, BtfWriter
from tests.unit.probes.test_compile_cache import ANSWER
from tests.unit.recorder_data import BASE, CHILD, MM, PID, Kernel, recording
from tracer.common.errors import TraceError
from tracer.kernel.btf import Btf
from tracer.kernel.sideband import MmapEvent, parse
from tracer.probes import cache
from tracer.probes.compiled import Answer, decode, encode
from tracer.wire.records import RecordType, parse_layout
from tracer.wire.ring import KernelRing, MappedRing, Ring, SpillingRing

PAGE = mmap.PAGESIZE

# -- BTF -------------------------------------------------------------------------------------


def some_btf(path: Path) -> bytes:
    w = BtfWriter()
    u64 = w.add(INT, "u64", 8, struct.pack("<I", 64))
    inner = w.composite(STRUCT, "", 16, ("deep", u64, 0), ("deeper", u64, 64))
    union = w.composite(UNION, "", 16, ("", inner, 0), ("flags", u64, 0))
    alias = w.add(TYPEDEF, "alias", w.add(TYPEDEF, "other", inner))
    w.composite(STRUCT, "outer", 48, ("first", u64, 0), ("", union, 64), ("named", alias, 192))
    w.add(ENUM, "small", 4, struct.pack("<IiIi", w.name("A"), 7, w.name("TOP"), -1), 2)
    return w.write(path).read_bytes()


def ask_btf(path: Path) -> None:
    with Btf(path) as types:
        types.offsets(["outer.first", "outer.deeper", "outer.named.deep", "outer.no"])
        types.struct_size("outer")
        types.enum_value("small", "TOP")
        types.struct_id("outer")
        types.function_id("outer")


def test_types(tmp_path: Path) -> None:
    path = tmp_path / "btf"
    whole = some_btf(path)
    ask_btf(path)
    parts = [[(at, 4) for at in range(4, 24, 4)], [(24, len(whole) - 24)]]

    def check(random: Random) -> None:
        path.write_bytes(mutated(random, whole, parts))
        with suppress(TraceError):
            ask_btf(path)

    every("btf", 1000, check)


def test_types_that_refer_to_each_other_have_an_end(tmp_path: Path) -> None:
    makers: list[Callable[[BtfWriter], object]] = [
        lambda w: w.add(TYPEDEF, "round", 3) and w.add(TYPEDEF, "round2", 2),
        lambda w: w.composite(STRUCT, "", 8, ("", 2, 0)),
    ]
    for make in makers:
        w = BtfWriter()
        w.composite(STRUCT, "outer", 8, ("", 2, 0), ("named", 2, 0))
        make(w)
        try:
            with Btf(w.write(tmp_path / "btf")) as types:
                for path in ("outer.x", "outer.named.x"):
                    with suppress(TraceError):
                        types.offsets([path])
        except TraceError:
            continue  # libbpf saw it


# -- records ---------------------------------------------------------------------------------

FIELDS = np.array([0, 1, 2, PID, CHILD, MM, BASE, (1 << 47) - 1, (1 << 64) - 1], np.uint64)
SHAPES: dict[int, np.dtype[np.void]] = {
    RecordType.FAULT: LAYOUT.fault,
    RecordType.WINDOW: LAYOUT.window,
    RecordType.SYSCALL: LAYOUT.syscall,
    RecordType.STACK: LAYOUT.stack,
}


def a_record(random: Random) -> bytes:
    """A type, known or not, and fields that are likely, odd, or any bytes."""
    odd = random.random() < 0.05
    kind = random.choice([0, 99, 255]) if odd else int(random.choice([*RecordType]))
    data = bytearray(random.randbytes(LAYOUT.size) if random.random() < 0.3 else LAYOUT.size)
    record = np.frombuffer(data, SHAPES.get(kind, LAYOUT.task))
    for name in random.choices(record.dtype.names or (), k=8):
        shape = record[name].shape
        values = [random.choice(FIELDS) for _ in range(int(np.prod(shape)))]
        record[name] = np.array(values, np.uint64).reshape(shape).astype(record[name].dtype)
    record["type"] = kind
    if not odd:
        record["time_ns"] >>= np.uint64(2)
    return bytes(data)


def test_the_recorder() -> None:
    """Records that no program of ours would send: read to the end, or refused."""

    def check(random: Random) -> None:
        kernel = Kernel()
        with pytest.MonkeyPatch.context() as patch:
            for recorder in recording(kernel, patch):
                for _ in range(random.randrange(1, 13)):
                    kernel.put_bytes(a_record(random))
                with suppress(TraceError):
                    for _ in range(3):
                        for rows in recorder.cycle():
                            assert len(rows.records()) == len(rows)
                    assert recorder.parts.ring.pending() == 0
        kernel.ring.close()

    every("recorder", 200, check)


def test_the_header(pytestconfig: pytest.Config) -> None:
    """bpf/shared.h as another version may have it."""
    whole = (pytestconfig.rootpath / "bpf" / "shared.h").read_bytes()

    def check(random: Random) -> None:
        with suppress(TraceError):
            parse_layout(mutated(random, whole).decode("latin-1"))

    every("shared.h", 100, check)


# -- the ring --------------------------------------------------------------------------------

RECORD, CAPACITY = 64, 64
SIZE = 2 * PAGE


@pytest.fixture
def mapped() -> Iterator[tuple[int, int]]:
    made = os.memfd_create("positions"), os.memfd_create("records")
    os.ftruncate(made[0], PAGE)
    yield made
    for descriptor in made:
        os.close(descriptor)


def read_to_its_end(ring: Ring, random: Random) -> None:
    """Whole records until there are none or the ring is refused; never more than it can hold."""
    count = 0
    for _ in range(8):
        if isinstance(ring, SpillingRing):
            ring.spill()
        assert isinstance(ring.pending(), int)
        try:
            records = ring.read(random.choice([1, 5, 1 << 16]))
        except TraceError:
            break
        assert records.shape == (len(records), ring.record_size)
        count += len(records)
    assert count <= 8 * ring.capacity


def test_the_mapped_ring(mapped: tuple[int, int]) -> None:
    """Positions and sequences of all sizes, and bytes of records."""
    positions, records = mapped

    def check(random: Random) -> None:
        tail = random.choice([CAPACITY, 2 * CAPACITY - 3, (1 << 32) - 2, (1 << 32) + CAPACITY - 1])
        head = tail + random.randrange(CAPACITY + 1)
        data = np.zeros((CAPACITY, RECORD), np.uint8)
        for at in range(tail, head):
            data[at % CAPACITY, 4:8] = np.frombuffer((at & 0xFFFFFFFF).to_bytes(4, "little"), "u1")
        page = bytearray(PAGE)
        page[:8], page[128:136] = head.to_bytes(8, "little"), tail.to_bytes(8, "little")
        for at in random.sample([0, 128], random.choice([0, 1, 1, 2])):
            page[at : at + 8] = number(random, 8)
        os.pwrite(positions, page, 0)
        content = data.tobytes()
        damaged = mutated(random, content, [[(RECORD * at + 4, 4) for at in range(CAPACITY)]])
        os.pwrite(records, damaged.ljust(len(content), b"\0")[: len(content)], 0)
        ring = MappedRing(positions, records, CAPACITY, RECORD)
        with SpillingRing(ring) if random.random() < 0.5 else ring as made:
            read_to_its_end(made, random)

    every("mapped ring", 300, check)


def test_the_kernels_ring(mapped: tuple[int, int]) -> None:
    """Positions of both sides, and the headers' lengths and flags."""
    _, descriptor = mapped
    stride = RECORD + 8

    def check(random: Random) -> None:
        whole = struct.pack("<II", RECORD, 0) + bytes(RECORD)
        consumed = stride * random.randrange(SIZE // stride)
        data = bytearray(whole * (SIZE // stride + 1))[:SIZE]
        pages = bytearray(2 * PAGE)
        pages[:8] = consumed.to_bytes(8, "little")
        produced = consumed + stride * random.randrange(SIZE // stride + 1)
        pages[PAGE : PAGE + 8] = produced.to_bytes(8, "little")
        for at in random.sample([0, PAGE], random.choice([0, 0, 1, 2])):
            pages[at : at + 8] = number(random, 8)
        damaged = mutated(random, data, [[(at, 4) for at in range(0, SIZE - 8, stride)]])
        os.ftruncate(descriptor, 2 * PAGE + SIZE)
        os.pwrite(descriptor, pages + damaged.ljust(SIZE, b"\0")[:SIZE], 0)
        with KernelRing(descriptor, SIZE, RECORD) as ring:
            read_to_its_end(ring, random)

    every("kernel ring", 300, check)


# -- perf's records ----------------------------------------------------------------------------


def mmap2(random: Random, name: bytes) -> bytes:
    """A record of a new mapping (include/uapi/linux/perf_event.h)."""
    body = struct.pack("<IIQQQ", PID, PID, BASE, 0x1000, 0)
    body += struct.pack("<IIQQII", 8, 1, 77, 0, random.getrandbits(3), random.getrandbits(2))
    body += name.ljust(-(-len(name) // 8) * 8 + 8, b"\0") + struct.pack("<IIQ", PID, PID, 99)
    return struct.pack("<IHH", 10, random.choice([0, 1 << 14]), 8 + len(body)) + body


def test_the_sideband() -> None:
    """Whole events, and all that is not read accounted for."""
    names = [b"/usr/bin/head", b"//anon", b"[heap]", b"/a\nb", b"/\xff\xfe", b"/" + b"x" * 300]
    comm = struct.pack("<IHHII8sIIQ", 3, 1 << 13, 40, PID, PID, b"name", PID, PID, 98)
    lost = struct.pack("<IHHQQIIQ", 2, 0, 40, 1, 5, PID, PID, 97)

    def check(random: Random) -> None:
        parts = [random.choice([mmap2(random, random.choice(names)), comm, lost]) for _ in range(6)]
        starts = [sum(map(len, parts[:at])) for at in range(len(parts))]
        data = mutated(random, b"".join(parts), [[(at + 6, 2), (at, 4)] for at in starts])
        events, lost_count, left_over = parse(data, random.choice([None, {PID}]), 50)
        assert len(events) <= len(data) // 8
        assert lost_count >= 0
        assert 0 <= left_over <= len(data)
        for event in events:
            assert isinstance(event.time_ns, int)
            if isinstance(event, MmapEvent):
                assert "\n" not in event.path
                assert "\0" not in event.path

    every("sideband", 1000, check)


# -- compiled probes on disk -------------------------------------------------------------------


def test_a_compiled_probe() -> None:
    """Of another version's make, or with a digest that is right by whatever accident."""
    whole = encode(ANSWER).encode()
    words = [b"null", b"[]", b"{}", b"[[]]", b"-1", b"1e999", b"true", b'"m"', b"[" * 2000]

    def check(random: Random) -> None:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            assert isinstance(decode(json.loads(edited(random, whole, words))), Answer)

    every("compiled probe", 500, check)


def test_a_compiled_probe_in_its_file(tmp_path: Path) -> None:
    """Nothing but what was written is believed."""
    cache.store(tmp_path, "key", ANSWER)
    whole = (tmp_path / "key.json").read_bytes()

    def check(random: Random) -> None:
        damaged = mutated(random, whole, [[(0, 66)]])
        (tmp_path / "key.json").write_bytes(damaged)
        found = cache.load(tmp_path, "key")
        assert (found is not None) == (damaged == whole)

    every("compile cache", 200, check)
