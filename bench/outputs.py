"""Parsing the tools' outputs: the faults that each of them recorded."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.storm import PAGE, Round

_SCRIPT = re.compile(rb"(?:minor|major)-faults:\s+([0-9a-f]+)\s")
_TRACE = re.compile(rb"(?:min|maj)fault \[.*\] => (?:.*@)?0x([0-9a-f]+) \(")


def perf_script_addresses(path: Path) -> Iterator[int]:
    """Fault addresses in the output of `perf script -F …,event,addr,…`."""
    return _matches(path, _SCRIPT)


def perf_trace_addresses(path: Path) -> Iterator[int]:
    """Fault addresses of `perf trace -F all`: `minfault [where] => what@0xADDRESS (d.)`."""
    return _matches(path, _TRACE)


def _matches(path: Path, pattern: re.Pattern[bytes]) -> Iterator[int]:
    with path.open("rb") as lines:
        for line in lines:
            found = pattern.search(line)
            if found:
                yield int(found[1], 16)


def line_addresses(path: Path, field: int) -> Iterator[int]:
    """The hexadecimal address in word `field` of each line; lines without one are skipped."""
    with path.open("rb") as lines:
        for line in lines:
            words = line.split()
            if len(words) > field:
                try:
                    yield int(words[field], 16)
                except ValueError:
                    continue


def csv_addresses(path: Path) -> Iterator[int]:
    """Fault addresses of pagefault-trace's CSV, for a program whose name has no comma."""
    with path.open("rb") as lines:
        at = next(lines).split(b",").index(b"address")
        for line in lines:
            yield int(line.split(b",", at + 1)[at], 16)


def first_time(path: Path) -> int:
    """The first number of the first line that begins with one: nanoseconds; 0 if there is none."""
    with path.open("rb") as lines:
        for line in lines:
            word = line.split(maxsplit=1)[:1]
            if word and word[0].isdigit():
                return int(word[0])
    return 0


def first_csv_time(path: Path) -> int:
    """`time_ns` of the earliest row of pagefault-trace's CSV; 0 if it has none."""
    with path.open("rb") as lines:
        at = next(lines).split(b",").index(b"time_ns")
        return min((int(line.split(b",", at + 1)[at]) for line in lines), default=0)


def recorded(addresses: Iterable[int], rounds: Sequence[Round], pages: int) -> int:
    """How many faults of the storm's rounds, of `pages` pages each, are among `addresses`.

    A page takes one fault a round. Duplicates (perf record writes some samples twice) are counted
    once; faults made only to see whether a tool is ready, not at all.
    """
    seen, times = np.unique(np.fromiter(addresses, np.uint64) // PAGE, return_counts=True)
    starts = np.sort(np.array([each.address // PAGE for each in rounds], np.uint64))
    begun = np.searchsorted(starts, seen, side="right")
    ended = np.searchsorted(starts + np.uint64(pages), seen, side="right")
    return int(np.minimum(times, begun - ended).sum())
