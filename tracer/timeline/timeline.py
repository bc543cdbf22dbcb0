"""Page states over time: which page gained which frame, when, by what, confirmed how.

Only the ledger writes that state. Faults change it by their rules, calls, exits and forks by
theirs; snapshots confirm it or show unrecorded changes (snapshots/reconcile.py).
"""

from tracer.timeline.concurrent_unmaps import ConcurrentUnmaps
from tracer.timeline.faults import FaultRules
from tracer.timeline.ledger import Ledger
from tracer.timeline.releases import ReleaseRules
from tracer.timeline.tally import Watcher


class Timeline:
    """The pages of every address space of a run."""

    def __init__(self, most_archived: int | None = None) -> None:
        """`most_archived`: rows of pages without a frame that are kept; None: all."""
        unmaps = ConcurrentUnmaps()
        self.ledger = Ledger(most_archived)
        self.faults = FaultRules(self.ledger, unmaps)
        self.releases = ReleaseRules(self.ledger, unmaps)

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` for every page that gains or releases a frame."""
        self.ledger.watcher = watcher
