"""The kernel's ring: wrap, unfinished records, rubbish; and how little of a ring is mapped."""

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay import FedRing
from tests.unit.ring_data import (
    BUSY,
    DISCARD,
    PAGE,
    RECORD,
    SIZE,
    STRIDE,
    FakeRing,
    numbered,
    values,
)
from tracer.common.errors import TraceError
from tracer.wire.ring import KernelRing, MappedRing


@pytest.fixture
def ring(fake: FakeRing) -> Iterator[KernelRing]:
    with KernelRing(fake.fd, SIZE, RECORD) as made:
        yield made


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


def test_what_follows_a_busy_record_is_not_read(fake: FakeRing, ring: KernelRing) -> None:
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
                assert fake.consumer == begin  # nothing is consumed of what is not understood
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
