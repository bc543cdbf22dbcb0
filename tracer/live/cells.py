"""A stretch of pages as cells: a glyph and a colour each."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tracer.common.types import I64
from tracer.live import theme
from tracer.live.pages import State, Table, present
from tracer.live.theme import Charset

_LONG_NS = 1 << 62
_FADING_NS = 200_000_000  # no colour changes faster
# Plain numbers: in Python 3.11 a member of an enum costs as much as all else here.
_ABSENT, _RESIDENT, _ZERO, _HUGE, _SWAPPED, _RELEASED = map(int, State)


def draw(
    table: Table, first: int, end: int, zoom: int, now_ns: int, charset: Charset
) -> tuple[list[str], list[str], int]:
    """Glyphs and styles of virtual pages [first, end) in cells of `zoom` pages, the last of fewer.

    And until when (ns) they look like that if nothing happens. `table` is the
    address space's (or a part of it that holds these pages).
    """
    count = -(-(end - first) // zoom)
    low, high = np.searchsorted(table["page"], np.array([first, end], np.uint64)).tolist()
    glyphs = [charset.states[_ABSENT]] * count
    styles = [theme.FAINT] * count
    if low == high:
        return glyphs, styles, _LONG_NS
    rows = table[low:high]
    cell = (rows["page"] - np.uint64(first)).astype(np.int64) // zoom
    heads = np.flatnonzero(np.append(True, cell[1:] != cell[:-1]))
    sums = _sums(rows, heads, now_ns)
    palette = _palette(charset)
    sizes = np.minimum(end - first - cell[heads] * zoom, zoom)
    numbers = _numbers(sums, sizes, zoom, charset)
    for at, number in zip(cell[heads].tolist(), numbers.tolist(), strict=True):
        glyphs[at], styles[at] = palette[number]
    young = min(int(sums.gained_age.min()), int(sums.released_age.min())) < theme.YOUNG_NS
    return glyphs, styles, now_ns + _FADING_NS if young else _LONG_NS


@dataclass(frozen=True)
class _Sums:
    """Of each cell, shape (n,): pages by state, and the ages (ns) of the youngest."""

    here: I64  # in a frame of any kind
    zero: I64
    huge: I64
    swapped: I64
    released: I64
    gained_age: I64
    released_age: I64


def _sums(rows: Table, heads: I64, now_ns: int) -> _Sums:
    state = rows["state"]
    here, gone = present(rows), state == _RELEASED
    age = np.maximum(now_ns - rows["time_ns"], 0)
    counted = (here, state == _ZERO, state == _HUGE, state == _SWAPPED, gone)
    counts = np.add.reduceat(np.array(counted, np.int64), heads, axis=1)
    aged = np.array((np.where(here, age, _LONG_NS), np.where(gone, age, _LONG_NS)))
    return _Sums(*counts, *np.minimum.reduceat(aged, heads, axis=1))


# Palette by number: two that are new, none and swapped, then one for each age.
_FRESH, _JUST_GONE, _NONE, _OUT = range(4)
_AGES = len(theme.GAINED)
_GONE_AT = 4
_HUGE_AT, _ZERO_AT, _PAGE_AT, _FILL_AT = (_GONE_AT + _AGES * step for step in range(1, 5))


@lru_cache(maxsize=8)
def _palette(charset: Charset) -> list[tuple[str, str]]:
    """(glyph, style) by number."""
    glyph = charset.states
    found = [
        (charset.fresh, theme.GAINED[0]),
        (glyph[_RELEASED], theme.GONE[0]),
        (glyph[_ABSENT], theme.FAINT),
        (glyph[_SWAPPED], theme.BLUE),
    ]
    found += [(glyph[_RELEASED], style) for style in theme.GONE]
    for mark, old in (
        (glyph[_HUGE], theme.PINK),
        (glyph[_ZERO], theme.SKY),
        *((each, theme.GAINED[-1]) for each in (glyph[_RESIDENT], *charset.fill)),
    ):
        found += [(mark, style) for style in (*theme.GAINED[:-1], old)]
    return found


def _numbers(sums: _Sums, sizes: I64, zoom: int, charset: Charset) -> I64:
    """Which of the palette each cell is: what is new comes first, then what most pages are.

    `sizes`: how many pages each cell has.
    """
    here, away = sums.here, np.maximum(sums.swapped, sums.released)
    levels = len(charset.fill)
    fill = np.minimum(-(-here * levels // sizes), levels) - 1
    plain = _PAGE_AT if zoom == 1 else _FILL_AT + fill * _AGES
    mark = np.where(sums.zero * 2 > here, _ZERO_AT, plain)
    mark = np.where(sums.huge * 2 > here, _HUGE_AT, mark)
    gone = np.where(sums.swapped >= sums.released, _OUT, _GONE_AT + _aged(sums.released_age))
    number = np.where((here == 0) | (here < away), gone, mark + _aged(sums.gained_age))
    number[(here == 0) & (away == 0)] = _NONE
    number[(sums.released > 0) & (sums.released_age < theme.FRESH_NS)] = _JUST_GONE
    number[(here > 0) & (sums.gained_age < theme.FRESH_NS)] = _FRESH
    return np.asarray(number)


def _aged(age_ns: I64) -> I64:
    """Which step of fading an age is."""
    since = np.minimum(age_ns, theme.YOUNG_NS) - theme.FRESH_NS
    step = 1 + since * (_AGES - 1) // (theme.YOUNG_NS - theme.FRESH_NS)
    return np.asarray(np.clip(step, 0, _AGES - 1))
