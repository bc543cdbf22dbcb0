"""A run as one page that needs nothing else: no server, no network, no library.

Whatever comes from the files is escaped where it is put in: as text, as an
attribute, or as JSON in a script element. The page's policy allows the one
script and the one style sheet that are in it, by their hashes, and pictures
in data: addresses; nothing can be fetched, sent or run beside them.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from tracer import __version__
from tracer.common.units import clip
from tracer.reporting.analysis.curves import mapped
from tracer.reporting.pictures.flamesvg import drawing, flames, notes_of
from tracer.reporting.pictures.plot import Format, picture
from tracer.reporting.pictures.replay import as_json, owners, replay
from tracer.reporting.pictures.weighing import TITLES, WEIGHTS
from tracer.reporting.reading.run import Run
from tracer.reporting.text.overview import head, sentences
from tracer.reporting.text.tables import GLYPHS, Table, Tables

ROWS = 400  # of a table
SLOWEST = 200
BOXES = 1500  # of a flame graph
_LARGEST_SVG = 600_000  # bytes; a picture with more in it is drawn as pixels
_HERE = Path(__file__).parent
_HOLE = re.compile(r"\{\{(\w+)\}\}")


def page(run: Run) -> bytes:
    """The whole file."""
    curve = mapped(run)
    tables = Tables(run, curve)
    script, sheet = (_part(f"page.{each}") + _part(f"flame.{each}") for each in ("js", "css"))
    top = head(run)
    values = {
        "policy": _policy(script, sheet),
        "title": escape(clip(top.what, 240, GLYPHS)),
        "style": sheet,
        "script": script,
        "origin": escape(top.origin),
        "counts": escape(top.counts),
        "story": "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(tables)),
        "notes": _notes(run),
        "data": _json(as_json(replay(run, curve), run, owners(run))),
        "picture": _picture(run),
        "alt": escape("; ".join(top.lines)),
        "stacks": _stacks(run),
        "tables": "\n".join(_table(table) for table in _tables(tables)),
        "version": escape(__version__),
    }
    # In one go: what is put in is never searched for further holes.
    return _HOLE.sub(lambda hole: values[hole[1]], _part("page.html")).encode()


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(script: str, sheet: str) -> str:
    def allowed(content: str) -> str:
        digest = hashlib.sha256(content.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; script-src {allowed(script)}; style-src {allowed(sheet)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _json(content: dict[str, Any]) -> str:
    """JSON that no HTML parser sees the end of a script in."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _notes(run: Run) -> str:
    notes = [*run.notes, *run.facts.notes]
    if not notes:
        return ""
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _picture(run: Run) -> str:
    form: Format = "svg"
    content = picture(run, "all", form)
    if len(content) > _LARGEST_SVG:
        form = "png"
        content = picture(run, "all", form)
    kind = {"svg": "image/svg+xml", "png": "image/png"}[form]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _stacks(run: Run) -> str:
    """A flame graph for each weight, of which the reader chooses one."""
    if run.callstacks is None:
        return f'<p class="note">{escape(run.stackless)}</p>'
    palette = None
    buttons: list[str] = []
    graphs: list[str] = []
    for weight in WEIGHTS:
        if weight == "resident" and run.pages is None:
            continue
        found = flames(run, weight, palette, BOXES)
        palette = found.palette
        state = "" if graphs else " checked"
        buttons.append(
            f'<input type="radio" name="weight" id="by-{weight}"{state}>'
            f'<label for="by-{weight}">{escape(TITLES[weight])}</label>'
        )
        said = "".join(f"<li>{escape(note)}</li>" for note in notes_of(found))
        picture = "\n".join(drawing(found))
        graphs.append(f'<div class="by-{weight}">{picture}<ul class="note">{said}</ul></div>')
    return f'<div class="flames">{"".join([*buttons, *graphs])}</div>'


def _tables(tables: Tables) -> Sequence[Table]:
    found = (
        tables.kinds(),
        tables.regions(),
        tables.threads(),
        tables.accesses(),
        tables.functions(),
        tables.stacks(ROWS),
        tables.first_touch(),
        tables.working_set(20),
        tables.sources(),
        tables.latencies(),
        tables.slowest(SLOWEST),
    )
    return [table.top(ROWS) for table in found if table.rows]


def _table(table: Table) -> str:
    """A table whose header cells sort it; `data-value` is what it is sorted by."""
    heads = "".join(
        f'<th scope="col" class="{_side(table, name)}"><button type="button">{escape(name)}'
        "</button></th>"
        for name in table.columns
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{_side(table, name)}" data-value="{escape(str(cell.value))}">'
            f"{escape(cell.text)}</td>"
            for name, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<section><h2>{escape(table.title)}</h2>{note}"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _side(table: Table, name: str) -> str:
    return "text" if name in table.left else "number"
