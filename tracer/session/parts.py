"""The parts of a trace, made once and shared: the state of targets, and the buffers read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tracer.accounting.fault_counts import Threads
from tracer.common.errors import TraceError
from tracer.join.join import Join
from tracer.kernel.sideband import Sideband
from tracer.model.rows import Names
from tracer.probes.choose import Attached
from tracer.procfs import kpageflags
from tracer.procfs.maps import Mapping, read_maps
from tracer.procfs.system import FileSystems, large_anonymous_folios, shows_vvar
from tracer.snapshots.evidence import Machine
from tracer.snapshots.reconcile import Reconciler
from tracer.snapshots.resident import Resident
from tracer.spaces.code_files import CodeFiles
from tracer.spaces.spaces import Spaces
from tracer.timeline.timeline import Timeline
from tracer.wire.records import Layout
from tracer.wire.ring import SpillingRing

if TYPE_CHECKING:
    from tracer.callstacks.learning import Learner
    from tracer.callstacks.stacks import Stacks


@dataclass
class Parts:
    """The parts of one trace."""

    attached: Attached
    names: Names
    ring: SpillingRing
    sideband: Sideband | None  # None: a note says why
    spaces: Spaces
    timeline: Timeline
    threads: Threads
    reconciler: Reconciler
    join: Join
    resident: Resident
    layout: Layout
    notes: list[str]
    learner: "Learner | None" = None  # of unwind rules
    tgids: set[int] = field(default_factory=set)  # the targets
    last_space: dict[int, int] = field(default_factory=dict)  # by process: its space, or the last
    # Spaces in which something happened since the last snapshot.
    changed: set[int] = field(default_factory=set)
    # Spaces whose last snapshot came after their last record.
    closed: set[int] = field(default_factory=set)

    @property
    def blind_to_others(self) -> bool:
        """Whether the probe sees only faults that raise an exception (perf)."""
        return _blind_to_others(self.attached)

    @property
    def zero_frame(self) -> int:
        """The shared zero page's frame."""
        return self.attached.direct_map.zero_frame

    def living_spaces(self) -> list[int]:
        """The spaces that a process is in."""
        return [space.number for space in self.spaces.alive() if space.members]

    def close(self) -> None:
        """Close the ring and the sideband; the probe is its owner's to close."""
        self.ring.close()
        if self.learner is not None:
            self.learner.close()
        if self.sideband is not None:
            self.sideband.close()


def open_parts(
    attached: Attached,
    names: Names,
    *,
    most_archived: int | None = None,
    symbols: bool = False,
    code: CodeFiles | None = None,
    stacks: "Callable[[Spaces], Stacks] | None" = None,
) -> Parts:
    """Open the ring and the sideband of an attached probe, and make the parts fed by them.

    `most_archived`: rows of pages without a frame that are kept; None: all. `symbols`: look up
    which mapping each instruction is in. `code`: finds the file of each code mapping, if used.
    `stacks` makes what decodes call stacks, where they are recorded.
    """
    notes: list[str] = []
    ring, sideband = SpillingRing(attached.program.open_ring()), None
    try:
        sideband = Sideband()
    except TraceError as error:
        notes.append(f"mappings are known from snapshots only: {error.message}")
    spaces = Spaces(names, code)
    if sideband is None:
        spaces.doubt()
    timeline = Timeline(most_archived)
    machine = Machine(
        zero_frame=attached.direct_map.zero_frame,
        blind_to_others=_blind_to_others(attached),
        ksm_flag=not kpageflags.calls_all_ksm(),
    )
    large_anon = large_anonymous_folios()
    attached.program.expect_large_folios(large_anon)
    join = Join(
        names,
        spaces,
        timeline,
        attached.direct_map.zero_frame,
        large_anon=large_anon,
        symbols=symbols,
        stacks=stacks(spaces) if stacks is not None else None,
        file_systems=FileSystems(),
        vvar_seen=shows_vvar(),
    )
    return Parts(
        attached=attached,
        names=names,
        ring=ring,
        sideband=sideband,
        spaces=spaces,
        timeline=timeline,
        threads=Threads(),
        reconciler=Reconciler(timeline, machine),
        join=join,
        resident=Resident(),
        layout=attached.program.layout,
        notes=notes,
        learner=_learner(attached, join.stacks, spaces),
    )


def _blind_to_others(attached: Attached) -> bool:
    return attached.probe.name == "perf"


def _learner(attached: Attached, stacks: "Stacks | None", spaces: Spaces) -> "Learner | None":
    """What learns unwind rules, where the kernel walks stacks by them."""
    if stacks is None or (maps := attached.program.unwind) is None:
        return None
    from tracer.callstacks.kernel_rules import Kernel, KernelRules, Program

    def known(own: int) -> Program | None:
        found = maps.known_program(own)
        return None if found is None else Program(**{name: found[name] for name in Program._fields})

    kernel = Kernel(
        maps.install,
        maps.remove,
        known,
        maps.renew_program,
        maps.unalike,
        maps.program_of,
        maps.running_programs,
        maps.install_python,
    )

    def mappings(tgid: int) -> list[Mapping]:
        return spaces.settled(tgid, read_maps(tgid))

    return stacks.walk_by_rules(maps.open_copies(), KernelRules(kernel), mappings)
