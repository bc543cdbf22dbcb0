"""The stack of each fault, outermost first: the input of flame graphs.

The thread, then its call stack where the trace has them (--stacks). Without,
a "stack" is thread, instruction (with --symbols), region and kind.
"""

from dataclasses import dataclass

import numpy as np

from tracer.common.types import I64
from tracer.reporting.reading.callstacks import Location
from tracer.reporting.reading.codes import Codes, combined
from tracer.reporting.reading.columns import Words
from tracer.reporting.reading.run import PAGE, Faults, Run

Box = str | Location  # a name, or a location in a call stack


@dataclass(frozen=True)
class Stacks:
    """`frames[codes[row]]` are a fault's frames."""

    frames: list[tuple[Box, ...]]
    codes: Codes

    def weigh(self, weights: I64) -> list[tuple[tuple[Box, ...], int]]:
        """The sum of `weights` for each stack that has any."""
        sums = np.zeros(len(self.frames), np.int64)
        np.add.at(sums, self.codes, weights)
        return [(frames, total) for frames, total in zip(self.frames, sums.tolist(), strict=True)
                if total]  # fmt: skip


def stacks_of(run: Run) -> Stacks:
    """The call stack of each fault, or what there is of one."""
    found = run.callstacks
    if found is None:
        return stacks(run.faults)
    comm = run.faults.comm
    codes, pairs = combined((comm.codes, len(comm.words)), (run.faults.stack, len(found)))
    return Stacks(
        [(comm.words[at] or "(not known)", *found.stack(number)) for at, number in pairs], codes
    )


def stacks(faults: Faults) -> Stacks:
    """The stand-in for call stacks."""
    functions = _functions(faults.symbol)
    columns = (faults.comm, functions, faults.region, faults.kind)
    codes, meanings = combined(*((column.codes, len(column.words)) for column in columns))
    frames: list[tuple[Box, ...]] = []
    for meaning in meanings:
        comm, function, region, kind = (
            column.words[code] for column, code in zip(columns, meaning, strict=True)
        )
        inner = [function] if function else []
        frames.append((comm or "(not known)", *inner, region or "(not known)", kind or "(kind)"))
    return Stacks(frames, codes)


def _functions(symbol: Words) -> Words:
    """The functions of `function+0x1f`."""
    ids: dict[str, int] = {}
    known = [ids.setdefault(_function(word), len(ids)) for word in symbol.words]
    return Words(list(ids) or [""], np.array(known or [0], np.int32)[symbol.codes])


def _function(symbol: str) -> str:
    name, plus, offset = symbol.rpartition("+")
    return name if plus and offset.startswith("0x") else symbol


def weights(faults: Faults) -> dict[str, I64]:
    """What can be counted: bytes that gained a frame, faults, nanoseconds spent in them."""
    return {
        "bytes": faults.pages.astype(np.int64) * PAGE,
        "faults": np.ones(len(faults), np.int64),
        "nanoseconds": np.maximum(faults.latency_ns, 0),
    }
