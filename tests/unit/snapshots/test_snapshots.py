"""One snapshot of all pages of a process, as sorted arrays."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tracer.common.pages import NO_FRAME
from tracer.model.rows import Names, Region
from tracer.procfs.maps import Mapping
from tracer.snapshots import snapshots
from tracer.snapshots.snapshots import Snapshot

P = 4096
SWAPPED, PRESENT = 1 << 62, 1 << 63


def mapping(start: int, end: int, path: str = "", offset: int = 0) -> Mapping:
    return Mapping(start * P, end * P, "rw-p", offset, 0, 0, path)


def shot(pages: dict[int, int], mappings: Sequence[Mapping] = ()) -> Snapshot:
    numbers = sorted(pages)
    return Snapshot(
        pid=1,
        before_ns=10,
        after_ns=20,
        mappings=list(mappings),
        pages=np.array(numbers, np.uint64),
        frames=np.array([pages[page] for page in numbers], np.uint64),
        swapped=np.empty(0, np.uint64),
    )


def ask(*pages: int) -> np.ndarray:
    return np.array(pages, np.uint64)


def test_frames_of_pages() -> None:
    snapshot = shot({7: 0x1000, 9: 0x2000})
    got = snapshot.frame_of(ask(9, 6, 7, 8, 10, 9)).tolist()
    assert got == [0x2000, NO_FRAME, 0x1000, NO_FRAME, NO_FRAME, 0x2000]
    assert snapshot.frame_of(ask()).tolist() == []


def test_frames_where_nothing_was_present() -> None:
    assert shot({}).frame_of(ask(7)).tolist() == [NO_FRAME]


def test_what_was_mapped() -> None:
    snapshot = shot({}, [mapping(5, 7), mapping(9, 10)])
    got = snapshot.mapped(ask(4, 5, 6, 7, 8, 9, 10)).tolist()
    assert got == [False, True, True, False, False, True, False]
    assert not shot({}).mapped(ask(5)).any()


def test_regions_of_the_present_pages() -> None:
    names = Names()
    mappings = [mapping(5, 7, "/lib/a", 0x3000), mapping(7, 8, "/never"), mapping(9, 12)]
    snapshot = shot({5: 0x1000, 6: 0x2000, 9: 0x3000, 20: 0x4000}, mappings)
    regions = snapshot.regions(names)
    assert [names.regions[n] for n in regions.tolist()] == [
        Region(5 * P, 7 * P, "rw-p", 0x3000, "/lib/a"),
        Region(5 * P, 7 * P, "rw-p", 0x3000, "/lib/a"),
        Region(9 * P, 12 * P, "rw-p", 0, "[anon]"),
        names.regions[0],
    ]
    assert "/never" not in [region.name for region in names.regions]  # no page there
    assert snapshot.regions(names).tolist() == regions.tolist()


def test_regions_of_no_pages() -> None:
    assert shot({}, [mapping(5, 7)]).regions(Names()).tolist() == []
    assert shot({5: 0x1000}).regions(Names()).tolist() == [0]


class FakePageMap:
    """Answers with entries by hand, in two parts."""

    def __init__(self, pid: int = 1, tid: int | None = None) -> None:
        pass

    def __enter__(self) -> "FakePageMap":
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def read_ranges(
        self, spans: list[tuple[int, int]], likely: object = ()
    ) -> Iterator[tuple[int, Any]]:
        assert spans == [(5 * P, 8 * P), (9 * P, 12 * P)]
        # The fourth lies between the mappings: mapped after maps was read.
        words = [PRESENT | 0x11, 0, SWAPPED | 0x20, PRESENT | 0x13]
        yield 5 * P, np.array(words, np.uint64)
        yield 10 * P, np.array([PRESENT | 0x12], np.uint64)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((100, 200))
    monkeypatch.setattr(snapshots, "time", SimpleNamespace(monotonic_ns=lambda: next(ticks)))


def check(snapshot: Snapshot) -> None:
    assert snapshot.pages.tolist() == [5, 10]
    assert snapshot.frames.tolist() == [0x11 * P, 0x12 * P]
    assert snapshot.swapped.tolist() == [7]
    assert (snapshot.before_ns, snapshot.after_ns) == (100, 200)


@pytest.mark.usefixtures("clock")
def test_a_snapshot_of_a_living_process(monkeypatch: pytest.MonkeyPatch) -> None:
    mappings = [mapping(5, 8), mapping(9, 12)]
    monkeypatch.setattr(snapshots, "PageMap", FakePageMap)
    monkeypatch.setattr(snapshots, "read_maps", lambda pid: mappings)
    snapshot = snapshots.take_snapshot(1)
    check(snapshot)
    assert snapshot.mappings == mappings


@pytest.mark.usefixtures("clock")
def test_a_snapshot_of_pinned_memory() -> None:
    maps = b"5000-8000 rw-p 00000000 00:00 0 \n9000-c000 rw-p 00000000 00:00 0 \n"
    check(snapshots.take_pinned_snapshot(1, maps, FakePageMap()))  # type: ignore[arg-type]


def test_a_snapshot_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty(FakePageMap):
        def read_ranges(
            self, spans: list[tuple[int, int]], likely: object = ()
        ) -> Iterator[tuple[int, Any]]:
            return iter(())

    snapshot = snapshots.take_pinned_snapshot(1, b"", Empty())  # type: ignore[arg-type]
    assert (len(snapshot.pages), len(snapshot.frames), len(snapshot.swapped)) == (0, 0, 0)
    assert snapshot.pages.dtype == np.uint64
