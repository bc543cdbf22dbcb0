"""The interface of a probe: one way to attach bpf/pagefault.c to this kernel."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tracer.probes.program import Program  # imports numpy


class Probe(Protocol):
    """One way to attach. A new one is a new module with these members."""

    name: str
    define: str
    latency: str  # what latency_ns covers, one sentence

    def refused(self, btf_ids: Mapping[str, int]) -> str:
        """Why this kernel does not support it, as far as known before compiling; else ""."""

    def inexact(self) -> str:
        """Why it would miss faults on this kernel; "" where it sees all."""

    def attach(self, program: "Program") -> None:
        """Attach its hooks; raises TraceError."""

    def attach_anonymous(self, program: "Program") -> None:
        """Attach to do_anonymous_page, too, if possible, and set hooks_anonymous.

        Records of faults that called it are then marked (MARK_ANON_FN). Nothing needs that, and
        it costs every anonymous fault a hook more.
        """

    def missed(self, program: "Program") -> int:
        """Hook calls that the kernel reports as skipped since the program was loaded."""


def tracefs() -> Path | None:
    """The mount point of tracefs; None where it is not mounted."""
    for folder in (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing")):
        if (folder / "available_events").exists():
            return folder
    return None
