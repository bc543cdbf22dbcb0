"""The ring of copies of stacks: records of several sizes."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.copies_data import BUSY, DISCARD, FakeCopies
from tracer.wire import copies
from tracer.wire.copies import CopyRing


@pytest.fixture
def fake() -> Iterator[FakeCopies]:
    made = FakeCopies()
    yield made
    made.close()


def read(ring: CopyRing) -> list[bytes]:
    return [record for records in ring.read() for record in records]


def test_records_of_any_size_across_the_end(fake: FakeCopies) -> None:
    chosen = random.Random(7)
    with fake.open() as ring:
        assert read(ring) == []
        for _ in range(60):
            sent = [chosen.randbytes(chosen.choice((0, 1, 7, 8, 9, 88, 700))) for _ in range(9)]
            for each in sent:
                fake.put(each)
            assert read(ring) == sent
            assert fake.consumed == fake.produced
    assert fake.produced > 5 * fake.size


def test_a_record_that_is_not_written_yet_holds_up_the_others(fake: FakeCopies) -> None:
    with fake.open() as ring:
        fake.put(b"first")
        busy = fake.put(b"second", BUSY)
        fake.put(b"third")
        assert read(ring) == [b"first"]
        assert fake.consumed == busy
        assert read(ring) == []
        fake.header(busy, len(b"second"))
        assert read(ring) == [b"second", b"third"]


def test_discarded_records_are_left_out(fake: FakeCopies) -> None:
    with fake.open() as ring:
        fake.put(b"none", DISCARD)
        assert read(ring) == []
        assert fake.consumed == fake.produced
        fake.put(b"first")
        fake.put(b"none", DISCARD)
        fake.put(b"second")
        assert read(ring) == [b"first", b"second"]


def test_many_are_read_some_at_a_time(fake: FakeCopies, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is cut off by what is read at once is read with those after it."""
    monkeypatch.setattr(copies, "_AT_ONCE", 256)
    fake.start_at(fake.size - 400)
    sent = [bytes([at]) * 88 for at in range(20)]
    for each in sent:
        fake.put(each)
    with fake.open() as ring:
        batches = list(ring.read())
    assert [len(batch) for batch in batches] == [2] * 10
    assert [each for batch in batches for each in batch] == sent


def test_what_comes_while_it_is_read_waits(fake: FakeCopies) -> None:
    with fake.open() as ring:
        fake.put(b"first")
        reading = ring.read()
        assert next(reading) == [b"first"]
        assert fake.consumed == fake.produced
        fake.put(b"second")
        assert list(reading) == []
        assert read(ring) == [b"second"]


@given(
    st.integers(0, 1 << 40),
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from((0, 0, 0, DISCARD))), max_size=20),
)
def test_any_records(start: int, sizes: list[tuple[int, int]]) -> None:
    fake = FakeCopies()
    fake.start_at(start * 8)
    sent = []
    for number, (size, flags) in enumerate(sizes):
        data = bytes([number]) * size
        fake.put(data, flags)
        if not flags:
            sent.append(data)
    with fake.open() as ring:
        assert read(ring) == sent
    fake.close()
