"""The ring in maps of our own: around and around, unwritten records, rubbish."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay import FedRing
from tests.unit.ring_data import CAPACITY, RECORD, numbered, numbers, tail
from tracer.common.errors import TraceError
from tracer.wire.ring import MappedRing


@pytest.fixture
def mapped(fed: FedRing) -> Iterator[MappedRing]:
    with fed.open() as made:
        yield made


def begin(fed: FedRing, position: int) -> None:
    """As if so many records had gone through it."""
    fed.positions[0] = fed.positions[MappedRing.TAIL // 8] = position


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
        first.peek()  # this consumes nothing
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


def test_a_sequence_of_another_position_is_refused(fed: FedRing, mapped: MappedRing) -> None:
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
                assert tail(fed) == start  # nothing is consumed of what is not understood
            else:
                assert batch.shape[1] == RECORD
                assert start <= tail(fed) <= max(start, head)
    finally:
        fed.close()
