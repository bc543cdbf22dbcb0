"""Formatting of numbers and names for people, in a given number of terminal cells."""

from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Literal

from rich.cells import cell_len, set_cell_size

from tracer.common.pages import NO_FRAME
from tracer.common.text import printable

TimeMode = Literal["relative", "wall", "monotonic"]


@dataclass(frozen=True)
class Glyphs:
    """The characters outside ASCII that are used; ASCII has their replacements."""

    micro: str = "µ"
    dots: str = "…"
    none: str = "–"
    minus: str = "−"
    times: str = "×"
    called_by: str = " ← "


ASCII = Glyphs("u", "..", "-", "-", "x", " <- ")


def glyphs_for(encoding: str | None) -> Glyphs:
    """The glyphs that `encoding` can write."""
    fancy = Glyphs()
    try:
        "".join(astuple(fancy)).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return fancy


def latency(nanoseconds: int, glyphs: Glyphs) -> str:
    """Three digits and a unit: "850 ns", "1.38 µs", "12.4 ms"; a dash where negative."""
    if nanoseconds < 0:
        return glyphs.none
    if nanoseconds < 1000:
        return f"{nanoseconds} ns"
    value = float(nanoseconds)
    for unit in (glyphs.micro + "s", "ms", "s"):
        value /= 1000
        if value < 999.5 or unit == "s":
            break
    return f"{_three_digits(value)} {unit}"


def size(count: int) -> str:
    """Bytes with a binary unit: "4 KiB", "3.08 MiB"."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 999.5 or unit == "TiB":
            break
    text = _three_digits(value)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent; never 0% of what there is, nor 100% of less than all."""
    per_cent = 100 * part / whole
    if 0 < per_cent < 1:
        return "less than 1%"
    return "more than 99%" if 99 < per_cent < 100 else f"{per_cent:.0f}%"


def net(count: int, glyphs: Glyphs) -> str:
    """A signed number of bytes: "+3.08 MiB", "−4 KiB", "0 B"."""
    sign = "+" if count > 0 else glyphs.minus if count < 0 else ""
    return sign + size(abs(count))


def short_count(count: int) -> str:
    """A count in at most four characters: "9999", "12k", "3M"."""
    for unit, scale in (("", 1), ("k", 1000), ("M", 1_000_000)):
        if count < 10_000 * scale and (not unit or count >= 10 * scale):
            return f"{count // scale}{unit}"
    return f"{count // 1_000_000_000}G"


def _three_digits(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def frame(address: int, glyphs: Glyphs) -> str:
    """A physical address, or a dash."""
    return glyphs.none if address == NO_FRAME else f"{address:#x}"


def clock(time_ns: int, mode: TimeMode, started_ns: int, wall_minus_monotonic: int = 0) -> str:
    """A CLOCK_MONOTONIC time: seconds since `started_ns`, since boot, or local time of day."""
    if mode == "wall":
        seconds, nanoseconds = divmod(time_ns + wall_minus_monotonic, 1_000_000_000)
        return f"{datetime.fromtimestamp(seconds):%H:%M:%S}.{nanoseconds // 1000:06}"
    micros = (time_ns - (started_ns if mode == "relative" else 0)) // 1000
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    return f"{sign}{micros // 1_000_000}.{micros % 1_000_000:06}"


def thread(comm: str, tid: int, pid: int, several: bool, width: int, glyphs: Glyphs) -> str:
    """comm/tid, with the pid between where there are several processes; the comm is clipped.

    Where there is hardly room for the comm, a process's only or first thread is
    shown by its comm, others by their numbers.
    """
    numbers = f"/{pid}/{tid}" if several and pid != tid else f"/{tid}"
    room = width - len(numbers)
    comm = printable(comm) or "?"
    if room < 4:
        return clip(comm if pid == tid and not several else numbers[1:], width, glyphs)
    return clip(comm, room, glyphs) + numbers


def clip(text: str, width: int, glyphs: Glyphs) -> str:
    """`text` cut at the end to `width` cells, with dots if it was."""
    if cell_len(text) <= width:
        return text
    room = width - len(glyphs.dots)
    if room < 1:
        return set_cell_size(text, width)
    return set_cell_size(text, room).rstrip() + glyphs.dots


def region(name: str, width: int, glyphs: Glyphs) -> str:
    """A mapping's name, made printable, in `width` cells; a dash where there is none."""
    return shorten(printable(name) or glyphs.none, width, glyphs)


def shorten(name: str, width: int, glyphs: Glyphs) -> str:
    """A printable name in `width` cells: a path loses its middle, then its directories."""
    if cell_len(name) <= width:
        return name
    head, slash, base = name.rpartition("/")
    if slash:
        top = "/" + head.split("/")[1] if head.startswith("/") else ""
        for front in (f"{top}/{glyphs.dots}/", f"{glyphs.dots}/", ""):
            if cell_len(front + base) <= width:
                return front + base
    return _middle(base or name, width, glyphs)


def _middle(text: str, width: int, glyphs: Glyphs) -> str:
    room = width - len(glyphs.dots)
    if room < 2:
        return clip(text, width, glyphs)
    tail = ""
    for char in reversed(text):
        if cell_len(char + tail) > room // 2:
            break
        tail = char + tail
    front = set_cell_size(text, room - cell_len(tail)).rstrip()
    return front + glyphs.dots + tail


def pad(text: str, width: int, right: bool = False) -> str:
    """`text` filled up with blanks to `width` cells; never cut."""
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks
