"""Records that spill into memory before they are read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay import FedRing
from tests.unit.ring_data import (
    CAPACITY,
    DISCARD,
    RECORD,
    SIZE,
    STRIDE,
    FakeRing,
    numbered,
    numbers,
    tail,
    values,
)
from tracer.common.errors import TraceError
from tracer.wire.ring import KernelRing, MappedRing, SpillingRing

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, CAPACITY)),
        st.tuples(st.just("read"), st.integers(1, 2 * CAPACITY)),
        st.tuples(st.sampled_from(["spill", "peek"]), st.just(1)),
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
            elif step == "read":
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
    """A producer that never stops: a few records come with each `peek`."""
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
