"""CSV cells: names made safe and quoted, enums as words, regions as three columns."""

from enum import IntEnum

import numpy as np

from tracer.common.fields import alike
from tracer.common.text import printable
from tracer.common.types import U64, Integers
from tracer.model.rows import Names, Region
from tracer.outputs.columns import Column, constant, hexadecimal, strings

_NOWHERE = (1 << 64) - 1  # no offset of a page: those are multiples of its size
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "＝",
    "＋",
    "－",
    "＠",
)  # in full width for spreadsheets of the East


def text_cell(text: str, end: bytes = b",") -> bytes:
    r"""A name another process chose, as a CSV cell followed by `end`.

    Unprintable characters are escaped (tracer.common.text.printable), and so is the
    semicolon, at which spreadsheets split lines where the comma is a decimal
    sign: what follows it would be a cell of its own. A name a spreadsheet would
    take for a formula gets an apostrophe in front, and so does one that starts
    with an apostrophe: taking one leading apostrophe off always gives the name
    back. Such cells, and those with a comma or a quote, are quoted after RFC 4180.
    """
    text = printable(text).replace(";", "\\x3b")
    formula = text.lstrip().startswith(_FORMULA) or text.startswith("'")
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
        self._no_file = np.empty(0, bool)

    def extend(self, names: Names) -> None:
        """Add the regions that are new since the last call."""
        new = names.regions[len(self._cells) :]
        if not new:
            return
        self._cells += [text_cell(region.name) + region.perms.encode() + b"," for region in new]
        self._no_file = np.append(self._no_file, [not is_file(region) for region in new])

    def named(self, region: Integers) -> Column:
        """The cells `region,perms,` of the regions numbered `region`."""
        return strings(self._cells, region)

    def offsets(self, region: Integers, offset: U64) -> list[Column]:
        """The offset in the file of each page; empty where no file is mapped."""
        only = alike(region)
        if only is not None and self._no_file[only]:
            return [constant(b",")]
        offset = offset.copy()
        offset[self._no_file.take(region)] = _NOWHERE
        return hexadecimal(offset, blank=_NOWHERE)
