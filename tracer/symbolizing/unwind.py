"""Unwind rules of an ELF file, from its call frame information.

Of .eh_frame (Linux Standard Base, chapter 10; DWARF 4, 6.4) what leads from a frame to its caller
at an address: how the canonical frame address (CFA) is computed, and where the caller's rbp and rbx
are. The file is another user's: what is malformed gives no rule. Entries are read one by one
as they are asked for; only in a file without a table to search in (.eh_frame_hdr; static programs
have none) they are listed once.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tracer.common.types import U32, U64
from tracer.symbolizing.cfi import ALL, MALFORMED, POINTERS, Cie, Rules, cie_of, fde_of, pointer
from tracer.symbolizing.rule import BARE, NO_RULE, Rule

_MOST_ENTRIES = 1 << 22  # of a table that is searched in the file
_MOST_LISTED = 1 << 20  # entries that are listed: half a second; cc1plus, say, has 50,000
_LARGEST_SECTION = 1 << 28  # bytes of an .eh_frame that is listed
_CHUNK = 1 << 16  # bytes of it that are read together
_AT_ONCE = 64  # entries of the table that are read together
_MOST_PROBED = 1 << 10  # of its entries that are kept: the first steps of each search
_LONGEST = 1 << 16  # bytes of one entry
_FIRST_READ = 128  # bytes of an entry: most are shorter
_LONGEST_COMMON = 1 << 10  # of one that others refer to; compilers make some twenty
_MOST_COMMON = 1 << 8  # of these that are kept
# Bytes of a file's entries that are followed, each perhaps an instruction: for one question, a
# second, and ten times what 4,096 addresses of cc1plus take; in all, millions of addresses. However
# short it is, an entry counts as 64 bytes: it has to be read, too.
_MOST_AT_ONCE = 1 << 22
_MOST_FOLLOWED = 1 << 28
_LEAST = 64

_LENGTH_AND_CIE = struct.Struct("<Ii")
_LENGTH = struct.Struct("<I")

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes


class LimitReached(ValueError):
    """More was to be followed than any compiler makes necessary."""


class Table(Protocol):
    """Where the functions' entries (FDE) are."""

    whole: bool  # all entries are in it: what it does not have, no entry covers

    def find(self, address: int) -> int | None:
        """The address of the entry whose function begins last at or before `address`."""

    def size(self) -> int:
        """Bytes it takes."""


class SortedTable:
    """.eh_frame_hdr, searched in the file: it may claim megabytes, and many files are at hand."""

    whole = True

    def __init__(self, read: Read, at: int, address: int, size: int) -> None:
        """`at`, `address`, `size`: where it is in the file and in memory, its bytes.

        Raises ValueError where it is no table to search in.
        """
        header = read(at, min(size, 16))
        if len(header) < 12 or header[:1] != b"\1" or header[2:4] != b"\x03\x3b":
            raise ValueError("no sorted table of frames")
        form = POINTERS.get(header[1] & 0x0F)
        skip = 4 + (form.size if form is not None else len(header))
        self._read, self._address = read, address
        self._count = int.from_bytes(header[skip : skip + 4], "little")
        self._table = at + skip + 4
        if self._count > _MOST_ENTRIES or skip + 4 + 8 * self._count > size:
            raise ValueError("a truncated table")
        if not self._count or len(self._entries(self._count - 1, 1)) != 2:
            raise ValueError("a table without entries")
        self._probed: dict[int, int] = {}  # by number, where functions begin
        self._part: tuple[int, tuple[int, ...]] = (-1, ())  # the last that was read, and its number

    def find(self, address: int) -> int | None:
        wanted = address - self._address
        low, high = 0, self._count
        while high - low > _AT_ONCE:
            middle = (low + high) // 2
            low, high = (middle, high) if self._begins(middle) <= wanted else (low, middle)
        if self._part[0] != low:
            self._part = (low, self._entries(low, high - low))
        words = self._part[1]
        found = bisect_right(words[::2], wanted)
        return self._address + words[2 * found - 1] if found else None

    def size(self) -> int:
        return 0

    def _begins(self, number: int) -> int:
        begins = self._probed.get(number)
        if begins is None:
            begins = self._entries(number, 1)[0]
            if len(self._probed) < _MOST_PROBED:
                self._probed[number] = begins
        return begins

    def _entries(self, first: int, count: int) -> tuple[int, ...]:
        """Where each function begins, and where its entry is, by turns; from the header on."""
        data = self._read(self._table + 8 * first, 8 * count)
        return struct.unpack(f"<{len(data) // 8 * 2}i", data)


class ListedTable:
    """The entries of an .eh_frame without a table, as in static programs: listed once."""

    def __init__(self, frames: "Frames", address: int, size: int) -> None:
        """`address`, `size`: of .eh_frame in memory. Raises ValueError where it has no entries."""
        starts, entries, self.whole = frames.listed(address, size)
        if not starts:
            raise ValueError("no entries")
        self._address = address
        found = np.frombuffer(starts, np.uint64)
        order = np.argsort(found, kind="stable")
        self._starts: U64 = found[order]
        self._entries: U32 = np.frombuffer(entries, np.uint32)[order]

    def find(self, address: int) -> int | None:
        at = int(np.searchsorted(self._starts, np.uint64(address), side="right")) - 1
        return None if at < 0 else self._address + int(self._entries[at])

    def size(self) -> int:
        return self._starts.nbytes + self._entries.nbytes


class Frames:
    """The entries of an .eh_frame, by address."""

    def __init__(self, read: Read, shift: int) -> None:
        """`shift`: from an address to its offset in the file."""
        self._read, self._shift = read, shift
        self._left = _MOST_FOLLOWED
        self._left_at_once = _MOST_AT_ONCE
        self._common: dict[int, Cie] = {}
        self._last: tuple[int, Rules] | None = None  # addresses are asked for in order

    def renew(self) -> None:
        """The next question may follow as much as the one before."""
        self._left_at_once = _MOST_AT_ONCE

    def spend(self, size: int) -> None:
        """Count what is followed."""
        size = max(size, _LEAST)
        self._left -= size
        self._left_at_once -= size
        if self._left < 0 or self._left_at_once < 0:
            raise LimitReached("the limit for reading one file was reached")

    def entry(self, where: int, address: int) -> Rules:
        """The entry that is at `where`, to find the rule of an address.

        Raises ValueError where there is none.
        """
        if self._last is not None and self._last[0] == where and not self._last[1].passed(address):
            return self._last[1]
        body = self._body(where, _LONGEST)
        distance = struct.unpack_from("<i", body)[0]
        if not distance:
            raise ValueError("a common information entry (CIE)")
        found = Rules(fde_of(body, self._cie(where + 4 - distance), where + 4))
        self._last = where, found
        return found

    def listed(self, address: int, size: int) -> "tuple[array[int], array[int], bool]":
        """Where each function of an .eh_frame begins, and its entry, from the section's address on.

        And whether that is all of it.
        """
        starts, entries = array("Q"), array("I")
        encodings: dict[int, int | None] = {}  # by the address of the CIE
        where, end = address, address + min(size, _LARGEST_SECTION)
        data, at = b"", 0
        for _ in range(_MOST_LISTED):
            if len(data) - at < 24:  # what is read of an entry
                data, at = self._read(where + self._shift, _CHUNK), 0
                if len(data) < 8:
                    return starts, entries, where + 8 > end
            length, distance = _LENGTH_AND_CIE.unpack_from(data, at)
            if not length or where + 8 > end:  # the terminator
                return starts, entries, True
            if length < 4 or length >= 0xFFFFFFF0:
                return starts, entries, False
            if distance:
                common = where + 4 - distance
                try:
                    if common not in encodings:
                        encodings[common] = None
                        encodings[common] = self._cie(common).encoding
                    encoding = encodings[common]
                    if encoding is not None:
                        starts.append(pointer(encoding, data, at + 8, where + 8)[0])
                        entries.append(where - address)
                except LimitReached:
                    return starts, entries, False
                except MALFORMED:
                    pass  # what can be read by nobody
            where += 4 + length
            at += 4 + length
        return starts, entries, False

    def _cie(self, where: int) -> Cie:
        known = self._common.get(where)
        if known is None:
            known = cie_of(self._body(where, _LONGEST_COMMON))
            if len(self._common) == _MOST_COMMON:
                self._common.clear()
            self._common[where] = known
        return known

    def _body(self, where: int, longest: int) -> bytes:
        """What follows the length of an entry."""
        at = where + self._shift
        data = self._read(at, _FIRST_READ)
        (length,) = _LENGTH.unpack_from(data)
        if not 4 <= length <= longest:
            raise ValueError("an entry of an invalid length")
        self.spend(length)
        body = data[4 : 4 + length]
        if len(body) < length:
            body = self._read(at + 4, length)
            if len(body) < length:
                raise ValueError("a truncated entry")
        return body


class Unwinding:
    """The call frame information of one file; without any, no entry covers any address."""

    def __init__(self, frames: Frames | None = None, table: Table | None = None) -> None:
        self._frames, self._table = frames, table

    def renew(self) -> None:
        """Another question begins: what it may follow is limited anew."""
        if self._frames is not None:
            self._frames.renew()

    def size(self) -> int:
        """Bytes it takes."""
        return self._table.size() if self._table is not None else 0

    def rule(self, address: int) -> Rule:
        """The rule at an address, in the file's own terms; FRAME where no entry covers it.

        What covers it and is malformed, or may cover it and was not read, is no rule.
        """
        if self._frames is None or self._table is None:
            return BARE
        try:
            rules = self._entry_before(address)
            if rules is None or not rules.fde.covers(address):
                return BARE if self._table.whole else NO_RULE
            return rules.at(address)
        except MALFORMED:
            return NO_RULE

    def covers(self, low: int, high: int) -> bool:
        """Whether any entry covers an address from `low` on and below `high`, or may do so."""
        if self._frames is None or self._table is None:
            return False
        try:
            # If the last that begins before `high` ends at or before `low`, so do all before it:
            # functions do not overlap, and `rule`, too, knows none but the last.
            rules = self._entry_before(min(high - 1, ALL))
            if rules is None:
                return not self._table.whole
            return not self._table.whole or rules.fde.start + rules.fde.length > low
        except MALFORMED:
            return True

    def _entry_before(self, address: int) -> Rules | None:
        if self._frames is None or self._table is None:
            return None
        where = self._table.find(address)
        return None if where is None else self._frames.entry(where, address)
