"""The committed instruction counts, and the check that a change adds no instructions to faults.

The count is the same for a given kernel package, libbcc (its clang compiles the programs) and
QEMU; if any of them changes there is nothing to compare with, and the new counts are to be
committed (`python -m bench.guests --update`).
"""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("instructions.json")
MOST_MORE = 0.03  # the share by which an added instruction count may grow


@dataclass(frozen=True)
class Toolchain:
    """The versions that a count depends on, besides our own code."""

    kernel: str
    bcc: str
    qemu: str

    @property
    def key(self) -> str:
        return f"{self.kernel}, bcc {self.bcc}, QEMU {self.qemu}"


def qemu_version() -> str:
    """The distribution's version of QEMU, as QEMU reports it."""
    said = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"\((\S+)\)|version (\S+)", said)
    return (found[1] or found[2]) if found else said.strip()


def load(path: Path = FILE) -> dict[str, dict[str, float]]:
    """Added instructions by probe, by Toolchain.key."""
    committed: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    return committed


def save(found: Mapping[str, Mapping[str, float]], path: Path = FILE) -> None:
    """Save these counts, replacing those of the same kernel series (6.12, 7)."""
    series = {_series(key) for key in found}
    kept: dict[str, Any] = {
        key: counts for key, counts in load(path).items() if _series(key) not in series
    }
    merged = {**kept, **{key: dict(counts) for key, counts in found.items()}}
    path.write_text(json.dumps(dict(sorted(merged.items())), indent=2) + "\n")


def regressions(
    key: str, added: Mapping[str, float], committed: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """A sentence for each probe whose added count grew by over MOST_MORE; none if all is well."""
    before = committed.get(key, {})
    return [
        f"{probe} adds {now:,.0f} instructions to a fault, {now / before[probe] - 1:.1%} more than"
        f" the {before[probe]:,.0f} in bench/{FILE.name}"
        for probe, now in added.items()
        if probe in before and now > before[probe] * (1 + MOST_MORE)
    ]


def _series(key: str) -> str:
    """The kernel's series: of the newest kernel its major number, of others the stable series."""
    major, minor = key.split(".")[:2]
    return f"{major}.{minor}" if int(major) < 7 else major
