"""Files: what comes along with a fault, what a write does, and what goes with the file."""

import ctypes
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest

from tests.live.features import THP, knob
from tests.live.tracing import (
    Traced,
    check_books,
    check_counts,
    check_frames,
    check_resident,
    file_kind,
    trace,
)
from tests.live.workload import Workload
from tracer.common.pages import NO_FRAME
from tracer.model.rows import Kind
from tracer.probes.choose import Attached
from tracer.procfs.pagemap import PageMap, present

KEEP_SIZE, PUNCH_HOLE = 1, 2  # include/uapi/linux/falloc.h
PRIVATE, SHARED, MEMFD = range(3)
READ, WRITE = range(2)


def check(traced: Traced, *, rows: bool = True) -> None:
    check_counts(traced)
    check_frames(traced, "file", rows=rows)
    check_books(traced)
    check_resident(traced)


class Watch:
    """At each stop: which pages pagemap shows that it did not show before."""

    def __init__(self) -> None:
        self.came: list[set[int]] = []
        self._seen: set[int] = set()

    def read(self, work: Workload) -> None:
        range_ = work.range("file")
        with PageMap(work.pid) as pagemap:
            here = present(pagemap.read(range_.start, range_.end))
        now = {range_.start + 4096 * index for index in np.flatnonzero(here).tolist()}
        self.came.append(now - self._seen)
        self._seen |= now


@pytest.mark.parametrize(
    ("name", "shared", "access"),
    [
        ("file-step-small", PRIVATE, READ),
        ("file-step", PRIVATE, READ),
        ("file-step", SHARED, READ),
        ("file-step", SHARED, WRITE),
        ("file-step", PRIVATE, WRITE),
    ],
    ids=["around", "large", "large-shared", "large-shared-write", "private-write"],
)
def test_which_neighbours_came(attached: Attached, name: str, shared: int, access: int) -> None:
    """Each fault's neighbours are those that pagemap shows after it and not before."""
    watch = Watch()
    traced = trace(attached, name, 300, shared, access, 29, at={"touched": watch.read})
    check(traced)
    rows = traced.within(traced.report.ranges["file"])
    assert set(traced.kinds(traced.report.ranges["file"])) == {
        "cow" if (shared, access) == (PRIVATE, WRITE) else file_kind(traced)
    }
    table = traced.table(traced.report.ranges["file"])
    reported: dict[int, set[int]] = {int(number): set() for number in rows["number"]}
    for address, page in table.items():
        reported[page["first_fault"]].add(address)
    assert list(reported.values()) == [came for came in watch.came if came]
    assert rows["pages"].tolist() == [len(came) for came in reported.values()]


@pytest.mark.parametrize("kind", [SHARED, MEMFD], ids=["file", "memfd"])
@pytest.mark.parametrize("step", [16, 1, 7])
def test_pages_that_did_not_come(
    attached: Attached, machine: ExitStack, kind: int, step: int
) -> None:
    """Frames are contiguous from one window into the next, but not all their pages are mapped.

    With a step of 16 the last page of each window further on is mapped, and no other.
    """
    if kind == MEMFD:
        machine.enter_context(knob(THP / "shmem_enabled", "always", "huge pages in shmem"))
    traced = trace(attached, "file-holes", 512, kind, 25, step)
    check(traced)
    held = int((traced.truth["file"] != NO_FRAME).sum())
    assert traced.within(traced.report.ranges["file"])["pages"].sum() == held
    assert not traced.losses(traced.report.ranges["file"])


def test_readahead(attached: Attached) -> None:
    """A cold file read page by page: a few faults wait for the disk, the others find it read."""
    traced = trace(attached, "file-through", 256, PRIVATE)
    check(traced)
    range_ = traced.report.ranges["file"]
    rows = traced.within(range_)
    assert rows["pages"].sum() == 256
    assert set(traced.sources(range_)) == {"fault", "around"}
    if file_kind(traced) == "file":
        assert 0 < rows["major"].sum() < 256


def test_private_write(attached: Attached) -> None:
    """Pages of the file are read in, then copied one by one."""
    traced = trace(attached, "file-read-write", 100, PRIVATE)
    check(traced)
    range_ = traced.report.ranges["file"]
    rows = traced.within(range_)
    copies = rows[rows["kind"] == Kind.COW]
    assert len(copies) == 100
    assert set(copies["pages"].tolist()) == {1}
    assert NO_FRAME not in copies["frame_before"]
    assert set(traced.kinds(range_)) == {file_kind(traced), "cow"}
    assert traced.losses(range_) == {"replaced": 100}
    assert traced.holders(range_) == {"fault": 100}


def test_shared_write(attached: Attached) -> None:
    """The file system is asked before a page is first written: the frame stays."""
    traced = trace(attached, "file-read-write", 100, SHARED)
    if file_kind(traced) == "shmem":
        pytest.skip("a file system with page_mkwrite")
    check(traced)
    range_ = traced.report.ranges["file"]
    rows = traced.within(range_)
    asked = rows[rows["kind"] == Kind.MKWRITE]
    assert len(asked) == 100
    assert set(asked["pages"].tolist()) == {0}
    assert (asked["frame"] == asked["frame_before"]).all()
    assert set(traced.kinds(range_)) == {"file", "mkwrite"}
    assert not traced.losses(range_)


def held(work: Workload) -> int:
    """Pages of the file's mapping with a frame, by pagemap."""
    range_ = work.range("file")
    with PageMap(work.pid) as pagemap:
        return int(present(pagemap.read(range_.start, range_.end)).sum())


def truncate(work: Workload) -> None:
    os.truncate(work.report.file, 32 * 4096)


def punch(work: Workload) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(work.report.file, "rb+") as file:
        start, length = ctypes.c_long(20 * 4096), ctypes.c_long(12 * 4096)
        done = libc.fallocate(file.fileno(), KEEP_SIZE | PUNCH_HOLE, start, length)
    assert done == 0, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize(
    ("how", "kind", "again"),
    [
        (truncate, PRIVATE, 0),
        (truncate, SHARED, 1),
        (truncate, MEMFD, 1),
        (punch, PRIVATE, 1),
        (punch, SHARED, 0),
        (punch, MEMFD, 1),
    ],
    ids=[
        "cut",
        "cut-shared-again",
        "cut-memfd-again",
        "hole-again",
        "hole-shared",
        "hole-memfd-again",
    ],
)
def test_another_process_discards_part_of_the_file(
    attached: Attached, how: Callable[[Workload], None], kind: int, again: int
) -> None:
    """Pages go with their part of the file, without a system call of the target's.

    Where they are part of a large folio, that is split, and all of its pages are unmapped.
    """
    left = []

    def discard(work: Workload) -> None:
        how(work)
        left.append(held(work))

    traced = trace(attached, "file-gone", 64, kind, again, at={"touched": discard})
    check(traced, rows=False)
    range_ = traced.report.ranges["file"]
    gone = 32 if how is truncate else 12
    split = 64 - gone - left[0]
    assert traced.losses(range_) == Counter(truncate=gone, split=split) + Counter()
    failed = gone if again and how is truncate else 0
    assert traced.kinds(range_)["failed"] == traced.books.failed == failed
    back = split + (gone - failed) if again else 0
    assert sum(row["gains"] for row in traced.table(range_).values()) == 64 + back
