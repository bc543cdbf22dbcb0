"""Page history: each page's first frame where pages are few, else frames by source."""

import numpy as np

from tracer.common import units
from tracer.common.layout import Cell, Column
from tracer.common.pages import NO_FRAME
from tracer.common.text import printable
from tracer.common.units import Glyphs
from tracer.model.result import Books, PageTable, RunInfo
from tracer.model.rows import Kind, Names
from tracer.model.sources import Loss, Source
from tracer.outputs.console import STYLES

MOST_PAGES = 32  # listed one by one

Table = tuple[list[Column], list[dict[str, Cell]]]

SOURCE_WORDS: dict[Source, str] = {
    Source.INITIAL: "present at the start",
    Source.FAULT: "by its own fault",
    Source.AROUND: "mapped along with another page's fault (fault-around, large folio)",
    Source.FORK: "copied from the parent by fork",
    Source.POPULATE: "populated before access (MAP_POPULATE, mlock, madvise)",
    Source.REMOTE: "written by another process",
    Source.COLLAPSE: "collapsed into a huge page",
    Source.MIGRATE: "migrated to another frame",
    Source.MOVE: "moved here by mremap",
    Source.KSM: "merged with an identical page (KSM)",
    Source.UFFD: "filled in through userfaultfd",
    Source.SWAPOFF: "swapped in by swapoff",
    Source.EXEC: "set up by exec",
    Source.UNKNOWN: "seen in pagemap; source unknown",
    Source.MISSED: "by a fault the probe missed",
    Source.FILTERED: "by a fault that was filtered out",
    Source.SPLIT: "the zero page, where a huge page was split",
}
LOSS_WORDS: dict[Loss, str] = {
    Loss.MUNMAP: "unmapped",
    Loss.MADVISE: "discarded by madvise",
    Loss.RECLAIM: "reclaimed: swapped out or dropped",
    Loss.MOVE: "moved away by mremap",
    Loss.REPLACED: "replaced by another frame (copy-on-write, migration)",
    Loss.EXIT: "its process ended or called exec",
    Loss.TRUNCATE: "its file was truncated, or a hole punched",
    Loss.UNKNOWN: "gone from pagemap; cause unknown",
    Loss.MISSED: "by a call the probe missed",
    Loss.SPLIT: "unmapped to split its file's huge page",
    Loss.COLLAPSE: "unmapped to collapse its file's pages into a huge page",
}


def history(pages: PageTable, names: Names, info: RunInfo, glyphs: Glyphs) -> Table:
    """A line a page, in the order they gained their frames."""
    order = np.lexsort((pages.page, pages.first_time_ns))
    rows = [_page_row(pages, at, names, info, glyphs) for at in order.tolist()]
    several = len(np.unique(pages.region)) > 1 or len(np.unique(pages.space)) > 1
    columns = [
        Column("PAGE", 14, 14, rank=0),
        Column("GAINED AT", 9, max(9, _widest(rows, "GAINED AT")), rank=2, right=True),
        Column("FRAME", 11, max(11, _widest(rows, "FRAME")), rank=1),
        Column("BY", 12, max(12, _widest(rows, "BY")), rank=3),
        Column("CONFIRMED", 9, 9, rank=5),
        Column("NOW", _widest(rows, "NOW"), _widest(rows, "NOW"), rank=4),
    ]
    if several:
        columns.append(Column("REGION", 10, max(10, _widest(rows, "REGION")), rank=6))
    return columns, rows


def _page_row(
    pages: PageTable, at: int, names: Names, info: RunInfo, glyphs: Glyphs
) -> dict[str, Cell]:
    source = Source(int(pages.first_source[at]))
    kind = Kind(int(pages.first_kind[at]))
    when = units.clock(int(pages.first_time_ns[at]), "relative", info.started_monotonic_ns)
    first, last = int(pages.first_frame[at]), int(pages.last_frame[at])
    region = names.regions[int(pages.region[at])].name
    return {
        "PAGE": (f"{int(pages.page[at]):#x}", "bold"),
        "GAINED AT": ("before" if source == Source.INITIAL else when, "dim"),
        "FRAME": (units.frame(first, glyphs), STYLES.get(kind, "")),
        "BY": (_by(source, kind, int(pages.first_fault[at])), STYLES.get(kind, "")),
        "CONFIRMED": _confirmed(source, bool(pages.confirmed[at])),
        "NOW": (_now(first, last, Loss(int(pages.last_loss[at])), glyphs), ""),
        "REGION": (printable(region) or glyphs.none, ""),
    }


def _by(source: Source, kind: Kind, fault: int) -> str:
    what = "" if kind == Kind.UNKNOWN else f" ({kind.name.lower()})"
    if source == Source.FAULT:
        return f"fault {fault}{what}"
    if source == Source.AROUND:
        return f"along with fault {fault}{what}"
    return SOURCE_WORDS.get(source, "")


def _confirmed(source: Source, both: bool) -> Cell:
    if source in (Source.FAULT, Source.AROUND):
        return ("both", "") if both else ("fault", "dim")
    return ("pagemap", "dim")


def _now(first: int, last: int, loss: Loss, glyphs: Glyphs) -> str:
    if last == NO_FRAME:
        return f"gone ({loss.name.lower()})" if loss else "gone"
    return "same" if last == first else units.frame(last, glyphs)


def sources(books: Books, glyphs: Glyphs) -> list[Table]:
    """Frames gained by source and released by cause: a table each, where not empty."""
    gained = {word.name.lower(): text for word, text in SOURCE_WORDS.items()}
    released = {word.name.lower(): text for word, text in LOSS_WORDS.items()}
    tables = []
    for title, counts, texts in (
        ("GAINED", books.gained_by, gained),
        ("RELEASED", books.lost_by, released),
    ):
        rows: list[dict[str, Cell]] = [
            {
                title: (str(count), "bold"),
                "HOW": (word, ""),
                "": (texts.get(word, "") + _at_least(word, books), "dim"),
            }
            for word, count in sorted(counts.items(), key=lambda item: -item[1])
            if count
        ]
        if rows:
            columns = [
                Column(title, 6, max(6, _widest(rows, title)), rank=0, right=True),
                Column("HOW", 8, max(8, _widest(rows, "HOW")), rank=1),
                Column("", 20, max(20, _widest(rows, "")), rank=2),
            ]
            tables.append((columns, rows))
    return tables


def _at_least(word: str, books: Books) -> str:
    return "; at least" if books.unseen_fills and word == Source.POPULATE.name.lower() else ""


def _widest(rows: list[dict[str, Cell]], name: str) -> int:
    return max(len(name), *(len(row[name][0]) for row in rows))
