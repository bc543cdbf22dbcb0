"""Where the code of a frame lies: by the mappings of its time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracer.common.types import U64
from tracer.model.rows import Region
from tracer.spaces.code_files import NO_FILE
from tracer.spaces.spaces import Spaces

_MOST_KNOWN = 1 << 16
VDSO = (1 << 32) - 1  # stands for its image, as if it were a file
_LOWEST_CODE, _HIGHEST_CODE = np.uint64(0xFFFF), np.uint64(1 << 56)  # of user space


@dataclass(frozen=True, slots=True)
class Location:
    """Where a frame's code lies.

    `name` is the mapped file's path or "[vdso]", "[anon]", …, and "" where nothing is known;
    `offset` is that in the file, else the address itself. `tgid`: the process, where code is
    its own (JIT-compiled), and `address` where it has it. `returns`: it is a return
    address, the call is before it. `file`: which file that is (tracer.spaces.code_files), 0 where
    none or not known. `version`: of several functions that were at that address, which
    (tracer.callstacks.code_versions). Of Python code `function` is its qualified name, `name` its
    source file and `offset` the line, 0 where that is not known.
    """

    kernel: bool
    name: str
    offset: int
    tgid: int = 0
    returns: bool = False
    file: int = 0
    address: int = 0
    version: int = 0
    function: str = ""

    @property
    def file_with_code(self) -> int:
        """The number of the file to look in; 0: none or unknown."""
        return file_with_code(self.name, self.file)

    @property
    def looked_up(self) -> int:
        """The offset to look up: a call is before its return address."""
        return self.offset - self.returns


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose stack it is, and when: `space` 0 where that is not known."""

    tgid: int
    space: int
    time_ns: int


class Locator:
    """Finds the locations of addresses in processes; those asked for often are kept."""

    def __init__(self, spaces: Spaces, regions: Sequence[Region]) -> None:
        """`regions` as in rows.Names."""
        self._spaces = spaces
        self._regions = regions
        self._known: dict[tuple[int, int, int, bool], Location] = {}

    def owner(self, tgid: int, mm: int, space: int, time_ns: int) -> Owner:
        """`space` 0: the one that the process, or its memory, is in now."""
        if not space:
            there = self._spaces.at(mm) or self._spaces.of(tgid)
            space = there.number if there is not None else 0
        return Owner(tgid, space, time_ns)

    def at(self, owner: Owner, address: int, *, returns: bool) -> tuple[Location, bool]:
        """The location of an address, and whether it is in executable memory."""
        region = shift = 0
        if owner.space:
            region, shift = self._spaces.code(owner.space, address, owner.time_ns)
        return self._location(owner.tgid, address, int(region), int(shift), returns)

    def code_among(self, owner: Owner, words: U64) -> list[tuple[int, Location]]:
        """Those of the words that lie in executable memory, as return addresses."""
        if not owner.space or not len(words):
            return []
        words = np.unique(words[(words > _LOWEST_CODE) & (words < _HIGHEST_CODE)])
        regions, shifts = self._spaces.codes(owner.space, words, owner.time_ns)
        numbers, inverse = np.unique(regions, return_inverse=True)
        runs = np.array(["x" in self._regions[int(n)].perms for n in numbers], np.bool_)
        chosen = runs[inverse.reshape(-1)]
        each = zip(
            words[chosen].tolist(), regions[chosen].tolist(), shifts[chosen].tolist(), strict=True
        )
        return [
            (address, self._location(owner.tgid, address, region, shift, True)[0])
            for address, region, shift in each
        ]

    def _location(
        self, tgid: int, address: int, region: int, shift: int, returns: bool
    ) -> tuple[Location, bool]:
        where = self._regions[region]
        key = tgid, region, address, returns
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            offset = (address + shift) % (1 << 64)
            known = self._known[key] = location_of(where, tgid, address, offset, returns=returns)
        return known, "x" in where.perms


def location_of(where: Region, tgid: int, address: int, offset: int, *, returns: bool) -> Location:
    """The location of an address in a mapping; `offset`: that in its file."""
    name = where.name
    if is_made(name):
        offset = offset if name.startswith(NO_FILE) else address
        return Location(False, name, offset, tgid, returns, address=address)
    return Location(False, name, offset, returns=returns, file=where.file)


def file_with_code(name: str, file: int) -> int:
    """The number of the file to look in for the code of a mapping; 0: none or unknown."""
    if name == "[vdso]":
        return VDSO
    return file if name.startswith("/") else 0


def is_made(name: str) -> bool:
    """Whether the code of a mapping is the process's own, such as what a JIT compiler makes."""
    return (not name.startswith("/") and name != "[vdso]") or name.startswith(NO_FILE)
