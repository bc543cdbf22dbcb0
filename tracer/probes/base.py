"""What a probe is: one way to attach bpf/pagefault.c to this kernel."""

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
        """Why this kernel cannot take it, as far as can be told without compiling it; else ""."""

    def inexact(self) -> str:
        """Why it would not see every fault here; "" where it does."""

    def attach(self, program: "Program") -> None:
        """Attach its hooks; raises TraceError."""

    def attach_anonymous(self, program: "Program") -> None:
        """Attach to do_anonymous_page, too, if it can be, and say so (hooks_anonymous).

        Records of faults that came through it are then marked (MARK_ANON_FN). Nothing needs
        that, and it costs every anonymous fault a hook more.
        """

    def missed(self, program: "Program") -> int:
        """Hook calls the kernel says it skipped since the program was loaded."""


def tracefs() -> Path | None:
    """Where tracefs is mounted; None where it is not."""
    for folder in (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing")):
        if (folder / "available_events").exists():
            return folder
    return None
