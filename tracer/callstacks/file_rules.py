"""The rules that were learned of each file's code: for the next program that maps it.

By the file's offsets they hold wherever it is mapped, so that a program starts with what others
that ran the same files have learned.
"""

import numpy as np

from tracer.callstacks.kernel_rules import Program, value_of
from tracer.common.types import U64
from tracer.procfs.maps import Mapping
from tracer.symbolizing.rule import Cfa, CodeRule, Rule

_RETURN, _EXACT, _PAGE = range(3)  # what a rule is for
_MOST_OF_ONE = 1 << 15  # rules of a file that are kept
_MOST_FILES = 4096
_PAGE_SHIFT = 12


class _Table:
    """Rules of a file in the order they were learned."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}  # value by (offset, what for)
        self._arrays: tuple[U64, U64, U64] | None = None

    def add(self, offset: int, kind: int, value: int) -> None:
        if (offset, kind) not in self._known and len(self._known) < _MOST_OF_ONE:
            self._known[offset, kind] = value
            self._arrays = None

    def arrays(self) -> tuple[U64, U64, U64]:
        """Offsets, what each is for, and values; shapes (n,)."""
        if self._arrays is None:
            rows = [(*key, value) for key, value in self._known.items()]
            offsets, kinds, values = np.array(rows, np.uint64).reshape(-1, 3).T.copy()
            self._arrays = offsets, kinds, values
        return self._arrays


class FileRules:
    """By file, as tracer.spaces.code_files numbers them."""

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}

    def add(self, file: int, offset: int, *, exact: bool, rule: Rule, code: CodeRule) -> None:
        """A rule that was learned for the code at an offset of a file."""
        table = self._tables.get(file)
        if table is None:
            if len(self._tables) >= _MOST_FILES:
                return
            table = self._tables[file] = _Table()
        table.add(offset, _EXACT if exact else _RETURN, value_of(rule))
        if code.bare_page and rule.cfa == Cfa.FRAME:
            table.add(offset >> _PAGE_SHIFT << _PAGE_SHIFT, _PAGE, value_of(rule))

    def of(self, program: Program, mapping: Mapping) -> list[tuple[int, int]]:
        """The kernel's rules, by key, for a file's code where a program has mapped it."""
        table = self._tables.get(mapping.file)
        if not mapping.file or table is None:
            return []
        offsets, kinds, values = table.arrays()
        first, size = mapping.offset, mapping.end - mapping.start
        mine = (offsets >= np.uint64(first)) & (offsets < np.uint64(first + size))
        addresses = offsets[mine] + np.uint64((mapping.start - first) % (1 << 64))
        keys = program.keys(addresses, kinds[mine] & np.uint64(1), kinds[mine] == _PAGE)
        return list(zip(keys.tolist(), values[mine].tolist(), strict=True))
