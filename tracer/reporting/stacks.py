"""What stood behind each fault, outermost first: the input of flame graphs.

This is where call stacks come in once the CSV has a column of them. Until
then a "stack" is thread, instruction (with --symbols), region and kind.
"""

from dataclasses import dataclass

import numpy as np

from tracer.reporting.columns import Words
from tracer.reporting.groups import Codes, combined
from tracer.reporting.run import I64, PAGE, Faults


@dataclass(frozen=True)
class Stacks:
    """`frames[codes[row]]` are a fault's frames."""

    frames: list[tuple[str, ...]]
    codes: Codes

    def weigh(self, weights: I64) -> list[tuple[tuple[str, ...], int]]:
        """The sum of `weights` for each stack that has any."""
        sums = np.zeros(len(self.frames), np.int64)
        np.add.at(sums, self.codes, weights)
        return [(frames, total) for frames, total in zip(self.frames, sums.tolist(), strict=True)
                if total]  # fmt: skip


def stacks(faults: Faults) -> Stacks:
    """The stack of each fault."""
    functions = _functions(faults.symbol)
    columns = (faults.comm, functions, faults.region, faults.kind)
    codes, meanings = combined(*((column.codes, len(column.words)) for column in columns))
    frames = []
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
