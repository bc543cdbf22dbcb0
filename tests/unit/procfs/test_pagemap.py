"""pagemap entries: their bits, and how ranges are read, on this process's own memory."""

import itertools
import mmap
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import witnesses
from tracer.common.errors import Exit, TraceError
from tracer.common.pages import NO_FRAME, PAGE_SIZE
from tracer.procfs import entries as raw
from tracer.procfs import kpageflags, pagemap
from tracer.procfs.errors import ProcessGone
from tracer.procfs.maps import Mapping, read_maps
from tracer.procfs.pagemap import PageMap

PAGES = 101
WORDS = st.lists(st.integers(0, (1 << 64) - 1), max_size=20)


@pytest.fixture
def memory() -> mmap.mmap:
    """A private anonymous mapping of small pages, none of them touched."""
    area = mmap.mmap(-1, PAGES * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return area


@pytest.fixture
def own() -> Iterator[PageMap]:
    with PageMap(os.getpid()) as pages:
        yield pages


def start_of(area: mmap.mmap) -> int:
    found: int = np.frombuffer(area, dtype=np.uint8).__array_interface__["data"][0]
    return found


@given(WORDS)
def test_bits(words: list[int]) -> None:
    entries = np.array(words, dtype=np.uint64)
    assert pagemap.present(entries).tolist() == [bool(word >> 63) for word in words]
    assert pagemap.swapped(entries).tolist() == [bool(word >> 62 & 1) for word in words]
    assert pagemap.held(entries).tolist() == [bool(word >> 62) for word in words]
    assert pagemap.file_or_shared(entries).tolist() == [bool(word >> 61 & 1) for word in words]
    assert pagemap.exclusive(entries).tolist() == [bool(word >> 56 & 1) for word in words]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, (1 << 40) - 1)), max_size=20))
def test_frames(pages: list[tuple[bool, int]]) -> None:
    entries = np.array(
        [there << 63 | (not there) << 62 | 1 << 55 | pfn for there, pfn in pages], dtype=np.uint64
    )
    assert pagemap.frames(entries).tolist() == [
        pfn * PAGE_SIZE if there else NO_FRAME for there, pfn in pages
    ]


def test_touched_pages_become_present(own: PageMap, memory: mmap.mmap) -> None:
    start = start_of(memory)
    end = start + PAGES * PAGE_SIZE
    assert not pagemap.held(own.read(start, end)).any()
    touched = [0, 1, 50, 100]
    for page in touched:
        memory[page * PAGE_SIZE] = 1
    assert np.flatnonzero(pagemap.present(own.read(start, end))).tolist() == touched


def test_vsyscall_reads_as_absent(own: PageMap) -> None:
    entries = own.read(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)
    assert entries.tolist() == [0]
    assert own.read(PAGE_SIZE, PAGE_SIZE).tolist() == []


def test_scan_finds_the_touched_pages(own: PageMap, memory: mmap.mmap) -> None:
    start = start_of(memory)
    end = start + PAGES * PAGE_SIZE
    for page in (0, 1, 50, 100):
        memory[page * PAGE_SIZE] = 1
    found = list(own.scan_present([(start, end)]))
    if raw.scan_available(own._descriptor):
        assert [
            ((first - start) // PAGE_SIZE, (last - start) // PAGE_SIZE) for first, last in found
        ] == [
            (0, 2),
            (50, 51),
            (100, 101),
        ]
    else:
        assert found == [(start, end)]


def no_scan(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    raise OSError(25, "Inappropriate ioctl for device")
    yield start, end


def test_scan_falls_back_to_reading(
    monkeypatch: pytest.MonkeyPatch, own: PageMap, memory: mmap.mmap
) -> None:
    monkeypatch.setattr(raw, "_scan", no_scan)
    monkeypatch.setattr(raw, "_FALLBACK_PAGES", 10)
    start = start_of(memory)
    memory[50 * PAGE_SIZE] = 1
    found = list(own.scan_present([(start, start + PAGES * PAGE_SIZE)]))
    assert found == [(start + 50 * PAGE_SIZE, start + 60 * PAGE_SIZE)]


def test_without_the_scan_gaps_between_mappings_are_not_read(
    monkeypatch: pytest.MonkeyPatch, own: PageMap
) -> None:
    """The heap and the libraries of any process lie some forty terabytes apart."""
    monkeypatch.setattr(raw, "_scan", no_scan)
    read: list[tuple[int, int]] = []
    by_reading = raw._scan_by_reading

    def note(descriptor: int, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        read.append((start, end))
        return by_reading(descriptor, pid, start, end)

    monkeypatch.setattr(raw, "_scan_by_reading", note)
    mappings = [mapping for mapping in read_maps(os.getpid()) if mapping.start < raw.USER_LIMIT]
    assert list(witnesses.read_present(own, mappings))
    size = sum(mapping.end - mapping.start for mapping in mappings)
    assert sum(end - start for start, end in read) == size


@pytest.mark.parametrize("pages", [511, 512, 513, 1024, 4095, 4096, 4097, 8199])
def test_scan_of_many_ranges_needs_several_calls(own: PageMap, pages: int) -> None:
    """And within the kernel several pieces, of 512 ranges each."""
    area = mmap.mmap(-1, 2 * pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    area[:: 2 * PAGE_SIZE] = b"x" * pages
    start = start_of(area)
    end = start + len(area)
    held = [
        (address, last)
        for first, last in own.scan_present([(start, end)])
        for address in range(first, last, PAGE_SIZE)
    ]
    if raw.scan_available(own._descriptor):
        assert [first for first, _ in held] == list(range(start, end, 2 * PAGE_SIZE))


@pytest.mark.parametrize("scan", [True, False])
def test_sparse_terabyte_is_read_sparsely(
    monkeypatch: pytest.MonkeyPatch, own: PageMap, scan: bool
) -> None:
    if not scan:
        monkeypatch.setattr(raw, "_scan", no_scan)
    elif not raw.scan_available(own._descriptor):
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    size = 1 << 40 if scan else 1 << 34
    reserve = 0x4000  # MAP_NORESERVE
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    area[size // 2] = area[size - 1] = 1
    start = start_of(area)
    mapping = Mapping(start, start + size, "rw-p", 0, 0, 0, "")
    pages, found = 0, []
    for whose, address, entries in witnesses.read_present(own, [mapping]):
        assert whose is mapping
        pages += len(entries)
        found += (np.flatnonzero(pagemap.held(entries)) * PAGE_SIZE + address - start).tolist()
    assert found == [size // 2, size - PAGE_SIZE]
    assert pages < 2 * raw._FALLBACK_PAGES + 1


def stopped_child() -> int:
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    return child


def held_by_page(start: int, entries: pagemap.Entries) -> dict[int, int]:
    """Address -> entry of what is held, less the bit that changes as others come and go."""
    stable = entries & np.uint64(~raw.EXCLUSIVE & (1 << 64) - 1)
    return {
        start + int(index) * PAGE_SIZE: int(stable[index])
        for index in np.flatnonzero(pagemap.held(entries))
    }


def test_read_present_leaves_nothing_out() -> None:
    """But for pages that the kernel moves meanwhile: another test may ask it to."""
    child = stopped_child()
    try:
        mappings = read_maps(child)
        seen: dict[int, int] = {}
        with PageMap(child) as pages:
            before = read_plainly(pages, mappings)
            for mapping, address, entries in witnesses.read_present(pages, mappings):
                assert mapping.start <= address < address + len(entries) * PAGE_SIZE <= mapping.end
                seen |= held_by_page(address, entries)
            after = read_plainly(pages, mappings)
        assert seen.keys() == before.keys() == after.keys()
        still = [page for page in seen if before[page] == after[page]]
        assert [seen[page] for page in still] == [before[page] for page in still]
        assert still
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def read_plainly(pages: PageMap, mappings: list[Mapping]) -> dict[int, int]:
    """`held_by_page` of everything, read page by page."""
    found: dict[int, int] = {}
    for mapping in mappings:
        if mapping.start < raw.USER_LIMIT:
            found |= held_by_page(mapping.start, pages.read(mapping.start, mapping.end))
    return found


RANGES = st.lists(st.integers(0, 400), unique=True, max_size=40).map(sorted)


@given(RANGES, st.integers(0, 20), st.integers(1, 50))
def test_joined_and_split_ranges_cover_the_same(edges: list[int], gap: int, pages: int) -> None:
    ranges = [
        (first * PAGE_SIZE, last * PAGE_SIZE)
        for first, last in zip(edges[::2], edges[1::2], strict=False)
    ]
    joined = list(pagemap._joined(ranges, gap * PAGE_SIZE))
    for (_, before), (after, _) in itertools.pairwise(joined):
        assert after - before > gap * PAGE_SIZE
    pieces = list(pagemap._split(joined, pages))
    assert all(0 < last - first <= pages * PAGE_SIZE for first, last in pieces)
    covered = {page for first, last in pieces for page in range(first, last, PAGE_SIZE)}
    assert covered >= {page for first, last in ranges for page in range(first, last, PAGE_SIZE)}


def test_gone_process() -> None:
    child = stopped_child()
    pages = PageMap(child)
    assert not pages.gone()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert pages.gone()
    with pytest.raises(ProcessGone):
        pages.read(0, PAGE_SIZE)
    with pytest.raises(ProcessGone):
        list(pages.scan_present([(0, 1 << 40)]))
    pages.close()
    pages.close()
    with pytest.raises(ProcessGone):
        PageMap(child)


def test_pagemap_of_the_memory_before_exec_is_gone() -> None:
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os.dup2(ready_write, 1)
        os.execv("/bin/sh", ["sh", "-c", "echo; kill -STOP $$"])
    os.waitpid(child, os.WUNTRACED)
    with PageMap(child) as pages:
        os.kill(child, signal.SIGCONT)
        os.read(ready_read, 1)  # what was started by exec writes this
        assert pages.gone()
    with PageMap(child) as pages:
        assert not pages.gone()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready_read)
    os.close(ready_write)


def test_kpageflags_without_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(TraceError) as caught:
        kpageflags.flags(np.array([1], dtype=np.uint64))
    assert caught.value.code is Exit.NO_RIGHTS


@given(st.lists(st.integers(0, 3000), max_size=30))
def test_kpageflags_come_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, pfns: list[int]
) -> None:
    table = np.arange(2000, dtype=np.uint64) * np.uint64(7)
    path = tmp_path_factory.mktemp("proc") / "kpageflags"
    path.write_bytes(table.tobytes())
    words = kpageflags._read_words(str(path), np.array(pfns, dtype=np.uint64), kpageflags.NOPAGE)
    assert words.tolist() == [pfn * 7 if pfn < 2000 else kpageflags.NOPAGE for pfn in pfns]


# -- what need not be asked for ------------------------------------------------------------------

PAIRS = st.lists(st.integers(0, 40), max_size=8).map(
    lambda cuts: [*zip(*[iter(sorted(set(cuts)))] * 2, strict=False)]
)


def spread_out(ranges: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> list[int]:
    return [page for start, end in ranges for page in range(start, end)]


@given(PAIRS, PAIRS)
def test_ranges_without_others(spans: list[tuple[int, int]], skip: list[tuple[int, int]]) -> None:
    left = sorted(set(spread_out(spans)) - set(spread_out(skip)))
    assert spread_out(raw.without(spans, skip)) == left
    shared = sorted(set(spread_out(spans)) & set(spread_out(skip)))
    assert spread_out(pagemap._shared(spans, skip)) == shared


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("likely", [[], [(3, 40)], [(0, 60), (70, 71)], [(50, 101)], [(0, 500)]])
def test_reading_what_is_likely_there_first_finds_the_same(
    scan: bool,
    likely: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    own: PageMap,
    memory: mmap.mmap,
) -> None:
    if not scan:
        monkeypatch.setattr(raw, "_scan", no_scan)
    start = start_of(memory)
    touched = [0, 1, 50, 71, 100]
    for page in touched:
        memory[page * PAGE_SIZE] = 1
    within = [(start + a * PAGE_SIZE, start + b * PAGE_SIZE) for a, b in likely]
    found = [
        (first - start) // PAGE_SIZE + int(index)
        for first, entries in own.read_ranges([(start, start + PAGES * PAGE_SIZE)], within)
        for index in np.flatnonzero(pagemap.held(entries))
    ]
    assert found == touched
