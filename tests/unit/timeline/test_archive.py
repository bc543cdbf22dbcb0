"""What is put away comes back, and is dropped where nobody asked for it."""

import numpy as np
import pytest

from tracer.model.rows import Names, Region
from tracer.timeline.archive import WHOLE, Archive
from tracer.timeline.page_store import PageStore


def pages(*numbers: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return np.array(numbers, np.uint64)


def test_a_block_comes_back_with_its_pages() -> None:
    store = PageStore({"gains": np.uint32}, {})
    at = store.slots(1, pages(3, 5, 1000))
    store.columns["gains"][at] = [7, 8, 9]
    numbers, slots = store.blocks(1)
    index = numbers.index(0)
    store.put_away(1, 0, slots[index][[3, 5]])
    assert len(store.all(1)) == slots.shape[1]  # the other block alone
    other = store.slots(2, pages(3))  # takes the slots
    assert store.columns["gains"][other].tolist() == [0]
    again = store.slots(1, pages(3, 4, 5, 1000))
    assert store.columns["gains"][again].tolist() == [7, 0, 8, 9]
    assert 1 not in store.archive


def test_beyond_the_limit_all_is_dropped_for_good() -> None:
    store = PageStore({"gains": np.uint32}, {})
    archive = Archive(most=3)
    rows = store.rows(store.slots(1, pages(1, 2)))
    archive.put(1, 0, rows)
    archive.put(1, 1, rows[:0])
    assert [len(part) for part in archive.of(1)] == [2]
    archive.put(2, WHOLE, rows)
    assert archive.overflowed
    assert not list(archive.all())
    archive.put(3, WHOLE, rows)
    assert 3 not in archive
    assert archive.pop(1, 0) is None


@pytest.mark.parametrize(
    "region",
    [
        Region(4096, 8192, "rw-p", 0, "[anon]"),
        Region(4096, 8192, "r-xp", 0, "[vdso]"),
        Region(4096, 8192, "rw-p", 4096, "/a", 8),
        Region(4096, 8192, "r-xp", 4096, "/a", 8),
    ],
)
def test_folded_names(region: Region) -> None:
    names, plain = Names(fold=True), Names()
    moved = region._replace(start=region.start * 5, end=region.end * 5, offset=region.offset * 3)
    number = names.region(region)
    assert names.region(moved) == number
    assert names.regions[number] == region._replace(start=0, end=0, offset=0)
    for other in ({"name": "/b"}, {"perms": "---p"}, {"device": 9}):
        assert names.region(region._replace(**other)) != number
    assert plain.region(region) != plain.region(moved)
