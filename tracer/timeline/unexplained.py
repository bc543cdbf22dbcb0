"""Changes without a record that faults found on their pages, until something explains them."""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64, U64, Bools


@dataclass(frozen=True)
class Changes:
    """Pages released, or gained, for a cause not known yet; arrays of one length."""

    at: I64  # slots of the timeline
    old: U64  # the frame until then, NO_FRAME where none
    new: U64  # the frame from then on
    released: Bools  # what released the old one is not known; else the source of the new one

    def select(self, chosen: Bools) -> "Changes":
        """Select those `chosen`."""
        return Changes(self.at[chosen], self.old[chosen], self.new[chosen], self.released[chosen])


class Unexplained:
    """`Changes` by address space, until they are popped."""

    def __init__(self) -> None:
        self._open: dict[int, list[Changes]] = {}

    def add(self, space: int, at: I64, old: U64, new: U64, *, released: bool) -> None:
        """These slots' frames went from `old` to `new`; `released`: the release is unexplained."""
        if len(at):
            found = Changes(at, old, new, np.full(len(at), released))
            self._open.setdefault(space, []).append(found)

    def __contains__(self, space: int) -> bool:
        return space in self._open

    def claim(self, space: int, at: I64) -> None:
        """Drop the gains of these slots' pages: a record explains them."""
        for index, changes in enumerate(self._open.get(space, [])):
            keep = changes.released | ~np.isin(changes.at, at)
            self._open[space][index] = changes.select(keep)

    def pop(self, space: int) -> Changes | None:
        """Pop what is unexplained in a space."""
        found = self._open.pop(space, [])
        if not found:
            return None
        return Changes(
            np.concatenate([changes.at for changes in found]),
            np.concatenate([changes.old for changes in found]),
            np.concatenate([changes.new for changes in found]),
            np.concatenate([changes.released for changes in found]),
        )
