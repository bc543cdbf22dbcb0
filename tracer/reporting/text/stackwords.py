"""What is missing of a run's call stacks, and what to do about it, in words."""

import numpy as np

from tracer.common import units
from tracer.common.types import I64
from tracer.reporting.reading.callstacks import (
    GAP,
    LATE,
    NO_CALLER,
    NO_POINTERS,
    PYTHON_LACKS,
    REPLACED,
    TRUNCATED,
    CallStacks,
)
from tracer.reporting.reading.run import Run
from tracer.reporting.text.overview import plural

_RUNTIME = ("[jit]", "[anon]")  # code that no file holds
_ALIKE = (LATE, NO_CALLER, PYTHON_LACKS)  # words of which one sentence speaks


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
    part = f"{whole:,} ({units.share(whole, total)})"
    said = [f"Of {plural(total, 'fault')} {part} have a complete call stack."]
    for words in dict.fromkeys(_alike(word) for word in stacks.broken if word):
        chosen = np.array([each in words for each in stacks.broken])
        if faults := int(counts[chosen].sum()):
            said.append(_broken(stacks, words, faults, counts * chosen))
    if counts[0]:
        one = counts[0] == 1
        said.append(
            f"{int(counts[0]):,} {'has' if one else 'have'} none: the kernel gave none, "
            "or it was not recorded."
        )
    return said + _nameless(stacks, counts)


def _alike(word: str) -> tuple[str, ...]:
    return next((words for words in _ALIKE if word in words), (word,))


def _broken(stacks: CallStacks, words: tuple[str, ...], faults: int, counts: I64) -> str:
    word, where = words[0], _mostly(stacks.ends_in, counts)
    if word == TRUNCATED:
        return (
            f"{faults:,} {'is' if faults == 1 else 'are'} deeper than the limit of frames: "
            "the outermost callers are missing."
        )
    if word == GAP:
        return (
            f"{faults:,} may lack a caller, skipped in code built without frame pointers"
            f"{where}; build that with -fno-omit-frame-pointer."
        )
    said = f"{faults:,} {'breaks off' if faults == 1 else 'break off'}"
    if word == NO_POINTERS:
        advice = (
            "have its runtime keep frame pointers, e.g. by -XX:+PreserveFramePointer"
            if _heaviest(stacks.ends_in, counts) in _RUNTIME
            else "build it with -fno-omit-frame-pointer, or give assembly .cfi directives"
        )
        return (
            f"{said} in code that keeps no frame pointers and was not walked by unwind rules"
            f"{where}: {advice}."
        )
    if words == LATE:
        return (
            f"{said} in code whose unwind rules came too late{where}: of a copy of the stack "
            "nothing was kept, or too little; trace again, or longer."
        )
    if words == NO_CALLER:
        return (
            f"{said} in code whose unwind information leads to no caller{where}: it is assembly "
            "with wrong .cfi directives, or the stack was overwritten or swapped out."
        )
    if words == PYTHON_LACKS:
        return (
            f"{faults:,} lack Python functions, or have the interpreter's own in their place: "
            "there were too many, or they could not be read."
        )
    if word == REPLACED:
        return (
            f"{said} in code that replaced other code at the same addresses{where}: the first "
            "stacks there were walked by the other code's rules; trace longer."
        )
    return f"{said} ({word}): the callers are missing."


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
