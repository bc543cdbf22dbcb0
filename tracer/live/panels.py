"""The panels of a picture: each draws itself into a part of the canvas."""

import math

import numpy as np
from rich.cells import cell_len

from tracer.common import units
from tracer.common.pages import PAGE_SHIFT, PAGE_SIZE
from tracer.common.text import printable
from tracer.live import theme
from tracer.live.arrange import Row, Stat
from tracer.live.canvas import Canvas
from tracer.live.model import Area
from tracer.live.pages import State
from tracer.live.rates import GAINED, MAPPED, RELEASED, RESIDENT
from tracer.live.scene import Scene
from tracer.live.theme import FAINT, GREEN, GREY, KIND_STYLES, ORANGE, RED, SKY, YELLOW
from tracer.model.rows import ANONYMOUS, Kind, Names

_ROOMY = 100  # columns
_LEAST_DIGITS = 6  # of an address: 16 MiB and less apart
_WINDOW_NS = 60_000_000_000  # of the sparklines, in a long run
_KEYS = (
    ("space", "freeze the display, and resume; the trace keeps running"),
    ("left right , .", "back and forth in time; < > ten steps; Home start; End now"),
    ("up down Tab", "step through the regions; PgUp and PgDn scroll"),
    ("f", "only the selected region; again: all regions"),
    ("/", "only regions whose name contains what you type; Esc: all"),
    ("k K", "only pages and faults of one kind: next, previous"),
    ("s", "sort: by activity, address, pages mapped, faults, name"),
    ("t", "switch between table and map"),
    ("c", "call stacks by memory gained (needs --stacks), and back"),
    ("+ - 0", "fewer or more pages per cell; 0: fit to the window"),
    ("Enter", "sent to the command; i: send all keys to it until Esc"),
    ("q", "stop tracing and quit; Ctrl-C works as without --live"),
)


def title(canvas: Canvas, scene: Scene) -> None:
    """Title: what is traced, by which probe; dropped events, always."""
    model, facts = scene.model, scene.model.facts
    counts = model.counts
    canvas.put(0, 0, " " * canvas.width, "reverse")
    lost = f" lost {counts.lost} "
    if counts.missed:
        lost += f" missed {counts.missed} "
    if counts.lost_other:
        lost += f" other records lost {counts.lost_other} "
    bad = counts.lost or counts.missed or counts.lost_other
    edge = canvas.right(canvas.width, 0, lost, f"bold white on {RED}" if bad else "reverse")
    dot = scene.charset.dot
    if model.ended:
        state = f" {dot} ended "
    elif scene.view.at_ns is not None:
        state = f" {dot} paused "
    elif model.busy:
        state = f" {dot} live, map behind "
    else:
        state = f" {dot} live "
    faults = f"{counts.faults} faults "
    edge = canvas.right(edge, 0, faults, "reverse")
    edge = canvas.right(edge, 0, state, "bold reverse")
    more = units.clip(_origin(scene), max((edge - 2) // 2, 0), scene.charset.units)
    room = max(edge - cell_len(more) - 3, 0)
    x = canvas.put(1, 0, units.clip(facts.what, room, scene.charset.units), "bold reverse")
    canvas.put(x, 0, f" {more}", "reverse")


def _origin(scene: Scene) -> str:
    """Where the data come from: probe, host, kernel."""
    facts = scene.model.facts
    return f"{facts.probe} on {facts.host} {facts.kernel}"


def totals(canvas: Canvas, y: int, scene: Scene) -> None:
    """Pages mapped over time, resident ones where there is room, frames gained and released."""
    until = scene.now_ns
    sums = scene.model.rates.totals(until)
    levels = [("mapped", MAPPED)]
    if canvas.width >= _ROOMY and sums[RESIDENT]:
        levels.append(("resident", RESIDENT))
    x = 1
    for word, column in levels:
        x = canvas.put(x, y, f"{word} ", GREY)
        x = canvas.put(x, y, f"{units.size(int(sums[column]) << PAGE_SHIFT):>8} ", f"bold {GREEN}")
    width = max(canvas.width - 50 - x, 12)
    bins, _ = scene.model.rates.spans(until, width, _WINDOW_NS)
    x = canvas.put(x, y, spark([int(n) for n in bins[:, MAPPED]], width, scene), GREEN)
    recent = scene.model.rates.second(until)
    x = canvas.put(x, y, "  frames", GREY)
    for word, column, style, sign in (
        ("gained", GAINED, YELLOW, "+"),
        ("released", RELEASED, RED, scene.charset.units.minus),
    ):
        x = canvas.put(x, y, f" {word} ", GREY)
        x = canvas.put(x, y, f"{int(sums[column])}", f"bold {style}")
        now = int(recent[column])
        if now:
            x = canvas.put(x, y, f" {sign}{units.short_count(now)}/s", style)


def spark(values: list[int], width: int, scene: Scene, most: int | None = None) -> str:
    """A line of bars, the latest at the right; nothing is a blank."""
    bars = scene.charset.bars
    top = max(most or max(values, default=0), 1)
    cells = [
        " " if value <= 0 else bars[min(value * len(bars) // (top + 1), len(bars) - 1)]
        for value in values[-width:]
    ]
    return "".join(cells).rjust(width)


def rates(canvas: Canvas, x: int, y: int, width: int, end: int, scene: Scene) -> None:
    """Faults a second, a sparkline for each kind."""
    until = scene.now_ns
    room = max(width - 24, 8)
    bins, span = scene.model.rates.spans(until, room, _WINDOW_NS)
    recent = scene.model.rates.second(until)
    title = f"faults/s by kind, {span / 1e9:.3g} s per bar"
    canvas.rule(x, y, width, title, scene.charset.line, FAINT)
    sums = scene.model.rates.totals(until)
    kinds = sorted((k for k in Kind if sums[k]), key=lambda k: -sums[k])
    if scene.view.kind is not None:
        kinds = [scene.view.kind, *(k for k in kinds if k != scene.view.kind)]
    shown = kinds[: max(end - y - 1, 0)]
    most = int(bins[:, shown].max(initial=0)) if shown else 0
    for row, kind in enumerate(shown):
        at = y + 1 + row
        style = KIND_STYLES.get(kind, GREY)
        if scene.view.kind not in (None, kind):
            style = FAINT
        values = [int(n) for n in bins[:, kind]]
        canvas.put(x + 1, at, f"{kind.name.lower():<9}", style)
        # By the square root: a burst leaves room for what comes after it.
        heights = [math.isqrt(value * 10_000) for value in values]
        canvas.put(x + 10, at, spark(heights, room, scene, math.isqrt(most * 10_000)), style)
        rate = int(recent[kind])
        canvas.right(x + width - 7, at, f"{units.short_count(rate)}/s", "bold" if rate else FAINT)
        canvas.right(x + width, at, units.short_count(int(sums[kind])), GREY)
    if not kinds:
        canvas.put(x + 1, y + 1, "no fault yet", GREY)


def slowest(canvas: Canvas, x: int, y: int, width: int, end: int, scene: Scene) -> None:
    """The slowest faults so far."""
    canvas.rule(x, y, width, "slowest faults", scene.charset.line, FAINT)
    rows = scene.model.slowest(scene.now_ns, max(end - y - 1, 0), scene.wanted)
    names = scene.model.names
    for number, row in enumerate(rows):
        at, kind = y + 1 + number, Kind(int(row["kind"]))
        style = f"bold {RED}" if row["major"] else ""
        canvas.put(
            x + 1, at, f"{units.latency(int(row['latency_ns']), scene.charset.units):>8}", style
        )
        word = kind.name.lower() + ("!" if row["major"] else "")
        canvas.put(x + 10, at, f"{word:<9}", KIND_STYLES.get(kind, GREY))
        name = names.regions[int(row["region"])].name
        canvas.put(x + 20, at, units.region(name, max(width - 20, 1), scene.charset.units))


def lines(canvas: Canvas, x: int, y: int, width: int, end: int, scene: Scene) -> None:
    """The latest faults, the newest last."""
    canvas.rule(x, y, width, "latest faults", scene.charset.line, FAINT)
    rows = scene.model.lines(scene.now_ns, max(end - y - 1, 0), scene.wanted)
    if not len(rows):
        what = "no faults kept from that time" if scene.view.at_ns is not None else "none yet"
        canvas.put(x + 1, y + 1, what, GREY)
    names, glyphs = scene.model.names, scene.charset.units
    started = scene.model.facts.started_ns
    for number, row in enumerate(rows):
        at, kind = y + 1 + number, Kind(int(row["kind"]))
        style = KIND_STYLES.get(kind, GREY)
        canvas.right(x + 11, at, units.clock(int(row["time_ns"]), "relative", started), GREY)
        word = kind.name.lower() + ("!" if row["major"] else "")
        canvas.put(x + 12, at, f"{word:<9}", style)
        page = int(row["address"]) & ~(PAGE_SIZE - 1)
        more = f" +{int(row['pages']) - 1}" if row["pages"] > 1 else ""
        canvas.put(x + 22, at, f"{page:#x}{more}", "bold", 20)
        canvas.put(x + 43, at, units.frame(int(row["frame"]), glyphs), style, 12)
        canvas.right(x + 64, at, units.latency(int(row["latency_ns"]), glyphs))
        _who(canvas, x + 66, at, x + width, row, names, scene)


def _who(
    canvas: Canvas, x: int, y: int, end: int, row: np.void, names: Names, scene: Scene
) -> None:
    """Region and, where there is room, thread."""
    glyphs = scene.charset.units
    name = names.regions[int(row["region"])].name
    room = end - x
    thread = 20 if room >= 44 else 0
    canvas.put(x, y, units.region(name, max(room - thread - 1, 1), glyphs))
    if thread:
        comm = names.comms[int(row["comm"])]
        text = units.thread(comm, int(row["tid"]), int(row["pid"]), False, thread, glyphs)
        canvas.put(end - thread, y, text, GREY)


def output(canvas: Canvas, x: int, y: int, width: int, end: int, scene: Scene) -> None:
    """The command's output."""
    keys = "keys go to the command; Esc ends" if scene.view.talking else "command output"
    canvas.rule(x, y, width, keys, scene.charset.line, ORANGE if scene.view.talking else FAINT)
    for number, line in enumerate(scene.output[-(end - y - 1) :]):
        canvas.put(x + 1, y + 1 + number, units.clip(line, width - 1, scene.charset.units))


def map_title(
    canvas: Canvas, x: int, y: int, width: int, scene: Scene, zoom: int, rows: int, height: int
) -> None:
    """What a cell is, and the legend."""
    charset = scene.charset
    cell = "1 page/cell" if zoom == 1 else f"{units.size(zoom << PAGE_SHIFT)}/cell"
    title = f"page map, {cell}"
    canvas.rule(x, y, width, title, charset.line, FAINT)
    at = x + len(title) + 3
    legend = [
        (charset.fresh, "new", theme.GAINED[0]),
        (charset.states[State.RESIDENT] if zoom == 1 else charset.fill[4], "res", GREEN),
        (charset.states[State.ZERO], "zero", SKY),
        (charset.states[State.HUGE], "huge", theme.PINK),
        (charset.states[State.SWAPPED], "swap", theme.BLUE),
        (charset.states[State.RELEASED], "gone", RED),
        (charset.states[State.ABSENT], "none", GREY),
    ]
    most = " " + _position(scene, rows, height)
    edge = canvas.right(x + width, y, most, FAINT)
    for glyph, word, style in legend:
        if at + len(word) + 2 > edge:
            break
        at = canvas.put(at, y, glyph, style)
        at = canvas.put(at, y, f"{word} ", GREY)


def _position(scene: Scene, rows: int, height: int) -> str:
    """Which part of the lines is in sight, and how they are sorted."""
    top = scene.view.top
    if rows <= height:
        return f"by {scene.view.sort}"
    return f"{top + 1}-{min(top + height, rows)}/{rows} by {scene.view.sort}"


def _name(area: Area, width: int, scene: Scene) -> str:
    """An area's name; where many have it, as much of their addresses as there is room for."""
    glyphs = scene.charset.units
    name = units.region(area.name, width, glyphs)
    if area.name not in ANONYMOUS:
        return name
    room = width - cell_len(name) - 1
    address = f"{area.start:#x}"
    if room < len(address):
        digits = room - len(glyphs.dots)
        if digits < _LEAST_DIGITS:
            return name
        address = glyphs.dots + address[-digits:]
    return f"{name} {address}"


def region_label(
    canvas: Canvas, x: int, y: int, width: int, stat: Stat, row: Row, scene: Scene, first: bool
) -> None:
    """Name, permissions and how much is mapped; on later lines of an area their address."""
    area = stat.area
    chosen = area.key == scene.view.selected
    mark = f"bold {ORANGE}" if chosen else ""
    canvas.put(x, y, scene.charset.marker if chosen else " ", mark)
    if not row.head and not first:
        canvas.put(x + 3, y, f"{row.first << PAGE_SHIFT:#x}", FAINT, width - 3)
        return
    amount = f"{units.short_count(stat.mapped)}/{units.short_count(area.pages)}"
    canvas.right(x + width, y, amount, "bold" if stat.mapped else GREY)
    room = width - 2 - 4 - 11
    pid = f"{area.pid} " if scene.several else ""
    at = canvas.put(x + 1, y, pid, GREY, room)
    name = _name(area, max(room - len(pid), 1), scene)
    canvas.put(at, y, name, mark or ("" if stat.mapped else GREY))
    canvas.put(x + width - 11 - 4, y, area.perms, GREY, 4)


def table(canvas: Canvas, x: int, y: int, width: int, end: int, scene: Scene) -> None:
    """The regions as a table."""
    height = end - y - 2
    top = scene.view.top
    canvas.rule(x, y, width, "regions", scene.charset.line, FAINT)
    canvas.right(x + width, y, " " + _position(scene, len(scene.stats), height), FAINT)
    columns = [("size", 9), ("mapped", 9), ("zero", 6), ("huge", 6), ("gone", 6), ("faults", 7)]
    heads = x + width - sum(wide for _, wide in columns)
    at = heads
    canvas.put(x + 2, y + 1, "region", f"bold {GREY}")
    for word, wide in columns:
        at += wide
        canvas.right(at, y + 1, word, f"bold {GREY}")
    for number, stat in enumerate(scene.stats[top : top + height]):
        _table_row(canvas, x, y + 2 + number, heads, [wide for _, wide in columns], stat, scene)


def _table_row(
    canvas: Canvas, x: int, y: int, heads: int, widths: list[int], stat: Stat, scene: Scene
) -> None:
    area = stat.area
    chosen = area.key == scene.view.selected
    mark = f"bold {ORANGE}" if chosen else ""
    canvas.put(x, y, scene.charset.marker if chosen else " ", mark)
    pid = f"{area.pid} " if scene.several else ""
    room = heads - x - 2
    address = f"{area.start:#x} " if room > 44 else ""
    at = canvas.put(x + 2, y, pid + address, GREY, room)
    at = canvas.put(at, y, f"{area.perms} ", GREY, max(heads - at, 0))
    left = max(heads - at, 1)
    name = (
        units.region(area.name, left, scene.charset.units) if address else _name(area, left, scene)
    )
    canvas.put(at, y, name, mark)
    # Fault counts are of the whole run, not of a moment in it.
    faults = "" if scene.view.at_ns is not None and not scene.model.ended else f"{stat.faults}"
    values = [
        (units.size(area.end - area.start), GREY),
        (units.size(stat.mapped << PAGE_SHIFT), f"bold {GREEN}" if stat.mapped else FAINT),
        (units.short_count(stat.zero), SKY if stat.zero else FAINT),
        (units.short_count(stat.huge), theme.PINK if stat.huge else FAINT),
        (
            units.short_count(stat.released + stat.swapped),
            RED if stat.released + stat.swapped else FAINT,
        ),
        (faults, ""),
    ]
    at = heads
    for (text, style), wide in zip(values, widths, strict=True):
        at += wide
        canvas.right(at, y, text, style)


def code(canvas: Canvas, x: int, y: int, width: int, end: int, scene: Scene) -> None:
    """The call stacks that gained most memory in the whole run, the faulting code first."""
    title = "call stacks by memory gained, innermost function first"
    canvas.rule(x, y, width, title, scene.charset.line, FAINT)
    if scene.model.callers is None:
        canvas.put(x + 2, y + 1, "needs a trace started with --stacks", GREY)
        return
    stacks = scene.model.callers.leading(max(end - y - 2, 1))
    canvas.right(x + 10, y + 1, "gained", f"bold {GREY}")
    canvas.right(x + 18, y + 1, "faults", f"bold {GREY}")
    canvas.put(x + 20, y + 1, "call stack", f"bold {GREY}")
    for number, (size, faults, words) in enumerate(stacks):
        at = y + 2 + number
        canvas.right(x + 10, at, units.size(size), f"bold {GREEN}")
        canvas.right(x + 18, at, units.short_count(faults))
        first, *callers = words or [""]
        room = width - 20
        after = canvas.put(x + 20, at, units.clip(first, room, scene.charset.units), "bold", room)
        rest = scene.charset.units.called_by.join(["", *callers])
        left = max(x + width - after, 0)
        canvas.put(after, at, units.clip(rest, left, scene.charset.units), GREY, left)
    if not stacks:
        canvas.put(x + 2, y + 2, "no fault yet", GREY)


def footer(canvas: Canvas, y: int, scene: Scene) -> None:
    """The keys, or where in time the picture is."""
    view, model = scene.view, scene.model
    if view.typing:
        x = canvas.put(0, y, " name contains: ", f"bold {ORANGE}")
        canvas.put(x, y, printable(view.find) + "_", "bold")
        return
    clock = units.clock(scene.now_ns, "relative", model.facts.started_ns)[:-3] + " s "
    edge = canvas.right(canvas.width, y, clock, "bold")
    at = 0
    filters = view.filters([stat.area for stat in scene.stats])
    if filters:
        at = canvas.put(0, y, f" filter: {printable(filters)} ", f"bold {ORANGE} reverse", edge)
        at = canvas.put(at, y, " Esc: clear ", GREY, edge - at)
    if view.at_ns is not None:
        _scrubber(canvas, at + 1, y, edge - at - 2, scene)
        return
    hints = ["q quit", "? help", "space pause", "arrows time, regions", "k kind", "/ name"]
    hints += ["s sort", "t table", *(["c stacks"] if model.callers is not None else []), "+- zoom"]
    for hint in hints:
        key, _, word = hint.partition(" ")
        if at + len(hint) + 2 > edge:
            break
        at = canvas.put(at + 1, y, key, "bold")
        at = canvas.put(at + 1, y, word, GREY) + 1


def _scrubber(canvas: Canvas, x: int, y: int, width: int, scene: Scene) -> None:
    """A line from the run's start to its latest moment, with a knob at the one shown."""
    model, charset = scene.model, scene.charset
    start, end = model.start_ns, max(model.latest_ns, model.start_ns + 1)
    label = f"{units.clock(start, 'relative', model.facts.started_ns)[:-4]} "
    tail = f" {units.clock(end, 'relative', model.facts.started_ns)[:-4]} s"
    keys = "  space: resume, End: now"
    if width >= len(label) + len(tail) + len(keys) + 12:
        tail += keys
    room = max(width - len(label) - len(tail), 4)
    knob = round((scene.now_ns - start) / (end - start) * (room - 1))
    at = canvas.put(x, y, label, GREY)
    canvas.put(at, y, charset.track * room, FAINT)
    canvas.put(at, y, charset.track * max(min(knob, room - 1), 0), ORANGE)
    canvas.put(at + max(min(knob, room - 1), 0), y, charset.knob, f"bold {ORANGE}")
    canvas.put(at + room, y, tail, GREY)


def help_page(canvas: Canvas, y: int, end: int, scene: Scene) -> None:
    """What the keys do and what the glyphs mean."""
    canvas.rule(0, y, canvas.width, "help", scene.charset.line, FAINT)
    at = y + 1
    for keys, words in _KEYS:
        if keys == "Enter" and not scene.command:
            continue
        canvas.put(2, at, keys, f"bold {ORANGE}")
        canvas.put(18, at, words, "", canvas.width - 18)
        at += 1
    charset = scene.charset
    meanings = [
        (charset.states[State.ABSENT], "no frame yet", GREY),
        (charset.fresh, "gained a frame in the last second; fades over five more", YELLOW),
        (
            charset.states[State.RESIDENT],
            f"has a frame; {charset.fill}: how many of a cell's pages have one",
            GREEN,
        ),
        (charset.states[State.ZERO], "mapped to the shared zero page", SKY),
        (charset.states[State.HUGE], "part of a huge page", theme.PINK),
        (charset.states[State.SWAPPED], "reclaimed: swapped out, or dropped", theme.BLUE),
        (charset.states[State.RELEASED], "had a frame, which was released", RED),
    ]
    at += 1 if end - at > len(meanings) else 0
    for glyph, words, style in meanings:
        if at >= end:
            break
        canvas.put(3, at, glyph, style)
        canvas.put(18, at, words, "", canvas.width - 18)
        at += 1
    facts, glyphs = scene.model.facts, charset.units
    counts, seconds = scene.model.counts, (scene.now_ns - facts.started_ns) / 1e9
    made = f"traced: {facts.what}, {_origin(scene)}, {counts.faults} faults, {counts.lost} lost"
    made += f", {seconds:.3f} s"
    canvas.put(2, end, units.clip(made, canvas.width - 24, glyphs), GREY)
    canvas.right(canvas.width - 1, end, "any key: back", "bold")
