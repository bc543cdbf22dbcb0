"""Results kept as JSON: bench/results/SECTION.json, with machine, kernel, date and versions."""

import json
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracer import __version__

FOLDER = Path(__file__).parent / "results"
_VERSIONS = {
    "perf": ["perf", "--version"],
    "bpftrace": ["bpftrace", "--version"],
}


def circumstances() -> dict[str, Any]:
    """Machine, kernel, date and versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "machine": _machine(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"pagefault-trace": __version__, **_versions()},
    }


def _machine() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    virtual = ", virtual" if re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE) else ""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    name = model[1] if model else platform.machine()
    return f"{name}, {os.cpu_count()} CPUs{virtual}, {memory:.0f} GiB"


def _versions() -> dict[str, str]:
    found = {}
    for name, command in _VERSIONS.items():
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            number = re.search(r"\d[\w.+~-]*", said)
            found[name] = number[0] if number else "?"
    bcc = bcc_version()
    return {**found, "bcc": bcc} if bcc else found


def bcc_version() -> str:
    """Version of the BPF Compiler Collection; empty where it is not installed."""
    try:
        from bcc import __version__ as version
    except ImportError:
        return ""
    return str(version).partition("+")[0]


def save(name: str, data: dict[str, Any], folder: Path = FOLDER) -> None:
    """Save the results of section `name`."""
    folder.mkdir(exist_ok=True)
    whole = {"circumstances": circumstances(), **data}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def load(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The latest results of section `name`; None if there are none."""
    path = folder / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else None
