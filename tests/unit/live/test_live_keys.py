"""The bytes a terminal sends, and what the keys do to the view."""

import pytest

from tests.unit import live_tape
from tracer.live.keys import Keys
from tracer.live.model import Model
from tracer.live.screen import compose
from tracer.live.theme import Charset
from tracer.live.view import View
from tracer.model.rows import Kind, Rows


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"qk", ["q", "k"]),
        (b"\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "right", "left"]),
        (b"\x1b[1;2C", ["shift-right"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page-up", "page-down", "home", "end"]),
        (b"\t\x1b[Z \r\n\x7f", ["tab", "back-tab", "space", "enter", "enter", "backspace"]),
        ("äß€".encode(), ["ä", "ß", "€"]),
        (b"\x1b[200~x", ["x"]),  # known to nobody
        (b"\x1b[<0;3;4Mx", ["x"]),  # a mouse
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"\x01\x02q", ["q"]),
        (b"\xff\xfeq", ["\ufffd", "\ufffd", "q"]),
    ],
)
def test_bytes_become_keys(sent: bytes, keys: list[str]) -> None:
    assert Keys().feed(sent) == keys
    # However they are cut.
    one = Keys()
    assert [key for at in range(len(sent)) for key in one.feed(sent[at : at + 1])] == keys


def test_an_escape_is_known_once_nothing_follows() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.waiting
    assert keys.timeout() == ["escape"]
    assert not keys.waiting
    assert keys.timeout() == []
    assert keys.feed(b"\x1b[") == []
    assert keys.feed(b"A") == ["up"]


@pytest.fixture
def model() -> Model:
    return live_tape.load().play()


def press(view: View, model: Model, keys: str, command: bool = False) -> str:
    for key in keys.split():
        view.press(key, model, command=command)
        said = ["hello"] if command else None
        drawn = compose(model, view, 120, 40, Charset(), output=said).plain()
    return drawn


def test_pause_and_scrub(model: Model) -> None:
    view = View()
    assert "paused" not in press(view, model, "space")  # it has ended
    assert view.at_ns == model.latest_ns
    press(view, model, "left left")
    assert view.at_ns is not None
    assert model.start_ns < view.at_ns < model.latest_ns
    press(view, model, "home")
    assert view.at_ns == model.start_ns
    press(view, model, "left")
    assert view.at_ns == model.start_ns
    press(view, model, "> > > > > > > > > > > > > > > >")
    assert view.at_ns == model.latest_ns
    press(view, model, "space")
    assert view.at_ns is None


def test_stopped_the_picture_stays() -> None:
    model = live_tape.load().play(2_000_000_000)
    view = View()
    press(view, model, "space")
    assert "paused" in compose(model, view, 120, 40, Charset()).plain()
    before = compose(model, view, 120, 40, Charset(), model.latest_ns).plain().splitlines()[2:]
    model.write(Rows.from_records(live_tape.load().rows[-50:]), model.names)
    later = model.latest_ns + 5_000_000_000
    after = compose(model, view, 120, 40, Charset(), later).plain().splitlines()[2:]
    assert after[:-1] == before[:-1]


def test_stepping_selects_and_scrolls(model: Model) -> None:
    view = View(sort="address")
    compose(model, view, 120, 40, Charset())
    press(view, model, "down")
    assert view.selected == view.listed[0]
    drawn = press(view, model, "down " * 60)
    assert view.selected == view.listed[60]
    assert "▶" in drawn
    assert view.top > 0
    press(view, model, "page-up page-up page-up page-up page-up page-up page-up page-up")
    assert view.top == 0
    press(view, model, "up")
    assert view.selected == view.listed[59]
    press(view, model, "up " * 80)
    assert view.selected == view.listed[0]


def test_filters_and_back(model: Model) -> None:
    view = View()
    everything = len(compose(model, view, 120, 40, Charset()).plain()), len(view.listed)
    drawn = press(view, model, "/ h e a P backspace p enter")
    assert view.find == "heap"
    assert len(view.listed) == 1
    assert "filter: name heap" in drawn
    press(view, model, "escape")
    assert len(view.listed) == everything[1]
    press(view, model, "down down f")
    assert len(view.listed) == 1
    assert "filter: this region" in press(view, model, "t")
    press(view, model, "t f")
    assert len(view.listed) == everything[1]
    drawn = press(view, model, "k")
    assert view.kind == model.kinds()[0]
    assert f"filter: kind {model.kinds()[0].name.lower()}" in drawn
    press(view, model, "K")
    assert view.kind is None
    press(view, model, "K")
    assert view.kind == model.kinds()[-1]
    lines = (
        compose(model, View(kind=Kind.HUGE), 120, 40, Charset()).plain().split("latest faults")[1]
    )
    assert "huge" in lines
    assert "anon " not in lines


def test_zoom_sort_table_help_and_leaving(model: Model) -> None:
    view = View()
    compose(model, view, 120, 40, Charset())
    fitting = view.shown_zoom
    press(view, model, "-")
    assert view.shown_zoom == fitting * 2
    press(view, model, "+ +")
    assert view.shown_zoom == max(fitting // 2, 1)
    press(view, model, "0")
    assert view.shown_zoom == fitting
    seen = []
    for _ in range(5):
        press(view, model, "s")
        seen.append(view.sort)
    assert seen == ["address", "mapped", "faults", "name", "active"]
    assert "mapped  zero" in press(view, model, "t")
    assert "page map" in press(view, model, "g")
    assert "step through the regions" in press(view, model, "?")
    assert "page map" in press(view, model, "x")
    assert not view.leaving
    press(view, model, "q")
    assert view.leaving


def test_keys_for_the_command(model: Model) -> None:
    view = View()
    press(view, model, "enter")
    assert view.sent == []  # there is none
    drawn = press(view, model, "enter i q space x enter", command=True)
    assert view.sent == [b"\n", b"q", b" ", b"x", b"\n"]
    assert "keys go to the command" in drawn
    assert not view.leaving
    assert "command output" in press(view, model, "escape", command=True)
    assert not view.talking
