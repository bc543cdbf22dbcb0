"""Budgets for --fail-if: a figure of the run, a comparison, a number. docs/cli.md has the grammar.

The grammar is closed: every figure has a name known beforehand, so that a
mistyped one is reported before tracing starts.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from tracer.model.rows import Access, Cause, Kind
from tracer.model.sources import Loss, Source

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

_SHAPE = re.compile(r"\s*([\w.-]+?)\s*([<>=!]+)\s*(.*?)\s*", re.ASCII)
_NUMBER = re.compile(r"(-?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*([A-Za-zµμ]*)")
_LARGEST = 1 << 63
_COMPARISONS: Mapping[str, Callable[[Fraction, Fraction], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class Unit(Enum):
    """What a figure is counted in, and the units its limits may have; the value is an example."""

    COUNT = "10000 or 10k"
    BYTES = "65536 or 64MiB"
    TIME = "500ns, 20us, 1.5ms or 2s; a bare number is microseconds"


_UNITS: Mapping[Unit, Mapping[str, int]] = {
    Unit.COUNT: {"": 1, "k": 10**3, "M": 10**6, "G": 10**9},
    Unit.BYTES: {"": 1, "B": 1}
    | {f"{letter}iB": 1 << 10 * (i + 1) for i, letter in enumerate("KMGT")}
    | {f"{letter}B": 1000 ** (i + 1) for i, letter in enumerate("kMGT")},
    Unit.TIME: {"": 10**3, "ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9},
}


def _known() -> dict[str, Unit]:
    names = ["faults", "major", "minor"]
    names += [kind.name.lower() for kind in Kind]
    names += [f"cause.{cause.name.lower()}" for cause in Cause]
    names += [f"access.{access.name.lower()}" for access in Access]
    names += ["kernel", "foreign", "filtered", "missed", "lost", "conflict"]
    names += ["gained", "given_up"]
    names += [f"gained.{s.name.lower()}" for s in Source if s not in (Source.NONE, Source.INITIAL)]
    names += [f"given_up.{loss.name.lower()}" for loss in Loss if loss != Loss.NONE]
    return (
        dict.fromkeys(names, Unit.COUNT)
        | dict.fromkeys(("resident", "growth", "peak"), Unit.BYTES)
        | dict.fromkeys((*PERCENTILES, "max"), Unit.TIME)
    )


FIGURES: Mapping[str, Unit] = _known()  # every name a budget may use
BOUNDS = ("peak",)  # of these, those whose value may be a lower bound
# … where calls filled memory that was gone unseen (Books.unseen_fills).
FRAMES_CAME = (
    *("gained", "gained.populate", "given_up"),
    *(f"given_up.{loss.name.lower()}" for loss in (Loss.MUNMAP, Loss.MADVISE, Loss.EXIT)),
)


class BadBudget(ValueError):
    """The expression cannot be parsed; the message says why, and what is accepted."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`figure comparison limit`, such as major > 0: broken where that is true."""

    text: str  # as given, without blanks around it
    figure: str  # one of FIGURES
    comparison: str
    limit: Fraction  # a count, bytes or nanoseconds

    def may_be_kept(self, least: int) -> bool:
        """Whether the budget, broken at `least`, may hold for a larger value."""
        return self.comparison in ("<", "<=", "==") or (
            self.comparison == "!=" and least < self.limit
        )

    def broken_by(self, actual: int | None) -> bool:
        """Whether the figure's value breaks it; None (no value, or unknown) does not."""
        if actual is None:
            return False
        return _COMPARISONS[self.comparison](Fraction(actual), self.limit)


def parse_budget(text: str) -> Budget:
    """One expression of --fail-if. Raises BadBudget."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise BadBudget(f"'{text}' is no budget; write one like major>0 or p99>2ms")
    figure, comparison, number = match.groups()
    unit = FIGURES.get(figure)
    if unit is None:
        raise BadBudget(f"'{figure}' is no figure of a run; {_near(figure)}")
    if comparison not in _COMPARISONS:
        known = " ".join(_COMPARISONS)
        raise BadBudget(f"'{comparison}' is no comparison; there are {known}")
    return Budget(text.strip(), figure, comparison, _limit(number, figure, unit))


def _limit(text: str, figure: str, unit: Unit) -> Fraction:
    match = _NUMBER.fullmatch(text)
    scale = _UNITS[unit].get(match[2].replace("μ", "µ")) if match else None
    if match is None or scale is None:
        raise BadBudget(f"'{text}' is nothing to hold {figure} against; try {unit.value}")
    # No sensible number has more digits than this, and they are slow to parse.
    limit = Fraction(match[1]) * scale if len(match[1]) <= 40 else Fraction(_LARGEST + 1)
    if abs(limit) > _LARGEST:
        raise BadBudget(f"'{text}' is more than {figure} can ever be")
    return limit


def _near(name: str) -> str:
    found = difflib.get_close_matches(name.lower(), FIGURES, 3, 0.6)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return "try faults, major, a kind such as anon, gained, resident or p99 (docs/cli.md has all)"
