"""Code that was at an address before something else was mapped there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel.sideband import MmapEvent
from tracer.model.rows import Names, Region
from tracer.procfs.maps import Mapping
from tracer.spaces import interval_map
from tracer.spaces.changes import Claim, Unmap
from tracer.spaces.interval_map import IntervalMap, Mapped
from tracer.spaces.mappings import Files, MappingHistory

P = 4096


def mapping(name: str, start: int, end: int, perms: str = "r-xp", offset: int = 0) -> Mapping:
    return Mapping(start * P, end * P, perms, offset * P, 8, len(name), name)


def mapped(name: str, start: int, end: int, perms: str = "r-xp") -> Mapped:
    return Mapped(Region(start * P, end * P, perms, 0, name), 8, 1)


def event(time: int, name: str, start: int, end: int, offset: int = 0) -> MmapEvent:
    where = start * P, end * P, offset * P, "r-xp"
    return MmapEvent(time, 1, 1, *where, 8, ord(name[-1]), name)


class History:
    def __init__(self) -> None:
        self.names = Names()
        self.history = MappingHistory(self.names, Files())

    def at(self, page: int, time_ns: int) -> str:
        """What was there; as one of many, too."""
        region, shift = self.history.code(page * P + 5, time_ns)
        many = self.history.codes(np.arange(page + 1, dtype=np.uint64) * np.uint64(P), time_ns)
        assert many[:, page].tolist() == [region, shift]
        return self.names.regions[region].name


def test_code_is_found_as_it_was() -> None:
    each = History()
    each.history.add_mappings(10, [mapping("/a", 0, 4), mapping("/b", 4, 8)])
    each.history.add(20, event(20, "/c", 2, 6))
    each.history.add(30, event(30, "/d", 3, 4))
    each.history.advance(40)
    assert [each.at(3, time) for time in (15, 20, 29, 30, 50)] == ["/a", "/c", "/c", "/d", "/d"]
    assert [each.at(5, time) for time in (15, 20)] == ["/b", "/c"]
    assert [each.at(1, time) for time in (15, 50)] == ["/a", "/a"]
    assert each.at(9, 15) == ""


def test_what_is_unmapped_stays_until_something_else_is_there() -> None:
    each = History()
    each.history.add_mappings(10, [mapping("/a", 0, 4)])
    each.history.add(20, Unmap(0, 4 * P))
    each.history.add(30, Claim(0, 4 * P, "r-xp", "[anon]"))
    each.history.advance(40)
    assert [each.at(3, time) for time in (15, 25, 35)] == ["/a", "/a", "[anon]"]


def test_a_child_has_its_own_from_the_fork_on() -> None:
    each = History()
    each.history.add_mappings(10, [mapping("/a", 0, 4)])
    child = History()
    child.names, child.history = each.names, each.history.fork(20)
    each.history.add_mappings(30, [mapping("/b", 0, 4)])
    child.history.add_mappings(35, [mapping("/c", 0, 4)])
    assert [each.at(1, time) for time in (40, 25)] == ["/b", "/a"]
    assert [child.at(1, time) for time in (40, 32, 25)] == ["/c", "/a", "/a"]


@pytest.mark.parametrize(
    ("before", "after", "noted"),
    [
        (mapped("/a", 0, 4), mapped("/b", 0, 4), True),
        (mapped("/a", 0, 4), mapped("/a", 1, 3), True),  # another part of it
        (mapped("/a", 0, 4), mapped("/a", 0, 4), False),  # the same, again
        (mapped("/a", 0, 4), mapped("/b", 4, 8), False),
        (mapped("/a", 0, 4, "r--p"), mapped("/b", 0, 4), False),  # it was no code
        (mapped("/a", 0, 4), mapped("/b", 0, 4, "rw-p"), True),
    ],
)
def test_only_code_that_is_replaced_is_noted(before: Mapped, after: Mapped, noted: bool) -> None:
    for how in ("put", "reset"):
        made = IntervalMap(Names())
        made.put(before)
        made.now_ns = 7
        if how == "put":
            made.put(after)
        else:
            made.reset([after])
        assert bool(made.replaced) == noted
        if noted:
            (each,) = made.replaced
            assert (each.start, each.end, each.at_ns) == (*after.region[:2], 7)


def test_no_more_than_so_many_are_kept() -> None:
    each = History()
    most = interval_map._MOST_REPLACED
    for turn in range(most + 50):
        each.history.add_mappings(10 * turn + 10, [mapping(f"/{turn}", 0, 1)])
    each.history.advance(10 * most + 1000)
    assert len(each.history._map.replaced) == most
    assert each.at(0, 10 * most) == f"/{most - 1}"
    assert each.at(0, 15) == "/49"  # the oldest that is known


CHANGES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 6), st.sampled_from("abc")), max_size=30
)


@given(CHANGES)
def test_any_changes(changes: list[tuple[int, int, str]]) -> None:
    """At any time there is what a list of pages has there, also when asked later."""
    each, pages, expected = History(), [""] * 16, []
    for turn, (start, size, name) in enumerate(changes):
        # The offset is its address: the same code wherever a name is mapped.
        one = event(10 * turn + 10, f"/{name}", start, start + size, start)
        each.history.add(one.time_ns, one)
        for page in range(start, start + size):
            pages[page] = f"/{name}"
        expected.append(list(pages))
    each.history.advance(10_000)
    for turn, there in enumerate(expected):
        found = [each.at(page, 10 * turn + 15) for page in range(16)]
        assert [name or now for name, now in zip(there, found, strict=True)] == found
