"""Sources and causes of changes that no record explains."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracer.common.pages import NO_FRAME
from tracer.model.sources import Loss, Source
from tracer.procfs import kpageflags
from tracer.procfs.mapped_files import Contents, _missing
from tracer.procfs.maps import Mapping
from tracer.snapshots import evidence
from tracer.snapshots.evidence import Evidence, Hint, Machine
from tracer.snapshots.snapshots import Snapshot
from tracer.snapshots.unrecorded import Unrecorded

P = 4096
HUGE = 512
ZERO = 0x5000
BASE = 64 << 21  # a huge page's frame
NOTHING = np.empty(0, np.uint64), np.empty(0, np.uint64)


def shot(
    frames: dict[int, int], inode: int = 0, start: int = 0, swapped: Iterable[int] = ()
) -> Snapshot:
    pages = sorted(frames)
    return Snapshot(
        pid=1,
        before_ns=10,
        after_ns=20,
        mappings=[Mapping(start * P, 4 * HUGE * P, "rw-p", 0, 7, inode, "/f" if inode else "")],
        pages=np.array(pages, np.uint64),
        frames=np.array([frames[page] for page in pages], np.uint64),
        swapped=np.array(sorted(swapped), np.uint64),
    )


def ask(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def whole(page: int = HUGE) -> dict[int, int]:
    return {page + number: BASE + number * P for number in range(HUGE)}


def found(
    *moved: str, unseen: Source | None = None, hints: tuple[Hint, ...] = (), **machine: Any
) -> Evidence:
    known: dict[str, Any] = {"zero_frame": ZERO, "flags": np.zeros_like} | machine
    return Evidence(frozenset(moved), unseen, Machine(**known), hints)


# -- another frame ---------------------------------------------------------------------


def test_small_pages_made_huge() -> None:
    snapshot = shot(whole())
    pages, new = ask(HUGE, HUGE + 9), ask(BASE, BASE + 9 * P)
    old = ask(0x9000, NO_FRAME)
    assert found("collapse", "migrate").move_sources(snapshot, pages, old, new).tolist() == [
        Source.COLLAPSE,
        Source.COLLAPSE,
    ]
    assert found("migrate").move_sources(snapshot, pages, old, new).tolist() == [Source.MIGRATE] * 2


def test_one_page_less_is_no_huge_page() -> None:
    frames = whole()
    del frames[HUGE + 511]
    snapshot = shot(frames)
    assert not snapshot.huge(ask(HUGE, HUGE + 9)).any()
    frames[HUGE + 511] = BASE
    assert not shot(frames).huge(ask(HUGE)).any()
    assert shot(whole()).huge(ask(HUGE, 5, 3 * HUGE)).tolist() == [True, False, False]


def test_the_zero_page_where_a_huge_page_was() -> None:
    snapshot = shot({HUGE + 3: ZERO})
    args = ask(HUGE + 3), ask(BASE + 3 * P), ask(ZERO)
    assert found("split").move_sources(snapshot, *args).tolist() == [Source.SPLIT]
    assert found().move_sources(snapshot, *args).tolist() == [Source.NONE]
    elsewhere = ask(HUGE + 3), ask(BASE + 4 * P), ask(ZERO)
    assert found("split").move_sources(snapshot, *elsewhere).tolist() == [Source.NONE]


@pytest.mark.parametrize(
    ("moved", "unseen", "source"),
    [
        ("ksm", None, Source.KSM),
        ("migrate", Source.MISSED, Source.MIGRATE),
        ("collapse", None, Source.COLLAPSE),
        ("swapoff", Source.MISSED, Source.SWAPOFF),
        ("", Source.FILTERED, Source.FILTERED),
        ("", None, Source.NONE),
    ],
)
def test_any_other_frame(moved: str, unseen: Source | None, source: Source) -> None:
    args = shot({3: 0x8000}), ask(3), ask(0x9000), ask(0x8000)
    assert found(moved, unseen=unseen).move_sources(*args).tolist() == [source]


def test_another_frame_after_faults_were_lost() -> None:
    """As many as there are pages: they say more than what the whole machine did."""
    args = shot({}), ask(3, 4), ask(0x9000, 0xA000), ask(0x8000, 0xB000)
    for lost, source in ((1, Source.MIGRATE), (2, Source.MISSED)):
        known = replace(found("migrate", unseen=Source.MISSED), dropped_faults=lost)
        assert known.move_sources(*args).tolist() == [source] * 2


def test_frames_that_ksm_shares() -> None:
    """By their flag, by being several pages', or, where the flag means nothing, by their count."""
    pages, old = ask(3, 4, 5, 6), ask(1 * P, 2 * P, 3 * P, 4 * P)
    new = ask(9 * P, 9 * P, 10 * P, 11 * P)
    args = shot({}), pages, old, new
    flagged = lambda numbers: np.where(numbers == 10, kpageflags.KSM, 0).astype(np.uint64)  # noqa: E731
    both = found("ksm", "migrate", flags=flagged).move_sources(*args)
    assert both.tolist() == [Source.KSM, Source.KSM, Source.KSM, Source.MIGRATE]
    counted = lambda numbers: np.where(numbers == 11, 2, 1).astype(np.uint64)  # noqa: E731
    both = found("ksm", "migrate", ksm_flag=False, counts=counted).move_sources(*args)
    assert both.tolist() == [Source.KSM, Source.KSM, Source.MIGRATE, Source.KSM]


def test_what_nobody_reports_is_unknown() -> None:
    """A probe blind to other processes' writes cannot rule them out, nor say that it was one."""
    args = shot({}), ask(3, 4), ask(ZERO, 0x9000), ask(0x8000, 0xA000)
    blind = found(blind_to_others=True)
    assert blind.move_sources(*args).tolist() == [Source.UNKNOWN] * 2
    assert blind.gain_sources(shot({3: 0x8000}), ask(3), Source.UNKNOWN).tolist() == [
        Source.UNKNOWN
    ]
    for what, who in (("migrate", Source.MIGRATE), ("swapoff", Source.SWAPOFF)):
        # Neither is ever done to the zero page.
        busy = found(what, blind_to_others=True)
        assert busy.move_sources(*args).tolist() == [Source.UNKNOWN, who]
        assert found(what).move_sources(*args).tolist() == [Source.NONE, who]
    missed = found(blind_to_others=True, unseen=Source.MISSED)
    assert missed.move_sources(*args).tolist() == [Source.MISSED] * 2
    assert found().move_sources(*args).tolist() == [Source.NONE] * 2


@pytest.mark.parametrize(
    ("now", "source"),
    [
        (Unrecorded(own=2, missed=9, filtered=4), None),  # others'
        (Unrecorded(own=3, missed=3, filtered=4), Source.MISSED),
        (Unrecorded(own=3, missed=2, filtered=5), Source.FILTERED),
        (Unrecorded(own=3, missed=3, filtered=5), Source.MISSED),  # it may have been either
    ],
)
def test_faults_without_a_record(now: Unrecorded, source: Source | None) -> None:
    assert now.source(Unrecorded(own=2, missed=2, filtered=4)) == source


def test_what_a_system_call_filled_or_gave_up() -> None:
    hints = Hint(3 * P, 4 * P, Source.POPULATE), Hint(5 * P, 6 * P, loss=Loss.MADVISE)
    known = found("migrate", "reclaim", hints=hints)
    args = ask(3, 4), ask(NO_FRAME, 0x9000), ask(0x8000, 0xA000)
    assert known.move_sources(shot({}), *args).tolist() == [Source.POPULATE, Source.MIGRATE]
    sources = known.gain_sources(shot({}), ask(3, 4), Source.UNKNOWN)
    assert sources.tolist() == [Source.POPULATE, Source.UNKNOWN]
    assert known.exec_sources(ask(3, 4)).tolist() == [Source.POPULATE, Source.EXEC]
    causes = known.release_causes(shot({}), ask(5, 6), ask(0x8000, 0x9000), NOTHING)
    assert causes.tolist() == [Loss.MADVISE, Loss.RECLAIM]
    causes = known.release_causes(shot({}, swapped=[5]), ask(5), ask(0x8000), NOTHING)
    assert causes.tolist() == [Loss.RECLAIM]


@pytest.mark.parametrize("name", ["anon_inode:[io_uring]", "/dev/dri/card0"])
def test_a_driver_fills_its_mapping_as_it_is_made(name: str) -> None:
    snapshot = shot({3: 0x8000})
    snapshot.mappings[0] = snapshot.mappings[0]._replace(path=name)
    assert found().gain_sources(snapshot, ask(3), Source.UNKNOWN).tolist() == [Source.POPULATE]


# -- a frame where there was none --------------------------------------------------------


def test_holes_filled_by_collapse() -> None:
    snapshot = shot(whole() | {5: 0x9000})
    sources = found("collapse").gain_sources(snapshot, ask(HUGE + 1, 5), Source.UNKNOWN)
    assert sources.tolist() == [Source.COLLAPSE, Source.UNKNOWN]
    sources = found().gain_sources(snapshot, ask(HUGE + 1), Source.UNKNOWN)
    assert sources.tolist() == [Source.UNKNOWN]


# -- no frame any more -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "held", "loss"),
    [
        ((), Contents([True], in_memory=False), Loss.TRUNCATE),
        (("reclaim",), Contents([True], in_memory=True), Loss.TRUNCATE),
        (("split", "reclaim"), Contents([False], in_memory=True), Loss.SPLIT),
        (("collapse",), Contents([False], in_memory=True), Loss.COLLAPSE),
        (("reclaim",), Contents([False], in_memory=True), Loss.RECLAIM),
        (("reclaim",), None, Loss.RECLAIM),
        ((), Contents([False], in_memory=True), Loss.TRUNCATE),
        ((), Contents([False], in_memory=False), Loss.RECLAIM),
        ((), None, Loss.UNKNOWN),
    ],
)
def test_a_file_s_page_that_went(
    moved: tuple[str, ...],
    held: Contents | None,
    loss: Loss,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, list[int]]] = []

    def answer(pid: int, mapping: Mapping, offsets: list[int]) -> Contents | None:
        asked.append((pid, offsets))
        return held

    monkeypatch.setattr(evidence, "contents", answer)
    causes = found(*moved).release_causes(
        shot({}, inode=9, start=1), ask(HUGE + 1), ask(BASE + P), NOTHING
    )
    assert causes.tolist() == [loss]
    assert asked == [(1, [HUGE * P])]


def test_a_page_in_one_folio_with_those_that_went(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_is_gone(pid: int, mapping: Mapping, offsets: list[int]) -> Contents:
        return Contents([offset == 0 for offset in offsets], in_memory=False)

    monkeypatch.setattr(evidence, "contents", first_is_gone)
    snapshot = shot({}, inode=9, start=1)
    gone = ask(1, 2, 3), ask(BASE, BASE + P, 0x9000)
    causes = found("reclaim").release_causes(snapshot, *gone, gone)
    assert causes.tolist() == [Loss.TRUNCATE, Loss.SPLIT, Loss.RECLAIM]
    causes = found().release_causes(snapshot, gone[0][1:2], gone[1][1:2], gone)
    assert causes.tolist() == [Loss.SPLIT]


def test_memory_s_page_that_went() -> None:
    snapshot = shot({}, start=1, swapped=[2])
    pages, old = ask(0, 2, 3), ask(0x8000, 0x9000, 0xA000)
    assert found("split").release_causes(snapshot, pages, old, NOTHING).tolist() == [
        Loss.MUNMAP,
        Loss.RECLAIM,
        Loss.UNKNOWN,
    ]


# -- what a file holds ---------------------------------------------------------------------------


def test_holes_and_the_end(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        file.write(bytes(P))
        file.seek(64 * P)
        file.write(bytes(P))
        file.truncate(100 * P)
        file.flush()
        pages = [0, 2, 32, 64, 66, 80, 99, 100, 1000]
        missing = _missing(file.fileno(), [page * P for page in pages])
    if missing[2] is False:
        pytest.skip("a file system with holes")
    assert missing == [False, True, True, False, True, True, True, True, True]
