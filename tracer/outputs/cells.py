"""CSV cells: names made safe and quoted, enums as words, regions as three columns."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from tracer.outputs.base import PAGE_SIZE
from tracer.outputs.columns import Column, hexadecimal, strings
from tracer.rows import Names, Region
from tracer.text import printable

_NOWHERE = (1 << 64) - 1  # no offset of a page: those are multiples of its size
_FORMULA = ("=", "+", "-", "@", "'")


def text_cell(text: str, end: bytes = b",") -> bytes:
    """A name another process chose, as a CSV cell followed by `end`.

    Unprintable characters are escaped (tracer.text.printable). A name a
    spreadsheet would take for a formula gets an apostrophe in front, and so
    does one that starts with an apostrophe: taking one leading apostrophe off
    always gives the name back. Such cells, and those with a comma or a quote,
    are quoted after RFC 4180.
    """
    text = printable(text)
    formula = text.startswith(_FORMULA)
    if formula:
        text = "'" + text
    if formula or "," in text or '"' in text:
        text = '"' + text.replace('"', '""') + '"'
    return text.encode() + end


def enum_cells(members: type[IntEnum], end: bytes = b",") -> list[bytes]:
    """The cell of every value of an enum without gaps: its name in lower case, "" for "nothing"."""
    empty = {"NONE", "UNKNOWN"}
    return [
        (b"" if member == 0 and member.name in empty else member.name.lower().encode()) + end
        for member in members
    ]


def is_file(region: Region) -> bool:
    """Whether the region maps a file, so that an offset means something."""
    return region.name.startswith("/")


class RegionCells:
    """The columns region, perms and offset, kept up with the growing `Names.regions`."""

    def __init__(self) -> None:
        self._cells: list[bytes] = []
        self._shift = np.empty(0, np.uint64)  # offset = page + shift, modulo 2**64
        self._no_file = np.empty(0, bool)

    def extend(self, names: Names) -> None:
        """Take in the regions added since the last call."""
        new = names.regions[len(self._cells) :]
        if not new:
            return
        self._cells += [text_cell(region.name) + region.perms.encode() + b"," for region in new]
        shift = [(region.offset - region.start) % (1 << 64) for region in new]
        self._shift = np.append(self._shift, np.array(shift, np.uint64))
        self._no_file = np.append(self._no_file, [not is_file(region) for region in new])

    def named(self, region: npt.NDArray[np.integer]) -> Column:
        """The cells `region,perms,` of the regions numbered `region`."""
        return strings(self._cells, region)

    def offsets(self, region: npt.NDArray[np.integer], address: npt.NDArray[np.uint64]) -> Column:
        """The offset in the file of each address's page; empty where no file is mapped."""
        offset = (address & ~np.uint64(PAGE_SIZE - 1)) + self._shift.take(region)
        offset[self._no_file.take(region)] = _NOWHERE
        return hexadecimal(offset, blank=_NOWHERE)
