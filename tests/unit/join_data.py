"""A join over the memory of one process, and fault records for it."""

from typing import Any

import numpy as np

from tests.unit.faults_data import PRESENT, WRITABLE, faults, pte, windows
from tracer.join.join import Join
from tracer.model.rows import Names, Rows
from tracer.model.sources import Source
from tracer.procfs.maps import Mapping
from tracer.spaces.spaces import Spaces
from tracer.timeline.timeline import Timeline
from tracer.wire.records import Mark

P = 4096
PID, MM = 42, 0xFFFF_8880_0000_1000
BASE = 0x7F00_0000_0000  # aligned to 2 MiB, so to a window
ZERO = 0x1_2345_6000
F = 0x2866_4000_0
KNOWN = Mark.ENTRY | Mark.BEFORE | Mark.AFTER
PERF = KNOWN | Mark.ERRORCODE
WRITE_CODE, USER_CODE = 0x2, 0x4
VDSO, VVAR = BASE + (1 << 30), BASE + (2 << 30)
MAPPINGS = [
    Mapping(BASE, BASE + (1 << 24), "rw-p", 0, 0, 0, ""),
    Mapping(BASE + (1 << 25), BASE + (1 << 25) + (1 << 24), "r--p", 0, 8, 9, "/lib/libc.so"),
    Mapping(VDSO, VDSO + 2 * P, "r-xp", 0, 0, 0, "[vdso]"),
    Mapping(VVAR, VVAR + 4 * P, "r--p", 0, 0, 0, "[vvar]"),
]
FILE = BASE + (1 << 25)


class Parts:
    """A join over one process's memory, and the timeline it reports to."""

    def __init__(self, **options: Any) -> None:
        self.names = Names()
        self.spaces = Spaces(self.names)
        self.timeline = Timeline()
        self.spaces.attach(0, PID, MM, MAPPINGS)
        self.join = Join(self.names, self.spaces, self.timeline, ZERO, **options)

    def rows(self, records: np.ndarray, around: np.ndarray | None = None) -> Rows:
        batch = self.join.describe(
            self.join.place(records), windows(0) if around is None else around
        )
        batch.schedule.apply_all()
        return batch.rows

    def frames(self, address: int, count: int = 16) -> list[int]:
        pages = np.arange(count, dtype=np.uint64) + np.uint64(address >> 12)
        ledger = self.timeline.ledger
        found: list[int] = ledger["frame"][ledger.state(1, pages)].tolist()
        return found

    def gained(self) -> dict[Source, int]:
        gained = self.timeline.ledger.tally.gained
        return {source: int(gained[source]) for source in Source if gained[source]}


def fault(address: int, time: int = 2000, **fields: Any) -> np.ndarray:
    """A first write to an anonymous page, but for what `fields` says."""
    common = {
        "mm": MM,
        "current_mm": MM,
        "tgid": PID,
        "tid": PID,
        "ip": 0x401000,
        "marks": PERF,
        "flags": WRITE_CODE | USER_CODE,
        "start_ns": time - 900,
        "time_ns": time,
        "address": address,
        "level_before": 1,
        "level_after": 1,
        "entry_after": pte(F, PRESENT | WRITABLE),
        "count": 7,
        "calls": 1,
    }
    return faults(1, **{**common, **fields})
