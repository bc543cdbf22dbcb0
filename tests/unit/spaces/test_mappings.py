"""Mappings over time: the interval map against a naive model, and dated changes."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel.sideband import MmapEvent
from tracer.model.rows import Names, Region
from tracer.procfs.maps import Mapping
from tracer.spaces import mappings
from tracer.spaces.changes import Brk, Claim, Move, Unmap
from tracer.spaces.interval_map import IntervalMap, Mapped
from tracer.spaces.mappings import Files, MappingHistory, perms_of
from tracer.wire.records import Mark, load_layout

P = 4096
FAULT = load_layout(Path(__file__).parents[3] / "bpf").fault


def file_region(name: str, start: int, end: int, offset: int = 0) -> Region:
    return Region(start * P, end * P, "r--p", offset * P, f"/{name}")


# -- the interval map


@dataclass(frozen=True)
class Page:
    """The model's page: which mapping put it there, at which page of the file, still there?"""

    which: int
    file_page: int
    gone: bool = False


Model = dict[int, Page]
RANGES = st.tuples(st.integers(0, 31), st.integers(1, 12)).map(lambda t: (t[0], t[0] + t[1]))
OPERATIONS = st.one_of(
    st.tuples(st.just("map"), RANGES),
    st.tuples(st.just("unmap"), RANGES),
    st.tuples(st.just("reset"), st.lists(RANGES, max_size=4)),
)


def disjoint(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    kept: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def step(
    model: Model, real: IntervalMap, number: int, kind: str, ranges: list[tuple[int, int]]
) -> None:
    def placed(start: int, end: int, which: int = number * 10) -> Mapped:
        return Mapped(file_region(str(which), start, end, 100 + start), 1, which + 1)

    if kind == "map":
        ((start, end),) = ranges
        model |= {page: Page(number * 10, 100 + page) for page in range(start, end)}
        real.put(placed(start, end))
    elif kind == "unmap":
        ((start, end),) = ranges
        for page in range(start, end):
            if page in model:
                model[page] = replace(model[page], gone=True)
        real.unmap(start * P, end * P)
    else:
        ranges = disjoint(ranges)
        for page, was in list(model.items()):
            if was.gone:
                del model[page]
            else:
                model[page] = replace(was, gone=True)
        numbers = range(number * 10, number * 10 + 10)
        for which, (start, end) in zip(numbers, ranges, strict=False):
            model |= {page: Page(which, 100 + page) for page in range(start, end)}
        real.reset([placed(*r, which) for which, r in zip(numbers, ranges, strict=False)])


def extent(model: Model, page: int) -> tuple[int, int]:
    start = end = page
    while model.get(start - 1) == replace(
        model[page], file_page=model[page].file_page - page + start - 1
    ):
        start -= 1
    while model.get(end) == replace(model[page], file_page=model[page].file_page - page + end):
        end += 1
    return start, end


@given(st.lists(OPERATIONS, max_size=25))
def test_the_map_agrees_with_a_page_by_page_model(operations: list[tuple[str, object]]) -> None:
    names = Names()
    real, model = IntervalMap(names), dict[int, Page]()
    for number, (kind, arg) in enumerate(operations):
        step(model, real, number, kind, arg if isinstance(arg, list) else [arg])  # type: ignore[list-item]
    pages = np.arange(48, dtype=np.uint64)
    addresses = pages * np.uint64(P) + np.uint64(7)
    ids, shifts = real.places(addresses)
    found = list(zip(ids.tolist(), shifts.tolist(), strict=True))
    assert found == [real.place(address) for address in addresses.tolist()]
    for page in range(48):
        region = names.regions[ids[page]]
        if page not in model:
            assert ids[page] == 0
            continue
        assert region.name == f"/{model[page].which}"
        assert region.offset + page * P - region.start == model[page].file_page * P
        assert int(shifts[page]) == region.shift
        assert region.start <= page * P < region.end
        if not model[page].gone:
            start, end = extent(model, page)
            assert (region.start, region.end) == (start * P, end * P)
    live = {page for page, was in model.items() if not was.gone}
    copied = real.copy()
    assert {page for page in range(48) if copied.at(page * P)} == live


# -- dated changes


@pytest.fixture
def history() -> MappingHistory:
    return MappingHistory(Names(), Files())


def regions_at(history: MappingHistory, *pairs: tuple[int, int]) -> list[Region]:
    """The regions of (page, time) pairs."""
    addresses = np.array([page * P for page, _ in pairs], dtype=np.uint64)
    times = np.array([time for _, time in pairs], dtype=np.uint64)
    ids, shifts = history.lookup(addresses, times)
    regions = [history._names.regions[i] for i in ids]
    assert shifts.tolist() == [region.shift for region in regions]
    return regions


def names_of(regions: list[Region]) -> list[str]:
    return [region.name for region in regions]


def mapped(start: int, end: int, perms: str, offset: int, name: str) -> Region:
    """What an `event` maps."""
    return Region(start, end, perms, offset, name, 8)


def event(time: int, start: int, end: int, path: str = "", inode: int = 0) -> MmapEvent:
    return MmapEvent(time, 1, 1, start * P, end * P, 0, "rw-p", 8, inode, path)


def test_short_lived_mappings_at_one_address_are_distinguished(history: MappingHistory) -> None:
    for turn in range(1000):
        path, inode = (f"/f{turn}", turn + 1) if turn % 2 else ("", 0)
        history.add(turn * 10, event(turn * 10, 5, 7, path, inode))
        history.add(turn * 10 + 8, Unmap(5 * P, 7 * P))
    pairs = [(5 + turn % 2, turn * 10 + 5) for turn in range(1000)]
    expected = [f"/f{turn}" if turn % 2 else "[anon]" for turn in range(1000)]
    shuffled = np.random.default_rng(0).permutation(1000)
    found = regions_at(history, *[pairs[i] for i in shuffled])
    assert names_of(found) == [expected[i] for i in shuffled]


def test_a_change_holds_from_its_own_moment(history: MappingHistory) -> None:
    history.add(20, event(20, 0, 4, "/b", 2))
    history.add(10, event(10, 0, 4, "/a", 1))  # reported late
    history.add(10, event(10, 0, 1, "/c", 3))  # at one time: in the order reported
    assert names_of(regions_at(history, (1, 9), (1, 10), (0, 10), (1, 19), (1, 20))) == [
        "",
        "/a",
        "/c",
        "/a",
        "/b",
    ]


CHANGES = st.lists(st.tuples(st.integers(0, 30), RANGES), max_size=40)


@given(CHANGES, CHANGES)
def test_changes_are_applied_in_order_of_time_however_they_come(
    first: list[tuple[int, tuple[int, int]]], then: list[tuple[int, tuple[int, int]]]
) -> None:
    """Of one time in the order they come; some when others have been applied already."""
    names, files = Names(), Files()
    as_they_come, in_order = MappingHistory(names, files), MappingHistory(names, files)
    started, waiting = 0, list[tuple[int, Claim]]()
    for part, until in ((first, 15), (then, 31)):
        changes = [
            (max(time, started), Claim(start * P, end * P, "r--p", f"[{until} {number}]"))
            for number, (time, (start, end)) in enumerate(part)
        ]
        for time, change in changes:
            as_they_come.add(time, change)
        waiting = sorted([*waiting, *changes], key=lambda each: each[0])
        while waiting and waiting[0][0] < until:
            in_order.add(*waiting.pop(0))
        for time in range(started, until):
            as_they_come.advance(time)
            in_order.advance(time)
            assert as_they_come.present() == in_order.present()
        started = until


class Moment(int):
    """A time that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        Moment.compared += 1
        return int(self) < int(other)

    def __ge__(self, other: int) -> bool:
        Moment.compared += 1
        return int(self) >= int(other)


def comparisons(count: int) -> int:
    """Of times, for so many mappings reported ahead, while what unmaps them comes bit by bit."""
    history = MappingHistory(Names(), Files())
    for turn in range(count):
        history.add(Moment(10 * turn), event(10 * turn, turn, turn + 1))
    Moment.compared = 0
    for start in range(0, count, 50):
        for turn in range(start, start + 50):
            history.add(Moment(10 * turn + 5), Unmap(turn * P, turn * P + P))
        assert names_of(regions_at(history, (start + 49, 10 * start + 494))) == ["[anon]"]
    return Moment.compared


def test_what_waits_is_not_sorted_again_and_again() -> None:
    few, many = comparisons(2000), comparisons(4000)
    assert 0 < many <= 2.3 * few  # bisection takes one step more


def test_times_need_more_than_a_double_can_hold(history: MappingHistory) -> None:
    late = (1 << 60) + 1
    history.add(late, event(late, 0, 4))
    many = [(0, late - 1)] * 20 + [(0, late)] * 20
    assert names_of(regions_at(history, *many)) == [""] * 20 + ["[anon]"] * 20


def test_a_snapshot_does_not_unmake_what_was(history: MappingHistory) -> None:
    history.add(10, event(10, 0, 4, "/a", 1))
    history.add_mappings(20, [Mapping(8 * P, 9 * P, "rw-p", 0, 0, 0, "[heap]")])
    assert names_of(regions_at(history, (0, 15), (0, 21), (8, 15), (8, 21))) == [
        "/a",
        "/a",
        "",
        "[heap]",
    ]
    history.add_mappings(30, [])
    assert names_of(regions_at(history, (0, 31), (8, 31))) == ["", "[heap]"]


def test_what_remains_of_a_cut_file_mapping_keeps_its_file_offset(
    history: MappingHistory,
) -> None:
    history.add(1, event(1, 0, 10, "/a", 1))
    history.add(2, Unmap(4 * P, 6 * P))
    left, gone, right = regions_at(history, (0, 2), (5, 2), (9, 2))
    assert left == mapped(0, 4 * P, "rw-p", 0, "/a")
    assert gone == mapped(0, 10 * P, "rw-p", 0, "/a")
    assert right == mapped(6 * P, 10 * P, "rw-p", 6 * P, "/a")


def test_mremap(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10, "/a", 1))
    history.add(2, Move(2 * P, 2 * P, 20 * P, 4 * P, keep=False))
    moved, rest = regions_at(history, (23, 2), (0, 2))
    assert moved == mapped(20 * P, 24 * P, "rw-p", 2 * P, "/a")
    assert rest == mapped(0, 2 * P, "rw-p", 0, "/a")
    history.add(3, Move(20 * P, 4 * P, 20 * P, 6 * P, keep=False))
    assert regions_at(history, (25, 3)) == [mapped(20 * P, 26 * P, "rw-p", 2 * P, "/a")]
    history.add(4, Move(20 * P, 6 * P, 20 * P, 1 * P, keep=False))
    assert regions_at(history, (20, 4)) == [mapped(20 * P, 21 * P, "rw-p", 2 * P, "/a")]
    history.add(5, Move(20 * P, 0, 40 * P, 1 * P, keep=False))  # a second mapping
    assert names_of(regions_at(history, (20, 5), (40, 5))) == ["/a", "/a"]
    assert regions_at(history, (20, 5))[0].end == 21 * P


def test_system_calls_fill_in_what_the_sideband_lost(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10))
    history.add(2, Claim(2 * P, 4 * P, "rw-p", "[anon]"))  # known, and with its neighbours
    history.add(2, Claim(20 * P, 30 * P, "---p", "[anon]"))
    assert regions_at(history, (3, 2), (20, 2)) == [
        mapped(0, 10 * P, "rw-p", 0, "[anon]"),
        Region(20 * P, 30 * P, "---p", 0, "[anon]"),
    ]
    history.add(3, Claim(21 * P, 30 * P, "rw-p"))
    history.add(4, Claim(50 * P, 51 * P, "rw-p"))  # of what mapping nobody knows
    assert regions_at(history, (20, 4), (21, 4)) == [
        Region(20 * P, 21 * P, "---p", 0, "[anon]"),
        Region(21 * P, 30 * P, "rw-p", 0, "[anon]"),
    ]
    assert names_of(regions_at(history, (50, 4))) == [""]
    history.add(5, event(5, 60, 64, "/a", 1))
    history.add(6, Claim(61 * P, 62 * P, "r--p"))
    assert regions_at(history, (61, 6)) == [mapped(61 * P, 62 * P, "r--p", P, "/a")]


def test_brk_downwards_cuts_the_heap(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10, "[heap]"))
    history.add(1, Brk(10 * P - 5))
    history.add(2, Brk(4 * P + 1))
    assert regions_at(history, (4, 2)) == [mapped(0, 5 * P, "rw-p", 0, "[heap]")]


def test_the_first_piece_of_the_heap_gets_its_name_by_brk(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10))  # bss
    history.add(1, Brk(20 * P))  # asked where it is
    history.add(2, event(2, 20, 30))
    history.add(2, Brk(30 * P - 9))
    assert names_of(regions_at(history, (9, 2), (29, 2))) == ["[anon]", "[heap]"]


def test_the_break_is_first_reported_as_it_grows(history: MappingHistory) -> None:
    history.add(2, event(2, 20, 30))
    history.add(2, Brk(30 * P - 9))
    assert names_of(regions_at(history, (29, 2))) == ["[heap]"]


def test_fork_copies_what_was_there_then(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 2, "/a", 1))
    history.add(2, event(2, 2, 4, "/b", 2))
    history.add(4, event(4, 0, 2, "/late", 3))
    child = history.fork(3)
    assert names_of(regions_at(child, (0, 9), (2, 9))) == ["/a", "/b"]
    assert names_of(regions_at(history, (0, 3), (0, 9))) == ["/a", "/late"]


def test_no_faults_no_regions(history: MappingHistory) -> None:
    assert regions_at(history) == []


# -- mappings brought along by the record


def faults(*rows: tuple[int, tuple[int, int, int, int, int, int] | None]) -> npt.NDArray[np.void]:
    """Records from (page, (vm_start, vm_end, vm_flags, vm_pgoff, device, inode) in pages)."""
    records = np.zeros(len(rows), dtype=FAULT)
    for record, (page, vma) in zip(records, rows, strict=True):
        record["address"], record["time_ns"] = page * P, 100
        if vma:
            record["marks"] = Mark.MAPPING
            names = ("vm_start", "vm_end", "vm_flags", "vm_pgoff", "device", "inode")
            for name, value in zip(names, vma, strict=True):
                record[name] = value * P if name in ("vm_start", "vm_end") else value
    return records


def brought(history: MappingHistory, *rows: tuple[int, tuple[int, ...] | None]) -> list[Region]:
    records = faults(*rows)  # type: ignore[arg-type]
    places = history.lookup_faults(records)
    many = history.lookup_faults(np.tile(records, 20))  # another path, the same answer
    assert many.tolist() == np.tile(places, 20).tolist()
    ids, shifts = places
    regions = [history._names.regions[i] for i in ids]
    assert shifts.tolist() == [region.shift for region in regions]
    return regions


def test_the_records_own_mapping_is_the_answer(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10, "/a", 1))
    history.add(1, event(1, 20, 30, "[heap]"))
    found = brought(
        history,
        (3, (2, 6, 0x5, 2, 8, 1)),  # narrower than was known
        (3, (2, 6, 0x87, 2, 8, 99)),  # another file, never seen
        (25, (20, 40, 0x73, 20, 0, 0)),
        (60, (50, 70, 0x173, 50, 0, 0)),
        (80, (80, 81, 0x73, 80, 0, 0)),
        (21, None),
    )
    assert found == [
        mapped(2 * P, 6 * P, "r-xp", 2 * P, "/a"),
        mapped(2 * P, 6 * P, "rwxs", 2 * P, "[inode 0:8 99]"),
        Region(20 * P, 40 * P, "rw-p", 0, "[heap]"),
        Region(50 * P, 70 * P, "rw-p", 0, "[stack]"),
        Region(80 * P, 81 * P, "rw-p", 0, "[anon]"),
        mapped(20 * P, 30 * P, "rw-p", 0, "[heap]"),
    ]


def test_a_file_is_known_by_its_numbers_wherever_it_is_mapped(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10, "/a", 1))
    assert names_of(brought(history, (50, (50, 60, 1, 0, 8, 1)))) == ["/a"]


def test_of_very_many_files_the_latest_are_remembered() -> None:
    files = Files()
    for inode in range(1, 1 << 17):
        files.learn(1, 1 << 20, "/lib/libc.so")
        files.learn(1, inode, "/dev/zero (deleted)")
    assert len(files._paths) == 1 << 16
    assert files.knows(1, (1 << 17) - 1)
    assert not files.knows(1, 1)
    assert files.name(1, 1 << 20) == "/lib/libc.so"


def test_one_inode_number_used_again_is_distinguished_by_time(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10, "/old", 7))
    history.add(2, event(2, 20, 30, "/new", 7))
    found = brought(history, (0, (0, 10, 1, 0, 8, 7)), (20, (20, 30, 1, 0, 8, 7)))
    assert names_of(found) == ["/old", "/new"]


def test_an_overlay_s_lower_inode_gets_the_overlay_s_path(history: MappingHistory) -> None:
    history.add(1, event(1, 0, 10, "/merged", 7))
    assert names_of(brought(history, (4, (2, 6, 1, 2, 9, 1234)))) == ["/merged"]
    assert names_of(brought(history, (4, (2, 6, 1, 3, 9, 1234)))) == ["[inode 0:9 1234]"]


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=60), st.booleans())
def test_distinct_rows(rows: list[tuple[int, int, int]], colliding: bool) -> None:
    columns = [np.array(column, dtype=np.uint64) for column in zip(*rows, strict=True)]
    if colliding:  # rows that differ only in bits that mixing leaves out
        columns = [column << np.uint64(63) for column in columns]
    chosen, inverse = mappings._distinct(columns)
    for column in columns:
        assert (column[chosen][inverse] == column).all()


def test_perms() -> None:
    assert perms_of(0) == "---p"
    assert perms_of(0x1 | 0x2 | 0x4 | 0x8 | 0x80) == "rwxs"
    assert perms_of(0x1 | 0x80) == "r--s"  # a read-only shared mapping has no VM_SHARED
