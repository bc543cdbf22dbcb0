"""The page table of a process as lines: which regions, what is read of them, how it is shown.

A line a region shows its first page.
"""

import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tracer.common.closing import Closing
from tracer.common.errors import Exit, TraceError
from tracer.common.pages import PAGE_SIZE
from tracer.common.text import printable
from tracer.procfs import stat
from tracer.procfs.entries import (
    PFN_MASK,
    PRESENT,
    SWAPPED,
    open_pagemap,
    read_entries,
)
from tracer.procfs.maps import Mapping, read_maps

HEADER = (
    "virt addr              physical addr            size"
    "          perms        present        swapped       path"
)
HIDDEN = "hidden"
FRAME_END = 34  # the column where the physical address ends

_CHUNK_PAGES = 1 << 14
_NEAR = 64 * PAGE_SIZE  # reading the entries in between costs less than another system call
_MOST_NEAR = 512

_RANGE = r"(?i:(?:0x)?([0-9a-f]+)-(?:0x)?([0-9a-f]+))"
_ADDRESS = r"(?i:0x([0-9a-f]+))"


class Row(NamedTuple):
    """A page to show: its region, its address, its raw pagemap entry, the bytes shown for it."""

    mapping: Mapping
    address: int
    entry: int
    size: int


# --- choosing regions


class Choice(NamedTuple):
    """What --region asks for: a name, or every region that overlaps [start, end)."""

    text: str
    name: str = ""
    start: int = 0
    end: int = 0
    clip: bool = False  # only the pages within start..end, not whole regions

    def of(self, mapping: Mapping) -> bool:
        """Whether the choice selects this mapping (or a part of it)."""
        if self.name:
            return self.name == mapping.name or self.name in mapping.path
        return mapping.start < self.end and self.start < mapping.end


def parse_choice(text: str) -> Choice:
    """NAME, ADDRESS (0x…) or START-END (hexadecimal, as in maps); TraceError on nonsense."""
    if match := re.fullmatch(_RANGE, text):
        start, end = (int(number, 16) for number in match.groups())
        if start >= end:
            raise TraceError(f"empty region: {text}", "give START-END, START first", Exit.USAGE)
        end += -end % PAGE_SIZE
        return Choice(text, start=start // PAGE_SIZE * PAGE_SIZE, end=end, clip=True)
    if match := re.fullmatch(_ADDRESS, text):
        address = int(match[1], 16)
        return Choice(text, start=address, end=address + 1)
    if not text or text.lower().startswith("0x"):
        raise TraceError(
            f"not a region: '{printable(text)}'", "give NAME, 0xADDRESS or START-END", Exit.USAGE
        )
    return Choice(text, name=text)


def chosen(mappings: Sequence[Mapping], choice: Choice | None, each_page: bool) -> list[Mapping]:
    """The mappings `choice` selects; with `each_page` cut to its range."""
    if choice is None:
        return list(mappings)
    selected = [mapping for mapping in mappings if choice.of(mapping)]
    if not (choice.clip and each_page):
        return selected
    return [
        mapping._replace(start=max(mapping.start, choice.start), end=min(mapping.end, choice.end))
        for mapping in selected
    ]


# --- reading


class Dump(NamedTuple):
    """What is to be shown of which process."""

    pid: int
    each_page: bool
    choice: Choice | None
    visible: bool  # whether the kernel shows us frames

    def open(self) -> "OpenDump":
        """Open the process as it is at this moment. Raises TraceError, ProcessGone."""
        tid = stat.living_thread(self.pid)
        descriptor = open_pagemap(self.pid, tid)
        try:
            mappings = chosen(read_maps(self.pid, tid), self.choice, self.each_page)
        except BaseException:
            os.close(descriptor)
            raise
        return OpenDump(self, descriptor, mappings)


class OpenDump(Closing):
    """One reading of a process's page table; closes its pagemap as a context manager."""

    def __init__(self, dump: Dump, descriptor: int, mappings: list[Mapping]) -> None:
        self.dump = dump
        self.descriptor = descriptor
        self.mappings = mappings

    def close(self) -> None:
        """Close the pagemap."""
        os.close(self.descriptor)

    def pages(self) -> int:
        """How many pages the mappings span."""
        return sum(mapping.end - mapping.start for mapping in self.mappings) // PAGE_SIZE

    def rows(self) -> Iterator[Row]:
        """A row a region (its first page), or a row a page."""
        if not self.dump.each_page:
            for mapping, entry in self._first_entries():
                yield Row(mapping, mapping.start, entry, mapping.end - mapping.start)
            return
        for mapping, start, entries in self.pieces():
            addresses = range(start, mapping.end, PAGE_SIZE)
            for address, entry in zip(addresses, entries, strict=False):
                yield Row(mapping, address, entry, PAGE_SIZE)

    def pieces(self) -> Iterator[tuple[Mapping, int, "array[int]"]]:
        """Mapping, address of a page in it, the entries from there on: every page, in order."""
        step = _CHUNK_PAGES * PAGE_SIZE
        for mapping in self.mappings:
            for start in range(mapping.start, mapping.end, step):
                count = min(step, mapping.end - start) // PAGE_SIZE
                yield mapping, start, read_entries(self.descriptor, self.dump.pid, start, count)

    def _first_entries(self) -> Iterator[tuple[Mapping, int]]:
        """Each mapping and its first page's entry; one read for those that are close together."""
        starts = [mapping.start for mapping in self.mappings]
        group: list[int] = []
        for number, start in enumerate(starts):
            group.append(start)
            following = starts[number + 1] if number + 1 < len(starts) else None
            near = following is not None and following - start <= _NEAR and len(group) < _MOST_NEAR
            if near:
                continue
            pages = (start - group[0]) // PAGE_SIZE + 1
            entries = read_entries(self.descriptor, self.dump.pid, group[0], pages)
            for index, each in enumerate(group, number + 1 - len(group)):
                yield self.mappings[index], entries[(each - group[0]) // PAGE_SIZE]
            group.clear()


# --- formatting


def line(row: Row, visible: bool) -> str:
    """One line of the dump, without its newline."""
    address = f"{row.address:#x}"
    frame = frame_text(row.entry, visible)
    return f"{address}{frame:>{FRAME_END - len(address)}}{tail(row.mapping, row.entry, row.size)}"


class Endings(dict[tuple[str, str], list[str]]):
    """What follows the physical address in a page's line, by permissions and path and by state.

    The state is the two highest bits of the page's entry, PRESENT and SWAPPED.
    """

    def __missing__(self, kind: tuple[str, str]) -> list[str]:
        perms, path = kind
        mapping = Mapping(0, 0, perms, 0, 0, 0, path)
        self[kind] = [f"{tail(mapping, state << 62, PAGE_SIZE)}\n" for state in range(4)]
        return self[kind]

    def lines(self, mapping: Mapping, start: int, entries: Iterable[int], visible: bool) -> str:
        """The lines of the pages from `start` on that `entries` describes."""
        endings = self[mapping.perms, mapping.path]
        lines = []
        for number, entry in enumerate(entries):
            address = f"{start + number * PAGE_SIZE:#x}"
            frame = f"{frame_text(entry, visible):>{FRAME_END - len(address)}}"
            lines.append(address + frame + endings[entry >> 62])
        return "".join(lines)


def frame_text(entry: int, visible: bool) -> str:
    """The physical address a page has; 0x0 for none, HIDDEN where we may not see it."""
    if not entry & PRESENT:
        return "0x0"
    return f"{(entry & PFN_MASK) * PAGE_SIZE:#x}" if visible else HIDDEN


def tail(mapping: Mapping, entry: int, size: int) -> str:
    """Everything right of the physical address."""
    present = "true" if entry & PRESENT else "false"
    swapped = "true" if entry & SWAPPED else "false"
    path = f"         {printable(mapping.path)}" if mapping.path else ""
    return f"{size:>20}{mapping.perms:>12}{present:>13}{swapped:>16}{path}"
