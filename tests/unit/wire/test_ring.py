"""Both rings against ones laid out as the kernel's: wrap, unfinished records, rubbish."""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay import FedRing
from tracer.common.errors import TraceError
from tracer.wire.ring import KernelRing, MappedRing, SpillingRing

PAGE = mmap.PAGESIZE
SIZE = 2 * PAGE
RECORD = 176
STRIDE = RECORD + 8
BUSY, DISCARD = 1 << 31, 1 << 30


class FakeRing:
    """The kernel's side in a memfd: consumer page, producer page, data.

    The kernel shows the data a second time behind; the reader must not need it.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + size)
        self._map = mmap.mmap(self.fd, 0)
        self._positions = np.frombuffer(self._map, "<u8")
        self._data = np.frombuffer(self._map, "u1", offset=2 * PAGE)

    @property
    def consumer(self) -> int:
        return int(self._positions[0])

    @property
    def producer(self) -> int:
        return int(self._positions[PAGE // 8])

    def start_at(self, position: int) -> None:
        self._positions[0] = self._positions[PAGE // 8] = position

    def produce_to(self, position: int) -> None:
        self._positions[PAGE // 8] = position

    def write(self, position: int, data: bytes) -> None:
        at = (position + np.arange(len(data))) % self.size
        self._data[at] = np.frombuffer(data, "u1")

    def header(self, position: int, length: int, flags: int = 0) -> None:
        self.write(position, (length | flags).to_bytes(4, "little") + bytes(4))

    def put(self, value: int, flags: int = 0, length: int = RECORD) -> int:
        """One record whose every byte is `value`; its position."""
        return self.put_bytes(bytes([value]) * RECORD, flags, length)

    def put_bytes(self, data: bytes, flags: int = 0, length: int = RECORD) -> int:
        position = self.producer
        self.header(position, length, flags)
        self.write(position + 8, data)
        self.produce_to(position + STRIDE)
        return position

    def close(self) -> None:
        del self._positions, self._data
        self._map.close()
        os.close(self.fd)


@pytest.fixture
def fake() -> Iterator[FakeRing]:
    made = FakeRing()
    yield made
    made.close()


@pytest.fixture
def ring(fake: FakeRing) -> Iterator[KernelRing]:
    with KernelRing(fake.fd, SIZE, RECORD) as made:
        yield made


def values(records: np.ndarray) -> list[int]:
    assert records.dtype == np.uint8
    assert records.shape == (len(records), RECORD)
    assert (records == records[:, :1]).all()
    found: list[int] = records[:, 0].tolist()
    return found


def test_an_empty_ring_has_nothing_to_read(ring: KernelRing) -> None:
    assert ring.pending() == 0
    assert values(ring.read()) == []


def test_records_come_in_order_and_once(fake: FakeRing, ring: KernelRing) -> None:
    for value in (1, 2, 3):
        fake.put(value)
    assert ring.pending() == 3
    assert values(ring.read()) == [1, 2, 3]
    assert fake.consumer == fake.producer
    assert values(ring.read()) == []


def test_a_batch_ends_at_most(fake: FakeRing, ring: KernelRing) -> None:
    for value in range(5):
        fake.put(value)
    assert values(ring.read(2)) == [0, 1]
    assert values(ring.read(2)) == [2, 3]
    assert values(ring.read(2)) == [4]


def test_a_batch_is_a_copy_the_kernel_cannot_write_over(fake: FakeRing, ring: KernelRing) -> None:
    fake.put(1)
    batch = ring.read()
    fake.write(8, b"\xff" * RECORD)
    assert values(batch) == [1]


def test_records_that_wrap_are_whole(fake: FakeRing, ring: KernelRing) -> None:
    """Rounds enough that the ring's end falls at every eighth byte of a record."""
    written = read = 0
    for turn in range(200):
        for _ in range(1 + turn % 40):
            fake.put(written % 251)
            written += 1
        for value in values(ring.read()):
            assert value == read % 251
            read += 1
    assert read == written
    assert fake.consumer > 20 * SIZE


def test_a_full_ring_is_read_whole(fake: FakeRing, ring: KernelRing) -> None:
    fake.start_at(5 * STRIDE)
    most = SIZE // STRIDE
    for value in range(most):
        fake.put(value)
    assert values(ring.read()) == list(range(most))


def test_reading_stops_before_a_busy_record(fake: FakeRing, ring: KernelRing) -> None:
    fake.put(1)
    busy = fake.put(2, BUSY)
    fake.put(3)
    assert values(ring.read()) == [1]
    assert fake.consumer == busy
    assert values(ring.read()) == []
    fake.header(busy, RECORD)
    assert values(ring.read()) == [2, 3]


def test_what_follows_a_busy_record_is_not_looked_at(fake: FakeRing, ring: KernelRing) -> None:
    fake.put(1, BUSY)
    fake.put(2, length=8)
    assert values(ring.read()) == []


def test_discarded_records_are_passed_over(fake: FakeRing, ring: KernelRing) -> None:
    fake.put(1)
    fake.put(2, DISCARD)
    fake.put(3)
    fake.put(4, DISCARD)
    assert values(ring.read()) == [1, 3]
    assert fake.consumer == fake.producer


def test_a_record_of_another_length_is_refused(fake: FakeRing, ring: KernelRing) -> None:
    fake.put(1)
    fake.put(2, length=RECORD + 8)
    with pytest.raises(TraceError, match=f"a ring record of {RECORD + 8} bytes, not {RECORD}"):
        ring.read()


def test_more_in_the_ring_than_it_holds_is_refused(fake: FakeRing, ring: KernelRing) -> None:
    fake.put(1)
    fake.produce_to(SIZE + STRIDE)
    with pytest.raises(TraceError, match="the ring holds"):
        ring.read()


def test_closing_lets_go_of_the_mappings(fake: FakeRing) -> None:
    ring = KernelRing(fake.fd, SIZE, RECORD)
    ring.close()
    assert ring._consumer_map.closed
    assert ring._producer_map.closed


def test_the_producer_s_side_is_mapped_read_only(fake: FakeRing, ring: KernelRing) -> None:
    with pytest.raises(TypeError):
        ring._producer_map[0] = 1
    assert not ring._data.mapped(0, PAGE).flags.writeable


@settings(max_examples=200, deadline=None)
@given(
    rubbish=st.binary(min_size=1, max_size=4 * STRIDE),
    where=st.integers(0, SIZE - 1),
    begin=st.integers(0, 1 << 40),
    length=st.integers(-STRIDE, 2 * SIZE),
    most=st.integers(0, 100),
)
def test_rubbish_is_refused_or_yields_records(
    rubbish: bytes, where: int, begin: int, length: int, most: int
) -> None:
    """Whatever bytes and positions: nothing but a batch of whole records or TraceError."""
    fake = FakeRing()
    try:
        begin &= ~7
        fake.start_at(begin)
        for value in range(20):
            fake.put(value)
        fake.write(where, rubbish)
        fake.produce_to(max(0, begin + length))
        with KernelRing(fake.fd, SIZE, RECORD) as ring:
            try:
                batch = ring.read(most)
            except TraceError:
                assert fake.consumer == begin  # nothing is taken from what is not understood
            else:
                assert batch.shape[1] == RECORD
                assert begin <= fake.consumer <= max(begin, fake.producer)
    finally:
        fake.close()


def test_bytes_behind_the_data_stay_as_they_are(fake: FakeRing, ring: KernelRing) -> None:
    """The reader writes the consumer's position and nothing else."""
    for value in range(7):
        fake.put(value)
    before = ctypes.string_at(fake._data.ctypes.data, SIZE), fake.producer
    ring.read()
    assert (ctypes.string_at(fake._data.ctypes.data, SIZE), fake.producer) == before


CAPACITY = 64


@pytest.fixture
def fed() -> Iterator[FedRing]:
    made = FedRing(CAPACITY, RECORD)
    yield made
    made.close()


@pytest.fixture
def mapped(fed: FedRing) -> Iterator[MappedRing]:
    with fed.open() as made:
        yield made


def numbered(first: int, count: int) -> np.ndarray:
    """Records that have their number for a time, shape (count, RECORD)."""
    made = np.zeros((count, RECORD), np.uint8)
    made.view("<u8")[:, 1] = np.arange(first, first + count)
    return made


def numbers(records: np.ndarray) -> list[int]:
    assert records.dtype == np.uint8
    assert records.shape == (len(records), RECORD)
    found: list[int] = np.ascontiguousarray(records).view("<u8")[:, 1].tolist()
    return found


def begin(fed: FedRing, position: int) -> None:
    """As if so many records had gone through it."""
    fed.positions[0] = fed.positions[MappedRing.TAIL // 8] = position


def tail(fed: FedRing) -> int:
    return int(fed.positions[MappedRing.TAIL // 8])


def test_mapped_records_come_in_order_and_once(fed: FedRing, mapped: MappedRing) -> None:
    assert numbers(mapped.read()) == []
    fed.put(numbered(0, 5))
    assert mapped.pending() == 5
    assert numbers(mapped.read(2)) == [0, 1]
    assert (mapped.pending(), tail(fed)) == (3, CAPACITY + 2)
    assert numbers(mapped.read()) == [2, 3, 4]
    assert numbers(mapped.read()) == []


def test_the_next_reader_goes_on_where_the_last_stopped(fed: FedRing) -> None:
    fed.put(numbered(0, 5))
    with fed.open() as first:
        assert numbers(first.read(2)) == [0, 1]
        first.peek()  # and not taken
    with fed.open() as second:
        assert numbers(second.read()) == [2, 3, 4]


@pytest.mark.parametrize("start", [CAPACITY, (1 << 32) - 100, (1 << 32) - CAPACITY, (1 << 40) + 7])
def test_mapped_records_go_around(fed: FedRing, mapped: MappedRing, start: int) -> None:
    """Also where the sequences, of 32 bits, begin anew."""
    begin(fed, start)
    fed.records[:, 4:8].view("<u4")[:, 0] = 0  # nobody wrote here yet
    seen: list[int] = []
    written = 0
    for turn in range(200):
        count = 1 + turn * 7 % CAPACITY
        fed.put(numbered(written, count))
        written += count
        batch = numbers(mapped.read())
        assert len(batch) == count
        seen += batch
    assert seen == list(range(written))
    assert written > 50 * CAPACITY


def test_mapped_reading_stops_before_what_is_not_written_yet(
    fed: FedRing, mapped: MappedRing
) -> None:
    """Claimed, and still what it was a round ago, or zero while it is being cleared."""
    fed.put(numbered(0, CAPACITY))
    mapped.read()
    fed.put(numbered(CAPACITY, 3))
    second = fed.records[1, 4:8].view("<u4")
    sequence = int(second[0])
    for unwritten in (sequence - CAPACITY, 0):
        second[0] = unwritten
        assert numbers(mapped.read()) == ([CAPACITY] if unwritten else [])
        assert tail(fed) == 2 * CAPACITY + 1
    second[0] = sequence
    assert numbers(mapped.read()) == [CAPACITY + 1, CAPACITY + 2]


def test_a_sequence_of_another_place_is_refused(fed: FedRing, mapped: MappedRing) -> None:
    fed.put(numbered(0, 3))
    fed.records[1, 4:8].view("<u4")[0] += 1
    with pytest.raises(TraceError, match=f"record {CAPACITY + 1} has the sequence 0x42"):
        mapped.read()
    assert tail(fed) == CAPACITY


def test_more_than_there_is_room_for_is_refused(fed: FedRing, mapped: MappedRing) -> None:
    fed.put(numbered(0, 3))
    fed.positions[0] = 2 * CAPACITY + 1
    with pytest.raises(TraceError, match=f"the ring holds {CAPACITY + 1} records"):
        mapped.read()


def test_the_records_are_mapped_read_only(fed: FedRing, mapped: MappedRing) -> None:
    fed.put(numbered(0, 3))
    assert not mapped.peek().flags.writeable


def test_closing_a_mapped_ring_lets_go_of_it(fed: FedRing) -> None:
    ring = fed.open()
    ring.read()
    ring.close()
    assert ring._positions.closed


@settings(max_examples=200, deadline=None)
@given(
    rubbish=st.binary(min_size=1, max_size=4 * RECORD),
    where=st.integers(0, CAPACITY * RECORD - 1),
    start=st.integers(CAPACITY, 1 << 40),
    length=st.integers(-3, 2 * CAPACITY),
    most=st.integers(0, 100),
)
def test_rubbish_in_a_mapped_ring_is_refused_or_yields_records(
    rubbish: bytes, where: int, start: int, length: int, most: int
) -> None:
    """Whatever bytes and positions: nothing but a batch of whole records or TraceError."""
    fed = FedRing(CAPACITY, RECORD)
    try:
        begin(fed, start)
        fed.put(numbered(0, 20))
        flat = fed.records.reshape(-1)  # a view
        flat[where : where + len(rubbish)] = np.frombuffer(rubbish, "u1")[: len(flat) - where]
        del flat
        head = max(0, start + length)
        fed.positions[0] = head
        with fed.open() as ring:
            try:
                batch = ring.read(most)
            except TraceError:
                assert tail(fed) == start  # nothing is taken from what is not understood
            else:
                assert batch.shape[1] == RECORD
                assert start <= tail(fed) <= max(start, head)
    finally:
        fed.close()


def rings(size: int) -> Iterator[tuple[KernelRing | MappedRing, Callable[[np.ndarray], None]]]:
    """Each kind with `size` bytes of data, and what writes records to it."""
    fake = FakeRing(size)

    def put(records: np.ndarray) -> None:
        made = np.zeros((len(records), STRIDE), np.uint8)
        made[:, :4].view("<u4")[:, 0] = RECORD
        made[:, 8:] = records
        fake.write(fake.producer, made.tobytes())
        fake.produce_to(fake.producer + made.size)

    with KernelRing(fake.fd, size, RECORD) as kernel:
        yield kernel, put
    fake.close()
    fed = FedRing(size // 256, RECORD)
    with fed.open() as mapped:
        yield mapped, fed.put
    fed.close()


def test_little_of_a_large_ring_is_mapped_at_a_time() -> None:
    """What is mapped counts as resident. Around the ring twice, in uneven batches."""
    for ring, put in rings(1 << 25):
        records = numbered(0, 2 * ring.capacity)
        windows, seen = [], []
        for part in np.array_split(records, 5):
            put(part)
            while len(batch := ring.peek(9973)):
                seen.append(np.ascontiguousarray(batch).view("<u8")[:, 1].copy())
                windows.append(ring._data.window.nbytes)
                ring.advance()
        assert np.array_equal(np.concatenate(seen), np.arange(len(records)))
        assert max(windows) == 8 << 20


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, CAPACITY)),
        st.tuples(st.just("take"), st.integers(1, 2 * CAPACITY)),
        st.tuples(st.sampled_from(["spill", "look"]), st.just(1)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_what_spills_comes_in_order_and_once(steps: list[tuple[str, int]]) -> None:
    fed = FedRing(CAPACITY, RECORD)
    written, seen = 0, list[int]()
    with SpillingRing(fed.open()) as ring:
        for step, count in steps:
            if step == "put":
                room = min(count, CAPACITY - (int(fed.positions[0]) - tail(fed)))
                fed.put(numbered(written, room))
                written += room
            elif step == "take":
                seen += numbers(ring.peek(count))
                ring.advance()
            elif step == "spill":
                ring.spill()
            else:
                ring.peek()
                ring.spill()  # not between the two
                seen += numbers(ring.peek(3))
                ring.advance()
            assert ring.pending() == written - len(seen)
            assert ring.pending() <= 2 * CAPACITY
        while ring.pending():
            seen += numbers(ring.read())
    fed.close()
    assert seen == list(range(written))


def test_a_burst_finds_twice_the_room_and_no_more(fed: FedRing) -> None:
    with SpillingRing(fed.open()) as ring:
        fed.put(numbered(0, CAPACITY // 2))
        ring.spill()
        assert tail(fed) == CAPACITY  # half full: nothing spills
        fed.put(numbered(CAPACITY // 2, CAPACITY // 2))
        for turn in range(1, 4):
            ring.spill()
            room = CAPACITY - (int(fed.positions[0]) - tail(fed))
            fed.put(numbered(turn * CAPACITY, room))
        assert ring.pending() == 2 * CAPACITY
        assert numbers(ring.read()) == list(range(2 * CAPACITY))


def test_what_never_stops_is_not_read_bit_by_bit(fed: FedRing) -> None:
    """A producer that never stops: a few records come whenever the ring is looked at."""
    written = 0

    def put(most: int) -> None:
        nonlocal written
        room = min(most, CAPACITY - (int(fed.positions[0]) - tail(fed)))
        fed.put(numbered(written, room))
        written += room

    class Busy(MappedRing):
        def peek(self, most: int = 1 << 16) -> np.ndarray:
            put(1)
            return super().peek(most)

    peeks, most = 0, CAPACITY // 4
    seen: list[int] = []
    with SpillingRing(Busy(*fed._fds, CAPACITY, RECORD)) as ring:
        while len(seen) < 100 * CAPACITY:
            put(most + 3)
            ring.spill()
            seen += numbers(ring.peek(most))
            ring.advance()
            peeks += 1
    assert seen == list(range(len(seen)))
    assert peeks <= 2 * len(seen) // most


def test_rubbish_is_refused_when_it_is_read_not_when_it_would_spill(fake: FakeRing) -> None:
    most = SIZE // STRIDE
    for value in range(most - 1):
        fake.put(value)
    fake.put(77, length=8)
    with SpillingRing(KernelRing(fake.fd, SIZE, RECORD)) as ring:
        ring.spill()
        with pytest.raises(TraceError, match="a ring record of 8 bytes"):
            ring.read()


def test_what_was_discarded_does_not_spill(fake: FakeRing) -> None:
    for value in range(SIZE // STRIDE):
        fake.put(value, DISCARD if value % 3 else 0)
    with SpillingRing(KernelRing(fake.fd, SIZE, RECORD)) as ring:
        ring.spill()
        assert fake.consumer == fake.producer
        assert values(ring.read()) == list(range(0, SIZE // STRIDE, 3))
