"""The ring and the sideband: drained before they overflow, and reopened after CPU hotplug."""

import time

from tracer.procfs.system import online_cpus
from tracer.session.parts import Parts

_RESCUE_NS = 20_000_000
_TEND_NS = 1_000_000_000  # a CPU may go offline and online in less, its events unseen


class Buffers:
    """The ring and the sideband of a trace, and the CPUs that fill them."""

    def __init__(self, parts: Parts) -> None:
        self._attached = parts.attached
        self._spaces = parts.spaces
        self._ring = parts.ring
        self._sideband = parts.sideband
        self._tgids = parts.tgids
        self._changed = parts.changed
        self._living_spaces = parts.living_spaces
        self._learner = parts.learner
        self._sideband_gap = 0
        self._rescued_ns = 0
        self._online, self._tended_ns = online_cpus(), time.monotonic_ns()
        self.cpu_gaps = 0  # how often a CPU was found without the probe's events

    def rescue(self) -> None:
        """Drain the kernel's buffers before they overflow: a batch may take a while."""
        now = time.monotonic_ns()
        if now - self._rescued_ns > _RESCUE_NS:
            self._rescued_ns = now
            self._ring.spill()
            if self._sideband is not None:
                self._sideband.rescue()
        if self._learner is not None:
            self._learner.tend()

    def feed_sideband(self, settled_ns: int) -> None:
        """Read the new mappings; processes begun after `settled_ns` may not be known yet."""
        if self._sideband is None:
            return
        self._spaces.feed(self._sideband.poll(self._tgids, settled_ns))
        if self._sideband.was_full:
            self._spaces.doubt()
        gap = self._sideband.lost + self._sideband.corrupt
        if gap != self._sideband_gap:
            self._sideband_gap = gap
            self._changed.update(self._living_spaces())

    def cpus_changed(self) -> bool:
        """Whether CPUs went off- or online since the last call, or may have done both; cheap."""
        before, self._online = self._online, online_cpus()
        return before != self._online or time.monotonic_ns() - self._tended_ns > _TEND_NS

    def tend(self) -> None:
        """Open the probe's events on CPUs that came online; called now and then."""
        self._tended_ns = time.monotonic_ns()
        if self._attached.program.refresh():
            self.cpu_gaps += 1
            self._changed.update(self._living_spaces())
        if self._sideband is not None and self._sideband.refresh():
            self._changed.update(self._living_spaces())
