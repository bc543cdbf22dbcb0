"""The page timeline as CSV: one row a page. docs/csv.md describes every column."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tracer.common.deadline import Enough
from tracer.common.pages import NO_FRAME
from tracer.files.output_file import OutputFile
from tracer.model.result import PageTable
from tracer.model.rows import Kind, Names
from tracer.model.sources import Loss, Source
from tracer.outputs.cells import RegionCells, enum_cells
from tracer.outputs.columns import decimal, hexadecimal, strings
from tracer.outputs.lines import lines

PAGE_COLUMNS = (
    *("space", "pid", "page", "region", "perms", "first_time_ns", "first_source"),
    *("first_kind", "first_fault", "first_frame", "last_frame", "last_source"),
    *("confirmed", "gains", "losses", "last_time_ns", "last_loss"),
)
CHUNK = 8192  # pages formatted at once
_CONFIRMED = [b",", b"fault,", b"both,"]


def write_pages(
    file: OutputFile,
    tables: Sequence[PageTable] | None,
    names: Names,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Write all pages, header first; the caller closes the file.

    Without tables (the trace ended before they could be made) there is only the header; and
    where it is `enough` meanwhile: then Enough is raised. Else raises as OutputFile.write does.
    """
    header = (",".join(PAGE_COLUMNS) + "\n").encode()
    file.write(header)
    regions = RegionCells()
    regions.extend(names)
    for pages in tables or ():
        for start in range(0, len(pages.page), CHUNK):
            if enough():
                file.shorten(len(header))
                raise Enough
            for text in _format(pages, slice(start, start + CHUNK), regions):
                file.write(text)


def _format(pages: PageTable, part: slice, regions: RegionCells) -> Iterator[memoryview]:
    source = pages.first_source[part]
    by_fault = (source == Source.FAULT) | (source == Source.AROUND)
    both = pages.confirmed[part].astype(bool)
    return lines(
        [
            decimal(pages.space[part], blank=0),
            decimal(pages.pid[part], blank=0),
            *hexadecimal(pages.page[part]),
            regions.named(pages.region[part]),
            decimal(pages.first_time_ns[part]),
            strings(enum_cells(Source), source),
            strings(enum_cells(Kind), pages.first_kind[part]),
            decimal(pages.first_fault[part], blank=0),
            *hexadecimal(pages.first_frame[part], blank=NO_FRAME),
            *hexadecimal(pages.last_frame[part], blank=NO_FRAME),
            strings(enum_cells(Source), pages.last_source[part]),
            strings(_CONFIRMED, np.where(both, 2, by_fault)),
            decimal(pages.gains[part]),
            decimal(pages.losses[part]),
            decimal(pages.last_time_ns[part]),
            strings(enum_cells(Loss, b"\n"), pages.last_loss[part]),
        ],
        len(source),
    )
