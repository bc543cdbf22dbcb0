"""The states of all pages over time, in bounded memory: the picture now, and at earlier times."""

from collections.abc import Collection

import numpy as np

from tracer.live.pages import CHANGE, Changes, Table, by_space, empty, merge

MOST = 1 << 20  # changes kept to go back by: 22 bytes each


class History:
    """Tables by space. Beyond the last `most` changes no earlier moment can be shown."""

    def __init__(self, most: int = MOST) -> None:
        self.now: dict[int, Table] = {}
        self.start_ns = 0  # no earlier time can be shown
        self._most = most
        self._base: dict[int, Table] = {}  # before the journal
        self._journal: list[Changes] = []
        self._count = 0

    def __len__(self) -> int:
        """Changes kept."""
        return self._count

    def add(self, changes: Changes) -> None:
        """Add changes, in order of arrival."""
        if not len(changes):
            return
        for space, mine in by_space(changes).items():
            self.now[space] = merge(self.now.get(space, empty()), mine)
        self._journal.append(changes)
        self._count += len(changes)
        if self._count > self._most:
            self._fold()

    def at(self, time_ns: int, spaces: Collection[int]) -> dict[int, Table]:
        """The tables of `spaces` as they were then (or at `start_ns`, if that is later)."""
        tables = {space: self._base.get(space, empty()).copy() for space in spaces}
        changes = np.concatenate([np.empty(0, CHANGE), *self._journal])
        changes = changes[changes["time_ns"] <= time_ns]
        for space, mine in by_space(changes).items():
            if space in tables:
                tables[space] = merge(tables[space], mine)
        return tables

    def forget(self, spaces: Collection[int]) -> None:
        """Drop spaces that ended and are in no moment that can still be shown."""
        for space in spaces:
            self.now.pop(space, None)
            self._base.pop(space, None)

    def _fold(self) -> None:
        """Let the older half of the journal become part of the base."""
        while self._count > self._most // 2:
            oldest = self._journal[0]
            cut = min(len(oldest), self._count - self._most // 2)
            self._add_to_base(oldest[:cut])
            self._count -= cut
            if cut == len(oldest):
                del self._journal[0]
            else:
                self._journal[0] = oldest[cut:].copy()

    def _add_to_base(self, changes: Changes) -> None:
        for space, mine in by_space(changes).items():
            if space in self.now:
                self._base[space] = merge(self._base.get(space, empty()), mine)
        self.start_ns = max(self.start_ns, int(changes["time_ns"].max()))
