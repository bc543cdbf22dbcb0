"""Faults by call stack and by function."""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64
from tracer.reporting.reading.callstacks import CallStacks, Function
from tracer.reporting.reading.run import Run


@dataclass(frozen=True)
class Sums:
    """For each of some stacks or functions: pages gained, faults, nanoseconds in them."""

    gained: I64
    faults: I64
    time_ns: I64


def by_stack(run: Run, stacks: CallStacks) -> Sums:
    """By the number of the stack; 0 has the faults without one."""
    stack, count = run.faults.stack, len(stacks)

    def total(weights: I64 | None) -> I64:
        # Sums stay below 2^53, and so are exact.
        return np.bincount(stack, weights, minlength=count).astype(np.int64)

    return Sums(
        gained=total(run.faults.pages.astype(np.int64)),
        faults=total(None),
        time_ns=total(np.maximum(run.faults.latency_ns, 0)),
    )


def by_function(stacks: CallStacks, sums: Sums) -> Sums:
    """By the number of the function that faulted: what came by itself."""
    return _regrouped(sums, stacks.innermost, len(stacks.functions))


def by_path(stacks: CallStacks, sums: Sums) -> tuple[list[int], Sums]:
    """Stacks of the same functions together, whichever lines the calls are in.

    First a stack of each group.
    """
    function = stacks.function_of[stacks.flat]
    starts = stacks.starts.tolist()
    first: dict[bytes, int] = {}
    group = np.empty(len(stacks), np.int64)
    alike: list[int] = []
    for at in range(len(stacks)):
        path = function[starts[at] : starts[at + 1]].tobytes()
        group[at] = first.setdefault(path, len(first))
        if len(first) > len(alike):
            alike.append(at)
    return alike, _regrouped(sums, group, len(alike))


def _regrouped(sums: Sums, group: I64, count: int) -> Sums:
    def total(weights: I64) -> I64:
        return np.bincount(group, weights, minlength=count).astype(np.int64)

    return Sums(total(sums.gained), total(sums.faults), total(sums.time_ns))


def with_callees(stacks: CallStacks, weights: I64) -> I64:
    """By function: the weights of the stacks it is in, of each once however often it is there."""
    count = len(stacks.functions)
    stack = np.repeat(np.arange(len(stacks)), np.diff(stacks.starts))
    pairs = np.unique(stack * count + stacks.function_of[stacks.flat])
    stack, function = np.divmod(pairs, count)
    return np.bincount(function, weights[stack], minlength=count).astype(np.int64)


def gained_by_function(run: Run) -> dict[Function, int]:
    """Pages that came by each function itself; nothing without call stacks."""
    stacks = run.callstacks
    if stacks is None:
        return {}
    gained = by_function(stacks, by_stack(run, stacks)).gained.tolist()
    return {
        function: pages for function, pages in zip(stacks.functions, gained, strict=True) if pages
    }
