"""The pictures: golden screens of a recorded trace, every size, hostile names, few colours."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.color import ColorSystem

from docs.images.draw_live import DATA, HERE, PICTURES, SCREENS, svg
from tests.unit import live_tape, outputs_data
from tests.unit.live.test_live_model import FACTS, SECOND, START, area, changes
from tracer.common.text import printable
from tracer.live.canvas import Canvas, Painter
from tracer.live.model import Area, Facts, Model
from tracer.live.pages import CHANGE, State
from tracer.live.screen import compose
from tracer.live.theme import FRESH_NS, PLAIN, Charset, charset_for
from tracer.live.view import View
from tracer.model.rows import Kind, Names

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202eevil\n\r\udcff/日本\u0301"


@pytest.mark.parametrize("name", SCREENS)
def test_golden(name: str) -> None:
    """Made anew with `python -m docs.images.draw_live`: look at what changed."""
    assert SCREENS[name]().plain() == (DATA / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_of_this_view(name: str) -> None:
    drawn = svg(PICTURES[name](), "sudo pagefault-trace --live -- ./work")
    assert drawn == (HERE / f"{name}.svg").read_text()


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(
    ("width", "height"), [(20, 5), (40, 10), (79, 23), (80, 24), (109, 24), (110, 24), (250, 90)]
)
def test_every_size(width: int, height: int, table: bool) -> None:
    model = live_tape.load().play(2_000_000_000)
    for view in (View(table=table), View(table=table, help=True), View(at_ns=model.start_ns)):
        lines = compose(model, view, width, height, Charset(), output=["said"]).plain().split("\n")
        assert len(lines) == height + 1
        assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("view", [View(), View(table=True), View(help=True), View(at_ns=START)])
def test_an_empty_run(view: View) -> None:
    drawn = compose(Model(FACTS, Names()), view, 80, 24, Charset()).plain()
    assert "lost 0" in drawn


@pytest.mark.parametrize("width", [80, 120])
def test_lost_events_are_always_in_sight(width: int) -> None:
    model = Model(Facts("x" * 300, "host" * 20, "6.12.1", "perf", START), Names())
    model.counts.lost, model.counts.missed = 1234, 5
    for view in (View(), View(table=True), View(help=True), View(at_ns=START, typing=True)):
        canvas = compose(model, view, width, 24, Charset())
        assert "lost 1234" in canvas.plain().splitlines()[0]
        assert any("lost 1234" in text and "d55e00" in style for text, style in canvas.runs(0))


def test_the_origin_is_always_shown() -> None:
    model = Model(Facts("x" * 300, "host", "6.12.1", "perf", START), Names())
    first = compose(model, View(), 80, 24, Charset()).plain().splitlines()[0]
    assert "perf on host 6.12.1" in first


class Code:
    """Call stacks as a trace counts them."""

    def leading(self, count: int) -> list[tuple[int, int, list[str]]]:
        return [(1 << 20, 256, [printable(HOSTILE), "main"]), (4096, 1, ["x" * 300])][:count]


def test_which_code_it_was() -> None:
    model = Model(FACTS, Names())
    assert "--stacks" in compose(model, View(code=True), 80, 24, Charset()).plain()
    model.callers = Code()
    for width in (80, 120):
        canvas = compose(model, View(code=True), width, 24, Charset())
        drawn = canvas.plain()
        assert "c stacks" in drawn or width == 80
        assert "1 MiB" in drawn
        assert max(map(cell_len, drawn.split("\n"))) <= width
    view = View()
    view.press("c", model)
    assert view.code
    view.press("t", model)
    assert not view.code
    assert not view.table


@pytest.mark.parametrize("table", [False, True])
def test_hostile_names_do_no_harm(table: bool) -> None:
    names = outputs_data.names(region=HOSTILE, comm=HOSTILE)
    model = Model(FACTS, names)
    model.set_areas(START, (area(0x7F03141A2, 64, name=HOSTILE),))
    model.write(outputs_data.rows(20, comm=1, region=1), names)
    view = View(table=table, find=HOSTILE[:0])
    for width in (80, 120, 200):
        drawn = compose(model, view, width, 30, Charset()).plain()
        for char in drawn:
            assert char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl"), drawn
    assert printable(HOSTILE)[:6] in drawn
    view.typing = True
    for key in "\u202e\x1b":
        view.press(key, model)
    assert "\u202e" not in compose(model, view, 80, 24, Charset()).plain()


def test_states_are_distinguished_without_colour() -> None:
    """A cell a page: each state has a glyph of its own; without Unicode, too."""
    for charset in (Charset(), PLAIN):
        assert len({*charset.states.values(), charset.fresh}) == len(charset.states) + 1
        old, now = START, START + 10 * FRESH_NS
        pages = [(page, old, state) for page, state in enumerate(State)]
        model = Model(FACTS, Names())
        model.change(changes(*pages, (9, now, State.RESIDENT)))
        model.set_areas(START, (area(0, 12, name="here"),))
        drawn = compose(model, View(), 80, 24, charset, now).plain()
        row = next(line for line in drawn.splitlines() if line.startswith(" here"))
        cells = "".join(charset.states[state] for state in State)
        none = charset.states[State.ABSENT]
        assert row.endswith(f" {cells}{none * 3}{charset.fresh}{none * 2}")


def test_fresh_gains_glow_and_fade() -> None:
    model = Model(FACTS, Names())
    model.change(changes((0, START, State.RESIDENT)))
    model.set_areas(START, (area(0, 1, name="here"),))

    def style(age: float) -> str:
        now = START + int(age * FRESH_NS)
        canvas = compose(model, View(), 80, 24, Charset(), now)
        row = next(y for y in range(24) if canvas.plain().splitlines()[y].startswith(" here"))
        return next(style for text, style in canvas.runs(row) if text[0] in "■◆")

    seen = [style(age) for age in (0.1, 1.1, 2.5, 4.0, 5.9, 7.0, 100.0)]
    assert len(set(seen[:5])) >= 4
    assert seen[-2] == seen[-1] == "#009e73"


def test_a_picture_from_an_ascii_terminal_is_ascii() -> None:
    assert charset_for("ascii") is PLAIN
    assert charset_for(None) is PLAIN
    assert charset_for("utf-8") == Charset()
    assert compose(live_tape.load().play(), View(), 80, 24, PLAIN).plain().isascii()


def test_only_rows_that_changed_are_sent() -> None:
    canvas, painter = Canvas(20, 3), Painter(ColorSystem.TRUECOLOR)
    canvas.put(0, 1, "one", "bold #009e73")
    first = painter.paint(canvas)
    assert "\x1b[2J" in first
    assert "\x1b[1;38;2;0;158;115mone\x1b[0m" in first
    assert painter.paint(canvas) == ""
    other = Canvas(20, 3)
    other.put(0, 1, "two")
    second = painter.paint(other)
    assert "\x1b[2;1H" in second
    assert "\x1b[1;1H" not in second
    assert "\x1b[2J" in painter.paint(Canvas(21, 3))  # resized
    painter.forget()
    assert "\x1b[2J" in painter.paint(Canvas(21, 3))


def test_without_colours_none_are_sent() -> None:
    canvas = Canvas(20, 1)
    canvas.put(0, 0, "one", "bold #009e73 on #d55e00")
    sent = Painter(None).paint(canvas)
    assert "\x1b[1mone" in sent
    assert ";38" not in sent
    assert ";48" not in sent
    assert "[38" not in sent


def test_wide_characters_take_two_cells() -> None:
    canvas = Canvas(6, 1)
    assert canvas.put(0, 0, "日本語") == 6
    assert canvas.put(5, 0, "日") == 5  # no half of one
    assert canvas.plain() == "日本語\n"
    assert cell_len(Canvas(6, 1).plain().rstrip("\n")) <= 6


def test_a_sparse_terabyte_is_a_few_lines() -> None:
    model = Model(FACTS, Names())
    far = 1 << 28  # pages: a terabyte
    pages = [(page, 0, State.RESIDENT) for page in (0, 1, far // 2, far - 1)]
    model.change(changes(*pages))
    model.set_areas(START, (area(0, far, name="sparse"),))
    view = View()
    drawn = compose(model, view, 120, 40, Charset(), START).plain()
    assert view.lines <= 40
    assert "untouched" in drawn
    view.zoom = 1
    assert "GiB untouched" in compose(model, view, 120, 40, Charset(), START).plain()
    assert view.lines < 10


def test_many_processes_are_distinguished() -> None:
    model = Model(FACTS, Names())
    areas = [area(0x100, 4, space=space, name=f"of{space}") for space in (1, 2)]
    areas[1] = replace(areas[1], pid=5555)
    model.set_areas(START, tuple(areas))
    drawn = compose(model, View(), 120, 40, Charset()).plain()
    assert "4242 of1" in drawn
    assert "5555 of2" in drawn


def test_what_is_kept_of_the_last_picture_is_what_would_be_drawn_anew() -> None:
    """Pages come, go and age; regions grow and vanish; a kind is chosen, and time gone back in."""
    model = Model(FACTS, Names())
    kept = View(zoom=4, sort="address")
    random = np.random.default_rng(11)
    for step in range(60):
        now = START + step * SECOND // 3
        spans = [(64, 300 + step // 20 * 64), (1024, 40), (4096, 900)]
        if step % 13 == 12:
            del spans[1]
        areas = [
            Area(1, 7, first << 12, (first + count) << 12, "rw-p", "[anon]")
            for first, count in spans
        ]
        model.set_areas(now, tuple(areas))
        count = int(random.integers(0, 6)) if step % 3 else 0
        made = np.zeros(count, CHANGE)
        made["page"] = random.choice([64, 1024, 4096], count) + random.integers(0, 300, count)
        made["time_ns"], made["space"] = now, 1
        made["state"] = random.integers(1, 6, count)
        made["kind"] = random.choice([Kind.ANON, Kind.FILE], count)
        model.change(made)
        kept.kind = Kind.ANON if step % 17 > 13 else None
        kept.at_ns = START + SECOND if step in (30, 31) else None
        anew = View(zoom=4, sort="address", kind=kept.kind, at_ns=kept.at_ns)
        pictures = [compose(model, view, 80, 40, Charset(), now) for view in (kept, anew)]
        rows = [[picture.row(y) for y in range(40)] for picture in pictures]
        assert rows[0] == rows[1], step


def test_by_activity_what_was_gained_last_comes_first() -> None:
    """And in an order that does not change while nothing is gained."""
    model = Model(FACTS, Names())
    areas = [Area(1, 7, at << 20, (at << 20) + 4096, "rw-p", f"/f{at}") for at in range(1, 5)]
    model.set_areas(START, tuple(areas))
    for at, second in ((1, 1.2), (2, 2.6), (4, 4)):
        made = np.zeros(1, CHANGE)
        made["page"], made["space"], made["state"] = at << 8, 1, State.RESIDENT
        made["time_ns"] = START + int(second * SECOND)
        model.change(made)
    for later in (4.1, 5, 6.5, 9, 60.7):
        view = View()
        compose(model, view, 80, 24, Charset(), START + int(later * SECOND))
        order = [start >> 20 for _, start in view.listed]
        assert order == ([2, 4, 1, 3] if later < 4.2 else [4, 2, 1, 3]), later


@pytest.mark.parametrize(("width", "shown"), [(80, False), (100, True), (120, True)])
def test_what_is_mapped_and_what_of_it_is_resident(width: int, shown: bool) -> None:
    """Six processes that share most: once it was counted, and where there is room."""
    model = Model(FACTS, Names())
    model.frames(START + SECOND, 19_200, 19_300, 100)
    line = compose(model, View(), width, 24, Charset(), START + 2 * SECOND).plain().splitlines()[1]
    assert line.startswith(" mapped   75 MiB ")
    assert "resident" not in line
    model.resident(START + SECOND, 4096)
    line = compose(model, View(), width, 24, Charset(), START + 2 * SECOND).plain().splitlines()[1]
    assert line.startswith(" mapped   75 MiB ")
    assert ("resident   16 MiB " in line) == shown
