"""The probes, and the order in which to try them: exactness before cost."""

from collections.abc import Mapping, Sequence
from typing import cast

from tracer.probes import fentry, kprobe, perf
from tracer.probes.base import Probe

# In the order of cost to the target, cheapest first.
PROBES: dict[str, Probe] = {module.name: cast(Probe, module) for module in (fentry, kprobe, perf)}


def order(wanted: str, skip: list[str], btf_ids: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """(the probes to try, why others are passed over); "auto" prefers exact ones.

    `btf_ids`: the kernel's functions to hook, as far as BTF has them.
    """
    reasons: list[str] = []
    exact: list[str] = []
    inexact: list[str] = []
    for name, probe in PROBES.items():
        if name in skip or wanted not in ("auto", name):
            continue
        if why := probe.refused(btf_ids):
            reasons.append(named(name, why))
        elif wanted == "auto" and (why := probe.inexact()):
            reasons.append(named(name, why))
            inexact.append(name)
        else:
            exact.append(name)
    return exact + inexact, reasons


def named(name: str, why: str) -> str:
    """The reason, prefixed with the probe's name."""
    return why if why.startswith(f"{name}:") else f"{name}: {why}"


def in_short(reasons: Sequence[str]) -> str:
    """Which probes were passed over, and how: the `reasons` (`named`) in a few words."""
    found: dict[str, set[str]] = {"unavailable": set(), "not exact here": set()}
    for reason in reasons:
        name = reason.partition(":")[0]
        probe = PROBES.get(name)
        works = probe is not None and reason == named(name, probe.inexact())
        found["not exact here" if works else "unavailable"].add(name)
    found["not exact here"] -= found["unavailable"]  # tried nevertheless, and refused
    words = (f"{', '.join(sorted(names))} {how}" for how, names in found.items() if names)
    return f"{', '.join(words)}: see --check"
