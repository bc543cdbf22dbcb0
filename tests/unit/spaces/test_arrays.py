"""Mappings of one name are told apart, and stay what they were while they change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.faults_data import faults
from tracer.kernel.sideband import MmapEvent
from tracer.model import rows
from tracer.model.rows import Names, Region
from tracer.procfs.maps import Mapping
from tracer.snapshots.snapshots import Snapshot
from tracer.spaces.changes import Move, ThreadStack, Unmap
from tracer.spaces.mappings import Files, MappingHistory
from tracer.wire.records import Mark

P = 4096
LARGE = 1024  # pages: of their own where they adjoin others
SMALL = 64  # pages: parts of what they adjoin


@pytest.fixture
def history() -> MappingHistory:
    return MappingHistory(Names(fold=True), Files())


def mapped(
    history: MappingHistory,
    time: int,
    start: int,
    end: int,
    perms: str = "rw-p",
    path: str = "",
    inode: int = 0,
) -> None:
    """The sideband reports a mapping of pages [start, end)."""
    change = MmapEvent(time, 1, 1, start * P, end * P, 0, perms, 8 if inode else 0, inode, path)
    history.add(time, change)


def of(history: MappingHistory, time: int, *pages: int) -> list[str]:
    """What each page's mapping is told apart by at a time."""
    addresses = np.array(pages, np.uint64) * np.uint64(P)
    numbers = history.lookup(addresses, np.full(len(pages), time))[0].tolist()
    names = history._names
    return [names.arrays[names.array_of.get(number, 0)] for number in numbers]


def at(page: int) -> str:
    return f"{page * P:#x}"


def test_two_arrays_are_two_though_the_kernel_has_one_mapping(history: MappingHistory) -> None:
    """perf_event_mmap reports the extents after the merge; so does /proc/PID/maps."""
    mapped(history, 1, 4 * LARGE, 5 * LARGE)
    mapped(history, 2, 3 * LARGE, 5 * LARGE)  # mmap goes downwards
    upper, lower = at(4 * LARGE), at(3 * LARGE)
    assert of(history, 3, 4 * LARGE, 5 * LARGE - 1, 3 * LARGE, 4 * LARGE - 1) == [
        *(upper, upper),
        *(lower, lower),
    ]
    history.add_mappings(4, [Mapping(3 * LARGE * P, 5 * LARGE * P, "rw-p", 0, 0, 0, "")])
    assert of(history, 5, 4 * LARGE, 3 * LARGE) == [upper, lower]


def test_what_an_allocator_adds_bit_by_bit_is_one(history: MappingHistory) -> None:
    for turn in range(1, 100):
        mapped(history, turn, 20000 - turn * SMALL, 20000)
        mapped(history, turn, 40000, 40000 + turn * SMALL)
    assert len(set(of(history, 200, *range(20000 - 99 * SMALL, 20000, SMALL)))) == 1
    assert len(set(of(history, 200, *range(40000, 40000 + 99 * SMALL, SMALL)))) == 1
    assert len(history._names.regions) == 3
    assert of(history, 200, 19999) != of(history, 200, 40000)


def test_small_ones_have_no_number(history: MappingHistory) -> None:
    """malloc(3) maps none below 128 KiB."""
    mapped(history, 1, 10, 41)
    mapped(history, 1, 100, 132)
    assert of(history, 2, 10, 100) == ["", at(100)]


def test_splits_by_mprotect_are_one(history: MappingHistory) -> None:
    mapped(history, 1, 0x1000, 0x2000)
    for part in range(0x1000, 0x2000, 0x20):
        mapped(history, 2, part, part + 0x10, "r--p")
    pages = list(range(0x1000, 0x2000, 8))
    assert set(of(history, 3, *pages)) == {at(0x1000)}
    mapped(history, 4, 0x1000, 0x2000)  # and all of it writable again
    assert set(of(history, 5, *pages)) == {at(0x1000)}
    assert len(history._names.regions) == 3  # nothing, r--p, rw-p


def test_a_reservation_that_is_opened_piece_by_piece_is_one(history: MappingHistory) -> None:
    mapped(history, 1, 0x10000, 0x14000, "---p")
    for turn in range(1, 5):
        mapped(history, 1 + turn, 0x10000, 0x10000 + turn * LARGE)
    assert set(of(history, 9, *range(0x10000, 0x11000, LARGE))) == {at(0x10000)}


def test_mapped_again_where_it_was(history: MappingHistory) -> None:
    for turn in range(0, 1000, 10):
        mapped(history, turn, 0x1000, 0x2000 + turn)
        assert of(history, turn + 1, 0x1800) == [at(0x1000)]
        history.add(turn + 5, Unmap(0x1000 * P, 0x4000 * P))
    assert len(history._names.arrays) == 2


def test_what_was_cut_off_from_one_may_become_another(history: MappingHistory) -> None:
    """glibc maps twice an arena and unmaps what is not aligned."""
    mapped(history, 1, 0x10000, 0x18000, "---p")
    history.add(2, Unmap(0x14000 * P, 0x18000 * P))
    mapped(history, 3, 0x17000, 0x18000)
    mapped(history, 4, 0x15000, 0x17000)
    assert of(history, 5, 0x10000, 0x15000, 0x17000) == [at(0x10000), at(0x15000), at(0x17000)]


def stack(history: MappingHistory, time: int, start: int, pages: int = 2 * LARGE) -> None:
    """pthread_create(3), as glibc before 2.42 has it: reserved, and all but a guard opened."""
    mapped(history, time, start, start + pages, "---p")
    mapped(history, time, start + 1, start + pages)
    history.add(time, ThreadStack((start + pages) * P - 0x1080))


@pytest.mark.parametrize("pages", [2 * LARGE, LARGE // 4])
def test_thread_stacks_are_recognised_by_their_threads(history: MappingHistory, pages: int) -> None:
    for number in range(1, 5):
        stack(history, number, 0x10000 - number * pages, pages)
    tops = [0x10000 - number * pages - 1 for number in range(4)]
    assert of(history, 6, *tops) == ["thread stacks"] * 4
    mapped(history, 7, 0x10000, 0x10000 + SMALL)  # what adjoins one is none
    mapped(history, 7, 0x10000 - 4 * pages - SMALL, 0x10000 - 4 * pages)
    assert of(history, 8, 0x10000, 0x10000 - 4 * pages - 1) == [
        at(0x10000),
        at(0x10000 - 4 * pages - SMALL),
    ]
    child = history.fork(9)
    assert of(child, 10, *tops) == ["thread stacks"] * 4


def test_what_replaces_a_thread_stack_is_none(history: MappingHistory) -> None:
    """But for a stack of the same size, mapped without rights first."""
    start, pages = 0x10000, 2 * LARGE
    for time in range(10, 100, 10):
        stack(history, time, start, pages)
        assert of(history, time, start, start + 1, start + pages - 1) == ["thread stacks"] * 3
        history.add(time + 1, Unmap(start * P, (start + pages) * P))
    assert len(history._names.arrays) == 2
    mapped(history, 100, start + 1, start + pages)
    assert of(history, 101, start + 1, start + pages - 1) == [at(start + 1)] * 2
    history.add(102, Unmap(start * P, (start + pages) * P))
    stack(history, 110, start, pages)
    history.add(111, Unmap(start * P, (start + pages) * P))
    mapped(history, 112, start - LARGE, start + 8 * LARGE)
    assert of(history, 113, start - LARGE, start + 1, start + pages) == [at(start - LARGE)] * 3
    stack(history, 120, 4 * start, pages)
    history.add(121, Unmap(4 * start * P, (4 * start + pages) * P))
    mapped(history, 122, 4 * start + 8, 4 * start + LARGE, "---p")  # within it
    assert of(history, 123, 4 * start + 8) == [at(4 * start + 8)]


def test_a_stack_in_bss_does_not_rename_it(history: MappingHistory) -> None:
    mapped(history, 1, 0x100, 0x104, "rw-p", "/usr/lib/libx.so", 7)
    mapped(history, 2, 0x104, 0x204)
    history.add(3, ThreadStack(0x204 * P - 0x100))
    assert of(history, 4, 0x203) == ["after libx.so"]


def test_a_thread_stack_that_the_kernel_made_one_with_its_neighbour(
    history: MappingHistory,
) -> None:
    mapped(history, 1, 0x1000, 0x2000)
    mapped(history, 2, 0x1000, 0x2800)  # without a guard that is a mapping, as since glibc 2.42
    history.add(3, ThreadStack(0x2800 * P - 0x1080))
    assert of(history, 4, 0x1800, 0x27FF) == [at(0x1000), "thread stacks"]


@pytest.mark.parametrize("pointer", [0x1800 * P, 0x2000 * P - 0x1080, 0x900 * P, 0x3000 * P])
def test_a_stack_in_other_memory_is_not_all_of_that(history: MappingHistory, pointer: int) -> None:
    """In the middle, at the end of what an allocator added to, of nothing, and below none."""
    mapped(history, 1, 0x1000, 0x2000)
    mapped(history, 1, 0x1000, 0x2000 + SMALL)
    history.add(2, ThreadStack(pointer))
    assert of(history, 3, 0x1800, 0x1FFF) == [at(0x1000)] * 2


def test_stacks_of_threads_that_were_there(history: MappingHistory) -> None:
    """As /proc/PID/maps lists them: what lies behind a guard begins with it."""
    parts = []
    for start in range(0x10000, 0x10000 + 4 * 256, 256):
        parts.append(Mapping(start * P, (start + 3) * P, "---p", 0, 0, 0, ""))
        parts.append(Mapping((start + 3) * P, (start + 256) * P, "rw-p", 0, 0, 0, ""))
    history.add_mappings(1, parts)
    tops = [part.end for part in parts[1::2]]
    for top in tops[:3]:
        history.add(1, ThreadStack(top - 0x1200))
    pages = [top // P - 1 for top in tops]
    assert of(history, 2, *pages) == ["thread stacks"] * 3 + [at(pages[3] - 252)]


def test_mremap_moves_it_along(history: MappingHistory) -> None:
    mapped(history, 1, 0x1000, 0x2000)
    history.add(2, Move(0x1000 * P, 0x1000 * P, 0x8000 * P, 0x3000 * P, keep=False))
    assert of(history, 3, 0x8000, 0xAFFF) == [at(0x1000)] * 2


def test_a_forked_child_shares_and_another_program_does_not(history: MappingHistory) -> None:
    mapped(history, 1, 0x1000, 0x2000)
    child = history.fork(2)
    other = MappingHistory(history._names, Files())
    mapped(other, 3, 0x1000, 0x2000)
    address, time = np.array([0x1000 * P], np.uint64), np.array([5])
    mine, inherited, others = (
        int(each.lookup(address, time)[0, 0]) for each in (history, child, other)
    )
    assert mine == inherited != others


def test_bss_is_named_by_its_file_whatever_process_has_it(history: MappingHistory) -> None:
    other = MappingHistory(history._names, Files())
    for each, start in ((history, 0x100), (other, 0x900)):
        mapped(each, 1, start, start + 4, "rw-p", "/usr/lib/libx.so", 7)
        mapped(each, 2, start + 4, start + 8)
        assert of(each, 3, start, start + 4) == ["", "after libx.so"]
    listed = [
        Mapping(0x20000 * P, 0x5004 * P, "r--p", 0, 8, 9, "/bin/y"),
        Mapping(0x5004 * P, 0x5008 * P, "rw-p", 0, 0, 0, ""),  # not behind what can be written
        Mapping(0x6000 * P, 0x6004 * P, "rw-p", 0, 8, 9, "/bin/y"),
        Mapping(0x6004 * P, 0x7008 * P, "rw-p", 0, 0, 0, ""),
    ]
    history.add_mappings(4, listed)
    assert of(history, 5, 0x5004, 0x6004) == ["", "after y"]


@pytest.mark.parametrize("listed", [False, True])
def test_a_file_mapped_twice(history: MappingHistory, listed: bool) -> None:
    starts = [0x300, 0x100, 0x200]
    if listed:
        lines = [Mapping(s * P, (s + 4) * P, "r--p", 0, 8, 7, "/f") for s in sorted(starts)]
        history.add_mappings(1, lines)
        starts.sort()
    for turn, start in enumerate(starts):
        if not listed:
            mapped(history, turn, start, start + 4, "r--p", "/f", 7)
    again = [at(start) for start in starts[1:]]
    assert of(history, 9, *starts) == ["", *again]
    history.add_mappings(10, [Mapping(s * P, (s + 4) * P, "r--p", 0, 8, 7, "/f") for s in
                              sorted(starts)])  # fmt: skip
    assert of(history, 11, *starts) == ["", *again]


def test_a_file_mapped_elsewhere_afterwards_is_the_same(history: MappingHistory) -> None:
    for turn in range(100):
        mapped(history, 10 * turn, 9 * turn, 9 * turn + 4, "r--p", "/f", 7)
        assert of(history, 10 * turn + 1, 9 * turn) == [""]
        history.add(10 * turn + 5, Unmap(9 * turn * P, (9 * turn + 4) * P))
    assert len(history._names.arrays) == 1


def test_there_is_an_end_to_them(history: MappingHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_ARRAYS", 10)
    for turn in range(100):
        mapped(history, turn, turn * 100, turn * 100 + 40)
    assert of(history, 200, 0, 900, 1000) == [at(0), at(900), ""]
    of(history, 200, *range(0, 10000, 100))
    assert len(history._names.regions) == 12


@pytest.mark.parametrize("count", [3, 100])  # few are looked up one by one
def test_mappings_that_records_bring_along(count: int) -> None:
    """fentry and kprobe: the kernel's mapping is one, ours are two."""
    history = MappingHistory(Names(), Files())
    mapped(history, 1, 4 * LARGE, 5 * LARGE)
    mapped(history, 2, 3 * LARGE, 5 * LARGE)
    upper, lower = (start * LARGE * P + np.arange(count) * P for start in (4, 3))
    made = faults(
        2 * count,
        marks=Mark.MAPPING,
        time_ns=10,
        vm_start=3 * LARGE * P,
        vm_end=5 * LARGE * P,
        vm_flags=3,
        address=np.concatenate([upper, lower]),
    )
    names = history._names
    found = history.lookup_faults(made)[0].tolist()
    labels = [names.arrays[names.array_of[number]] for number in found]
    assert labels == [at(4 * LARGE)] * count + [at(3 * LARGE)] * count
    assert {names.regions[number] for number in found} == {
        Region(3 * LARGE * P, 5 * LARGE * P, "rw-p", 0, "[anon]")
    }


RANGES = st.tuples(st.integers(0, 4000), st.integers(1, 3000)).map(lambda r: (r[0], sum(r)))
CALLS = st.lists(
    st.tuples(st.sampled_from(["map", "protect", "unmap", "file"]), RANGES), max_size=20
)


@given(CALLS)
def test_what_is_mapped_stays_what_it_was(calls: list[tuple[str, tuple[int, int]]]) -> None:
    """Page by page: there or not, whose, and with which permissions."""
    history = MappingHistory(Names(fold=True), Files())
    model: dict[int, str] = {}
    for time, (call, (start, end)) in enumerate(calls):
        if call == "unmap":
            history.add(time, Unmap(start * P, end * P))
            for page in range(start, end):
                model.pop(page, None)
            continue
        path, inode = ("/f", 1) if call == "file" else ("", 0)
        perms = "r--p" if call == "protect" else "rw-p"
        mapped(history, time, start, end, perms, path, inode)
        model |= dict.fromkeys(range(start, end), f"{path} {perms}")
    history.advance(len(calls))
    found: dict[int, str] = {}
    for region in history.present():
        path = "" if region.name == "[anon]" else region.name
        found |= dict.fromkeys(range(region.start // P, region.end // P), f"{path} {region.perms}")
    assert found == model


def test_a_name_that_was_given_is_shown(history: MappingHistory) -> None:
    """prctl(PR_SET_VMA_ANON_NAME): only /proc/PID/maps shows it."""
    mapped(history, 1, 0x1000, 0x2000)
    name = "[anon:a cache]"
    history.add_mappings(5, [Mapping(0x1000 * P, 0x2000 * P, "rw-p", 0, 0, 0, name)])
    assert of(history, 2, 0x1800) == [at(0x1000)]
    assert of(history, 6, 0x1800) == [""]
    assert [region.name for region in history.present()] == [name]


def test_pages_are_distinguished_as_faults_are(history: MappingHistory) -> None:
    """What snapshots find: by address, where their mapping is one."""
    mapped(history, 1, 4 * LARGE, 5 * LARGE)
    mapped(history, 2, 3 * LARGE, 5 * LARGE)
    listed = [Mapping(3 * LARGE * P, 5 * LARGE * P, "rw-p", 0, 0, 0, "")]
    history.add_mappings(3, listed)
    history.advance(3)
    pages = np.array([3 * LARGE, 4 * LARGE - 1, 4 * LARGE, 9 * LARGE], np.uint64)
    shot = Snapshot(1, 3, 4, listed, pages, pages, pages[:0])
    names = history._names
    found = shot.regions(names, pages, history.arrays).tolist()
    labels = [names.arrays[names.array_of.get(number, 0)] for number in found]
    assert labels == [at(3 * LARGE), at(3 * LARGE), at(4 * LARGE), ""]
    assert found[3] == 0
    assert history.arrays(pages[:0]).tolist() == []
