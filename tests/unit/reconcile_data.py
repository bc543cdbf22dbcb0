"""A timeline, its reconciler, and snapshots of memory of our own making."""

from collections.abc import Iterable

import numpy as np
import pytest

from tests.unit.timeline_data import SPACE, page_of
from tracer.model.sources import Source
from tracer.procfs.maps import Mapping
from tracer.snapshots.evidence import Hint, Machine
from tracer.snapshots.reconcile import Reconciler
from tracer.snapshots.snapshots import Snapshot
from tracer.snapshots.unrecorded import Unrecorded
from tracer.timeline.timeline import Timeline

P = 4096
ALL_PAGES = (0, 1 << 20)


def regions_4(pages: np.ndarray) -> np.ndarray:
    return np.full(len(pages), 4, np.uint32)


class World:
    """A timeline, its reconciler, and a kernel whose movement counters can be moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counters = {"migrate": 5, "collapse": 5, "ksm": 5, "reclaim": 5, "swapoff": 5}
        monkeypatch.setattr(
            "tracer.snapshots.reconcile.movement_counters", lambda: dict(self.counters)
        )
        self.line = Timeline()
        self.reconciler = Reconciler(self.line, Machine(flags=np.zeros_like))

    def fill(self, start: int, end: int) -> None:
        self.reconciler.hint(SPACE, Hint(start, end, Source.POPULATE))

    def snapshot(
        self,
        time: int,
        present: dict[int, int],
        *,
        swapped: Iterable[int] = (),
        mapped: tuple[int, int] = ALL_PAGES,
        missed: int = 0,
        filtered: int = 0,
        dropped: int = 0,
        began: int | None = None,
        space: int = SPACE,
    ) -> None:
        """A snapshot at `time` showing these pages in these frames.

        `began`: so many faults were missed as it began; None: as many as at its end.
        """
        pages = sorted(present)
        shot = Snapshot(
            pid=1,
            before_ns=time,
            after_ns=time + 5,
            mappings=[Mapping(mapped[0] * P, mapped[1] * P, "rw-p", 0, 0, 0, "")],
            pages=np.array(pages, np.uint64),
            frames=np.array([present[page] for page in pages], np.uint64),
            swapped=np.array(sorted(swapped), np.uint64),
        )
        if began is not None:
            shot.unrecorded = Unrecorded(own=began, missed=began)
        unrecorded = Unrecorded(
            own=missed + filtered, missed=missed, filtered=filtered, dropped=dropped
        )
        self.reconciler.observe(space, shot, regions_4, unrecorded)

    def born(self, source: Source, space: int = SPACE) -> None:
        self.reconciler.view(space, source)

    def page(self, page: int, space: int = SPACE) -> dict[str, int]:
        return page_of(self.line, page, space)

    def suspects(self, space: int = SPACE) -> list[int]:
        found: list[int] = self.reconciler.view(space).suspects.pages.tolist()
        return found
