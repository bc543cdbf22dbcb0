"""What a probe is: one way to attach bpf/pagefault.c to this kernel."""

from pathlib import Path
from typing import Any, Protocol

from tracer.probes.program import Program


class Probe(Protocol):
    """One way to attach. A new one is a new module with these members."""

    name: str
    define: str
    latency: str  # what latency_ns covers, one sentence

    def refused(self) -> str:
        """Why this kernel cannot take it, as far as can be told without trying; else ""."""

    def inexact(self) -> str:
        """Why it would not see every fault here; "" where it does."""

    def flags(self) -> list[str]:
        """Further -D flags."""

    def attach(self, bcc: Any, program: Program) -> None:
        """Attach what the compile did not attach by itself; raises TraceError."""

    def missed(self, program: Program) -> int:
        """Hook calls the kernel says it skipped since the program was loaded."""


def tracefs() -> Path | None:
    """Where tracefs is mounted; None where it is not."""
    for folder in (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing")):
        if (folder / "available_events").exists():
            return folder
    return None
