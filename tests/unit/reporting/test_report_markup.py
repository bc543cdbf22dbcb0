"""Whatever a run's names are, what a report is made of stays the same: parsed, not searched.

Elements and attributes of a hostile run are those of a harmless one; its names are text.
"""

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.unit.outputs_data import HOSTILE, info, rows, table
from tests.unit.report_data import MARKUP, add_stacks, frame, kernel, written
from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable
from tracer.model.rows import Names, Region
from tracer.reporting.pictures.flamesvg import svg
from tracer.reporting.pictures.html import page
from tracer.reporting.pictures.plot import picture
from tracer.reporting.reading.run import Run, load

NAMES = [
    *[name for name in HOSTILE if name],
    *MARKUP,
    "<svg/onload=alert(1)>",
    "</style></title></textarea></svg></td></table><b>",
    "<![CDATA[ x ]]>",
    "<!--",
    "<?php ?>",
    "javascript:alert(1)",
    "url(http://x/)",
    "{{data}} {{policy}}",  # what the page's own holes look like
    "`${alert(1)}`",
    "line\u2028separator\u2029paragraph\u0085",
    "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200f bidi",
    "\ufeff\ufffe\uffff\U000e0001 unseen",
    "\udc80\udcff<\udcbc>",
    "&#0;&#x3c;script&#x3e;",
    "x" * 10_000,
    "<b>" * 3_000,
]
HARMLESS = [f"name{number}" for number in range(len(NAMES))]

Shape = set[tuple[str, tuple[str, ...]]]  # elements, each with the names of its attributes


def run_of(path: Path, names: Sequence[str]) -> Run:
    """A run in which everything that has a name has one of these."""
    known = Names()
    for name in names:
        known.comms.append(name)
        known.regions.append(Region(0x1000, 0x2000, "rw-p", 0, name))
    count = len(names)
    faults = rows(count, comm=np.arange(count) + 1, region=np.arange(count) + 1)
    facts = info(
        command=list(names), host=names[0], kernel=names[1], notes=list(names),
        filters={"region": names[2]}, probe_reason=names[3],
    )  # fmt: skip
    csv_path = written(path, faults, known, pages=table(faults), facts=facts)
    stacks = [[kernel(name), frame(name, name, file=name, line=1), frame("main")] for name in names]
    add_stacks(csv_path, range(1, count + 1), stacks)
    return load(csv_path)


@dataclass
class Parsed:
    """What a parser makes of a page or picture."""

    shape: Shape = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)  # of the innermost elements
    links: list[str] = field(default_factory=list)

    def see(self, tag: str, attributes: Iterable[tuple[str, str | None]]) -> None:
        found = list(attributes)
        self.shape.add((tag, tuple(sorted(name for name, _ in found))))
        for name, value in found:
            if name in ("class", "name", "type", "for") or (name == "id" and "-" not in str(value)):
                self.classes.add(f"{name}={value}")
            if name.rpartition("}")[2] in ("src", "href", "action", "data", "srcset", "poster"):
                self.links.append(value or "")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parsed = Parsed()
        self.scripts: list[str] = []
        self.declarations: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parsed.see(tag, attrs)
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.parsed.texts.add(data)

    def handle_comment(self, data: str) -> None:
        self.declarations.append(data)

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_pi(self, data: str) -> None:
        self.declarations.append(data)

    def unknown_decl(self, data: str) -> None:
        self.declarations.append(data)


def html_of(text: str) -> _Page:
    parser = _Page()
    parser.feed(text)
    parser.close()
    return parser


def xml_of(content: bytes) -> Parsed:
    """It is well-formed, or this fails."""
    parsed = Parsed()
    for element in ElementTree.fromstring(content).iter():
        parsed.see(element.tag, element.attrib.items())
        parsed.texts.add(element.text or "")
    return parsed


def embedded(found: Parsed) -> list[bytes]:
    """The pictures that are in a page's own addresses; it has no others."""
    kinds = "image/svg\\+xml|image/png"
    matches = [re.fullmatch(f"data:({kinds});base64,([A-Za-z0-9+/=]+)", at) for at in found.links]
    assert all(matches), found.links
    return [base64.b64decode(match[2]) for match in matches if match and "svg" in match[1]]


def check_shape(hostile: Parsed, harmless: Parsed) -> None:
    assert hostile.shape == harmless.shape
    assert hostile.classes == harmless.classes
    for _, attributes in hostile.shape:
        assert not any(name.startswith("on") for name in attributes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The hostile one and the harmless one, of as many names."""
    folder = tmp_path_factory.mktemp("markup")
    return run_of(folder / "hostile.csv", NAMES), run_of(folder / "harmless.csv", HARMLESS)


def test_the_page(runs: tuple[Run, Run]) -> None:
    hostile, harmless = (html_of(page(run).decode()) for run in runs)
    check_shape(hostile.parsed, harmless.parsed)
    assert hostile.declarations == harmless.declarations == ["doctype html"]
    assert len(hostile.scripts) == len(harmless.scripts) == 2
    (data,) = (json.loads(each) for each in hostile.scripts if each.startswith("{"))
    islands = {island["name"] for island in data["islands"]}
    assert {printable(name) for name in NAMES if len(name) < 100} <= islands
    assert {printable(name) for name in NAMES if len(name) < 100} <= hostile.parsed.texts
    pictures = embedded(hostile.parsed), embedded(harmless.parsed)
    for one, other in zip(*pictures, strict=True):
        assert xml_of(one).shape == xml_of(other).shape


@pytest.mark.parametrize("weight", ["gained", "resident", "time", "faults"])
def test_the_flame_graph(runs: tuple[Run, Run], weight: str) -> None:
    hostile, harmless = (xml_of(b"".join(svg(run, weight))) for run in runs)  # type: ignore[arg-type]
    check_shape(hostile, harmless)
    assert hostile.links == []
    names = [name for name in NAMES if len(name) < 100]
    assert {printable(name) for name in names} <= {
        line for text in hostile.texts for line in text.split("\n")
    }


def test_the_plot(runs: tuple[Run, Run]) -> None:
    hostile, harmless = (xml_of(picture(run, "all", "svg")) for run in runs)
    # Characters are drawn as shapes, each once; those of the names differ.
    assert hostile.shape == harmless.shape
    assert all(link.startswith("#") for link in hostile.links)


# -- files that no tracer wrote: names as they are, not made printable ------------------------


def cells(text: str, change: Callable[[str], str]) -> bytes:
    """A CSV file with each cell anew."""
    header, *lines = csv.reader(text.splitlines())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[change(cell) for cell in line] for line in lines])
    return out.getvalue().encode("utf-8", "surrogateescape")


def by_others(harmless: Path, path: Path, names: Sequence[str]) -> Run:
    """The harmless run, each name of which is replaced in every file."""
    raw = dict(zip(HARMLESS, names, strict=False))
    for file in ("", ".pages.csv", ".stacks.csv"):
        text = Path(f"{harmless}{file}").read_text()
        Path(f"{path}{file}").write_bytes(cells(text, lambda cell: raw.get(cell, cell)))
    meta = json.loads(Path(f"{harmless}.meta.json").read_text())
    meta |= {"host": names[0], "kernel": names[1], "command": names, "notes": names}
    meta |= {"pages_csv": f"{path.name}.pages.csv", "stacks": f"{path.name}.stacks.csv"}
    Path(f"{path}.meta.json").write_text(json.dumps(meta))
    return load(str(path))


def test_files_made_by_others(tmp_path: Path) -> None:
    """A name that is not as a tracer would write it is refused, or does nothing either."""
    few, path = tmp_path / "few.csv", tmp_path / "t<b>&'.csv"
    run_of(few, HARMLESS[:4])
    accepted = []
    for name in [*NAMES, "nul \0 <b>", "<b>\n", "<b>\r"]:
        try:
            by_others(few, path, [name] * 4)
        except TraceError as error:
            caught = error
        else:
            accepted.append(name)
            continue
        assert caught.code == Exit.INPUT
        assert str(caught).isprintable()
    assert set(MARKUP) <= set(accepted)
    assert len(accepted) > 30
    harmless = run_of(tmp_path / "harmless.csv", HARMLESS[: len(accepted)])
    run = by_others(tmp_path / "harmless.csv", path, accepted)
    one, other = (html_of(page(each).decode()) for each in (run, harmless))
    check_shape(one.parsed, other.parsed)
    assert one.declarations == other.declarations
    assert len(one.scripts) == 2
    for content in embedded(one.parsed):
        xml_of(content)
    drawn, wanted = (xml_of(b"".join(svg(each, "gained"))) for each in (run, harmless))
    check_shape(drawn, wanted)
    assert drawn.links == []
