"""The pictures of the live view, and the screens the tests compare with: of one recorded trace.

    sudo .venv/bin/python -m docs.images.draw_live --record     trace live_work.py anew
    .venv/bin/python -m docs.images.draw_live                   draw what was recorded

The trace is tests/unit/data/live.npz, the screens are beside it; the pictures go to docs/images.
"""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.unit import live_tape
from tracer.live.canvas import Canvas
from tracer.live.model import Model
from tracer.live.screen import compose
from tracer.live.theme import PLAIN, Charset
from tracer.live.view import View

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DATA = live_tape.FILE.parent
SECOND = 1_000_000_000
AT = 3_100_000_000  # since the start: the moment pictured
FILTER: dict[str, Any] = {"find": "anon", "sort": "address"}


def live(width: int, height: int, charset: Charset | None = None, **chosen: object) -> Canvas:
    """The picture while the trace runs."""
    model = live_tape.load().play(AT)
    view = View(**chosen)  # type: ignore[arg-type]
    now = model.facts.started_ns + AT
    return compose(model, view, width, height, charset or Charset(), now)


def ended(width: int, height: int, keys: str = "", **chosen: object) -> Canvas:
    """The picture after the trace, some keys later (names of tracer.live.keys)."""
    model = live_tape.load().play()
    view = View(**chosen)  # type: ignore[arg-type]
    compose(model, view, width, height, Charset())
    for key in keys.split():
        view.press(key, model)
        compose(model, view, width, height, Charset())
    return compose(model, view, width, height, Charset())


SCREENS: dict[str, Callable[[], Canvas]] = {
    "live-80x24": lambda: live(80, 24, **FILTER),
    "live-120x40": lambda: live(120, 40, **FILTER),
    "live-ascii-80x24": lambda: live(80, 24, PLAIN, **FILTER),
    "live-all-100x30": lambda: live(100, 30),
    "live-table-80x24": lambda: ended(80, 24, "s s t down down", find="anon"),
    "live-scrubbed-120x40": lambda: ended(120, 40, "down down < <", **FILTER),
    "live-kind-80x24": lambda: ended(80, 24, "k k", **FILTER),
    "live-help-80x24": lambda: ended(80, 24, "?"),
}
PICTURES: dict[str, Callable[[], Canvas]] = {
    "live": SCREENS["live-120x40"],
    "live-table": lambda: ended(120, 32, "s s t down down"),
    "live-scrubbed": SCREENS["live-scrubbed-120x40"],
}


def svg(canvas: Canvas, title: str) -> str:
    """A canvas as rich exports it."""
    console = Console(record=True, width=canvas.width, file=io.StringIO(), color_system="truecolor")
    console.print(canvas.text())
    return console.export_svg(title=title, unique_id="live")


def record() -> None:
    """Trace the work, as `pagefault-trace --live` does, and keep what the model was told."""
    from tracer.live import app, start

    made: list[live_tape.Recording] = []

    def recording(*given: object) -> Model:
        made.append(live_tape.Recording(*given))  # type: ignore[arg-type]
        return made[0]

    vars(app)["Model"] = recording
    start.LiveScreen.linger = lambda self, result, signals: self._live.finish(  # type: ignore
        result.books, result.ended_ns
    )
    from tracer.app.cli import run

    status = run(["--live", "--", sys.executable, "-ISB", str(HERE / "live_work.py")])
    made[0].save()
    raise SystemExit(status)


def main() -> None:
    """Record, in the terminal this is run in, or draw."""
    if "--record" in sys.argv:
        record()
    for name, make in SCREENS.items():
        (DATA / f"{name}.txt").write_text(make().plain())
    for name, make in PICTURES.items():
        title = "sudo pagefault-trace --live -- ./work"
        (HERE / f"{name}.svg").write_text(svg(make(), title))


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
