"""Whether records are dropped: one CPU at full speed, two shared with the tracer, and the limit."""

from typing import Any

from bench.storm import Storm
from bench.tools import books, ours, run_under

_BURST = 50_000  # pages a round
_STEPS = 7


def measure(faults: int = 2_000_000, seconds: float = 15.0, steps: int = _STEPS) -> dict[str, Any]:
    """Two storms of `faults`, then bisection in `steps` with paced storms of `seconds`."""
    one = _storm(faults, threads=1, storm_cpus=(0,), tracer_cpus=(1,))
    two = _storm(faults, threads=2)
    return {"one": one, "two": two, "rate": find_limit(seconds, steps, two["rate"])}


def find_limit(seconds: float, steps: int, most: float) -> dict[str, Any]:
    """The fault rate at which drops start, from 0 to `most` per second, and the rates tried."""
    tries = []
    good, bad = 0.0, most
    for _ in range(steps):
        rate = (good + bad) / 2
        found = _storm(int(rate * seconds), threads=2, rate=int(rate))
        tries.append({"asked": rate, "rate": found["rate"], "lost": found["lost"]})
        print(f"{rate:,.0f} faults a second: {found['lost']:,} dropped", flush=True)
        good, bad = (good, rate) if found["lost"] else (rate, bad)
    return {"seconds": seconds, "good": good, "bad": bad, "tries": tries}


def _storm(
    faults: int,
    *,
    threads: int,
    rate: int = 0,
    storm_cpus: tuple[int, ...] = (),
    tracer_cpus: tuple[int, ...] = (),
) -> dict[str, Any]:
    """One storm traced into CSV: the counts of the storm and of the tracer's books."""
    pages = max(min(_BURST, faults // threads), 1)
    rounds = max(faults // threads // pages, 1)
    storm = Storm(pages, rounds, threads=threads, rate=rate // threads, cpus=storm_cpus)
    with storm:
        found, counts = run_under(ours(), storm, tracer_cpus, books)
    return {
        "faults": sum(each.faults for each in found),
        "rate": sum(each.faults for each in found) / storm.seconds,
        **{name: counts[name] for name in ("traced", "lost", "missed", "kernel", "balanced")},
    }


def render(data: dict[str, Any]) -> str:
    """The two storms as a table, and the limit."""
    lines = [
        "A storm of first writes, CSV on, the default buffer of 64 MiB. *Kernel* is"
        " `min_flt + maj_flt` of the traced threads while they were traced.",
        "",
        "| | faults a second | faults (kernel) | traced | lost | missed | traced + lost + missed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in (
        ("one", "one CPU at full speed, the tracer on the other"),
        ("two", "two CPUs at full speed, shared with the tracer"),
    ):
        each = data[name]
        whole = each["traced"] + each["lost"] + each["missed"]
        exact = "= kernel" if whole == each["kernel"] else f"{whole - each['kernel']:+,}"
        lines.append(
            f"| {title} | {each['rate']:,.0f} | {each['kernel']:,} | {each['traced']:,}"
            f" | **{each['lost']:,}** ({each['lost'] / each['kernel']:.1%}) | {each['missed']:,}"
            f" | {exact} |"
        )
    lines += ["", _limit(data["rate"])]
    return "\n".join(lines)


def _limit(rate: dict[str, Any]) -> str:
    good = [each["rate"] for each in rate["tries"] if not each["lost"]]
    bad = [each["rate"] for each in rate["tries"] if each["lost"]]
    how = (
        f"two threads paced for {rate['seconds']:g} s on the CPUs that the tracer shares,"
        f" {len(rate['tries'])} steps of bisection"
    )
    if not bad:
        return f"No events dropped at up to {max(good):,.0f} faults a second, sustained: {how}."
    if not good:
        return f"Events dropped even at {min(bad):,.0f} faults a second, sustained: {how}."
    return (
        f"Drops start at about **{(max(good) + min(bad)) / 2:,.0f} faults a second**, sustained:"
        f" none was dropped at {max(good):,.0f}, some at {min(bad):,.0f} ({how})."
    )
