"""The unwind rules that are known of each file's code: for the next program that maps it.

By the file's offsets they hold wherever it is mapped, so that a program starts with what others
that ran the same files have learned, in this run or an earlier one (stored_rules.py).
"""

from collections.abc import Callable, Iterator

import numpy as np

from tracer.callstacks.kernel_rules import Program, value_of
from tracer.common.types import U64
from tracer.procfs.maps import Mapping
from tracer.symbolizing.rule import Cfa, CodeRule, Rule

RETURN, EXACT, PAGE = range(3)  # what a rule is for
PAGE_SHIFT = 12
_MOST_OF_ONE = 1 << 15  # rules of a file that are kept
_MOST_FILES = 4096
_PAGES_OWN = {Cfa.FRAME, Cfa.NO_CALL}  # what addresses may have where the page's rule is FRAME

Known = dict[tuple[int, int], int]  # value by (offset, what for)


class FileTable:
    """Rules of a file: those of earlier runs, and those learned in this one."""

    def __init__(self, stored: Known) -> None:
        self.stored = stored  # nobody has compared these with the file in this run
        self.learned: Known = {}
        self.wrong = False  # some that were stored were another file's
        self._arrays: tuple[U64, U64, U64] | None = None

    def add(self, offset: int, kind: int, value: int) -> None:
        """A rule that was learned; the first one stays."""
        key = offset, kind
        if key in self.learned:
            return
        self.compare(offset, kind, value)
        if len(self.learned) + len(self.stored) < _MOST_OF_ONE:
            self.learned[key] = value
            if key not in self.stored:
                self._arrays = None

    def compare(self, offset: int, kind: int, value: int) -> None:
        """What the file says itself: if it was stored otherwise, all that was stored is wrong."""
        if self.stored.get((offset, kind), value) != value:
            self.stored, self.wrong, self._arrays = {}, True, None

    def arrays(self) -> tuple[U64, U64, U64]:
        """Offsets, what each is for, and values; shapes (n,)."""
        if self._arrays is None:
            rows = [(*key, value) for key, value in (self.stored | self.learned).items()]
            offsets, kinds, values = np.array(rows, np.uint64).reshape(-1, 3).T.copy()
            self._arrays = offsets, kinds, values
        return self._arrays


class FileRules:
    """By file, as tracer.spaces.code_files numbers them."""

    def __init__(self) -> None:
        self.load: Callable[[int], Known] = lambda file: {}  # what earlier runs stored
        self._tables: dict[int, FileTable] = {}

    def add(self, file: int, offset: int, *, exact: bool, rule: Rule, code: CodeRule) -> None:
        """A rule that was learned for the code at an offset of a file."""
        table = self._table(file)
        if table is None:
            return
        table.add(offset, EXACT if exact else RETURN, value_of(rule))
        if code.bare_page and rule.cfa == Cfa.FRAME:
            table.add(_page(offset), PAGE, value_of(rule))

    def compare(self, file: int, offset: int, *, exact: bool, rule: Rule) -> None:
        """The kernel has walked by another rule than this, the file's own: maybe a stored one."""
        table = self._tables.get(file)
        if table is not None:
            table.compare(offset, EXACT if exact else RETURN, value_of(rule))
            if rule.cfa not in _PAGES_OWN:
                table.compare(_page(offset), PAGE, value_of(rule))

    def of(self, program: Program, mapping: Mapping) -> list[tuple[int, int]]:
        """The kernel's rules, by key, for a file's code where a program has mapped it."""
        table = self._table(mapping.file) if mapping.file else None
        if table is None:
            return []
        offsets, kinds, values = table.arrays()
        first, size = mapping.offset, mapping.end - mapping.start
        mine = (offsets >= np.uint64(first)) & (offsets < np.uint64(first + size))
        addresses = offsets[mine] + np.uint64((mapping.start - first) % (1 << 64))
        keys = program.keys(addresses, kinds[mine] & np.uint64(1), kinds[mine] == PAGE)
        return list(zip(keys.tolist(), values[mine].tolist(), strict=True))

    def tables(self) -> Iterator[tuple[int, FileTable]]:
        """Each file of which something is known."""
        yield from self._tables.items()

    def _table(self, file: int) -> FileTable | None:
        table = self._tables.get(file)
        if table is None and len(self._tables) < _MOST_FILES:
            table = self._tables[file] = FileTable(self.load(file))
        return table


def _page(offset: int) -> int:
    return offset >> PAGE_SHIFT << PAGE_SHIFT
