"""pagefault-report html: one file that works by itself, in a real browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.unit.browser import Browser, Tab
from tests.unit.outputs_data import HOSTILE, PAGE, START, info, rows, table
from tests.unit.report_data import MARKUP, MS, demo, hostile, lossy, mixed, written
from tracer.common.errors import Exit
from tracer.common.text import printable
from tracer.model.rows import Kind
from tracer.model.sources import Source
from tracer.reporting import cli
from tracer.reporting.analysis.curves import mapped
from tracer.reporting.pictures.html import page
from tracer.reporting.pictures.replay import replay
from tracer.reporting.reading.run import load


def shown(browser: Browser, csv: str) -> Tab:
    """The page of a run, loaded."""
    file = Path(csv).with_suffix(".html")
    file.write_bytes(page(load(csv)))
    return browser.open(file)


def at(tab: Tab, step: int) -> str:
    """Move the slider; what the line beside it says then."""
    move = f"slider.value = {step}; slider.dispatchEvent(new Event('input')); now.textContent"
    return str(tab.evaluate(move))


def picture(tab: Tab) -> str:
    return str(tab.evaluate("canvas.toDataURL()"))


@pytest.mark.parametrize("make", [demo, mixed, lossy, hostile])
def test_it_loads_without_a_word_and_fetches_nothing(
    browser: Browser, tmp_path: Path, make: object
) -> None:
    tab = shown(browser, make(tmp_path / "t.csv"))  # type: ignore[operator]
    at(tab, 10)
    assert tab.complaints() == []
    outside = [url for url in tab.requests() if not url.startswith("data:")]
    assert outside == [(tmp_path / "t.html").as_uri()]
    assert tab.evaluate("document.getElementById('picture').naturalWidth") > 100


def test_the_slider_moves_the_map(browser: Browser, tmp_path: Path) -> None:
    tab = shown(browser, lossy(tmp_path / "t.csv"))
    end = picture(tab)
    assert tab.evaluate("[had, gone].map((each) => [...each])") == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert at(tab, 0) == "0.000 s · 1 faults · 4 KiB mapped"
    beginning = picture(tab)
    assert tab.evaluate("[...had]") == [0, 0, 0, 0]
    assert at(tab, 450) == "0.004 s · 4 faults · 16 KiB mapped"
    assert tab.evaluate("[had, gone].map((each) => [...each])") == [[1, 1, 1, 1], [0, 0, 0, 0]]
    middle = picture(tab)
    assert at(tab, 1000) == "0.010 s · 4 faults · 8 KiB mapped"
    assert picture(tab) == end
    assert len({beginning, middle, end}) == 3
    assert at(tab, 0).startswith("0.000 s")  # and back
    assert picture(tab) == beginning


def test_the_slider_follows_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    tab = shown(browser, lossy(tmp_path / "t.csv"))
    before = picture(tab)
    tab.evaluate("slider.focus()")
    tab.key("Home", 36)
    assert tab.evaluate("slider.value") == "0"
    assert picture(tab) != before


def test_play_replays_to_the_end(browser: Browser, tmp_path: Path) -> None:
    tab = shown(browser, demo(tmp_path / "t.csv"))
    at(tab, 990)
    tab.evaluate(
        "window.said = []; window.ended = new Promise((done) => new MutationObserver(() => {"
        "  said.push(play.textContent); if (play.textContent === 'Play') done(said);"
        "}).observe(play, {childList: true})); 0"
    )
    tab.click("#play")
    assert tab.evaluate("window.ended") == ["Pause", "Play"]
    assert tab.evaluate("slider.value") == "1000"


def test_pointing_at_a_cell_names_it(browser: Browser, tmp_path: Path) -> None:
    tab = shown(browser, lossy(tmp_path / "t.csv"))
    x, y = tab.evaluate(
        "(() => { canvas.scrollIntoView({block: 'center'});"
        " const b = canvas.getBoundingClientRect();"
        " return [b.x + side * 2.5, b.y + LABEL + side / 2]; })()"
    )
    tab.move(x, y)
    assert tab.evaluate("document.getElementById('cell').textContent") == (
        "[anon] 0x7f03141a4000–0x7f03141a5000: 1 of 1 page with a frame, anon"
    )


def test_tables_are_sorted_by_their_headers(browser: Browser, tmp_path: Path) -> None:
    tab = shown(browser, mixed(tmp_path / "t.csv"))
    rows_of = "[...document.querySelector('table').tBodies[0].rows]"
    column = rows_of + ".map((row) => row.cells[{}].textContent)"
    assert tab.evaluate(column.format(0)) == ["anon", "file", "reuse"]
    tab.click("table th:nth-child(5) button")  # GAINED
    assert tab.evaluate(column.format(0)) == ["file", "anon", "reuse"]
    tab.click("table th:nth-child(5) button")
    assert tab.evaluate(column.format(0)) == ["reuse", "anon", "file"]
    assert tab.evaluate("document.querySelector('th[aria-sort]').textContent") == "GAINED"
    tab.click("table th:nth-child(1) button")
    assert tab.evaluate(column.format(0)) == ["reuse", "file", "anon"]


def test_names_are_text(browser: Browser, tmp_path: Path) -> None:
    tab = shown(browser, hostile(tmp_path / "t.csv"))
    title = tab.evaluate("document.title")
    assert title.startswith("Page faults: plain")
    assert tab.evaluate("document.querySelectorAll('script').length") == 2
    assert tab.evaluate("document.images.length") == 1
    odd = (
        "[...document.querySelectorAll('*')].filter((e) => [...e.attributes]"
        ".some((a) => a.name.startsWith('on') || a.name === 'style' && e.tagName !== 'CANVAS'"
        " && e.tagName !== 'I')).length"
    )
    assert tab.evaluate(odd) == 0
    names = set(tab.evaluate("[...document.querySelectorAll('td')].map((e) => e.textContent)"))
    assert {printable(name) for name in [*HOSTILE, *MARKUP] if name} <= names
    islands = tab.evaluate("data.islands.map((island) => island.name)")
    assert {printable(name) for name in MARKUP} <= set(islands)
    assert tab.complaints() == []


def test_the_policy_stops_what_would_get_in(browser: Browser, tmp_path: Path) -> None:
    """The last line of defence, and proof that a violation would have been seen above."""
    path = tmp_path / "t.html"
    content = page(load(demo(tmp_path / "t.csv")))
    evil = b"<script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
    path.write_bytes(content.replace(b"<footer>", evil + b"<footer>"))
    tab = browser.open(path)
    assert tab.evaluate("document.title").startswith("Page faults")
    assert len(tab.complaints()) >= 2


@pytest.mark.parametrize("count", [0, 1])
def test_runs_with_hardly_a_fault(browser: Browser, tmp_path: Path, count: int) -> None:
    tab = shown(browser, written(tmp_path / "t.csv", rows(count), meta=bool(count)))
    assert tab.complaints() == []
    at(tab, 500)
    assert tab.complaints() == []


# -- without a browser ----------------------------------------------------------------


def test_it_states_what_it_was_made_from(tmp_path: Path) -> None:
    text = page(load(demo(tmp_path / "t.csv"))).decode()
    for fact in ("multimap --auto", "host host, kernel 6.12.1, probe perf", "5 faults, 0 lost"):
        assert fact in text


class _Outline(HTMLParser):
    """Tags and attributes, as a parser that knows nothing of scripts sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_no_address_but_data(tmp_path: Path) -> None:
    outline = _Outline()
    outline.feed(page(load(hostile(tmp_path / "t.csv"))).decode())
    for tag, attributes in outline.found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "a")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href") or (value or "").startswith("data:")


def test_the_json_ends_no_script(tmp_path: Path) -> None:
    text = page(load(hostile(tmp_path / "t.csv"))).decode()
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert "<" not in content
    assert MARKUP[0] in {island["name"] for island in json.loads(content)["islands"]}


def test_initial_pages_are_there_from_the_start(tmp_path: Path) -> None:
    faults = rows(2, comm=1, region=1)
    pages = table(rows(3, comm=1, region=1))
    pages.first_source[:] = [Source.FAULT, Source.FAULT, Source.INITIAL]
    pages.first_time_ns[2] = START
    run = load(written(tmp_path / "t.csv", faults, pages=pages))
    events = replay(run, mapped(run)).events
    assert int(events.new[events.step == 0].sum()) == 1
    assert int(events.new.sum()) == 3


def test_pages_that_come_again_are_no_new_ones(tmp_path: Path) -> None:
    faults = rows(10, comm=1, region=1)
    faults["address"][5:] = faults["address"][:5]
    run = load(written(tmp_path / "t.csv", faults, facts=info(ended_monotonic_ns=START + 10 * MS)))
    found = replay(run, mapped(run))
    assert int(found.events.new.sum()) == 5
    assert len(found.events.step) == 10
    assert found.faults[-1] == 10
    assert found.mapped[-1] == 5


def test_a_huge_page_is_all_its_pages(tmp_path: Path) -> None:
    faults = rows(1, kind=Kind.HUGE, pages=512, comm=1, region=1)
    run = load(written(tmp_path / "t.csv", faults))
    found = replay(run, mapped(run))
    assert int(found.events.new.sum()) == 512
    assert sum(island.pages for island in found.islands) == 512


def test_huge_pages_among_others(tmp_path: Path) -> None:
    """One page, then the huge page around it, which comes again; and neighbours of both sides."""
    faults = rows(6, comm=1, region=1)
    head = 0x7F0314200000
    faults["address"][:] = [
        head, head, head + PAGE, head - PAGE, head + 512 * PAGE, head + 5 * PAGE,
    ]  # fmt: skip
    for row in (1, 2):
        faults["kind"][row], faults["pages"][row] = Kind.HUGE, 512
    run = load(written(tmp_path / "t.csv", faults, facts=info(ended_monotonic_ns=START + 10 * MS)))
    found = replay(run, mapped(run))
    (island,) = found.islands
    assert (island.page, island.pages, found.pages_per_cell) == ((head >> 12) - 1, 514, 1)
    had = np.zeros(514, np.int64)
    np.add.at(had, found.events.cell, found.events.new)
    # The page draws no more than a cell's pages, however often they are new.
    assert had.tolist() == [1, 2, *[1] * 4, 2, *[1] * 506, 1]
    assert np.minimum(had, 1).sum() == 514


@pytest.mark.parametrize("most", [200, 40])
def test_a_huge_page_that_begins_within_a_cell(tmp_path: Path, most: int) -> None:
    """Coarser cells, of which its first and its last have other pages, too."""
    faults = rows(2, comm=1, region=1)
    head = 0x7F0314200000
    faults["address"][:] = [head - 3 * PAGE, head]
    faults["kind"][1], faults["pages"][1] = Kind.HUGE, 512
    run = load(written(tmp_path / "t.csv", faults, facts=info(ended_monotonic_ns=START + 10 * MS)))
    found = replay(run, mapped(run), most_events=most)
    each = found.pages_per_cell
    assert each > 1
    (island,) = found.islands
    had = np.zeros(island.cells, np.int64)
    np.add.at(had, found.events.cell, found.events.new)
    assert had[0] == 1 + each - 3
    assert had[1:-1].tolist() == [each] * (island.cells - 2)
    assert had.sum() == 513


def test_a_large_run_makes_a_small_page(tmp_path: Path) -> None:
    count = 60_000
    index = np.random.default_rng(1).permutation(count)
    address = 0x7F0000000000 + index * PAGE
    faults = rows(count, address=address, comm=1, region=1, time_ns=START + np.arange(count) * 1000)
    run = load(written(tmp_path / "t.csv", faults, facts=info(ended_monotonic_ns=START + 60 * MS)))
    found = replay(run, mapped(run), most_events=5000)
    assert len(found.events.step) <= 5000
    assert int(found.events.new.sum()) == count
    assert sum(island.cells for island in found.islands) * found.pages_per_cell >= count
    assert len(page(run)) < 6_000_000


def test_the_command(tmp_path: Path) -> None:
    path = mixed(tmp_path / "t.csv")
    assert cli.run(["html", path]) == 0
    assert (tmp_path / "t.html").read_text().startswith("<!doctype html>")
    assert cli.run(["html", path]) == Exit.OUTPUT
    assert cli.run(["html", path, "--force"]) == 0
