"""The figures of a run that budgets (tracer.model.budgets) check, counted as rows come.

Of all faults with a row, whatever --region, --perms and --kind show.
"""

from enum import IntEnum

import numpy as np

from tracer.common.pages import PAGE_SIZE
from tracer.common.quantiles import Latencies
from tracer.model.budgets import PERCENTILES
from tracer.model.result import Books
from tracer.model.rows import UNKNOWN_LATENCY, Access, Cause, Kind, Names, Rows
from tracer.model.sources import Loss, Source

_COUNTED: dict[str, type[IntEnum]] = {"kind": Kind, "cause": Cause, "access": Access}


class Figures:
    """An Output that prints nothing. Memory is constant however many faults there are."""

    def __init__(self) -> None:
        self._counts = {
            column: np.zeros(len(members), np.int64) for column, members in _COUNTED.items()
        }
        self._faults = self._major = 0
        self._latencies = Latencies()

    def write(self, rows: Rows, names: Names) -> None:
        """Count one batch."""
        for column, counts in self._counts.items():
            counts += np.bincount(rows[column], minlength=len(counts))
        self._faults += len(rows)
        self._major += int(np.count_nonzero(rows["major"]))
        latency = rows["latency_ns"]
        self._latencies.add(latency[latency != UNKNOWN_LATENCY])

    def close(self) -> None:
        """Nothing to release."""

    def values(self, books: Books) -> dict[str, int | None]:
        """Each figure's value: counts, bytes, nanoseconds; None where there is no value."""
        latencies = self._latencies
        known = latencies.count > 0
        return {
            "faults": books.traced + books.lost + max(0, books.missed),
            "major": self._major,
            "minor": self._faults - self._major,
            **self._by("kind", ""),
            **self._by("cause", "cause."),
            **self._by("access", "access."),
            "kernel": books.kernel,
            "foreign": books.foreign,
            "filtered": books.filtered,
            "missed": books.missed,
            "lost": books.lost + books.failed_lost + books.foreign_lost + books.lost_other,
            "conflict": books.conflict,
            "gained": books.gained,
            "given_up": books.given_up,
            **{f"gained.{s.name.lower()}": books.gained_by.get(s.name.lower(), 0) for s in Source},
            **{f"given_up.{s.name.lower()}": books.lost_by.get(s.name.lower(), 0) for s in Loss},
            "resident": _bytes(books.resident),
            "growth": _bytes(books.resident_growth),
            # Without the end it is no bound of the run.
            "peak": None if books.resident is None else _bytes(books.resident_peak),
            **{name: latencies.quantile(q) if known else None for name, q in PERCENTILES.items()},
            "max": latencies.max if known else None,
        }

    def _by(self, column: str, prefix: str) -> dict[str, int]:
        counts = self._counts[column]
        return {prefix + member.name.lower(): int(counts[member]) for member in _COUNTED[column]}


def _bytes(pages: int | None) -> int | None:
    return None if pages is None else pages * PAGE_SIZE
