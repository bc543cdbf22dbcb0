"""What is missing of a run's call stacks, and what to do about it, in words."""

import numpy as np

from tracer.common.types import I64
from tracer.reporting.reading.callstacks import GAP, NO_POINTERS, TRUNCATED, CallStacks
from tracer.reporting.reading.run import Run
from tracer.reporting.text.overview import plural

_RUNTIME = ("[jit]", "[anon]")  # code that no file holds


def health(run: Run) -> list[str]:
    """A sentence on how many faults have a whole stack, and one for each thing that is missing."""
    stacks, total = run.callstacks, len(run.faults)
    if stacks is None:
        return [f"{run.stackless}."]
    if not total:
        return []
    counts = np.bincount(run.faults.stack, minlength=len(stacks)).astype(np.int64)
    broken = np.array([bool(word) for word in stacks.broken])
    whole = total - int(counts[0]) - int(counts[broken].sum())
    part = f"{whole:,} ({whole / total:.0%})"
    said = [f"Of {plural(total, 'fault')} {part} have a complete call stack."]
    for word in dict.fromkeys(filter(None, stacks.broken)):
        chosen = np.array([each == word for each in stacks.broken])
        if faults := int(counts[chosen].sum()):
            said.append(_broken(stacks, word, faults, counts * chosen))
    if counts[0]:
        one = counts[0] == 1
        said.append(
            f"{int(counts[0]):,} {'has' if one else 'have'} none: the kernel gave none, "
            "or it was not recorded."
        )
    return said + _nameless(stacks, counts)


def _broken(stacks: CallStacks, word: str, faults: int, counts: I64) -> str:
    if word == TRUNCATED:
        return (
            f"{faults:,} {'is' if faults == 1 else 'are'} deeper than the kernel's limit: "
            "the outermost callers are missing."
        )
    if word == GAP:
        return (
            f"{faults:,} may lack a caller, skipped in code built without frame pointers"
            f"{_mostly(stacks.ends_in, counts)}; build that with -fno-omit-frame-pointer."
        )
    ends = "breaks off" if faults == 1 else "break off"
    if word == NO_POINTERS:
        return (
            f"{faults:,} {ends} in code built without frame pointers"
            f"{_mostly(stacks.ends_in, counts)}: the callers are missing; build that with "
            "-fno-omit-frame-pointer, or use a build that has them."
        )
    return f"{faults:,} {ends} ({word}): the callers are missing."


def _nameless(stacks: CallStacks, counts: I64) -> list[str]:
    functions = [stacks.functions[at] for at in stacks.innermost.tolist()]
    nameless = counts * np.array([bool(each.side) and not each.known for each in functions])
    if not nameless.any():
        return []
    modules = [each.module for each in functions]
    heaviest = _heaviest(modules, nameless)
    advice = (
        "have its runtime write /tmp/perf-PID.map, as for perf"
        if heaviest in _RUNTIME
        else "let the tracer read kernel symbols (kernel.kptr_restrict)"
        if heaviest == "[kernel]"
        else "keep its symbols, or install its debug symbols"
    )
    total = int(nameless.sum())
    return [
        f"{total:,} {'was' if total == 1 else 'were'} taken in code without a symbol"
        f"{_mostly(modules, nameless)}: {advice}."
    ]


def _heaviest(modules: list[str], counts: I64) -> str:
    sums: dict[str, int] = {}
    for module, count in zip(modules, counts.tolist(), strict=True):
        sums[module] = sums.get(module, 0) + count
    return max(sums, key=lambda module: sums[module], default="")


def _mostly(modules: list[str], counts: I64) -> str:
    heaviest = _heaviest(modules, counts)
    only = all(module == heaviest for module, n in zip(modules, counts.tolist(), strict=True) if n)
    return f", {'' if only else 'mostly '}in {heaviest}" if heaviest else ""
