"""Which columns of the CSV files a report reads, and what may be in them (docs/csv.md)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Sort = Literal["number", "flag", "word", "present"]


@dataclass(frozen=True)
class Column:
    """What a column holds.

    "number" is a whole number, in decimal or as 0x…; `blank` stands for an
    empty cell, None means that there is none. "flag" is true or false. "word"
    cells become numbers into a list of words. "present" is a number of which
    only counts whether there is one.
    """

    sort: Sort
    dtype: type = np.bool_
    blank: int | None = 0
    optional: bool = False


_WORD = Column("word")
_TIME = Column("number", np.int64, blank=None)
_ID = Column("number", np.uint32)
_ADDRESS = Column("number", np.uint64, blank=None)
_PRESENT = Column("present", np.uint64)

FAULTS = {
    "time_ns": _TIME,
    **dict.fromkeys(("pid", "space", "tid"), _ID),
    "comm": _WORD,
    "address": _ADDRESS,
    **dict.fromkeys(("access", "cause", "kind"), _WORD),
    "major": Column("flag", blank=None),
    "latency_ns": Column("number", np.int64, blank=-1),
    "frame": _PRESENT,
    "frame_before": _PRESENT,
    "pages": _ID,
    **dict.fromkeys(("region", "perms"), _WORD),
    "symbol": Column("word", optional=True),
    "stack": Column("number", np.uint32, optional=True),
}

PAGES = {
    **dict.fromkeys(("space", "pid"), _ID),
    "page": _ADDRESS,
    **dict.fromkeys(("region", "perms"), _WORD),
    "first_time_ns": _TIME,
    **dict.fromkeys(("first_source", "first_kind"), _WORD),
    "last_frame": _PRESENT,
    "last_source": _WORD,
    "gains": _ID,
    "losses": _ID,
    "last_time_ns": Column("number", np.int64, blank=-1, optional=True),
    "last_loss": _WORD,
}

STACKS = {
    "stack": Column("number", np.uint32, blank=None),
    "frame": Column("number", np.uint32, blank=None),
    **dict.fromkeys(("side", "function", "module"), _WORD),
    "module_offset": Column("number", np.uint64),
    "file": _WORD,
    "line": _ID,
    "address": Column("number", np.uint64),
    "note": _WORD,
}
