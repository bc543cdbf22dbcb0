"""Which memory userfaultfd fills, and when."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracer.procfs.userfaultfd import parse_registered
from tracer.spaces.userfaults import Userfaults

P = 4096


def held(ranges: Userfaults, space: int, page: int, time: int) -> bool:
    return bool(
        ranges.hold(
            np.array([space], np.uint32),
            np.array([page * P], np.uint64),
            np.array([time], np.uint64),
        )[0]
    )


def test_from_its_registration_to_its_end() -> None:
    ranges = Userfaults()
    ranges.register(1, 4 * P, 8 * P, 100)
    asked = [(1, 3, 150), (1, 4, 99), (1, 4, 100), (1, 7, 150), (1, 8, 150), (2, 5, 150)]
    assert [held(ranges, *one) for one in asked] == [False, False, True, True, False, False]
    ranges.end(1, 5 * P, 6 * P, 200)
    asked = [(1, 5, 199), (1, 5, 200), (1, 4, 250), (1, 6, 250)]
    assert [held(ranges, *one) for one in asked] == [True, False, True, True]


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=12
    )
)
def test_as_a_set_of_pages_would(steps: list[tuple[bool, int, int]]) -> None:
    ranges, pages = Userfaults(), set[int]()
    for time, (on, first, count) in enumerate(steps):
        these = range(first, first + count)
        if on:
            ranges.register(1, first * P, (first + count) * P, time)
            pages.update(these)
        else:
            ranges.end(1, first * P, (first + count) * P, time)
            pages.difference_update(these)
        assert {page for page in range(16) if held(ranges, 1, page, time)} == pages


SMAPS = b"""7f0000000000-7f0000004000 rw-p 00000000 00:00 0
Rss:                   8 kB
VmFlags: rd wr mr mw me ac nh
7f0000005000-7f0000006000 rw-p 00000000 00:00 0    /a um b
Rss:                   4 kB
VmFlags: rd wr mr mw me um ac
7f0000007000-7f0000008000 rw-p 00000000 00:00 0
VmFlags: rd wr uw ac
"""


def test_smaps_shows_what_is_registered() -> None:
    assert parse_registered(SMAPS) == [(0x7F0000005000, 0x7F0000006000)]
