"""FILE.meta.json: the facts of a run that the CSV does not hold. All of it may be missing."""

import json
import shlex
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.common.types import I64
from tracer.reporting.reading.names import safe

SUFFIX = ".meta.json"  # as tracer.outputs.meta.SUFFIX
UNKNOWN = "not known"
LATEST_NS = 1 << 62  # no clock has been running for so long, and differences fit in 64 bits
_MOST_PAGES = 1 << 51  # in bytes they fit, too
_DIGITS = 40
_NO_POINTS = np.empty(0, np.int64), np.empty(0, np.int64)
_RENAMED = {"resident": "mapped", "resident_change": "mapped_change"}  # since format 1
OLD_FORMAT = (
    "traced by an older pagefault-trace: what its meta file calls resident is mapped memory, "
    "summed over processes, and is shown as mapped; distinct frames were not counted"
)


@dataclass(frozen=True)
class Facts:
    """The run as its meta file describes it; None, "" or nothing where it does not."""

    there: bool = False
    host: str = UNKNOWN
    kernel: str = UNKNOWN
    probe: str = UNKNOWN
    what: str = UNKNOWN  # the command, or the processes
    state: str = ""
    started: str = ""  # ISO 8601, UTC
    started_ns: int | None = None  # CLOCK_MONOTONIC
    ended_ns: int | None = None
    started_wall_ns: int | None = None
    exit_status: int | None = None
    lost: int | None = None
    books: dict[str, Any] = field(default_factory=dict)
    filters: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    # Pages with a frame in each address space, by faults and snapshots.
    mapped_ns: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    mapped_pages: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    # Distinct frames, at snapshots; nothing where a tracer of format 1 did not count them.
    resident_ns: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    resident_pages: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    pages_csv: str = ""
    stacks: str = ""  # the file of call stacks

    @property
    def left_out(self) -> str:
        """The options that kept faults out of the CSV; others choose what a terminal shows."""
        return ", ".join(
            f"--{name.replace('_', '-')} {text}"
            for name, text in self.filters.items()
            if name in ("range", "min_latency")
        )

    def book(self, name: str) -> int | None:
        """One of the numbers in `books`."""
        value = self.books.get(name)
        return value if isinstance(value, int) else None


def read_facts(csv_path: str) -> Facts:
    """The facts beside `csv_path`; without any where there is no such file.

    Raises TraceError(code=Exit.INPUT) where there is one that pagefault-trace did not write.
    """
    path = csv_path + SUFFIX
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, parse_int=_integer)
    except FileNotFoundError:
        return Facts()
    except OSError as error:
        raise _wrong(path, error.strerror or "cannot be read") from None
    except json.JSONDecodeError as error:
        raise _wrong(path, f"line {error.lineno} is not valid JSON: {error.msg}") from None
    except _TooLong:
        raise _wrong(path, f"a number in it has more than {_DIGITS} digits") from None
    except (UnicodeDecodeError, RecursionError):
        raise _wrong(path, "it is not valid JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise _wrong(path, "line 1 is not what pagefault-trace writes")
    if content["format"] not in (1, 2):
        raise _wrong(path, f"its format is {content['format']}, newer than this pagefault-report")
    return _facts(content)


class _TooLong(ValueError):
    """A number that is none of ours."""


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise _TooLong
    return int(text)


def _wrong(path: str, why: str) -> TraceError:
    return TraceError(
        f"{printable(path)}: {why}",
        "move it away for a report without it",
        Exit.INPUT,
    )


def _facts(content: dict[str, Any]) -> Facts:
    clock, probe = _dict(content, "clock"), _dict(content, "probe")
    books, notes = _dict(content, "books"), _list(content, "notes")
    series = {name: _series(content, name) for name in ("mapped", "resident")}
    if content["format"] == 1:  # what it calls resident is the sum of all spaces
        series = {"mapped": series["resident"], "resident": _NO_POINTS}
        books = {_RENAMED.get(name, name): value for name, value in books.items()}
        if books or len(series["mapped"][0]):
            notes = [*notes, OLD_FORMAT]
    return Facts(
        there=True,
        host=_text(content, "host") or UNKNOWN,
        kernel=_text(content, "kernel") or UNKNOWN,
        probe=_text(probe, "name") or UNKNOWN,
        what=_what(content),
        state=_text(content, "state"),
        started=_text(clock, "started"),
        started_ns=_moment(clock, "started_monotonic_ns"),
        ended_ns=_moment(clock, "ended_monotonic_ns"),
        started_wall_ns=_moment(clock, "started_wall_ns"),
        exit_status=_number(content, "exit_status"),
        lost=_number(content, "lost"),
        books=books,
        filters={safe(name): safe(str(text)) for name, text in _dict(content, "filters").items()},
        notes=tuple(safe(str(note)) for note in notes),
        mapped_ns=series["mapped"][0],
        mapped_pages=series["mapped"][1],
        resident_ns=series["resident"][0],
        resident_pages=series["resident"][1],
        pages_csv=_text(content, "pages_csv"),
        stacks=_text(content, "stacks"),
    )


def _series(content: dict[str, Any], name: str) -> tuple[I64, I64]:
    """Times and pages, as many of each."""
    points = _dict(content, name)
    times, pages = _numbers(points, "time_ns", LATEST_NS), _numbers(points, "pages", _MOST_PAGES)
    count = min(len(times), len(pages))
    return times[:count], pages[:count]


def _what(content: dict[str, Any]) -> str:
    command = [safe(str(word)) for word in _list(content, "command")]
    if command:
        return shlex.join(command)
    pids = [str(pid) for pid in _list(content, "pids") if isinstance(pid, int)]
    return f"process{'es' * (len(pids) > 1)} {', '.join(pids)}" if pids else UNKNOWN


def _dict(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _list(content: dict[str, Any], name: str) -> list[Any]:
    value = content.get(name)
    return value if isinstance(value, list) else []


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    return safe(value) if isinstance(value, str) else ""


def _number(content: dict[str, Any], name: str) -> int | None:
    value = content.get(name)
    return value if isinstance(value, int) and abs(value) < 1 << 63 else None


def _moment(content: dict[str, Any], name: str) -> int | None:
    value = _number(content, name)
    return value if value is not None and 0 <= value < LATEST_NS else None


def _numbers(content: dict[str, Any], name: str, limit: int) -> I64:
    values = _list(content, name)
    right = all(isinstance(value, int) and 0 <= value < limit for value in values)
    return np.array(values if right else [], np.int64)
