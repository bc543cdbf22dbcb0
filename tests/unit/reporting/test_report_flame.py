"""Flame graphs: what they add up to, that names stay names, and that a browser can zoom them."""

import re
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.browser import Browser, Tab
from tests.unit.outputs_data import HOSTILE, START, info, names, rows, table
from tests.unit.report_data import (
    APP,
    MARKUP,
    MS,
    add_stacks,
    frame,
    hostile_stacks,
    stacked,
    written,
)
from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.model.rows import UNKNOWN_LATENCY
from tracer.reporting import cli
from tracer.reporting.analysis.flametree import Tree, tree
from tracer.reporting.pictures.flamesvg import MOST, flames, svg
from tracer.reporting.pictures.html import page
from tracer.reporting.pictures.weighing import WEIGHTS, Weight
from tracer.reporting.reading.run import load

SVG = "{http://www.w3.org/2000/svg}"


def picture(path: str, weight: Weight = "gained") -> ET.Element:
    """The graph, as a strict parser reads it."""
    return ET.fromstring(b"".join(svg(load(path), weight)))


def boxes(root: ET.Element) -> list[tuple[str, int, int, int]]:
    """Name, depth, start and weight of each box."""
    return [
        (
            (group.findtext(f"{SVG}title") or "").split("\n")[0],
            *(int(group.get(f"data-{name}", "")) for name in "dsn"),
        )  # type: ignore[misc]
        for group in root.iter(f"{SVG}g")
        if (group.get("class") or "").startswith("b ")
    ]


def words(root: ET.Element) -> str:
    """What is written around the boxes."""
    return "\n".join(
        text.text or "" for text in root.iter(f"{SVG}text") if "words" in (text.get("class") or "")
    )


# -- the tree ---------------------------------------------------------------------


def test_boxes_are_where_their_callers_are(tmp_path: Path) -> None:
    found = boxes(picture(stacked(tmp_path / "t.csv")))
    kib = [(name, depth, start // 4096, size // 4096) for name, depth, start, size in found]
    assert kib[:4] == [
        ("all", 0, 0, 25),
        ("worker", 1, 0, 23),
        ("other", 1, 23, 2),
        ("_start", 2, 0, 20),
    ]
    assert [each for each in kib if each[1] == 5] == [
        ("read", 5, 0, 16), ("fill", 5, 16, 3), ("app+0x1f30", 5, 19, 1),
        ("recurse", 5, 22, 1), ("fill", 5, 23, 2),
    ]  # fmt: skip
    assert ("copy_to_user", 7, 0, 16) in kib
    assert {name for name, depth, *_ in kib if depth == 2} == {
        *("_start", "(no stack)", "(no frame pointers)", "(truncated)")
    }


def check(found: Tree) -> None:
    """Each box is within one above it, beside its neighbours, and holds what it calls."""
    for depth in range(1, int(found.depth.max(initial=0)) + 1):
        above, here = (np.flatnonzero(found.depth == at) for at in (depth - 1, depth))
        caller = above[np.searchsorted(found.start[above], found.start[here], side="right") - 1]
        end = found.start[here] + found.weight[here]
        assert (end <= found.start[caller] + found.weight[caller]).all()
        assert (found.start[here][1:] >= end[:-1]).all()
        sums = np.bincount(caller, found.weight[here], minlength=len(found))[above]
        assert (found.weight[above] - sums == found.alone[above]).all()
    assert (found.weight > 0).all() or found.total == 0
    assert int(found.alone.sum()) == found.total


STACKS_DRAWN = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=7), min_size=1)


@settings(max_examples=60)
@given(STACKS_DRAWN, st.data())
def test_any_stacks_make_a_tree(stacks: list[list[str]], data: st.DataObject) -> None:
    one = st.tuples(st.integers(0, len(stacks)), st.integers(0, 2), st.integers(0, 5))
    faults = data.draw(st.lists(one, max_size=20))
    number, comm, pages = (np.array([each[at] for each in faults], int) for at in range(3))
    known = names(comm="x")
    known.comms += ["y"]
    with tempfile.TemporaryDirectory() as folder:
        path = written(
            Path(folder) / "t.csv", rows(len(faults), comm=comm, pages=pages), known, meta=False
        )
        add_stacks(path, number.tolist(), [[frame(name) for name in each] for each in stacks])
        run = load(path)
    assert run.callstacks is not None
    found = tree(run.callstacks, run.faults.stack, run.faults.comm, pages.astype(np.int64))
    assert found.total == pages.sum()
    check(found)
    leaves: dict[str, int] = {}
    for at, count in zip(number.tolist(), pages.tolist(), strict=True):
        name = stacks[at - 1][0] if at else "(no stack)"
        leaves[name] = leaves.get(name, 0) + count
    alone: dict[str, int] = {}
    for label, weight in zip(found.label.tolist(), found.alone.tolist(), strict=True):
        if weight:
            name = found.labels[label].name
            alone[name] = alone.get(name, 0) + weight
    assert alone == {name: weight for name, weight in leaves.items() if weight}


# -- the picture ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "total", "heaviest"),
    [("gained", 25 * 4096, "read"), ("resident", 8 * 4096, "app+0x1f30"), ("time", 10_000, "fill"),
     ("faults", 10, "fill")],
)  # fmt: skip
def test_each_weight_adds_up(tmp_path: Path, weight: Weight, total: int, heaviest: str) -> None:
    root = picture(stacked(tmp_path / "t.csv"), weight)
    found = boxes(root)
    assert found[0] == ("all", 0, 0, total)
    assert sum(size for _, depth, _, size in found if depth == 1) == total
    assert next(name for name, depth, *_ in found if depth == 5) == heaviest


def test_it_states_what_it_was_made_from_and_what_is_missing(tmp_path: Path) -> None:
    root = picture(stacked(tmp_path / "t.csv"))
    said = words(root)
    for fact in (
        "Memory gained by call stack",
        "multimap --auto",
        "host host, kernel 6.12.1, probe perf",
        "Weight: memory gained. 10 faults, 0 lost; 1.235 s",
        "Width: memory gained by the faults of each call stack, 100 KiB in total.",
        "Of 10 faults 7 (70%) have a complete call stack.",
        "-fno-omit-frame-pointer",
        "1 is deeper than the limit of frames",
    ):
        assert fact in said
    assert root.findtext(f"{SVG}title") == "Memory gained by call stack: multimap --auto"


def test_boxes_show_their_module_and_share(tmp_path: Path) -> None:
    root = picture(stacked(tmp_path / "t.csv"))
    titles = [group.findtext(f"{SVG}title") for group in root.iter(f"{SVG}g")]
    assert f"fill\n{APP}\n12 KiB, 12.0% of total\n4 KiB self" in titles
    assert "copy_to_user\n[kernel]\n64 KiB, 64.0% of total" in titles


def test_sides_and_modules_have_colours(tmp_path: Path) -> None:
    root = picture(stacked(tmp_path / "t.csv"))
    classes = {
        (group.findtext(f"{SVG}title") or "").split("\n")[0]: (group.get("class") or "")[2:]
        for group in root.iter(f"{SVG}g")
        if group.get("data-d")
    }
    assert classes["vfs_read"] == classes["copy_to_user"] == "ck"
    assert classes["main"] == classes["fill"] == classes["app+0x1f30"]
    assert classes["memset"] == classes["read"] == "c1"
    assert classes["(no frame pointers)"] == classes["(no stack)"] == "cn"
    assert classes["worker"] == "cg"


def test_it_fetches_nothing_and_has_one_script(tmp_path: Path) -> None:
    root = picture(hostile_stacks(tmp_path / "t.csv"))
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags == {"svg", "title", "style", "rect", "text", "g", "script"}
    assert len(list(root.iter(f"{SVG}script"))) == 1
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert "href" not in name
            assert "url(" not in value
    assert "url(" not in (root.findtext(f"{SVG}style") or "")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    path = hostile_stacks(tmp_path / "t.csv")
    found = {name for name, *_ in boxes(picture(path))}
    assert {printable(name) for name in [*HOSTILE, *MARKUP] if name} <= found


@settings(max_examples=60)
@given(st.text(min_size=1), st.text(min_size=1))
def test_any_name_makes_a_picture_that_parses(name: str, module: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "t.csv", rows(1, comm=1), names(comm=name), meta=False)
        root = picture(add_stacks(path, [1], [[frame(name, module)]]))
    assert [each[0] for each in boxes(root)] == ["all", printable(name), printable(name)]
    (title,) = [
        group.findtext(f"{SVG}title")
        for group in root.iter(f"{SVG}g")
        if group.get("data-d") == "2"
    ]
    assert (title or "").split("\n")[1] == printable(module)


def many(path: Path, count: int, depth: int = 40) -> str:
    """A run of `count` stacks of some depth, of which a few bring most of the memory."""
    choice = np.random.default_rng(3)
    faults = rows(4 * count, comm=1, region=1)
    width = np.minimum(choice.geometric(0.4, (count, depth)), 9)
    stacks = [[frame(f"function_{at}_{wide}") for at, wide in enumerate(row)] for row in width]
    numbers = 1 + (choice.pareto(1.2, 4 * count) * 10).astype(int) % count
    return add_stacks(written(path, faults), numbers.tolist(), stacks)


def test_ten_thousand_stacks_are_readable(tmp_path: Path) -> None:
    run = load(many(tmp_path / "t.csv", 10_000))
    content = b"".join(svg(run, "gained"))
    assert len(content) < 3_500_000
    root = ET.fromstring(content)
    found = boxes(root)
    assert len(found) <= MOST
    left_out = re.search(
        r"([\d,]+) boxes that would be too narrow to see are left out", words(root)
    )
    assert left_out is not None
    total = len(flames(run, "gained").tree)
    assert int(left_out[1].replace(",", "")) == total - len(found)


def test_equally_heavy_boxes_do_not_make_it_grow(tmp_path: Path) -> None:
    count = 9000
    stacks = [[frame(f"f{number}")] for number in range(count)]
    path = add_stacks(written(tmp_path / "t.csv", rows(count)), range(1, count + 1), stacks)
    assert len(boxes(picture(path))) <= MOST


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("count", [0, 1])
def test_runs_with_hardly_a_fault(tmp_path: Path, count: int, weight: Weight) -> None:
    path = written(tmp_path / "t.csv", rows(count), pages=table(rows(count)))
    root = picture(add_stacks(path, [1] * count, [[frame("f")]] * count), weight)
    assert len(boxes(root)) == (3 if count else 0)


def test_unknown_latencies_have_no_width_and_are_reported(tmp_path: Path) -> None:
    faults = rows(3, latency_ns=[UNKNOWN_LATENCY, 10, 20])
    path = add_stacks(written(tmp_path / "t.csv", faults), [1, 1, 1], [[frame("f")]])
    root = picture(path, "time")
    assert boxes(root)[0][3] == 30
    assert "1 fault whose entry was not seen has no time." in words(root)


def test_what_is_resident_wants_a_pages_file(tmp_path: Path) -> None:
    path = add_stacks(written(tmp_path / "t.csv", rows(1)), [1], [[frame("f")]])
    with pytest.raises(TraceError, match="pages file") as caught:
        picture(path, "resident")
    assert caught.value.code == Exit.INPUT
    assert "--pages-csv" in caught.value.hint


def test_the_command(tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    assert cli.run(["flame", path]) == 0
    assert ET.parse(tmp_path / "t.svg").getroot().tag == f"{SVG}svg"
    assert cli.run(["flame", path]) == Exit.OUTPUT
    assert cli.run(["flame", path, "--force", "--weight", "resident"]) == 0
    assert "Memory still mapped" in (tmp_path / "t.svg").read_text()
    assert cli.run(["flame", path, "--weight", "beauty"]) == Exit.USAGE


# -- in a browser -----------------------------------------------------------------


def opened(browser: Browser, path: str, weight: Weight = "gained") -> Tab:
    file = Path(path).with_suffix(".svg")
    file.write_bytes(b"".join(svg(load(path), weight)))
    return browser.open(file)


SHOWN = "[...document.querySelectorAll('svg.flame')].find((e) => e.checkVisibility())"
BOX = (
    f"[...{SHOWN}.querySelectorAll('g.b')].find((g) => g.firstChild.textContent.startsWith('{{}}'))"
)


def shape(tab: Tab, name: str) -> dict[str, object]:
    """Where a box is, and what is written in it."""
    script = f"""(() => {{ const g = {BOX.format(name)}; const r = g.querySelector('rect');
        return {{x: +r.getAttribute('x'), width: Math.round(+r.getAttribute('width')),
                 text: g.querySelector('text')?.textContent ?? '',
                 off: g.classList.contains('off')}}; }})()"""
    return dict(tab.evaluate(script))


def press(tab: Tab, name: str) -> None:
    """Click in the middle of a box."""
    tab.evaluate(f"{BOX.format(name)}.setAttribute('id', 'wanted')")
    tab.click("#wanted rect")
    tab.evaluate("document.getElementById('wanted').removeAttribute('id')")


def test_a_click_zooms_and_escape_goes_back(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, stacked(tmp_path / "t.csv"))
    before = shape(tab, "app+0x1f30")
    assert before["text"] == "app+…"
    press(tab, "app+0x1f30")
    assert shape(tab, "app+0x1f30") == {"x": 12, "width": 1176, "text": "app+0x1f30", "off": False}
    assert shape(tab, "main")["width"] == 1176  # its caller
    assert shape(tab, "read")["off"]
    tab.key("Escape", 27)
    assert shape(tab, "app+0x1f30") == before
    assert not shape(tab, "read")["off"]
    press(tab, "memset")
    assert shape(tab, "memset")["width"] == 1176
    press(tab, "all")
    assert shape(tab, "app+0x1f30") == before
    assert tab.complaints() == []


def test_pointing_at_a_box_describes_it(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, stacked(tmp_path / "t.csv"))
    said = "document.querySelector('.said').textContent"
    assert tab.evaluate(said).startswith("Width: memory gained by the faults")
    x, y = tab.evaluate(
        f"(() => {{ const b = {BOX.format('vfs_read')}.getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    tab.move(x, y)
    assert tab.evaluate(said) == "vfs_read · [kernel] · 64 KiB, 64.0% of total"


def test_search_marks_boxes_and_adds_them_up(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, stacked(tmp_path / "t.csv"))
    tab.evaluate("document.querySelector('input').focus()")
    tab.call("Input.insertText", text="RECURSE")
    assert tab.evaluate("document.querySelectorAll('g.hit').length") == 7
    said = "document.querySelector('.said').textContent"
    assert tab.evaluate(said) == "7 boxes match “RECURSE”: 4.0 % of total."
    tab.call("Input.insertText", text="<b>")
    assert tab.evaluate(said) == "0 boxes match “RECURSE<b>”: 0.0 % of total."
    tab.key("Escape", 27)
    assert tab.evaluate("document.querySelectorAll('g.hit').length") == 0
    assert tab.complaints() == []


def test_hostile_names_do_nothing_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    path = hostile_stacks(tmp_path / "t.csv")
    tab = opened(browser, path)
    press(tab, "all")
    tab.evaluate(
        "document.querySelectorAll('g.b').forEach((g) => g.dispatchEvent(new Event('click')))"
    )
    assert tab.evaluate("document.title").startswith("Memory gained by call stack")
    assert tab.evaluate("document.querySelectorAll('script').length") == 1
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    assert tab.complaints() == []
    assert tab.requests() == [Path(path).with_suffix(".svg").as_uri()]


def test_the_page_has_one_for_each_weight(browser: Browser, tmp_path: Path) -> None:
    path = stacked(tmp_path / "t.csv")
    file = tmp_path / "t.html"
    file.write_bytes(page(load(path)))
    tab = browser.open(file)
    seen = "[...document.querySelectorAll('svg.flame')].filter((e) => e.checkVisibility()).length"
    total = f"{SHOWN}.querySelector('g.b').dataset.n"
    assert tab.evaluate(seen) == 1
    assert tab.evaluate(total) == str(25 * 4096)
    for weight, expected in (("resident", 8 * 4096), ("time", 10_000), ("faults", 10)):
        tab.click(f"label[for=by-{weight}]")
        assert tab.evaluate(seen) == 1
        assert tab.evaluate(total) == str(expected)
    press(tab, "app+0x1f30")
    assert shape(tab, "app+0x1f30")["width"] == 1176
    assert tab.complaints() == []
    assert [url for url in tab.requests() if not url.startswith("data:")] == [file.as_uri()]


@pytest.mark.parametrize("with_stacks", [True, False])
def test_the_page_without_scripts(browser: Browser, tmp_path: Path, with_stacks: bool) -> None:
    path = written(tmp_path / "t.csv", rows(2), facts=info(ended_monotonic_ns=START + 10 * MS))
    if with_stacks:
        path = stacked(tmp_path / "t.csv.")
    file = tmp_path / "t.html"
    file.write_bytes(re.sub(rb"<script>.*?</script>", b"", page(load(path)), flags=re.S))
    tab = browser.open(file)
    said = tab.evaluate("document.getElementById('stacks').textContent")
    if with_stacks:
        tab.click("label[for=by-time]")
        assert (
            tab.evaluate("getComputedStyle(document.querySelector('.by-time')).display") == "block"
        )
        assert (
            tab.evaluate("getComputedStyle(document.querySelector('.by-gained')).display") == "none"
        )
        assert "Of 10 faults 7 (70%) have a complete call stack." in said
    else:
        assert "t.csv has no call stacks: trace with --stacks to record them" in said


def test_names_in_the_page_are_text(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "t.html"
    file.write_bytes(page(load(hostile_stacks(tmp_path / "t.csv"))))
    tab = browser.open(file)
    assert tab.evaluate("document.querySelectorAll('script').length") == 2
    assert tab.evaluate("document.images.length") == 1
    names = set(
        tab.evaluate(
            "[...document.querySelectorAll('g.b title')].map((e) => e.textContent.split('\\n')[0])"
        )
    )
    assert {printable(name) for name in MARKUP} <= names
    assert tab.complaints() == []
