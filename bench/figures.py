"""Statistics of measured rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """The median of some figures, and their quartiles."""

    median: float
    low: float  # first quartile
    high: float  # third quartile

    def text(self, digits: int = 2, unit: str = "") -> str:
        """As `1.42× (1.40–1.45)`."""
        low, high = f"{self.low:,.{digits}f}", f"{self.high:,.{digits}f}"
        return f"{self.median:,.{digits}f}{unit} ({low}–{high})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (by linear interpolation). Raises ValueError if there are no values."""
    if not values:
        raise ValueError("no figures")
    ordered = sorted(values)
    return Spread(median(ordered), _quantile(ordered, 0.25), _quantile(ordered, 0.75))


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each round's value divided by the same round's base, so that drift cancels."""
    return [value / against for value, against in zip(values, base, strict=True)]


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
